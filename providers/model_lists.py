"""Asking the configured upstreams for their lists: to compare them with the catalogue, or to find one model."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from providers import registry
from providers.catalog.catalog import Catalog
from providers.catalog.entries import Model
from providers.errors import ProviderError
from providers.listing.drift import Drift, compare
from providers.listing.listed import Asker, ListedModel, Listing, NotImportableError
from providers.registry import Registry

NO_LIST = "offers no list of its models"
NAMED_AT_MOST = 5


class UnknownListedModelError(LookupError):
    """The upstream's list has no model of this name; the message names near ones."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking one upstream: the drift; else why it could not be asked, or why it was not (``note``)."""

    provider: str
    drift: Drift | None = None
    error: str = ""
    note: str = ""


def check(upstreams: Registry, catalog: Catalog, provider: str) -> Answer:
    """One provider's entries next to its own list, asked by its first credential. Buys nothing, raises nothing."""
    models = [model for model in catalog.models.values() if model.provider == provider]
    if registry.model_list_of(provider) is None:
        return Answer(provider, note=NO_LIST)
    try:
        listing = _listing(upstreams, provider, models)
    except ProviderError as error:
        return Answer(provider, error=f"could not be asked: {error}")
    return Answer(provider, compare(provider, models, listing, today=datetime.now(UTC).date()))


def find(upstreams: Registry, provider: str, name: str) -> ListedModel:
    """The model that the upstream calls so. Raises: UnknownListedModelError, NotImportableError, ProviderError."""
    if registry.model_list_of(provider) is None:
        raise NotImportableError(f"{provider} {NO_LIST}")
    listing = _listing(upstreams, provider, [_wanted(provider, name)])
    found = listing.models.get(name)
    if found is None:
        near = difflib.get_close_matches(name, listing.models, n=NAMED_AT_MOST, cutoff=0.6)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise UnknownListedModelError(f"{provider} lists no model {name!r}{hint}")
    return found


def _listing(upstreams: Registry, provider: str, models: Collection[Model]) -> Listing:
    """Raises: ProviderError."""
    module = registry.model_list_of(provider)
    if module is None:
        raise LookupError(provider)
    # Every adapter is an UpstreamAccount, which can ask; the contract of Provider is about orders alone.
    return module.list_models(cast(Asker, upstreams.of(provider)[0]), models)


def _wanted(provider: str, name: str) -> Model:
    """A model of this name, for upstreams that are asked about one at a time."""
    plain = {
        "operation": "generate",
        "capabilities": [],
        "cost_usd": 0,
        "size": "none",
        "params": {},
        "output": "image",
    }
    inputs = {"prompt": "optional", "images": {"min": 0, "max": 0}, "mask": "none"}
    named = {"id": name, "name": name, "provider": provider, "path": name, "source": [], "verified": False}
    return Model.model_validate({**named, **plain, "inputs": inputs})
