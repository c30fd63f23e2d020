"""sd-server's options tag in a prompt: putting in ours, and keeping out everybody else's.

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
# As seen in the folded text, where there are no blanks: bracket, slash, name, and the closing bracket.
_TAG: Final = re.compile(rf"(?:<|&lt;)?(?P<slash>/?){_NAME}(?:/?(?:>|&gt;))?")
# In place of a tag. A mark that stays when the text is folded, or else what stood around could join to a new tag.
_GAP: Final = ","


def with_tag(prompt: str, options: Mapping[str, Any]) -> str:
    """The prompt with ``options`` in a tag of one line; as it is where there are none.

    Brackets are escaped inside, so that no value ends the tag. ``prompt`` went through :func:`without_tags`.
    """
    if not options:
        return prompt
    line = json.dumps(options, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"{prompt} <{_NAME}>{line}</{_NAME}>"


def without_tags(text: str) -> str:
    """The text without any tag and what it holds, however it is spelt; every other text as it is.

    Case, blanks, invisible characters and compatibility forms (full-width letters) make no difference: sd-server
    reads one spelling today, and this must hold tomorrow. What is left may be empty.
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
    """A JSON value in which no text, and no name of a field, holds a tag."""
    match value:
        case str():
            return without_tags(value)
        case Mapping():
            return {without_tags(name): scrubbed(inner) for name, inner in value.items()}
        case list() | tuple():
            return [scrubbed(inner) for inner in value]
    return value


def _spans(folded: str) -> Iterator[tuple[int, int]]:
    """What to cut out: an opening tag with all up to the closing one that follows, else each tag alone."""
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
    """The text in lower case, compatibility forms resolved and nothing invisible in it, and where each
    character of that stood.
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
