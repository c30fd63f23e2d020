"""A listed input as a setting of a catalogue entry: its name, type, choices, bounds and default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from providers.listing.listed import ListedField

# Our names of settings that every vendor has.
_OWN_NAMES: Final[Mapping[str, str]] = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
# Fields of an order that mean something else.
_TAKEN_NAMES: Final = frozenset(
    {"model", "operation", "fallback_models", "priority", "deadline_s", "metadata", "extra", "lenient", "store"}
    | {"prompt", "n", "images", "mask", "face", "size", "width", "height", "aspect_ratio", "resolution", "factor"}
    | {"left", "right", "top", "bottom"}
)
_SAFE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TYPES: Final[Mapping[str, str]] = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
}
# Formats that a result may have; others would be refused when the result is looked at.
_FORMATS: Final = frozenset({"png", "jpeg", "jpg", "webp", "gif", "avif"})
MAX_SEED: Final = 2**31 - 1


def why_not(listed: ListedField) -> str | None:
    """Why no setting can hold this input; None where one can."""
    if listed.kind not in _TYPES:
        return f"of type {listed.kind or 'unknown'}"
    if listed.enum and listed.kind != "string" and not _is_run(listed.enum):
        return "a choice of numbers that are not in a row"
    return None


def setting(name: str, listed: ListedField, *, required: bool) -> tuple[str, dict[str, Any]]:
    """Our name for the input, and its specification as an entry has it."""
    own = _OWN_NAMES.get(name, name)
    if own in _TAKEN_NAMES or not _SAFE_NAME.fullmatch(own):
        own = re.sub(r"[^a-z0-9_]", "_", f"upstream_{own}".lower())
    spec: dict[str, Any] = {"type": _TYPES[listed.kind or "string"]}
    if own != name:
        spec["field"] = name
    enum = [str(each) for each in listed.enum] if spec["type"] == "str" else []
    if name == "output_format" and _FORMATS & set(enum):
        enum = [each for each in enum if each in _FORMATS]
    if enum:
        spec["enum"] = enum
    if spec["type"] in {"int", "float"}:
        spec |= _bounds(name, listed)
    if spec["type"] == "list" and listed.most is not None:
        spec["max_items"] = listed.most
    if _is_default(listed.default, spec):
        spec["default"] = listed.default
    if required:
        spec["required"] = True
    return own, spec


def _bounds(name: str, listed: ListedField) -> dict[str, Any]:
    low, high = listed.low, listed.high
    if listed.enum:
        low, high = min(listed.enum), max(listed.enum)
    if name == "seed" or name.endswith("_seed"):
        # -1 means "any" only where it is the default.
        low, high = (min(0, _whole(listed.default)) if low is None else low), (MAX_SEED if high is None else high)
    return {key: value for key, value in (("min", low), ("max", high)) if value is not None}


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _is_default(value: object, spec: Mapping[str, Any]) -> bool:
    """Whether a default is one that an entry can state: of the type, and among the choices."""
    match spec["type"]:
        case "str":
            return isinstance(value, str) and value != "" and ("enum" not in spec or value in spec["enum"])
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return False


def _is_run(choices: tuple[Any, ...]) -> bool:
    """Whether the choices are all whole numbers between the least and the most."""
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in choices):
        return False
    return sorted(choices) == list(range(min(choices), max(choices) + 1))
