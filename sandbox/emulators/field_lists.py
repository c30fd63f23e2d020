"""Requests listed by their fields, in the notation of the contracts: a ``*`` behind a name marks what is required.

    fields:
      prompt: {prompt: {type: string}}                    # a name of ours, and the fields that it stands for
      SIZE: {width: {type: integer}, height: {type: integer}}
    models:
      acme-1: [prompt*, SIZE, seed: {type: integer}]      # a field of its own is written out in its place
      acme-2: [[prompt*, SIZE], [seed*: {type: integer}]]   # as above; an inner list only breaks the line

A field listed twice is as it was listed last.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.plumbing.validation import closed


def schema_of(entries: list[Any], library: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON Schema of an object with the fields listed and no others. Raises KeyError for a name not in it."""
    fields = list(_fields(entries, library))
    properties = {name.removesuffix("*"): schema for name, schema in fields}
    return closed(properties, [name.removesuffix("*") for name, _ in fields if name.endswith("*")])


def _fields(entries: list[Any], library: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Names, those of required fields with their ``*``, and schemas."""
    for entry in entries:
        if isinstance(entry, list):
            yield from _fields(entry, library)
        elif isinstance(entry, dict):
            yield from entry.items()
        else:
            name = entry.removesuffix("*")
            yield from ((field + entry.removeprefix(name), schema) for field, schema in library[name].items())
