"""The order check accepts what the schema of an order admits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from providers.catalog.catalog import load
from providers.orders.rules import OrderProblems, check_order
from providers.orders.schema import order_schema
from providers.orders.size_requests import SIZE_FIELDS

CATALOG = load()
PAIRS = [(model, operation) for model in CATALOG.models.values() for operation in sorted(model.operations)]
Schema = dict[str, Any]


def schema_of(model_id: str, operation: str) -> Schema:
    return order_schema(CATALOG.models[model_id], operation)


def admits(schema: Schema, value: Any) -> bool:
    """Enough of JSON Schema to judge an order by the keywords used here; fails on others."""
    return all(_KEYWORDS[keyword](argument, value) for keyword, argument in schema.items())


def _properties(schemas: Schema, value: Any) -> bool:
    return all(admits(schema, value[name]) for name, schema in schemas.items() if name in value)


def _silent(argument: Any, value: Any) -> bool:
    return True


_KEYWORDS: dict[str, Any] = {
    **dict.fromkeys(("$schema", "title", "description", "default", "type", "additionalProperties", "items"), _silent),
    "properties": _properties,
    "required": lambda names, value: set(names) <= value.keys(),
    "dependentRequired": lambda needs, value: all(set(needs[name]) <= value.keys() for name in needs if name in value),
    "allOf": lambda schemas, value: all(admits(schema, value) for schema in schemas),
    "anyOf": lambda schemas, value: any(admits(schema, value) for schema in schemas),
    "not": lambda schema, value: not admits(schema, value),
    "const": lambda wanted, value: value == wanted,
    "enum": lambda allowed, value: value in allowed,
    "pattern": lambda pattern, value: re.search(pattern, value) is not None,
    "minimum": lambda least, value: value >= least,
    "maximum": lambda most, value: value <= most,
    "minLength": lambda least, value: len(value) >= least,
    "maxLength": lambda most, value: len(value) <= most,
    "minItems": lambda least, value: len(value) >= least,
    "maxItems": lambda most, value: len(value) <= most,
}


def values(schema: Schema) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return _MAKERS[schema["type"]](schema)


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    pattern: str = schema.get("pattern", "")
    if pattern.startswith("^"):
        return st.from_regex(pattern, fullmatch=True)
    texts = st.text(min_size=schema.get("minLength", 0), max_size=40)
    return texts.filter(lambda text: re.search(pattern, text) is not None)


def _lists(schema: Schema) -> st.SearchStrategy[list[Any]]:
    image = st.just("https://images.example/a.png")
    item = _objects(schema["items"]) if schema["items"].get("properties") else image
    return st.lists(item, min_size=schema.get("minItems", 0), max_size=min(schema["maxItems"], 16))


def _objects(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    bounds = {"minimum": -1000, "maximum": 1000}
    drawn = {name: values({**bounds, **each}) for name, each in schema["properties"].items()}
    needed = {name: drawn.pop(name) for name in schema["required"]}
    return st.fixed_dictionaries(needed, optional=drawn)


_MAKERS: dict[str, Callable[[Schema], st.SearchStrategy[Any]]] = {
    "string": _texts,
    "integer": lambda schema: st.integers(schema["minimum"], schema["maximum"]),
    "number": lambda schema: st.floats(schema["minimum"], schema["maximum"]),
    "boolean": lambda _: st.booleans(),
    "array": _lists,
}


def orders(schema: Schema) -> st.SearchStrategy[Schema]:
    drawn = {name: values(each) for name, each in schema["properties"].items()}
    needed = {name: drawn.pop(name) for name in schema["required"]}
    return st.fixed_dictionaries(needed, optional=drawn)


def checked(model: Any, operation: str, order: Schema) -> Any:
    fields = {name: value for name, value in order.items() if name not in {"images", "mask", "face"}}
    return check_order(
        model,
        operation,
        fields,
        image_count=len(order.get("images", ())),
        has_mask="mask" in order,
        has_face="face" in order,
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=st.data(), pair=st.sampled_from(PAIRS))
def test_what_the_schema_admits_the_check_accepts(data: st.DataObject, pair: tuple[Any, str]) -> None:
    model, operation = pair
    schema = order_schema(model, operation)
    order = data.draw(orders(schema))
    assume(admits(schema, order))
    assert set(checked(model, operation, order).params) <= {*order, *model.order_defaults.get(operation, {})}


def plain_order(model: Any, operation: str) -> Schema:
    """An order that every model takes, reduced to the model's fields."""
    image = "data:image/png;base64,"
    order: Schema = {
        "prompt": "a fox",
        "images": [image],
        "mask": image,
        "face": image,
        "find": "a hat",
    }
    order |= {
        "target_language": "german",
        "target_lang": "de",
        "aspect_ratio": "1:1",
        "left": 1,
        "strength": 0.5,
    }
    schema = order_schema(model, operation)
    order = {name: value for name, value in order.items() if name in schema["properties"]}
    if "images" in order:
        order["images"] *= max(1, schema["properties"]["images"]["minItems"])
    if "second_image" in model.inputs.needs_one_of:
        order["images"] = [image] * 2
    return order


def broken(schema: Schema, order: Schema) -> Iterator[tuple[str, Schema]]:
    """The order with one thing wrong, for every keyword of the schema that an order can violate."""
    yield "unknown field", {**order, "no_such_setting": 1}
    for name in {"mask", "face", "images"} - schema["properties"].keys():
        yield f"{name} not taken", {**order, name: ["x"] if name == "images" else "x"}
    for name in schema["required"]:
        yield f"{name} missing", {key: value for key, value in order.items() if key != name}
    for name, field in schema["properties"].items():
        if name in SIZE_FIELDS:
            continue  # the check takes the nearest size, and more forms of it
        if field["type"] in {"integer", "number"} and "enum" not in field:
            yield f"{name} above", {**order, name: field["maximum"] * 2 + 1}
            yield f"{name} below", {**order, name: field["minimum"] - abs(field["minimum"]) - 1}
        elif field["type"] == "array" and name == "images":
            yield "too many images", {**order, name: ["x"] * (field["maxItems"] + 1)}
        elif "maxLength" in field:
            yield f"{name} too long", {**order, name: "x" * (field["maxLength"] + 1)}
        elif "enum" in field:
            unheard = max(field["enum"]) + 1 if field["type"] == "integer" else "no-such-value"
            yield f"{name} unheard of", {**order, name: unheard}


def says_no(schema: Schema, order: Schema) -> bool:
    return bool(order.keys() - schema["properties"].keys()) or not admits(schema, order)


@pytest.mark.parametrize(("model", "operation"), PAIRS, ids=lambda each: getattr(each, "id", each))
def test_every_model_has_an_order_that_its_schema_admits(model: Any, operation: str) -> None:
    order = plain_order(model, operation)
    assert admits(order_schema(model, operation), order)
    assert checked(model, operation, order)


@pytest.mark.parametrize(("model", "operation"), PAIRS, ids=lambda each: getattr(each, "id", each))
def test_what_breaks_the_schema_is_refused_by_the_check(model: Any, operation: str) -> None:
    schema = order_schema(model, operation)
    for what, order in broken(schema, plain_order(model, operation)):
        assert says_no(schema, order), what
        try:
            checked(model, operation, order)
        except OrderProblems:
            continue
        pytest.fail(f"{what}: the schema refuses it, the check does not")


@pytest.mark.parametrize(("model", "operation"), PAIRS, ids=lambda each: getattr(each, "id", each))
def test_every_schema_is_valid(model: Any, operation: str) -> None:
    Draft202012Validator.check_schema(order_schema(model, operation))


def test_it_says_which_image_is_which() -> None:
    images = schema_of("hunyuan3d-v2-multi-view", "image_to_3d")["properties"]["images"]
    assert images["description"] == "in this order: front_image_url, back_image_url, left_image_url"
    assert schema_of("image-captioner", "caption")["properties"]["n"]["maximum"] == 1


def test_it_says_what_the_model_is_like() -> None:
    schema = schema_of("gpt-image-2", "edit")
    assert schema["required"] == ["images", "prompt"]
    assert schema["properties"]["images"] | {"items": 0} == {
        "type": "array",
        "items": 0,
        "minItems": 1,
        "maxItems": 16,
    }
    assert schema["properties"]["quality"]["enum"] == ["auto", "low", "medium", "high"]
    assert {"seed", "face", "moderation"}.isdisjoint(schema["properties"])
    assert "moderation" in schema_of("gpt-image-2", "generate")["properties"]


@pytest.mark.parametrize(
    "order",
    [
        {"prompt": "x", "size": "1024x1024", "width": 1024, "height": 1024},
        {"prompt": "x", "width": 1024},
        {"prompt": "x", "background": "transparent", "output_format": "jpeg"},
        {"prompt": "x", "output_compression": 5},
        {"prompt": "x", "n": 11},
        {"prompt": "\x00"},
        {"size": "1024x1024"},
    ],
)
def test_it_admits_no_order_that_would_be_refused(order: Schema) -> None:
    assert not admits(schema_of("gpt-image-2", "generate"), order)


def test_an_operation_the_model_cannot_do_has_no_schema() -> None:
    with pytest.raises(ValueError, match="cannot upscale"):
        schema_of("gpt-image-2", "upscale")
