"""What an order's ``extra`` may not contain: fields that Darkroom sets itself."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from providers.base import UpstreamOrder
from providers.catalog import price_formulas
from providers.catalog.entries import Model
from providers.catalog.size_rules import SizeRule
from providers.errors import RequestRefused

# Fields that decide what is bought, and how the result is reported.
RESERVED_EXTRA = frozenset(
    {
        "client_task_id",
        "image",
        "image[]",
        "images",
        "input_fidelity",  # "high" makes an input image ten times as dear as it is priced
        "mask",
        "model",
        "n",
        "partial_images",
        "prompt",
        "quality",
        "response_format",
        "size",
        "stream",
    }
)


_CALLBACKS = frozenset({"webhook", "webhook_url", "webhook_secret", "webhook_events_filter"})


def reserved_extra(model: Model) -> frozenset[str]:
    """What ``extra`` may not contain for this model: wire fields that the catalogue prices, fills or limits."""
    inputs = model.inputs
    own = {spec.field or name for name, spec in model.params.items()} | model.params.keys() | model.constants.keys()
    places = {inputs.prompt_field or "prompt", inputs.mask_field or "mask", *inputs.image_fields}
    rules = {} if isinstance(model.size, str) else model.size
    sizes = {field for name, rule in rules.items() for field in _size_names(name, rule)}
    formula = price_formulas.read(model.cost_formula).names if model.cost_formula else frozenset()
    return frozenset(RESERVED_EXTRA | _CALLBACKS | own | places | sizes | formula)


def _size_names(name: str, rule: SizeRule) -> set[str]:
    fields = getattr(rule, "fields", ())  # PixelsRule has a list, PaddingRule a mapping
    named = {getattr(rule, "field", None) or name}
    return named | set(fields.values() if isinstance(fields, Mapping) else fields)


def extra_fields(order: UpstreamOrder) -> Mapping[str, Any]:
    """The caller's own wire fields. Raises: RequestRefused for one that would change what is bought."""
    refuse_extra(order.extra, reserved_extra(order.model))
    return order.extra


def refuse_extra(extra: Mapping[str, Any], names: Set[str]) -> None:
    """Raises: RequestRefused for the fields of ``extra`` that are among ``names``."""
    clash = sorted(names & extra.keys())
    if clash:
        raise RequestRefused("extra_not_allowed", f"set by Darkroom itself: {', '.join(clash)}")
