"""OpenAI's list: names, and of some the day when they end (CONTRACT.md, `GET /models`)."""

from __future__ import annotations

from collections.abc import Collection

from providers.catalog.entries import Model
from providers.listing.listed import Asker, Listing
from providers.listing.reading import ask_json, items_of, named

_IMAGE_WORDS = ("image", "dall-e")


def list_models(account: Asker, models: Collection[Model]) -> Listing:
    """The models that make images by their names, and ours. Raises: ProviderError."""
    ours = {model.path for model in models}
    found = named(items_of(ask_json(account, "/models"), "data"))
    return Listing({n: each for n, each in found.items() if n in ours or any(word in n for word in _IMAGE_WORDS)})
