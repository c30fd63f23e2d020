"""How the input of a WaveSpeed model is described and checked: one ``Field`` per property."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["text", "uri", "uris", "whole", "number", "flag", "choice", "size", "list"]
_TYPES: Mapping[Kind, tuple[type, ...]] = {
    "text": (str,),
    "uri": (str,),
    "uris": (list,),
    "whole": (int,),
    "number": (int, float),
    "flag": (bool,),
    "choice": (str,),
    "size": (str,),
    "list": (list,),
}
_SIZE = re.compile(r"(\d{1,5})\*(\d{1,5})")
_URI = re.compile(r"https?://[^\s/]+/\S+|data:image/[\w.+-]+;base64,\S+")


@dataclass(frozen=True)
class Field:
    """One property. ``low`` and ``high`` bound a number, the sides of a size (pixels) or the items of a list."""

    name: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    default: object = None
    required: bool = False

    @property
    def must(self) -> "Field":
        """The same, required."""
        return replace(self, required=True)

    def schema(self) -> dict[str, object]:
        """As the vendor's catalogue writes it: bounds of a size are those of its sides, in pixels."""
        types = {"uris": "array", "list": "array", "whole": "integer", "number": "number", "flag": "boolean"}
        shown: dict[str, object] = {"type": types.get(self.kind, "string")}
        shown |= {"format": "uri"} if self.kind == "uri" else {}
        shown |= {"items": {"type": "string", "format": "uri"}} if self.kind == "uris" else {}
        low, high = ("minItems", "maxItems") if self.kind in ("uris", "list") else ("minimum", "maximum")
        told = {low: self.low, high: self.high, "enum": list(self.choices) or None, "default": self.default}
        return shown | {name: value for name, value in told.items() if value is not None}


class BadField(ValueError):  # noqa: N818 - reads as what it is
    """An input that the model's schema does not take."""


def check(fields: Mapping[str, Field], given: Mapping[str, Any]) -> None:
    """Raises BadField for the first fault: unknown, missing, of the wrong type, or out of bounds."""
    for name in given:
        if name not in fields:
            raise BadField(f"property '{name}' is not supported")
    for name, field in fields.items():
        if name in given:
            fault = next(_faults(field, given[name]), None)
            if fault:
                raise BadField(f"invalid value for '{name}': {fault}")
        elif field.required:
            raise BadField(f"property '{name}' is missing")


def _faults(field: Field, value: Any) -> Iterator[str]:
    fits = isinstance(value, _TYPES[field.kind])
    if not fits or (isinstance(value, bool) and field.kind != "flag"):
        yield f"must be of type {field.schema()['type']}"
        return
    if field.kind == "size":
        yield from _size_faults(field, value)
    elif field.choices and value not in field.choices:
        yield f"must be one of {', '.join(field.choices)}"
    elif field.kind in ("uri", "uris"):
        yield from _uri_faults(value if isinstance(value, list) else [value])
    elif field.kind == "text" and field.required and not value.strip():
        yield "must not be empty"
    if field.kind in ("whole", "number", "uris", "list"):
        yield from _out_of_bounds(field, len(value) if isinstance(value, list) else value)


def _size_faults(field: Field, value: str) -> Iterator[str]:
    if value in field.choices:
        return
    found = _SIZE.fullmatch(value)
    if found is None or field.choices:
        yield f"must be one of {', '.join(field.choices)}" if field.choices else "must be WIDTH*HEIGHT"
        return
    for side in map(int, found.groups()):
        yield from _out_of_bounds(field, side)


def _uri_faults(values: list[Any]) -> Iterator[str]:
    if not all(isinstance(value, str) and _URI.fullmatch(value) for value in values):
        yield "must be a valid URL or a data URI"


def _out_of_bounds(field: Field, number: float) -> Iterator[str]:
    if field.low is not None and number < field.low:
        yield f"must be at least {field.low}"
    if field.high is not None and number > field.high:
        yield f"must be at most {field.high}"


def data_of(uri: str) -> bytes | None:
    """The bytes of a data URI; None for a link, or where the base64 is broken."""
    head, _, body = uri.partition(",")
    if not head.startswith("data:"):
        return None
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None


# ---------------------------------------------------------------- short names for the table


def text(name: str) -> Field:
    """Free text."""
    return Field(name, "text")


def uri(name: str) -> Field:
    """One picture: a link or a data URI."""
    return Field(name, "uri")


def uris(name: str, low: int, high: int | None = None) -> Field:
    """A list of pictures."""
    return Field(name, "uris", low, high, required=low > 0)


def whole(name: str, low: int | None = None, high: int | None = None, default: int | None = None) -> Field:
    """A whole number."""
    return Field(name, "whole", low, high, default=default)


def number(name: str, low: float | None = None, high: float | None = None, default: float | None = None) -> Field:
    """A number."""
    return Field(name, "number", low, high, default=default)


def flag(name: str) -> Field:
    """True or false, false by default."""
    return Field(name, "flag", default=False)


def choice(name: str, words: str, default: str | None = None) -> Field:
    """One of a few words, blank-separated here."""
    return Field(name, "choice", choices=tuple(words.split()), default=default)


def size(low: int = 256, high: int = 1536, default: str | None = None) -> Field:
    """``W*H`` with sides in these bounds."""
    return Field("size", "size", low, high, default=default)


def sizes(words: str, default: str) -> Field:
    """One of a few sizes."""
    return Field("size", "size", choices=tuple(words.split()), default=default)


def items(name: str, high: int | None = None) -> Field:
    """A list of anything."""
    return Field(name, "list", high=high)
