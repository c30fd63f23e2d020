"""The wire fields that a catalogue entry sends, in the shape in which upstreams describe theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from providers.catalog.entries import Model, ParamSpec
from providers.catalog.size_rules import AspectRatioRule, FactorRule, PaddingRule, PixelsRule, ResolutionRule, SizesRule
from providers.listing.listed import ListedField

_KINDS: Mapping[str, str] = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array"}


def sent_fields(model: Model, operation: str) -> dict[str, ListedField]:
    """What an order for this operation may send; bounds and choices are those that we hold orders to."""
    fields = {name: ListedField("string", enum=(value,)) for name, value in model.constants.items()}
    fields |= dict(_sizes(model))
    for name, spec in [*model.order_params(operation).items(), *_count(model)]:
        fields[spec.field or name] = _setting(spec)
    inputs = model.inputs
    if inputs.prompt != "none":
        fields[inputs.prompt_field or "prompt"] = ListedField("string")
    if inputs.mask != "none" and inputs.mask_field:
        fields[inputs.mask_field] = ListedField("array" if inputs.mask_list_max else "string")
    if operation != "generate" or inputs.images.max != 0:
        fields |= {
            name: ListedField("array" if spec.is_list else "string", most=spec.max if spec.is_list else None)
            for name, spec in inputs.image_fields.items()
        }
    return fields


def _count(model: Model) -> Iterator[tuple[str, ParamSpec]]:
    if "n" in model.params:
        yield "n", model.params["n"]


def _setting(spec: ParamSpec) -> ListedField:
    return ListedField(
        _KINDS[spec.type],
        enum=spec.enum,
        default=spec.default,
        low=spec.min,
        high=spec.max,
        most=spec.max_items,
    )


def _sizes(model: Model) -> Iterator[tuple[str, ListedField]]:
    rules: Mapping[str, Any] = {} if isinstance(model.size, str) else model.size
    for name, rule in rules.items():
        match rule:
            case PixelsRule() if rule.fields:
                for field in rule.fields:
                    yield field, ListedField("integer", low=rule.min, high=rule.max)
            case PixelsRule():
                low, high = (rule.min, rule.max) if rule.format else (None, None)
                yield rule.field or name, ListedField(None if rule.shape else "string", low=low, high=high)
            case SizesRule():
                values = tuple(value.replace("x", "*") if rule.format == "W*H" else value for value in rule.values)
                yield rule.field or name, ListedField("string", enum=values)
            case AspectRatioRule() | ResolutionRule():
                yield rule.field or name, ListedField("string", enum=rule.enum, default=rule.default)
            case FactorRule() if rule.enum:
                yield name, ListedField("integer", enum=rule.enum, default=rule.default)
            case PaddingRule():
                for field in rule.fields.values():
                    yield field, ListedField("integer", low=rule.min, high=rule.max)
