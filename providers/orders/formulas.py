"""The price of an order by its model's formula: the wire fields that it would send go in, US dollars come out.

An amount is millionths of a dollar, as vendors write formulas, and ``base_price`` goes in as such. An amount of at most
1,000 is read as dollars, unless the base price is so small that millionths may be meant: a misread price must not be
below the cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from providers.catalog import price_formulas
from providers.catalog.entries import Model
from providers.catalog.price_formulas import BASE, FormulaError
from providers.orders.needs import face_need
from providers.orders.problems import OrderProblems, Problem
from providers.orders.rules import CheckedOrder
from providers.orders.wire_sizes import default_wire_size, wire_size

MICROUSD_PER_USD: Final = 1_000_000
READS_AS_USD_UP_TO: Final = 1_000
SMALL_BASE_USD: Final = Decimal("0.01")
# Vendors write the number of results into formulas of models that make one and have no field for it.
COUNTS: Final = frozenset({"num_images", "max_images"})
_PLACEHOLDER: Final = "image"  # formulas ask whether there is an image and how many, never what is in it


def cost_usd(model: Model, checked: CheckedOrder) -> Decimal:
    """The price of one image of this order by the model's ``cost_formula``, in US dollars.

    Where a call makes several images, the dearer of one image alone and its share of a full call.
    Raises: OrderProblems (``price_unknown``) where the formula gives none: such an order is never sold.
    """
    try:
        return max(call_usd(model, checked, count) / count for count in _counts(model, checked))
    except FormulaError as error:
        words = f"{model.id} cannot be priced for this order: {error}"
        raise OrderProblems([Problem("model", "price_unknown", words)]) from error


def call_usd(model: Model, checked: CheckedOrder, count: int) -> Decimal:
    """What one call for ``count`` images costs, in US dollars. Raises: FormulaError."""
    base_usd = model.cost_usd if model.cost_base_usd is None else model.cost_base_usd
    inputs = json.dumps(wire_inputs(model, checked, count), sort_keys=True, default=str)
    return _evaluated(model.cost_formula or "", base_usd, inputs)


def known_names(model: Model) -> frozenset[str]:
    """The wire fields whose values are known when an order is priced; a formula may use these alone."""
    own = {spec.field or name for name, spec in model.params.items()}
    sizes = {*default_wire_size(model), *_size_names(model)}
    inputs = model.inputs
    return frozenset({*own, *sizes, *model.constants, *inputs.image_fields, inputs.prompt_field or "prompt", *COUNTS})


def wire_inputs(model: Model, checked: CheckedOrder, count: int = 1) -> dict[str, Any]:
    """The fields that a call of this order sends, and the defaults of those that it leaves out."""
    defaults = {
        spec.field or name: spec.default
        for name, spec in model.params.items()
        if name != "n" and spec.default is not None
    }
    fields: dict[str, Any] = {**dict.fromkeys(COUNTS, count), **defaults, **default_wire_size(model), **model.constants}
    fields[model.inputs.prompt_field or "prompt"] = checked.prompt or ""
    for name, value in checked.params.items():
        spec = model.params.get(name)
        if name != "n" and spec is not None:
            fields[spec.field or name] = value
    if "n" in model.params:
        fields[model.params["n"].field or "n"] = count
    return {**fields, **wire_size(model, checked.size), **dict(_images(model, checked.image_count))}


def _counts(model: Model, checked: CheckedOrder) -> set[int]:
    return {1, min(checked.n, model.max_per_call)} if checked.n > 1 else {1}


def _images(model: Model, left: int) -> Iterator[tuple[str, Any]]:
    """The image fields that so many images fill, the base first and a list taking what is left."""
    inputs = model.inputs
    face = inputs.roles.get("face")
    if face is not None and face_need(model) != "none" and left:
        yield face, [_PLACEHOLDER] if inputs.image_fields[face].is_list else _PLACEHOLDER
        left -= 1
    own = [(name, spec) for name, spec in inputs.image_fields.items() if name != face]
    own.sort(key=lambda pair: pair[0] != inputs.roles.get("base"))
    for name, spec in own:
        if not left:
            return
        taken = left if spec.is_list else 1
        yield name, [_PLACEHOLDER] * taken if spec.is_list else _PLACEHOLDER
        left -= taken


def _size_names(model: Model) -> Iterator[str]:
    rules: Mapping[str, Any] = {} if isinstance(model.size, str) else model.size
    for name, rule in rules.items():
        yield getattr(rule, "field", None) or name
        fields = getattr(rule, "fields", ())
        yield from fields.values() if isinstance(fields, Mapping) else fields


@lru_cache(maxsize=4096)
def _evaluated(text: str, base_usd: Decimal, inputs: str) -> Decimal:
    """Cached, because one order is priced several times on its way. Raises: FormulaError."""
    base = float(base_usd * MICROUSD_PER_USD)
    return as_usd(price_formulas.read(text).value({**json.loads(inputs), BASE: base}), base_usd)


def as_usd(amount: float, base_usd: Decimal) -> Decimal:
    """The dollars that a formula's amount means, exact to a thousandth of a millionth."""
    found = Decimal(repr(round(amount, 3)))
    if found <= READS_AS_USD_UP_TO and base_usd > SMALL_BASE_USD:
        return Decimal(repr(amount))
    return found / MICROUSD_PER_USD
