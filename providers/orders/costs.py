"""What one image of an order costs the operator, by the price rules of its model. US dollars, exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from providers.catalog.entries import CostTier, Model
from providers.catalog.size_rules import PixelsRule, ResolutionRule
from providers.orders import formulas
from providers.orders.rules import CheckedOrder
from providers.orders.size_requests import AUTO, parse_pixels
from providers.orders.token_costs import extra_usd, rounded_up, table_usd
from providers.orders.used_sizes import MEGAPIXEL_PX, area_px, used_pixels, used_ratio

MICROUSD_PER_USD = 1_000_000


def cost_usd(model: Model, checked: CheckedOrder) -> Decimal:
    """The price of one image of this order, in US dollars.

    A ``cost_table`` gives it by quality and pixels. Else the first tier whose conditions all hold gives the price,
    else ``cost_usd`` of the entry; every ``usd_add`` tier that holds is added, and so are prices by megapixel, input
    image or token. A setting that was left out counts as the model's default; what is left to the upstream ("auto")
    counts as ``auto_costs_as`` says, and matches no tier where that says nothing.
    A model with a ``cost_formula`` is priced by that alone.

    Raises: OrderProblems where the formula gives no price for this order.
    """
    if model.cost_formula is not None:
        return formulas.cost_usd(model, checked)
    facts = _facts(model, checked)
    if model.cost_table is not None:
        pixels = parse_pixels(str(facts["size"])) or (0, 0)
        return table_usd(model, model.cost_table, str(facts["quality"]), pixels, checked)
    matching = [tier for tier in model.cost_tiers if _holds(tier, facts)]
    base = next((tier.usd for tier in matching if tier.usd is not None), model.cost_usd)
    added = sum((tier.usd_add for tier in matching if tier.usd_add is not None), Decimal(0))
    counted = base + added + _counted_usd(model, checked)
    return counted if model.extra_tokens is None else rounded_up(counted + extra_usd(model, checked))


def expected_cost_microusd(model: Model, checked: CheckedOrder) -> int:
    """:func:`cost_usd` of one image in whole millionths of a US dollar, rounded up; compared with what a call cost."""
    return math.ceil(cost_usd(model, checked) * MICROUSD_PER_USD)


def _facts(model: Model, checked: CheckedOrder) -> dict[str, Any]:
    """The values that the conditions of a tier are compared with."""
    defaults: dict[str, Any] = {name: spec.default for name, spec in model.params.items()}
    resolution = model.size_rule(ResolutionRule)
    if resolution is not None:
        defaults["resolution"] = resolution.default
    named = {**defaults, **checked.size, **checked.params}
    dearest = {name: value for name, value in model.auto_costs_as.items() if named.get(name) in (None, AUTO)}
    size = {"size": dearest["size"]} if "size" in dearest and not used_pixels(checked.size) else checked.size
    pixels, ratio = used_pixels(size), used_ratio(size)
    return {
        **named,
        **dearest,
        "size": f"{pixels[0]}x{pixels[1]}" if pixels else size.get("size"),
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
    inputs_px = [width * height for width, height in checked.input_px] or [MEGAPIXEL_PX] * checked.image_count
    return (
        rates.output_megapixel_beyond_first * (_megapixels(_output_px(model, checked)) - 1)
        + rates.input_image * checked.image_count
        + rates.input_megapixel * sum(map(_megapixels, inputs_px))
    )


def _output_px(model: Model, checked: CheckedOrder) -> float:
    """About how many pixels the result has; without a size it follows the first input image."""
    rule = model.size_rule(PixelsRule)
    if rule is None or not checked.input_px or used_pixels(checked.size):
        return area_px(checked.size)
    width, height = checked.input_px[0]
    return min(width * height, rule.max_pixels or width * height)


def _megapixels(area: float) -> int:
    return max(1, math.ceil(area / MEGAPIXEL_PX))
