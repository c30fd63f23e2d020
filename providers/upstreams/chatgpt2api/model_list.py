"""chatgpt2api's list: names, texts models among them (CONTRACT.md, its table of routes)."""

from __future__ import annotations

from collections.abc import Collection

from providers.catalog.entries import Model
from providers.listing.listed import Asker, Listing
from providers.listing.reading import ask_json, items_of, named


def list_models(account: Asker, models: Collection[Model]) -> Listing:
    """The models with "image" in their names, and ours. Raises: ProviderError."""
    ours = {model.path for model in models}
    found = named(items_of(ask_json(account, "/v1/models"), "data"))
    return Listing({name: each for name, each in found.items() if name in ours or "image" in name})
