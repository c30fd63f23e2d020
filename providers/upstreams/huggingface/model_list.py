"""The Hub's mapping of models to the providers that serve them (CONTRACT.md, section 1), one model at a time.

The Hub has hundreds of thousands of models, so it is asked only for ours.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import quote

from providers.catalog.entries import Model
from providers.errors import BadCredentials, Misconfigured
from providers.listing.listed import Asker, ListedModel, Listing
from providers.listing.reading import ask_json


def list_models(account: Asker, models: Collection[Model]) -> Listing:
    """The models that are served by the provider that our entry names. Raises: ProviderError."""
    served = {model.id: _listed(model, _mapping(account, model.path)) for model in models}
    found = {model_id: each for model_id, each in served.items() if each is not None}
    return Listing(found, whole=False, called={model.id: model.id for model in models})


def _mapping(account: Asker, hub_id: str) -> dict[str, Any]:
    """The providers of a model of the Hub; none where it is unknown or private."""
    try:
        body = ask_json(account, f"/api/models/{quote(hub_id)}?expand[]=inferenceProviderMapping")
    except (BadCredentials, Misconfigured) as error:
        if error.code in {"upstream_bad_credentials", "upstream_not_found"}:  # 401: private, or it does not exist
            return {}
        raise
    found = body.get("inferenceProviderMapping")
    return found if isinstance(found, dict) else {}


def _listed(model: Model, mapping: dict[str, Any]) -> ListedModel | None:
    entry = mapping.get(model.hf_provider or "")
    if not isinstance(entry, dict) or entry.get("status") == "error":
        return None
    if model.provider_model and entry.get("providerId") not in (None, model.provider_model):
        return None
    return ListedModel(model.id)
