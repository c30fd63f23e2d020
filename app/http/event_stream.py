"""Server-sent events as bytes on the wire, and the answer that carries them.

An answer's chunks come from a generator that runs after the request's context has gone: it touches neither ``request``
nor ``g``. A silence is filled with :func:`comment` at least every ``BEAT_S`` seconds, which keeps proxies from cutting
the stream and shows us a client that has left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from flask import Response

from app.http.responses import IN_PIECES
from core.wire import json_text

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 2000
BEAT_S = 15.0
_LINE_ENDS = re.compile(r"\r\n|\r|\n")


def opening(last_id: str | None = None) -> bytes:
    """What a stream begins with: how long a client waits before it connects again, in milliseconds.

    ``last_id`` is where a client goes on that is cut off before the first record.
    """
    place = "" if last_id is None else f"id: {_one_line(last_id)}\n"
    return f"retry: {RETRY_MS}\n{place}\n".encode()


def record(data: Any, *, event: str | None = None, last_id: str | None = None) -> bytes:
    """One event: ``data`` as JSON, or as it is where it is a str. Raises ValueError for a line break in another field.

    ``last_id`` is what the client sends as Last-Event-ID when it connects again.
    """
    lines = [f"id: {_one_line(last_id)}"] if last_id is not None else []
    if event is not None:
        lines.append(f"event: {_one_line(event)}")
    text = data if isinstance(data, str) else json_text(data)
    lines.extend(f"data: {line}" for line in _LINE_ENDS.split(text))
    return ("\n".join(lines) + "\n\n").encode()


def comment(text: str = "") -> bytes:
    """A line that clients pass over. Raises ValueError for a line break in it."""
    return f": {_one_line(text)}\n\n".encode()


def answer(chunks: Iterable[bytes]) -> Response:
    """The answer that sends these chunks, each as soon as it is there. What ``call_on_close`` names runs at its end."""
    # Not direct_passthrough, with which no one is told of the end.
    response = Response(chunks, status=200, content_type=MEDIA_TYPE)
    response.headers.update(IN_PIECES)
    return response


def _one_line(text: str) -> str:
    if _LINE_ENDS.search(text) or "\0" in text:
        raise ValueError("a field of an event is one line, without NUL")
    return text
