"""Replicate's models, one by one: a list of all would be of tens of thousands (CONTRACT.md, section 2).

Each tells the schema of its input. Prices are on web pages alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import quote

from providers.catalog.entries import Model
from providers.errors import Misconfigured
from providers.listing.listed import Asker, ListedModel, Listing
from providers.listing.reading import ask_json, fields_of, required_of


def list_models(account: Asker, models: Collection[Model]) -> Listing:
    """The models that we offer, as far as they are there. Raises: ProviderError."""
    paths = sorted({path for model in models for path in (model.path, *model.paths.values())})
    found = {path: listed for path in paths if (listed := look_up(account, path)) is not None}
    return Listing(found, whole=False)


def look_up(account: Asker, path: str) -> ListedModel | None:
    """The model at ``owner/name`` or ``owner/name:version``; None where there is none. Raises: ProviderError."""
    name, _, version = path.partition(":")
    at = f"/models/{quote(name)}" + (f"/versions/{quote(version, safe='')}" if version else "")
    try:
        body = ask_json(account, at)
    except Misconfigured as error:
        if error.code == "upstream_not_found":
            return None
        raise
    told = body if version else body.get("latest_version")
    return _listed(path, told if isinstance(told, dict) else {})


def _listed(path: str, version: dict[str, Any]) -> ListedModel:
    document = version.get("openapi_schema")
    parts = document.get("components") if isinstance(document, dict) else None
    schemas = parts.get("schemas") if isinstance(parts, dict) else None
    schema = schemas.get("Input") if isinstance(schemas, dict) else None
    if not isinstance(schema, dict) or not isinstance(schemas, dict):
        return ListedModel(path, title=path)
    return ListedModel(
        path, title=path, kind="replicate", fields=fields_of(schema, schemas), required=required_of(schema)
    )
