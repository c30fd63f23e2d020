"""Checking the settings of an order: type, allowed values, limits, and which of them exclude each other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.catalog.entries import ItemField, Model, ParamSpec
from providers.orders.near import did_you_mean
from providers.orders.needs import MAX_LIST_ITEMS, bounds, max_text_chars
from providers.orders.problems import Problem
from providers.orders.texts import clean_text

MAX_LIST_BYTES = 16_384
AUTO = "auto"
COMPRESSIBLE = frozenset({"jpeg", "webp"})


@dataclass
class Findings:
    """What the check of one order has found so far."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    normalised: dict[str, dict[str, str]] = field(default_factory=dict)

    def fault(self, name: str, code: str, message: str) -> None:
        """Add one problem."""
        self.problems.append(Problem(name, code, message))


def check_params(
    model: Model, operation: str, given: Mapping[str, Any], *, has_images: bool, found: Findings
) -> dict[str, Any]:
    """The settings to send, by canonical name: only what the caller set, and never an empty text.

    Every fault is added to ``found``.
    """
    params = {}
    for name, spec in model.order_params(operation).items():
        try:
            value = _value(name, spec, given.get(name), found)
        except _Unfit as unfit:
            found.fault(name, unfit.code, unfit.message)
            continue
        if value is not None:
            params[name] = value
        elif spec.required or (spec.required_with == "images" and has_images):
            when = "" if spec.required else " with an image"
            found.fault(name, "required", f"is needed by this model{when}{_one_of_these(spec)}")
    for name, message in _clashes(model, params):
        found.fault(name, "not_allowed", message)
    return params


def _one_of_these(spec: ParamSpec) -> str:
    return f": one of {', '.join(spec.enum)}" if spec.enum else ""


def whole(value: object) -> int | None:
    """A whole number as JSON knows it (5.0 is one, true is not), else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def fold_format(word: str) -> str:
    """One spelling for each image format: image/jpeg, JPG and jpeg are the same format."""
    folded = word.strip().casefold().removeprefix("image/")
    return "jpeg" if folded == "jpg" else folded


class _Unfit(Exception):  # noqa: N818 (a finding, caught in this module)
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def _value(name: str, spec: ParamSpec, value: object, found: Findings) -> Any:
    """The value to send; None for none. Raises: _Unfit."""
    if value is None:
        return None
    match spec.type:
        case "str":
            text = _text(name, spec, _as_word(spec, value))
            return _one_of(name, spec.enum, text, found) if text and spec.enum else text
        case "bool":
            return _bool(value)
        case "int" | "float":
            return _number(name, spec, int(value) if isinstance(value, str) and value in spec.enum else value)
        case "list":
            return _list(spec, value)


def _as_word(spec: ParamSpec, value: object) -> object:
    """2 becomes "2" where the allowed texts are numbers: callers send numbers for them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    word = f"{value:.12g}"
    return word if word in spec.enum else value


def _text(name: str, spec: ParamSpec, value: object) -> str | None:
    if not isinstance(value, str):
        raise _Unfit("wrong_type", "must be a text")
    if len(value) > max_text_chars(name, spec):
        raise _Unfit("too_long", f"may have at most {max_text_chars(name, spec)} characters")
    return clean_text(value) or None


def _one_of(name: str, allowed: tuple[str, ...], text: str, found: Findings) -> str | None:
    """The allowed value that the text means, in any case, with any mark between its words, by any name of a format."""
    if text in allowed:
        return text
    known = {_fold(each): each for each in allowed}.get(_fold(text))
    if known is not None:
        found.normalised[name] = {"asked": text, "used": known}
        return known
    if text.casefold() == AUTO:
        return None  # the upstream chooses, which is what leaving it out means
    raise _Unfit("not_allowed", f"must be one of {', '.join(allowed)}{did_you_mean(text, allowed)}")


def _fold(word: str) -> str:
    return fold_format(word).replace("_", "-").replace(" ", "-")


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("wrong_type", "must be true or false")
    return value


def _number(name: str, spec: ParamSpec, value: object) -> int | float:
    if spec.type == "int":
        number: int | float | None = whole(value)
    else:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is None:
        raise _Unfit("wrong_type", "must be a whole number" if spec.type == "int" else "must be a number")
    if spec.enum and str(number) not in spec.enum:
        raise _Unfit("not_allowed", f"must be one of {', '.join(spec.enum)}")
    low, high = bounds(name, spec)
    if not low <= number <= high:  # NaN is outside this way
        raise _Unfit("out_of_range", f"must be {low} to {high}")
    return number


def _list(spec: ParamSpec, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise _Unfit("wrong_type", "must be a list")
    most = spec.max_items or MAX_LIST_ITEMS
    if len(value) > most:
        raise _Unfit("too_many", f"may have at most {most} items")
    try:
        size_bytes = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _Unfit("wrong_type", "must hold plain JSON values") from error
    if size_bytes > MAX_LIST_BYTES:
        raise _Unfit("too_long", f"may have at most {MAX_LIST_BYTES} bytes as JSON")
    if spec.items and not all(_is_item(spec.items, item) for item in value):
        raise _Unfit("wrong_type", f"must be a list of objects {_spelled(spec.items)}")
    return value


_ITEM_TYPES: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
_ITEM_WORDS = {"str": "text", "int": "whole number", "float": "number"}


def _is_item(fields: Mapping[str, ItemField], item: object) -> bool:
    """Whether it is an object with the required members, each as it must be, and no unknown ones."""
    if not isinstance(item, dict) or item.keys() - fields.keys():
        return False
    return all(_is_member(known, item[name]) if name in item else not known.required for name, known in fields.items())


def _is_member(known: ItemField, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, _ITEM_TYPES[known.type]):
        return False
    if isinstance(value, str):
        return bool(value.strip())
    low, high = (-math.inf if known.min is None else known.min), (math.inf if known.max is None else known.max)
    return isinstance(value, int | float) and low <= value <= high


def _spelled(fields: Mapping[str, ItemField]) -> str:
    """The members as a caller may read them: ``{width: whole number of at least 0, scale: number (optional)}``."""

    def one(name: str, known: ItemField) -> str:
        limits = [f"at least {known.min}"] * (known.min is not None) + [f"at most {known.max}"] * (
            known.max is not None
        )
        of = f" of {' and '.join(limits)}" if limits else ""
        return f"{name}: {_ITEM_WORDS[known.type]}{of}{'' if known.required else ' (optional)'}"

    return f"{{{', '.join(one(name, known) for name, known in fields.items())}}}"


def _clashes(model: Model, params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, message) for settings that are allowed alone and refused together."""
    spec = model.params.get("output_format")
    image_format = fold_format(str(params.get("output_format") or (spec and spec.default) or ""))
    if params.get("background") == "transparent" and image_format == "jpeg":
        yield "background", "jpeg has no transparency; use png or webp"
    compression = params.get("output_compression")
    if compression not in {None, 100} and image_format and image_format not in COMPRESSIBLE:
        yield "output_compression", f"{image_format} is not compressed by degrees; use jpeg or webp"
