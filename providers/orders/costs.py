"""What one image of an order costs the operator, by the price tiers of its model. US dollars, exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from providers.catalog.entries import CostTier, Model
from providers.catalog.size_rules import ResolutionRule
from providers.orders import formulas
from providers.orders.rules import CheckedOrder
from providers.orders.used_sizes import MEGAPIXEL_PX, area_px, used_pixels, used_ratio

MICROUSD_PER_USD = 1_000_000

# Vendors count 1000x1000 and 1024x1024 both as one megapixel, and so a little more than that.
MEGAPIXEL_TOLERANCE = 0.01


def cost_usd(model: Model, checked: CheckedOrder) -> Decimal:
    """The price of one image of this order, in US dollars.

    The first tier whose conditions all hold gives the price, else ``cost_usd`` of the entry. Every
    ``usd_add`` tier that holds is added, and so are prices by megapixel or input image.
    A setting that was left out counts as the model's default; "auto" matches no tier. A model with a ``cost_formula``
    is priced by that alone.

    Raises: OrderProblems where the formula gives no price for this order.
    """
    if model.cost_formula is not None:
        return formulas.cost_usd(model, checked)
    facts = _facts(model, checked)
    matching = [tier for tier in model.cost_tiers if _holds(tier, facts)]
    base = next((tier.usd for tier in matching if tier.usd is not None), model.cost_usd)
    added = sum((tier.usd_add for tier in matching if tier.usd_add is not None), Decimal(0))
    return base + added + _counted_usd(model, checked)


def expected_cost_microusd(model: Model, checked: CheckedOrder) -> int:
    """:func:`cost_usd` of one image in whole millionths of a US dollar, rounded up; compared with what a call cost."""
    return math.ceil(cost_usd(model, checked) * MICROUSD_PER_USD)


def _facts(model: Model, checked: CheckedOrder) -> dict[str, Any]:
    """The values that the conditions of a tier are compared with."""
    defaults: dict[str, Any] = {name: spec.default for name, spec in model.params.items()}
    resolution = model.size_rule(ResolutionRule)
    if resolution is not None:
        defaults["resolution"] = resolution.default
    pixels = used_pixels(checked.size)
    ratio = used_ratio(checked.size)
    return {
        **defaults,
        **checked.size,
        **checked.params,
        "size": f"{pixels[0]}x{pixels[1]}" if pixels else checked.size.get("size"),
        "shape": "rectangle" if ratio is not None and ratio != 1 else "square",
        "images": checked.image_count,
        "extra_views": checked.image_count > 1,
    }


def _holds(tier: CostTier, facts: Mapping[str, Any]) -> bool:
    return all(_matches(wanted, facts.get(key)) for key, wanted in tier.when.items())


def _matches(wanted: bool | str | tuple[str, ...], fact: object) -> bool:
    """One condition: a value, a list of values, or a comparison such as "<=3"."""
    if isinstance(wanted, bool) or isinstance(fact, bool):
        return wanted is fact
    if isinstance(wanted, tuple):
        return any(_matches(each, fact) for each in wanted)
    if isinstance(fact, int) and wanted.startswith("<="):
        return fact <= int(wanted[2:])
    if isinstance(fact, int) and wanted.startswith(">"):
        return fact > int(wanted[1:])
    return str(fact).casefold() == wanted.casefold()


def _counted_usd(model: Model, checked: CheckedOrder) -> Decimal:
    rates = model.cost_per_unit
    megapixels = math.ceil(area_px(checked.size) / MEGAPIXEL_PX - MEGAPIXEL_TOLERANCE)
    return rates.output_megapixel_beyond_first * max(0, megapixels - 1) + rates.input_image * checked.image_count
