"""Every WaveSpeed model of the catalogue against the vendor's own list: fields, choices, bounds, defaults and price."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonata
import pytest

from providers.base import InputImage, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.catalog import Model
from providers.catalog.entries import ParamSpec
from providers.catalog.size_rules import AspectRatioRule, FactorRule, PixelsRule, ResolutionRule, SizesRule
from providers.orders.costs import cost_usd
from providers.orders.needs import image_range, mask_need, max_prompt_chars
from providers.orders.rules import CheckedOrder, check_order
from providers.shared.encoding import data_uri
from providers.upstreams.wavespeed.requests import build_input
from sandbox.emulators import wavespeed

Told = dict[str, Any]

LISTED: dict[str, Told] = {
    told["id"]: told
    for line in Path(wavespeed.__file__).with_name("models.jsonl").read_text("utf-8").splitlines()
    for told in [json.loads(line)]
}
OURS = [model for model in catalog.load().models.values() if model.provider == "wavespeed"]
KNOWN = [model for model in OURS if model.path in LISTED]
# Not offered to callers: a task has as many images as its call asks for, and each call makes one where this is not n.
NOT_OFFERED = {"max_images"}
MICROUSD = Decimal(1_000_000)
PNG = InputImage(b"png bytes", "image/png", 64, 64)

by_model = pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.id)


def test_only_these_models_are_not_in_the_list() -> None:
    assert {model.id for model in OURS} - {model.id for model in KNOWN} == {
        "seededit-v3",
        "seedream-v5.0-pro",
        "seedream-v5.0-pro-edit",
    }


# ---------------------------------------------------------------- fields


def own_fields(model: Model) -> set[str]:
    """Every wire field that an order of the model may carry."""
    inputs = model.inputs
    fields = {spec.field or name for name, spec in model.params.items()} | set(inputs.image_fields)
    fields |= {inputs.mask_field or ""} | ({inputs.prompt_field or "prompt"} if inputs.prompt != "none" else set())
    fields |= set(model.constants)
    for name, rule in ({} if isinstance(model.size, str) else model.size).items():
        fields.add(getattr(rule, "field", None) or ("aspect_ratio" if isinstance(rule, AspectRatioRule) else name))
    return fields - {""}


def required_fields(model: Model) -> set[str]:
    """The wire fields that no order of the model can lack."""
    inputs = model.inputs
    fields = {name for name, spec in inputs.image_fields.items() if spec.required or (spec.is_list and spec.min)}
    fields |= {spec.field or name for name, spec in model.params.items() if spec.required}
    fields |= {"prompt"} if inputs.prompt == "required" else set()
    fields |= {str(inputs.mask_field)} if inputs.mask == "required" else set()
    ratio = model.size_rule(AspectRatioRule)
    return fields | ({"aspect_ratio"} if ratio and ratio.required else set()) | set(model.constants)


@by_model
def test_it_has_the_fields_of_the_list_and_no_others(model: Model) -> None:
    told = LISTED[model.path]
    assert own_fields(model) == told["input"].keys() - NOT_OFFERED


@by_model
def test_what_the_list_requires_is_required(model: Model) -> None:
    missing = set(LISTED[model.path]["required"]) - required_fields(model)
    assert missing == set()


@by_model
def test_a_setting_has_the_type_choices_bounds_and_default_of_the_list(model: Model) -> None:
    told = LISTED[model.path]["input"]
    assert {name: as_told(spec, told[spec.field or name]) for name, spec in model.params.items()} == {
        name: {key: value for key, value in told[spec.field or name].items() if key not in ("items", "minItems")}
        for name, spec in model.params.items()
    }


_KINDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array"}
_INT_MAX = 2147483647


def as_told(spec: ParamSpec, told: Told) -> Told:
    """The setting as the list writes it. Bounds that it does not state are ours, and may be there."""
    choices = [int(word) if spec.type == "int" else word for word in spec.enum]
    said = {
        "type": _KINDS[spec.type],
        "enum": sorted(choices, key=told["enum"].index) if "enum" in told else choices,
        "default": spec.default,
        "minimum": spec.min if "minimum" in told else None,
        "maximum": spec.max if "maximum" in told else None,
        "maxItems": spec.max_items if "maxItems" in told else None,
    }
    return {key: value for key, value in said.items() if value is not None and value != []}


@by_model
def test_a_size_has_the_choices_bounds_and_default_of_the_list(model: Model) -> None:
    for name, rule in ({} if isinstance(model.size, str) else model.size).items():
        field = getattr(rule, "field", None) or ("aspect_ratio" if isinstance(rule, AspectRatioRule) else name)
        told = LISTED[model.path]["input"][field]
        default = None if rule.default is None else str(rule.default)
        assert (str(told["default"]).replace("*", "x") if "default" in told else None) == default, field
        match rule:
            case AspectRatioRule() | ResolutionRule():
                assert list(rule.enum) == told["enum"]
            case SizesRule():
                assert list(rule.values) == [str(word).replace("*", "x") for word in told["enum"]]
            case FactorRule():
                assert list(rule.enum) == told["enum"]
            case PixelsRule():
                assert told.get("minimum", rule.min) == rule.min
                assert told.get("maximum", rule.max) == rule.max
            case _:
                raise AssertionError(f"{field}: {rule}")


@by_model
def test_images_are_as_many_as_the_list_takes(model: Model) -> None:
    told = LISTED[model.path]["input"]
    for name, field in model.inputs.image_fields.items():
        assert field.is_list == (told[name].get("type") == "array"), name
        if field.is_list:
            assert field.max == told[name].get("maxItems"), name
            assert (field.min or 0) >= told[name].get("minItems", 0), name


# ---------------------------------------------------------------- prices


def orders(model: Model, operation: str) -> Iterator[tuple[Told, int]]:
    """Every combination of the choices that the vendor's price may depend on, with the fewest and more images."""
    formula = LISTED[model.path].get("price_formula", "")
    axes: list[list[Told]] = []
    for name, spec in model.order_params(operation).items():
        if (spec.field or name) in formula:
            values = [*spec.enum] or ([False, True] if spec.type == "bool" else [spec.min, spec.max])
            axes.append([{}, *({name: value} for value in values)])
    for name, rule in ({} if isinstance(model.size, str) else model.size).items():
        if name in formula:
            values = [*getattr(rule, "values", ()), *getattr(rule, "enum", ())]
            ours = {ResolutionRule: "resolution", FactorRule: "factor", AspectRatioRule: "aspect_ratio"}
            axes.append([{}, *({ours.get(type(rule), "size"): value} for value in values)])
    if model.inputs.prompt != "none":
        longest = max_prompt_chars(model) if "prompt" in formula else 1
        axes.append([{"prompt": "x" * length} for length in sorted({1, longest})])
    required = {name: _least(spec) for name, spec in model.order_params(operation).items() if spec.required}
    if (ratio := model.size_rule(AspectRatioRule)) and ratio.required:
        required["aspect_ratio"] = ratio.enum[0]
    fewest, most = image_range(model, operation)
    for images in range(fewest, min(most, fewest + 6) + 1):
        for chosen in itertools.product(*axes):
            yield {**required, **{name: value for fields in chosen for name, value in fields.items()}}, images


def _least(spec: ParamSpec) -> object:
    return spec.enum[0] if spec.enum else spec.default or "x"


def vendors_usd(model: Model, operation: str, checked: CheckedOrder) -> Decimal:
    """What the vendor's formula asks for one image of the order, with its defaults for what was left out."""
    told = LISTED[model.path]
    mask = PNG if mask_need(model, operation) == "required" else None
    face = PNG if "face" in model.inputs.roles else None
    references = [PNG] * (checked.image_count - (face is not None))
    sent = build_input(
        UpstreamOrder(
            operation,
            model,
            checked.prompt,
            images=references,
            mask=mask,
            face=face,
            size=checked.size,
            params=checked.params,
        ),
        data_uri,
    )
    base = Decimal(str(told["base_price_usd"]))
    if "price_formula" not in told:
        return base
    defaults = {name: part["default"] for name, part in told["input"].items() if "default" in part}
    asked = {"base_price": int(base * MICROUSD), "num_images": 1, **defaults, **sent}
    total = jsonata.Jsonata(told["price_formula"]).evaluate(asked)["total_price"]
    return round(Decimal(str(total)) / MICROUSD, 6)


@by_model
def test_an_order_costs_what_the_vendors_formula_asks(model: Model) -> None:
    wrong = []
    for operation in sorted(model.operations):
        for fields, images in orders(model, operation):
            face = "face" in model.inputs.roles
            mask = mask_need(model, operation) == "required"
            checked = check_order(model, operation, fields, image_count=images - face, has_mask=mask, has_face=face)
            ours, theirs = cost_usd(model, checked), vendors_usd(model, operation, checked)
            dearer = ours > theirs and "dearer" in (model.cost_note or "")
            if ours != theirs and not dearer:
                wrong.append(f"{operation} with {images} images and {_short(fields)}: ours {ours}, theirs {theirs}")
    assert not wrong, "\n".join(wrong[:20])


def _short(fields: Told) -> Told:
    return {name: value if name != "prompt" else f"{len(value)} characters" for name, value in fields.items()}
