"""The connections of a web process: how many one address has open, and whether a client that waits is still there.

A connection whose answer waits for a job is not counted against its address. Its caller has shown a key, and is counted
by account instead (app/http/places.py): so a client may hold two thousand streams from one address, and strangers may
still not take every connection.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gevent import get_hub, getcurrent

_ATTRIBUTE = "darkroom_seat"
_READ = 1  # of libev


class Seats:
    """The open connections by address. ``most`` of one; 0 is no limit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open: Counter[str] = Counter()

    def full(self, block: str) -> bool:
        """Whether an address has as many connections as it may."""
        return bool(block and self.most and self.open[block] >= self.most)

    @contextmanager
    def taken(self, block: str, client: socket.socket) -> Iterator[None]:
        """Count a connection, which the current greenlet serves."""
        greenlet = getcurrent()
        self.count(block, 1)
        setattr(greenlet, _ATTRIBUTE, Seat(self, block, client))
        try:
            yield
        finally:
            delattr(greenlet, _ATTRIBUTE)
            self.count(block, -1)

    def count(self, block: str, change: int) -> None:
        self.open[block] += change
        if not self.open[block]:
            del self.open[block]


class Seat:
    """One connection. ``gone``: its client was found to have closed it."""

    __slots__ = ("_block", "_client", "_seats", "gone")

    def __init__(self, seats: Seats, block: str, client: socket.socket) -> None:
        self._seats = seats
        self._block = block
        self._client = client
        self.gone = False

    @contextmanager
    def waiting(self, wake: Callable[[], None]) -> Iterator[None]:
        """Leave it out of the count, and call ``wake`` (in the hub) when the client closes it."""
        self._seats.count(self._block, -1)
        watcher = get_hub().loop.io(self._client.fileno(), _READ)
        watcher.start(self._look, watcher, wake)
        try:
            yield
        finally:
            watcher.stop()
            watcher.close()
            self._seats.count(self._block, 1)

    def _look(self, watcher: Any, wake: Callable[[], None]) -> None:
        try:
            # Of the socket below gevent's: in the hub nothing may wait.
            ahead = self._client._sock.recv(1, socket.MSG_PEEK)  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        except OSError:
            ahead = b""
        watcher.stop()  # bytes sent in advance would be reported again and again
        if not ahead:
            self.gone = True
            wake()


class _Elsewhere:
    """Stands for a connection where there is none, as in a thread."""

    gone = False

    @contextmanager
    def waiting(self, wake: Callable[[], None]) -> Iterator[None]:  # noqa: ARG002
        yield


_ELSEWHERE = _Elsewhere()


def current() -> Seat | _Elsewhere:
    """The connection that the current greenlet serves."""
    return getattr(getcurrent(), _ATTRIBUTE, _ELSEWHERE)
