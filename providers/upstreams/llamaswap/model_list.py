"""llama-swap's list: names, and which of them draw (CONTRACT.md, section 2)."""

from __future__ import annotations

from collections.abc import Collection

from providers.catalog.entries import Model
from providers.listing.listed import Asker, Listing
from providers.listing.reading import ask_json, items_of, named
from providers.upstreams.llamaswap.adapter import LlamaSwap


def list_models(account: Asker, models: Collection[Model]) -> Listing:
    """The models that draw, and ours under the names that this server has for them. Raises: ProviderError."""
    items = items_of(ask_json(account, "/v1/models"), "data")
    found, draws = named(items), {str(item.get("id")) for item in items if _draws(item)}
    called = {model.id: account.hosted_name(model) for model in models} if isinstance(account, LlamaSwap) else {}
    ours = {*called.values(), *(model.path for model in models)}
    return Listing({name: each for name, each in found.items() if name in ours | draws}, called=called)


def _draws(item: dict[str, object]) -> bool:
    told = item.get("capabilities")
    return isinstance(told, dict) and told.get("image_generation") is True
