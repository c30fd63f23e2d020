"""Server-sent events as a client reads them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cli.client.answers import bad_answer

if TYPE_CHECKING:
    import requests

MAX_EVENT_CHARS = 1_000_000


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``last_id`` is the newest id that the stream has given, by which a client goes on after a cut."""

    name: str
    data: str
    last_id: str = ""


def arriving(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives, also from a proxy that passes it on without chunks (HTTP/1.0)."""
    chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
    # Without chunks a read waits until it has all that it was asked for.
    yield from response.iter_content(chunk_size=None if chunked else 1)


def read_events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """Server-sent events from chunks that may break anywhere, inside a character even.

    Raises CommandError (``bad_answer``) for an event that does not end.
    """
    return (event for event in read_events_and_beats(chunks) if event is not None)


def read_events_and_beats(chunks: Iterable[bytes]) -> Iterator[Event | None]:
    """The same, with None for each comment: a stream that is silent sends them, and a reader may look at the clock."""
    name, data, last_id = "message", list[str](), ""
    for line in _lines(chunks):
        if not line:
            if data:
                yield Event(name, "\n".join(data), last_id)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            last_id = value
        elif not field:
            yield None


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for chunk in chunks:
        rest += decoder.decode(chunk)
        if len(rest) > MAX_EVENT_CHARS:
            raise bad_answer("an event of the answer is too long")
        *lines, rest = rest.split("\n")
        yield from (line.removesuffix("\r") for line in lines)
