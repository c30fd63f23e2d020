"""Orders made of a model's JSON Schema alone, as a client without our catalogue makes them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from PIL import Image

Schema = dict[str, Any]
Order = dict[str, Any]

# Small, and at least the minimum of every upstream.
SIDE_PX = 256
MANY = 4


def plainest(schema: Schema, prompt: str) -> Order:
    """Only what the schema requires; of alternatives the first.

    Raises: AssertionError if the schema does not admit what it asks for.
    """
    order = {name: value_of(name, schema["properties"][name], prompt) for name in schema["required"]}
    for rule in schema.get("allOf", ()):
        if "anyOf" in rule and not _admits(rule, order):
            first = rule["anyOf"][0]
            for name in first["required"]:
                narrowed = {**schema["properties"][name], **first.get("properties", {}).get(name, {})}
                order[name] = value_of(name, narrowed, prompt)
    faults = [error.message for error in Draft202012Validator(schema).iter_errors(order)]
    assert not faults, faults
    return order


def fullest(schema: Schema, prompt: str) -> Order:
    """Every field that goes together with those before it, each as far from its default as the schema allows."""
    order = plainest(schema, prompt)
    for name, field in schema["properties"].items():
        if name != "n":
            richer = {**order, **_with_partners(schema, name, value_of(name, field, prompt, most=True), prompt)}
            order = richer if _admits(schema, richer) else order
    return order


def value_of(name: str, field: Schema, prompt: str, *, most: bool = False) -> Any:
    """A value the field admits. With ``most`` several images, the last word of a list, the middle of a range."""
    match name:
        case "prompt":
            return prompt
        case "images":
            fewest = max(1, field["minItems"])
            count = max(fewest, min(field["maxItems"], MANY)) if most else fewest
            return [data_url(sample_image(number)) for number in range(count)]
        case "mask":
            return data_url(mask())
        case "face":
            return data_url(sample_image(7))
        case _:
            # The larger classes of a size take long to draw and change nothing on the wire.
            return _setting(field, most=most and name != "resolution")


def _setting(field: Schema, *, most: bool) -> Any:
    if "enum" in field:
        return field["enum"][-1 if most else 0]
    match field["type"]:
        case "boolean":
            return not field.get("default", False)
        case "integer":
            return (field["minimum"] + field["maximum"]) // 2 if most else field["minimum"]
        case "number":
            return (field["minimum"] + field["maximum"]) / 2
        case "array":
            return []
        case _:
            # The first of some likely texts that fits: plain words, a ratio, a size.
            return next(text for text in ("a hat", "1:1", "512x512") if re.search(field.get("pattern", ""), text))


def _with_partners(schema: Schema, name: str, value: Any, prompt: str) -> Order:
    """The field, and the fields it requires."""
    partners = schema["dependentRequired"].get(name, ())
    return {name: value} | {each: value_of(each, schema["properties"][each], prompt) for each in partners}


def _admits(schema: Schema, order: Order) -> bool:
    return bool(Draft202012Validator(schema).is_valid(order))


def as_form(order: Order) -> tuple[list[tuple[str, str]], list[tuple[str, Any]]]:
    """(text fields, file parts) of the same order as a multipart form."""
    images = [("images", url) for url in order.get("images", ())]
    images += [(name, order[name]) for name in ("mask", "face") if name in order]
    files = [(name, (f"{name}.png", bytes_of(url), "image/png")) for name, url in images]
    return list(_texts(order)), files


def _texts(order: Order) -> Iterator[tuple[str, str]]:
    for name, value in order.items():
        if name not in ("images", "mask", "face"):
            yield name, str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache
def sample_image(number: int) -> bytes:
    """A PNG made here, a different one for each number."""
    image = Image.radial_gradient("L").rotate(20 * number, fillcolor=128).convert("RGB")
    return png(image.resize((SIDE_PX, SIDE_PX)))


@lru_cache
def mask() -> bytes:
    """Opaque, with a transparent right half: the part to change."""
    image = Image.new("RGBA", (SIDE_PX, SIDE_PX), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), right_half(image.size))
    return png(image)


def right_half(size: tuple[int, int]) -> tuple[int, int, int, int]:
    return size[0] // 2, 0, *size


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bytes_of(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2])


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
