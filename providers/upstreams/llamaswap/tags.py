"""sd-server's options tag in a prompt: adding ours, and removing those of callers.

``<sd_cpp_extra_args>{...}</sd_cpp_extra_args>`` in a prompt sets anything, the prompt itself and the number
of images among it, and the first tag wins (providers/upstreams/llamaswap/CONTRACT.md, section 3). So no text of a
caller may hold one.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final

_NAME: Final = "sd_cpp_extra_args"
# As it is in the folded text, which has no blanks: bracket, slash, name, and the closing bracket.
_TAG: Final = re.compile(rf"(?:<|&lt;)?(?P<slash>/?){_NAME}(?:/?(?:>|&gt;))?")
# Replaces a tag. It stays when the text is folded; otherwise the text around it could form a new tag.
_GAP: Final = ","


def with_tag(prompt: str, options: Mapping[str, Any]) -> str:
    """The prompt with ``options`` in a tag of one line; unchanged where there are none.

    Brackets are escaped inside, so that no value ends the tag. ``prompt`` comes from :func:`without_tags`.
    """
    if not options:
        return prompt
    line = json.dumps(options, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"{prompt} <{_NAME}>{line}</{_NAME}>"


def without_tags(text: str) -> str:
    """The text without any tag and its content, in any spelling; a text without tags is unchanged.

    Case, blanks, invisible characters and compatibility forms (full-width letters) make no difference: sd-server
    reads one spelling today and may read others later. What is left may be empty.
    """
    folded, places = _fold(text)
    if _NAME not in folded:
        return text
    kept, begin = [], 0
    for start, end in _spans(folded):
        kept.append(text[begin : places[start]].rstrip())
        begin = places[end - 1] + 1
    kept.append(text[begin:].lstrip())
    return f"{_GAP} ".join(kept).strip(f"{_GAP} ")


def scrubbed(value: Any) -> Any:
    """The JSON value without tags in any text or name of a field."""
    match value:
        case str():
            return without_tags(value)
        case Mapping():
            return {without_tags(name): scrubbed(inner) for name, inner in value.items()}
        case list() | tuple():
            return [scrubbed(inner) for inner in value]
    return value


def _spans(folded: str) -> Iterator[tuple[int, int]]:
    """What to remove: an opening tag with everything up to the next closing one, else each tag alone."""
    opened: re.Match[str] | None = None
    for found in _TAG.finditer(folded):
        if opened is not None and found["slash"]:
            yield opened.start(), found.end()
            opened = None
            continue
        if opened is not None:
            yield opened.span()
        opened = None if found["slash"] else found
        if opened is None:
            yield found.span()
    if opened is not None:
        yield opened.span()


def _fold(text: str) -> tuple[str, list[int]]:
    """The text in lower case, without compatibility forms and invisible characters, and the place of each of its
    characters in the original.
    """
    folded: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        plain = character if character.isascii() else unicodedata.normalize("NFKC", character)
        for each in plain.casefold():
            if not each.isspace() and unicodedata.category(each) not in {"Cf", "Cc", "Mn"}:
                folded.append(each)
                places.append(place)
    return "".join(folded), places
