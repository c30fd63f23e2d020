"""The models of WaveSpeed's emulator, and what is said of a bad input.

``models.jsonl`` is the vendor's own list; ``schemas.yaml`` says what that leaves open, and the models that it lacks.
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
from sandbox.plumbing.validation import Check, Problem, Schema, closed, load_yaml

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
        return f"property '{problem.field}' is {'missing' if keyword == 'required' else 'not supported'}"
    if keyword == "enum":
        return f"invalid value for '{name}': must be one of {', '.join(map(str, problem.limit))}"
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
    """One path below ``/api/v3/``. ``output`` is image, text or model_3d; ``document`` the JSON Schema of its input.

    ``is_partner``: answers with the status ``succeeded`` and a singular ``output``. ``masks_clear``: a mask is clear
    where it marks what to change, where it is white for every other model.
    """

    path: str
    output: str
    document: dict[str, Any]
    is_partner: bool = False
    masks_clear: bool = False

    @cached_property
    def schema(self) -> Schema:
        """The document, compiled when it is first needed: there are hundreds."""
        return Schema(self.document, checks=_CHECKS, first=("additionalProperties",))

    @property
    def image_fields(self) -> list[str]:
        """The properties that hold an image or several, the one to be changed first; masks among them."""
        named = [name for name, part in self.document["properties"].items() if "format" in part.get("items", part)]
        return sorted(named, key=lambda name: name not in {"image", "images"})

    def asked(self, given: Mapping[str, Any], name: str) -> Any:
        """What an input says to a property, else its default; None where the model has no such property."""
        return given.get(name) or self.document["properties"].get(name, {}).get("default")


# The vendor's list by path, as its package described it in June 2026.
ROWS: Mapping[str, Mapping[str, Any]] = {
    row["id"]: row for row in map(json.loads, Path(__file__).with_name("models.jsonl").read_text("utf-8").splitlines())
}


def _listed() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, output and document of each model of the vendor's list."""
    for told in ROWS.values():
        properties = {
            name: _property(name, part, required=name in told["required"]) for name, part in told["input"].items()
        }
        output = DATA["outputs"].get(told["type"], "image")
        yield told["id"], output, closed({**properties, **DATA["every_model"]}, told["required"])


def _property(name: str, told: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    """The schema of a property: what the list says of it, over what ``schemas.yaml`` says of its name."""
    part = dict(told)
    if part.get("type") == "array":
        item = _open(name, part.get("items") or "object")
        return {**part, "items": DATA["items"].get(name, item)}
    if "enum" in part:
        return part
    return {**_open(name, part.get("type", "string"), required=required), **part}


def _open(name: str, kind: str, *, required: bool = False) -> dict[str, Any]:
    """What holds of a property, or of an item of it, by its name and type alone."""
    if kind == "string" and name in DATA["images"]:
        return {"type": kind, "format": "uri"}
    if kind == "string" and name == "prompt":
        return {"type": kind, "pattern": r"\S"} if required else {"type": kind}
    return {"type": kind, **DATA["by_name"].get(name, {}).get(kind, {})}


def _all_models() -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield from _listed()
    for output, models in DATA["unlisted"].items():
        for path, fields in models.items():
            yield path, output, schema_of(fields, DATA["fields"])


BODIES = {name: Schema(schema_of(fields, {})) for name, fields in DATA["bodies"].items()}
MODELS: Mapping[str, Model] = {
    path: Model(path, output, document, is_partner=path in DATA["partners"], masks_clear=path in DATA["clear_masks"])
    for path, output, document in _all_models()
}
