"""The models of WaveSpeed's emulator, and what is said of a bad input.

``schemas.yaml`` lists them by hand; what it does not have is taken from ``models.jsonl``, the vendor's own description.
"""

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sandbox.emulators.field_lists import schema_of
from sandbox.plumbing.validation import Check, Problem, Schema, load_yaml

DATA = load_yaml(__file__, "schemas.yaml")
_URI = re.compile(r"https?://[^\s/]+/\S+|data:image/[\w.+-]+;base64,\S+")
_SAID: Mapping[str, str] = DATA["said"]  # by the keyword that a property fails, some with its name


class BadInput(ValueError):  # noqa: N818 - reads as what it is
    """A body or a model's input that its schema does not take."""


def check(schema: Schema, given: Mapping[str, Any]) -> None:
    """Raises BadInput for the first problem: unknown, missing, of the wrong type, or out of bounds."""
    if problem := schema.problem(given):
        raise BadInput(_worded(problem))


def _worded(problem: Problem) -> str:
    keyword, name = problem.keyword, problem.top
    if keyword in ("additionalProperties", "required"):
        return f"property '{name}' is {'missing' if keyword == 'required' else 'not supported'}"
    if keyword == "enum":
        return f"invalid value for '{name}': must be one of {', '.join(problem.limit)}"
    said = _SAID.get(f"{name} {keyword}") or _SAID.get(keyword, problem.message)
    return f"invalid value for '{name}': {said.format(limit=problem.limit)}"


# ---------------------------------------------------------------- checks of keywords


def _bound(word: str, is_beyond: Callable[[float, float], bool]) -> Check:
    """A bound of a number, or of the sides of a size, which are pixels in a text."""

    def fault(limit: float, value: object) -> str | None:
        if isinstance(value, str):
            numbers: list[float] = [int(side) for side in re.findall(r"\d{1,5}", value)]
        else:
            numbers = [value] if isinstance(value, int | float) else []
        return f"must be {word} {limit}" if any(is_beyond(number, limit) for number in numbers) else None

    return fault


def _uri_fault(_format: str, value: object) -> str | None:
    fits = isinstance(value, str) and _URI.fullmatch(value)
    return None if fits else "must be a valid URL or a data URI"


_CHECKS = {"minimum": _bound("at least", operator.lt), "maximum": _bound("at most", operator.gt), "format": _uri_fault}


# ---------------------------------------------------------------- the models


@dataclass(frozen=True)
class Model:
    """One path below ``/api/v3/``. ``output`` is image, text or model_3d.

    ``is_partner``: answers with the status ``succeeded`` and a singular ``output``. ``masks_clear``: a mask is clear
    where it marks what to change, where it is white for every other model.
    """

    path: str
    output: str
    fields: list[Any]
    is_partner: bool = False
    masks_clear: bool = False

    @cached_property
    def document(self) -> dict[str, Any]:
        """The JSON Schema of its input."""
        return schema_of(self.fields, DATA["fields"])

    @cached_property
    def schema(self) -> Schema:
        """The same, compiled when it is first needed: there are a hundred."""
        return Schema(self.document, checks=_CHECKS, first=("additionalProperties",))

    @property
    def image_fields(self) -> list[str]:
        """The properties that hold an image or several, masks among them."""
        return [name for name, part in self.document["properties"].items() if "format" in part.get("items", part)]

    def asked(self, given: Mapping[str, Any], name: str) -> Any:
        """What an input says to a property, else its default; None where the model has no such property."""
        return given.get(name) or self.document["properties"].get(name, {}).get("default")


BODIES = {name: Schema(schema_of(fields, {})) for name, fields in DATA["bodies"].items()}
ROWS: Mapping[str, Mapping[str, Any]] = {
    row["id"]: row
    for row in map(json.loads, Path(__file__).with_name("models.jsonl").read_text(encoding="utf-8").splitlines())
}
# Types of the vendor whose results are not images.
_OUTPUTS = {"image-to-text": "text", "image-to-3d": "model_3d", "text-to-3d": "model_3d"}
_URI_FIELD: Mapping[str, Any] = DATA["fields"]["image"]["image"]
# Properties whose names say that they hold an image, or several.
_IMAGE_NAME = re.compile(r"(^|_)(image|images|img|mask)(_url|_urls|_list)?$|^reference_images$|^(image|mask)s?$")


def _described(row: Mapping[str, Any]) -> Model:
    fields = {name + ("*" if name in row["required"] else ""): part for name, part in _properties(row)}
    return Model(row["id"], _OUTPUTS.get(row["type"], "image"), [fields])


def _properties(row: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """As the real server checks them: an image is a link, a size has two sides, a list has items of one type."""
    for name, part in row["input"].items():
        known: dict[str, Any] = dict(part)
        if known.get("type") == "array":
            is_images = known.get("items") == "string" and _IMAGE_NAME.search(name)
            known["items"] = _URI_FIELD if is_images else {"type": known.get("items") or "object"}
        elif known.get("type") == "string" and "enum" not in known and _IMAGE_NAME.search(name):
            known = dict(_URI_FIELD)
        yield name, known


_BY_HAND = {
    path: Model(path, output, fields, is_partner=path in DATA["partners"], masks_clear=path in DATA["clear_masks"])
    for output in ("image", "text", "model_3d")
    for path, fields in DATA[output].items()
}
MODELS: Mapping[str, Model] = {path: _described(row) for path, row in ROWS.items()} | _BY_HAND
