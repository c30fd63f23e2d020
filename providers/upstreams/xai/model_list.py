"""xAI's list of models that make images, with their prices in US cents (CONTRACT.md, its table of lists)."""

from __future__ import annotations

from collections.abc import Collection

from providers.catalog.entries import Model
from providers.listing.listed import Asker, ListedModel, Listing
from providers.listing.reading import ask_json, decimal_of, items_of, text_of

CENTS_PER_USD = 100


def list_models(account: Asker, models: Collection[Model]) -> Listing:  # noqa: ARG001 - the list is whole
    """Every model that makes images. Raises: ProviderError."""
    found: dict[str, ListedModel] = {}
    called: dict[str, str] = {}
    for item in items_of(ask_json(account, "/v1/image-generation-models"), "models"):
        if not (name := text_of(item.get("id"))):
            continue
        cents = decimal_of(item.get("image_price"))
        found[name] = ListedModel(name, price_usd=None if cents is None else cents / CENTS_PER_USD)
        aliases = item.get("aliases")
        called |= {alias: name for alias in (aliases if isinstance(aliases, list) else []) if text_of(alias)}
    return Listing(found, called={alias: name for alias, name in called.items() if alias not in found})
