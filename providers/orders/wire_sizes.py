"""A canonical size under the names and in the spelling of a model's wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.catalog.entries import Model
from providers.catalog.size_rules import (
    AspectRatioRule,
    FactorRule,
    HintRule,
    PaddingRule,
    PixelsRule,
    ResolutionRule,
    SizesRule,
)


def wire_size(model: Model, size: Mapping[str, str | int]) -> dict[str, Any]:
    """The size of an order as wire fields, by the model's size rules; empty where the order says none."""
    if isinstance(model.size, str):
        return {}
    fields: dict[str, Any] = {}
    for name, rule in model.size.items():
        match rule:
            case PixelsRule():
                fields |= _pixels(name, rule, size)
            case SizesRule() | HintRule():
                fields |= _text(rule.field or name, size.get("size"), rule.format)
            case AspectRatioRule():
                fields |= _text(rule.field or "aspect_ratio", size.get("aspect_ratio"))
            case ResolutionRule():
                fields |= _text(rule.field or name, size.get("resolution"))
            case FactorRule() if rule.fixed is None and "factor" in size:
                fields[name] = size["factor"]
            case PaddingRule():
                fields |= {rule.fields[side]: size[side] for side in rule.fields if side in size}
    return fields


def default_wire_size(model: Model) -> dict[str, Any]:
    """What the upstream takes where an order says no size, as far as the rules of the model tell."""
    if isinstance(model.size, str):
        return {}
    fields: dict[str, Any] = {}
    for name, rule in model.size.items():
        default = getattr(rule, "default", None)
        if default is None or (isinstance(rule, PixelsRule) and rule.fields):
            continue
        fields[getattr(rule, "field", None) or name] = _spelled(default, getattr(rule, "format", None))
    return fields


def _pixels(name: str, rule: PixelsRule, size: Mapping[str, str | int]) -> dict[str, Any]:
    if "width" not in size or "height" not in size:
        return _text(rule.field or name, size.get("size"), rule.format)
    if rule.shape:
        return {rule.field or name: {"width": size["width"], "height": size["height"]}}
    width, height = rule.fields or ("width", "height")
    return {width: size["width"], height: size["height"]}


def _text(field: str, value: str | int | None, form: str | None = None) -> dict[str, Any]:
    if value is None:
        return {}
    return {field: _spelled(value, form)}


def _spelled(value: str | int, form: str | None) -> str | int:
    return str(value).replace("x", "*") if form == "W*H" else value
