"""Answers that are held open until a job has ended, and kept alive meanwhile.

Until ``quiet_s`` nothing is sent, and the answer keeps its true status. After that the head of a 200 has gone out, and
white space follows every ``beat_s``, which JSON allows in front of a value: a proxy that cuts silent connections does
not cut this one. The view has returned by then: nothing of its request is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flask import Response

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class BrokenOff(Exception):  # noqa: N818 - what happens to the answer, not an error of ours
    """Ends an answer that has begun without its last chunk: the client sees a broken connection, and may ask again."""


def held(
    ended: Callable[[float], Any | None], say: Callable[[Any], bytes], *, beat_s: float, content_type: str
) -> Response:
    """An answer that has begun. ``ended`` waits at most so many seconds for the end and returns it, or None; ``say``
    renders it, and may raise BrokenOff."""
    response = Response(_beats(ended, say, beat_s), status=200, content_type=content_type, direct_passthrough=True)
    response.headers.update(HEADERS)
    return response


def _beats(ended: Callable[[float], Any | None], say: Callable[[Any], bytes], beat_s: float) -> Iterator[bytes]:
    yield b" "
    while (found := ended(beat_s)) is None:
        yield b" "
    yield say(found)
