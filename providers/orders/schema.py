"""The JSON Schema of an order for one model, for clients that build a form from it.

:func:`providers.orders.rules.check_order` accepts every order that the schema admits; a size may become the
nearest that the model makes. The check accepts more than the schema: other spellings, other ways to give a size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.catalog.entries import ItemField, Model, ParamSpec, spoken
from providers.catalog.size_rules import (
    AspectRatioRule,
    FactorRule,
    HintRule,
    PaddingRule,
    PixelsRule,
    ResolutionRule,
    SizesRule,
)
from providers.orders.needs import (
    MAX_LIST_ITEMS,
    bounds,
    face_need,
    image_range,
    mask_need,
    max_prompt_chars,
    max_text_chars,
    most_results,
    places,
)
from providers.orders.params import COMPRESSIBLE, fold_format
from providers.orders.pixels import limits_of
from providers.orders.size_requests import AUTO, MAX_ASKED_RATIO
from providers.orders.sizes import size_fields

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# A character that is neither white space nor a control character.
_SAYS_SOMETHING = r"[^\s\x00-\x1f\x7f-\x9f]"
# Two sides of similar length, so that the pattern admits no ratio beyond 1:32.
_SIZE = "|".join(
    (
        "[1-9][0-9]{2}x[1-9][0-9]{2}",
        "[1-9][0-9]{3}x[1-9][0-9]{3}",
        "[4-9][0-9]{2}x[1-9][0-9]{3}",
        "[1-9][0-9]{3}x[4-9][0-9]{2}",
    )
)
_TO_32 = "([1-9]|[12][0-9]|3[0-2])"
_RATIO = f"{_TO_32}:{_TO_32}"
_IMAGE: Schema = {
    "type": "string",
    "description": "data: URL, base64, https URL, upload_id or job_id#index",
}
_CLASSES = ("1K", "2K", "4K")
# An order may have only one of several fields for one thing.
_EITHER = (("size", "width"), ("size", "aspect_ratio"), ("width", "aspect_ratio"), ("size", "resolution"))


def order_schema(model: Model, operation: str) -> Schema:
    """JSON Schema (2020-12) of the part of an order that depends on the model.

    ``additionalProperties`` is false: the caller adds what belongs to every order (model, priority,
    metadata, ...). Raises: ValueError if the model cannot do the operation.
    """
    if operation not in model.operations:
        raise ValueError(f"{model.id} cannot {operation}")
    properties: Schema = {"n": {"type": "integer", "minimum": 1, "maximum": most_results(model), "default": 1}}
    required: list[str] = []
    _add_prompt(model, properties, required)
    _add_images(model, operation, properties, required)
    for name, spec in model.order_params(operation).items():
        properties[name] = _setting(name, spec)
        if spec.required:
            required.append(name)
    properties |= _sizes(model)
    for name, value in model.order_defaults.get(operation, {}).items():
        if name in properties:
            properties[name]["default"] = value
    aspect = model.size_rule(AspectRatioRule)
    if aspect and aspect.required:
        required.append("aspect_ratio")
    schema: Schema = {
        "$schema": DIALECT,
        "title": f"{spoken(operation)} with {model.name}",
        "type": "object",
        "properties": properties,
        "required": sorted(required),
        "dependentRequired": _together(model, operation, properties),
        "additionalProperties": False,
    }
    rules = [*_exclusions(properties), *_alternatives(model), *_sides(model)]
    # An empty allOf is not allowed in JSON Schema (core 10.2.1.1), and validators refuse the whole schema.
    return schema | ({"allOf": rules} if rules else {})


def _add_prompt(model: Model, properties: Schema, required: list[str]) -> None:
    need = model.inputs.prompt
    if need == "none":
        return
    properties["prompt"] = {"type": "string", "maxLength": max_prompt_chars(model)}
    if need == "required":
        properties["prompt"] |= {"minLength": 1, "pattern": _SAYS_SOMETHING}
        required.append("prompt")


def _add_images(model: Model, operation: str, properties: Schema, required: list[str]) -> None:
    fewest, most = image_range(model, operation)
    face = face_need(model) != "none"
    if most - face > 0:
        properties["images"] = {
            "type": "array",
            "items": _IMAGE,
            "minItems": max(0, fewest - face),
            "maxItems": most - face,
        }
        if order := places(model):
            properties["images"]["description"] = f"in this order: {', '.join(order)}"
        if fewest - face > 0:
            required.append("images")
    for name, need in (("mask", mask_need(model, operation)), ("face", face_need(model))):
        if need != "none":
            properties[name] = dict(_IMAGE)
        if need == "required":
            required.append(name)
    if "mask" in properties:
        properties["mask"]["description"] += "; transparent pixels mark what to change"


def _setting(name: str, spec: ParamSpec) -> Schema:
    schema: Schema = {"type": _TYPES[spec.type]}
    if spec.type == "int" and spec.enum:
        schema["enum"] = [int(word) for word in spec.enum]
    elif spec.type in {"int", "float"}:
        schema["minimum"], schema["maximum"] = bounds(name, spec)
    elif spec.enum:
        schema["enum"] = list(spec.enum)
    elif spec.type == "str":
        schema["maxLength"] = max_text_chars(name, spec)
        if spec.required:
            schema |= {"minLength": 1, "pattern": _SAYS_SOMETHING}
    elif spec.type == "list":
        schema |= {
            "items": _item(spec.items) if spec.items else {"type": ["string", "number", "object"]},
            "maxItems": spec.max_items or MAX_LIST_ITEMS,
        }
    if spec.default is not None:
        schema["default"] = spec.default
    if spec.note:
        schema["description"] = spec.note
    return schema


def _item(fields: Mapping[str, ItemField]) -> Schema:
    properties: Schema = {}
    for name, known in fields.items():
        limits = {"minimum": known.min, "maximum": known.max}
        says = {"pattern": r"\S"} if known.type == "str" else {}
        properties[name] = {"type": _TYPES[known.type], **says, **{k: v for k, v in limits.items() if v is not None}}
    required = [name for name, known in fields.items() if known.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array"}


def _sizes(model: Model) -> Schema:
    """The size fields, in the form nearest to the model's own."""
    pixels, sizes, hint = model.size_rule(PixelsRule), model.size_rule(SizesRule), model.size_rule(HintRule)
    fields: Schema = {}
    if pixels:
        fields |= _pixel_fields(pixels, model)
    elif sizes:
        fields["size"] = {"type": "string", "enum": list(sizes.values)}
    elif hint:
        fields["size"] = {"type": "string", "pattern": f"^({AUTO}|{_SIZE}|{_RATIO})$"}
    if aspect := model.size_rule(AspectRatioRule):
        fields["aspect_ratio"] = _ratio_field(aspect)
    if resolution := model.size_rule(ResolutionRule):
        fields["resolution"] = _choice(resolution.enum, resolution.default)
    if (factor := model.size_rule(FactorRule)) and factor.enum:
        fields["factor"] = {"type": "integer", "enum": list(factor.enum)}
    if padding := model.size_rule(PaddingRule):
        side = {"type": "integer", "minimum": padding.min, "maximum": padding.max}
        fields |= dict.fromkeys(padding.fields, side)
    return fields


def _pixel_fields(rule: PixelsRule, model: Model) -> Schema:
    limits = limits_of(rule, max_width=model.max_width, max_height=model.max_height)
    # Any two sides between these are within the largest ratio that is accepted.
    high = min(limits.max_width_px, limits.max_height_px)
    side = {"type": "integer", "minimum": max(limits.min_side_px, -(-high // MAX_ASKED_RATIO)), "maximum": high}
    fields: Schema = {
        "size": {"type": "string", "pattern": f"^({AUTO}|{_SIZE})$"},
        "width": side,
        "height": side,
        "aspect_ratio": {"type": "string", "pattern": f"^{_RATIO}$"},
    }
    if "resolution" in size_fields(model):
        fields["resolution"] = {"type": "string", "enum": list(_CLASSES)}
    return fields


def _ratio_field(rule: AspectRatioRule) -> Schema:
    if rule.enum:
        return _choice(rule.enum, rule.default)
    return {"type": "string", "pattern": f"^{_RATIO}$"}


def _choice(values: tuple[str, ...], default: str | None) -> Schema:
    return {"type": "string", "enum": list(values)} | ({"default": default} if default else {})


def _together(model: Model, operation: str, properties: Schema) -> dict[str, list[str]]:
    """Fields that need another field."""
    needs = {"width": ["height"], "height": ["width"]} if "width" in properties else {}
    if "resolution" in properties and not model.size_rule(ResolutionRule):
        needs["resolution"] = ["aspect_ratio"]
    with_images = [n for n, spec in model.order_params(operation).items() if spec.required_with == "images"]
    return needs | ({"images": with_images} if with_images and "images" in properties else {})


def _exclusions(properties: Schema) -> list[Schema]:
    pairs = [pair for pair in _EITHER if set(pair) <= properties.keys()]
    rules: list[Schema] = [{"not": {"required": list(pair)}} for pair in pairs]
    formats = properties.get("output_format", {})
    if "background" in properties:
        rules.append(_never({"background": {"const": "transparent"}}, formats, {"jpeg"}))
    if "output_compression" in properties and formats:
        hard = {fold_format(word) for word in formats.get("enum", ())} - COMPRESSIBLE
        rules.append(_never({"output_compression": {"maximum": 99}}, formats, hard))
    return rules


def _never(setting: Schema, formats: Schema, banned: set[str]) -> Schema:
    """Excludes the setting together with one of the formats, whether chosen or by default."""
    words = [word for word in formats.get("enum", ()) if fold_format(word) in banned]
    required = list(setting)
    if fold_format(str(formats.get("default", ""))) not in banned:
        required.append("output_format")
    return {"not": {"properties": {**setting, "output_format": {"enum": words}}, "required": required}}


def _alternatives(model: Model) -> list[Schema]:
    if not model.inputs.needs_one_of:
        return []
    ways: dict[str, Schema] = {
        "prompt": {"required": ["prompt"], "properties": {"prompt": {"pattern": _SAYS_SOMETHING}}},
        "mask": {"required": ["mask"]},
        "second_image": {"required": ["images"], "properties": {"images": {"minItems": 2}}},
    }
    return [{"anyOf": [ways[name] for name in model.inputs.needs_one_of]}]


def _sides(model: Model) -> list[Schema]:
    padding = model.size_rule(PaddingRule)
    if padding is None:
        return []
    grows = [{"required": [name], "properties": {name: {"minimum": 1}}} for name in padding.fields]
    return [{"anyOf": grows}]
