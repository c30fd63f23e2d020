"""Server-sent events, read the way streaming chat upstreams really send them."""

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

    Takes LF, CRLF and CR breaks and UTF-8 split anywhere; skips comments and other fields. An event
    that the end of the stream leaves without its blank line is handed out too.
    Raises: EventTooLongError, and whatever ``chunks`` raises.
    """
    data: list[str] = []
    for line in _lines(chunks):
        if line == "":
            if data:
                yield "\n".join(data)
            data = []
            continue
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
            if sum(map(len, data)) > MAX_EVENT_CHARS:
                raise EventTooLongError(MAX_EVENT_CHARS)
    if data:
        yield "\n".join(data)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    rest = ""
    for chunk in chunks:
        text = rest + decoder.decode(chunk)
        # A CR at the end may be half of a CRLF: leave it until the next chunk tells.
        held = "\r" if text.endswith("\r") else ""
        *whole, rest = _LINE_END.split(text.removesuffix(held))
        rest += held
        yield from whole
        if len(rest) > MAX_EVENT_CHARS:
            raise EventTooLongError(MAX_EVENT_CHARS)
    yield from _LINE_END.split(rest + decoder.decode(b"", final=True))
