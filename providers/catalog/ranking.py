"""Which of the models that can do an operation comes first, for orders that leave the choice to us.

``budget``: the cheapest at our prices. ``quality``: confirmed entries before those whose path or price
no one confirmed, then the catalogue's ``quality`` (3 to 1), then the dearest, for a vendor's price is the
one other thing it says about its models. In both, a model that asks for more than a plain order comes
last. Equals stand in the order of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from providers.catalog.catalog import Catalog, Model

Goal = Literal["budget", "quality"]


@lru_cache(maxsize=512)
def ranked(
    catalog: Catalog, operation: str, configured: frozenset[str], goal: Goal, markup: Decimal = Decimal(1)
) -> tuple[Model, ...]:
    """The live models of the ``configured`` providers, the best choice first. ``markup`` is that of models
    without one of their own."""
    live = [model for model in catalog.select(operation, configured=configured) if model.live]
    keys: dict[Goal, Callable[[Model], Any]] = {
        "budget": lambda model: model.cost_usd * (model.markup or markup),
        "quality": lambda model: (not model.verified, -model.quality, -model.cost_usd),
    }
    return tuple(sorted(live, key=lambda model: (asks_for_more(model, operation), keys[goal](model))))


def asks_for_more(model: Model, operation: str) -> bool:
    """Whether the model needs a setting that a plain order does not have, or an image to generate from."""
    needs_setting = any(spec.required for spec in model.order_params(operation).values())
    return needs_setting or (operation == "generate" and model.inputs.images.min > 0)
