"""What an order for a model may set, as a table, from the JSON Schemas of its orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = ("field", "takes", "default", "for")
MOST_CHOICES = 12


def rows(orders: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """A row a field; one that differs between operations has several. ``*`` marks what must be given."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for operation, schema in orders.items():
        needed = schema.get("required") or ()
        for name, spec in (schema.get("properties") or {}).items():
            row = (f"{name}*" if name in needed else name, takes(spec), _value(spec.get("default")))
            found.setdefault(row, []).append(operation)
    for (name, what, default), operations in found.items():
        yield name, what, default, "" if len(operations) == len(orders) else ", ".join(operations)


def takes(spec: Mapping[str, Any]) -> str:
    """The values that a field takes, in a few words: ``1 to 10``, ``low | high``, ``text``."""
    if choices := spec.get("enum"):
        shown = [_value(each) for each in choices[:MOST_CHOICES]]
        return " | ".join([*shown, *([f"... ({len(choices)})"] if len(choices) > MOST_CHOICES else [])])
    match spec.get("type"):
        case "integer" | "number" as kind:
            what = _range(spec, "minimum", "maximum") or ("a whole number" if kind == "integer" else "a number")
        case "boolean":
            what = "true | false"
        case "array":
            count = _range(spec, "minItems", "maxItems")
            what = f"a list of {count}" if count else "a list"
        case "string":
            what = f"text up to {spec['maxLength']} characters" if "maxLength" in spec else "text"
        case "object":
            what = "an object"
        case _:
            what = ""
    return what


def _range(spec: Mapping[str, Any], least: str, most: str) -> str:
    low, high = spec.get(least, spec.get("exclusiveMinimum")), spec.get(most)
    if low is not None and high is not None:
        return _value(low) if low == high else f"{_value(low)} to {_value(high)}"
    if high is not None:
        return f"at most {_value(high)}"
    return f"at least {_value(low)}" if low is not None else ""


def _value(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
