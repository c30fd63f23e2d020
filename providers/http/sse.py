"""Server-sent events, read as streaming chat upstreams really send them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

MAX_EVENT_CHARS = 1024 * 1024
_LINE_END = re.compile(r"\r\n|\n|\r")


class EventTooLongError(ValueError):
    """One event, or one line, beyond ``MAX_EVENT_CHARS``."""


def events(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each event, in order; several ``data:`` lines are joined by a line feed.

    Accepts LF, CRLF and CR breaks and UTF-8 split anywhere; skips comments and other fields. An event
    that ends with the stream instead of a blank line counts too.
    Raises: EventTooLongError, and what ``chunks`` raises.
    """
    data: list[str] = []
    size_chars = 0
    for line in _lines(chunks):
        if line == "":
            if data:
                yield "\n".join(data)
            data, size_chars = [], 0
            continue
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
            size_chars += len(value)
            if size_chars > MAX_EVENT_CHARS:
                raise EventTooLongError(MAX_EVENT_CHARS)
    if data:
        yield "\n".join(data)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    begun: list[str] = []  # pieces of a line that has not ended; joined once, however many there are
    begun_chars = 0
    held = ""
    for chunk in chunks:
        text = held + decoder.decode(chunk)
        # A CR at the end may be half of a CRLF: keep it until the next chunk decides.
        held = "\r" if text.endswith("\r") else ""
        *whole, rest = _LINE_END.split(text.removesuffix(held))
        if whole:
            whole[0] = "".join([*begun, whole[0]])
            begun, begun_chars = [], 0
            yield from whole
        begun.append(rest)
        begun_chars += len(rest)
        if begun_chars > MAX_EVENT_CHARS:
            raise EventTooLongError(MAX_EVENT_CHARS)
    yield from _LINE_END.split("".join([*begun, held, decoder.decode(b"", final=True)]))
