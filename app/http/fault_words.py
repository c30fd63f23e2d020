"""What is wrong with a field, in the words of a caller instead of the validator's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from providers.orders.near import did_you_mean

_WHOLE, _NUMBER, _TEXT, _BOOLEAN = (
    "must be a whole number",
    "must be a number",
    "must be a text",
    "must be true or false",
)
_LIST, _OBJECT, _TIME = "must be a list", "must be an object", "must be a time like 2026-11-20T12:00:00Z, with its zone"

# By pydantic's type of the error; the names in braces are its context.
_WORDS: Mapping[str, str] = {
    "missing": "is needed",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), _WHOLE),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), _NUMBER),
    **dict.fromkeys(("string_type", "string_unicode", "string_sub_type"), _TEXT),
    **dict.fromkeys(("bool_parsing", "bool_type"), _BOOLEAN),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "iterable_type"), _LIST),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), _OBJECT),
    **dict.fromkeys(("datetime_parsing", "datetime_from_date_parsing", "datetime_type", "timezone_aware"), _TIME),
    "string_too_long": "may have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_pattern_mismatch": "has not the form that it must have",
    "too_long": "may have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


def message_of(found: ErrorDetails, fields: Collection[str] = ()) -> str:
    """One error of pydantic as a sentence about its field. ``fields`` are the fields that exist."""
    context: Mapping[str, Any] = found.get("ctx", {})
    if found["type"] == "value_error":
        return str(context["error"])
    if found["type"] == "extra_forbidden":
        return f"is not a field of this request{did_you_mean(str(found['loc'][-1]), fields)}"
    if found["type"].endswith("too_short") and context["min_length"] == 1:
        return "must not be empty"
    if words := _WORDS.get(found["type"]):
        return words.format_map(context)
    return found["msg"].replace("Input should", "must", 1)
