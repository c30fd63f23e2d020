"""What an upstream answered to the requests of one call, for whom it is kept.

``UpstreamSession`` notes every whole answer here while someone listens. Only the last one counts: requests before it
(an upload, a ticket) prepare the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Heard:
    """The last answer so far; ``status`` None: there is none. ``secrets``: the credentials that went out with it.

    ``parsed`` is the JSON object that an adapter has read from ``body``, so that no one reads it a second time.
    """

    status: int | None = None
    content_type: str = ""
    body: bytes = field(default=b"", repr=False)
    parsed: Mapping[str, Any] | None = field(default=None, repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)


_listening: ContextVar[Heard | None] = ContextVar("heard", default=None)


@contextmanager
def listening(*, on: bool = True) -> Iterator[Heard]:
    """Answers that arrive inside are noted in what is returned, in this thread or greenlet; not if ``on`` is false."""
    heard = Heard()
    token = _listening.set(heard if on else None)
    try:
        yield heard
    finally:
        _listening.reset(token)


def is_heard() -> bool:
    """Whether someone listens here, for code that goes on in threads of its own."""
    return _listening.get() is not None


def secrets() -> Sequence[str]:
    """The credentials that went out with the last request; none where no one listens."""
    heard = _listening.get()
    return heard.secrets if heard else ()


def asked(secrets: Sequence[str]) -> None:
    """A request leaves: what was answered before is no answer to it."""
    if heard := _listening.get():
        heard.status, heard.content_type, heard.body, heard.parsed, heard.secrets = None, "", b"", None, secrets


def answered(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """The whole answer has arrived."""
    if heard := _listening.get():
        heard.status, heard.body, heard.parsed = status, body, None
        heard.content_type = headers.get("Content-Type") or ""


def parsed(body: bytes, found: Mapping[str, Any]) -> None:
    """An adapter has read a JSON object from a body: that of the answer, if it is the same object in memory."""
    heard = _listening.get()
    if heard is not None and heard.body is body:
        heard.parsed = found
