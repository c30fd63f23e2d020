"""Strict parsing of bodies and queries.

JSON allows duplicate keys, which two parsers read in two ways, NaN, numbers of any length, and text that PostgreSQL
cannot store. All of it is refused with the reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict

from app.http.errors import InvalidRequestError, MalformedJsonError, UnsupportedMediaTypeError
from app.http.fault_words import message_of
from jobs.errors import FieldFault

MAX_DEPTH = 32
MAX_NUMBER_CHARS = 40
# Members need commas between them and images in base64 have none: this bounds the memory that a parsed body of many
# megabytes takes. Prompts have commas of their own.
MAX_COMMAS = 100_000
MAX_MEMBERS = 200  # of one object or list
MAX_MEMBERS_IN_ALL = 2_000

M = TypeVar("M", bound=BaseModel)


def read_json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises MalformedJsonError, UnsupportedMediaTypeError, or a 413."""
    if not request.is_json:
        raise UnsupportedMediaTypeError("send the body as application/json")
    return parse_object(request.get_data(cache=True))


def parse_object(raw: bytes) -> dict[str, Any]:
    """One JSON object. Raises MalformedJsonError with the fault and, for a syntax error, its position."""
    found = _parsed(raw)
    _check_tree(found)
    return found


def parse_list_of(raw: bytes, name: str, most: int) -> dict[str, Any]:
    """One JSON object that has many objects in its member ``name``: each of those may be as large as any other, and
    there may be ``most`` of them. Raises MalformedJsonError."""
    found = _parsed(raw)
    listed = found.get(name)
    each = listed if isinstance(listed, list) else []
    if len(each) > most:
        raise MalformedJsonError(f"{name} has {len(each)} members, at most {most}")
    _check_tree({**found, name: None} if each else found)
    for member in each:
        _check_tree(member)
    return found


def _parsed(raw: bytes) -> dict[str, Any]:
    if raw.count(b",") > MAX_COMMAS:
        raise MalformedJsonError("the body has too many members")
    try:
        found = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            parse_float=_real,
        )
    except UnicodeDecodeError as error:
        raise MalformedJsonError(f"the body is not UTF-8 at byte {error.start}", position=error.start) from None
    except json.JSONDecodeError as error:
        raise MalformedJsonError(
            f"{error.msg} at line {error.lineno}, column {error.colno}",
            line=error.lineno,
            column=error.colno,
            position=error.pos,
        ) from None
    except RecursionError:
        raise MalformedJsonError(f"nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(found, dict):
        raise MalformedJsonError("the body must be a JSON object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_members(len(pairs))
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise MalformedJsonError(f"the key {name[:100]!r} is given twice in one object")
        found[name] = value
    return found


def _check_members(count: int) -> None:
    if count > MAX_MEMBERS:
        raise MalformedJsonError(f"an object or a list has {count} members, at most {MAX_MEMBERS}")


def _refuse_constant(name: str) -> Any:
    raise MalformedJsonError(f"{name} is not a JSON number")


def _whole(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARS:
        raise MalformedJsonError("a number is too long")
    return int(text)


def _real(text: str) -> float:
    value = float(text) if len(text) <= MAX_NUMBER_CHARS else math.inf
    if not math.isfinite(value):
        raise MalformedJsonError("a number is too large or too long")
    return value


def _check_tree(root: Any) -> None:
    """Depth, and text a database can hold: no lone surrogates, no NUL."""
    level, nodes, members = 0, [root], 0
    while nodes:
        level += 1
        members += len(nodes)
        if members > MAX_MEMBERS_IN_ALL:
            raise MalformedJsonError(f"the body has more than {MAX_MEMBERS_IN_ALL} members in all")
        if level > MAX_DEPTH:
            raise MalformedJsonError(f"nested deeper than {MAX_DEPTH} levels")
        for node in nodes:
            if isinstance(node, list):
                _check_members(len(node))
            for text in _texts(node):
                check_text(text)
        nodes = [child for node in nodes for child in _children(node)]


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        yield from node


def _children(node: Any) -> Sequence[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else ()


def check_text(text: str) -> None:
    """Raises MalformedJsonError for text that UTF-8 or PostgreSQL cannot hold."""
    if not storable(text):
        raise MalformedJsonError("a text holds a NUL or half of a surrogate pair")


def storable(text: str) -> bool:
    """Whether UTF-8 and PostgreSQL can hold the text: no NUL, no half of a surrogate pair."""
    if "\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_query(schema: type[M], args: MultiDict[str, str]) -> M:
    """The query string as ``schema``; texts become numbers where it says so. Raises InvalidRequestError."""
    faults = [
        FieldFault(name, "conflict", "is given more than once") for name, values in args.lists() if len(values) > 1
    ]
    faults += [
        FieldFault(name[:100], "wrong_type", "is not text") for name, text in args.items() if not storable(name + text)
    ]
    if faults:
        raise InvalidRequestError(faults)
    try:
        return schema.model_validate_strings(args.to_dict())
    except ValidationError as error:
        raise InvalidRequestError(faults_of(error, schema.model_fields)) from None


def read_body(schema: type[M], request: Request) -> M:
    """A JSON body as ``schema``. Raises as :func:`read_json_object`, and InvalidRequestError."""
    try:
        return schema.model_validate(read_json_object(request))
    except ValidationError as error:
        raise InvalidRequestError(faults_of(error, schema.model_fields)) from None


def faults_of(error: ValidationError, fields: Collection[str] = ()) -> list[FieldFault]:
    """Pydantic's errors as faults; the value that the caller sent is left out. ``fields`` are those that exist, of
    which the nearest is named next to one that does not."""
    found = error.errors(include_url=False, include_input=False, include_context=True)
    return [FieldFault(_field(each["loc"]), _code(each["type"]), message_of(each, fields)) for each in found]


def _field(location: tuple[int | str, ...]) -> str:
    """("images", 0) becomes images[0], ("metadata", "key") becomes metadata.key."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in location)
    return text.removeprefix(".").removesuffix(".[key]")


_CODES = (
    (re.compile("missing"), "required"),
    (re.compile("extra_forbidden"), "not_supported"),
    (re.compile("too_long"), "too_long"),
    (re.compile("too_short"), "required"),
    (re.compile("greater_than|less_than|multiple_of|finite"), "out_of_range"),
    (re.compile("literal_error|enum|pattern"), "not_allowed"),
)


def _code(kind: str) -> str:
    return next((code for pattern, code in _CODES if pattern.search(kind)), "wrong_type")
