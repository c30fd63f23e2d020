"""Answers that are held open until a job has ended, and kept alive meanwhile.

Until ``quiet_s`` nothing is sent, and the answer keeps its true status. After that the head of a 200 has gone out, and
white space follows every ``beat_s``, which JSON allows in front of a value: a proxy that cuts silent connections does
not cut this one. The view has returned by then: nothing of its request is held.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, current_app

from app.http.responses import IN_PIECES
from app.serving.broken_off import BrokenOff

__all__ = ["HOLD", "BrokenOff", "Hold", "held", "hold_here", "leaving", "on_end"]

HOLD = "darkroom_hold"


@dataclass(frozen=True, slots=True)
class Hold:
    """How long an answer is silent at first, how often white space follows, and how long it is held in all; in
    seconds. ``stopping``: whether this process is about to end."""

    quiet_s: float = 15.0
    beat_s: float = 10.0
    most_s: float = 3600.0
    stopping: Callable[[], bool] = lambda: False


def hold_here() -> Hold:
    """How answers are held, as the settings of this app have it."""
    found: Hold = current_app.extensions[HOLD]
    return found


def held(
    ended: Callable[[float], Any | None],
    say: Callable[[Any], bytes | Iterable[bytes]],
    *,
    beat_s: float,
    content_type: str,
    stopping: Callable[[], bool] = lambda: False,
) -> Response:
    """An answer that has begun. ``ended`` waits at most so many seconds for the end and returns it, or None; ``say``
    renders it, whole or in pieces, and may raise BrokenOff. The answer is broken off when the process is ``stopping``:
    its client asks again, and another process answers."""
    response = Response(_beats(ended, say, beat_s, stopping), status=200, content_type=content_type)
    response.headers.update(IN_PIECES)
    return response


def _beats(
    ended: Callable[[float], Any | None],
    say: Callable[[Any], bytes | Iterable[bytes]],
    beat_s: float,
    stopping: Callable[[], bool],
) -> Iterator[bytes]:
    yield b" "
    while (found := ended(beat_s)) is None:
        if stopping():
            raise BrokenOff
        yield b" "
    said = say(found)
    if isinstance(said, bytes):
        yield said
    else:
        yield from said


def on_end(response: Response, tell: Callable[[bool], None]) -> None:
    """Call ``tell`` once the server is done with an answer: True where it has gone out to its last byte, as far as the
    server can know."""
    pieces, whole = response.response, [False]

    def watched() -> Iterator[Any]:
        yield from pieces
        whole[0] = True

    response.response = watched()
    response.call_on_close(lambda: tell(whole[0]))


def leaving(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """A look at the connection of a request: whether its client has closed it. Never True where the server lends no
    socket."""
    client: Any = environ.get("gunicorn.socket")
    client = getattr(client, "_sock", client)  # gevent's own recv would wait

    def left() -> bool:
        if client is None:
            return False
        try:
            return bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        except BlockingIOError:
            return False
        except OSError:
            return True

    return left
