"""Ends waits for a server that holds a connection open and never answers on it.

The server bounds its statements, and the kernel notices a peer that no longer acknowledges. Neither helps where
something in between (a pooler, a load balancer, a proxy) acknowledges and passes nothing on.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import psycopg


class Connected(Protocol):
    def fileno(self) -> int: ...


class Overdue:
    """Cuts the connections whose use takes longer than ``after_s``: who waits on one gets its driver's error.

    One thread (a greenlet where gevent has patched them) looks every quarter of that time; a fork starts its own.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._lock = threading.Lock()
        self._uses: dict[int, tuple[float, Connected]] = {}
        self._next = 0
        self._pid = 0

    @contextmanager
    def use(self, connection: Connected) -> Iterator[None]:
        """The time in which a connection is used."""
        if self._pid != os.getpid():
            self._start()
        with self._lock:
            self._next += 1
            number = self._next
            self._uses[number] = (time.monotonic(), connection)
        try:
            yield
        finally:
            with self._lock:
                self._uses.pop(number, None)

    def _start(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._uses.clear()  # of the process that forked: they are its own
        threading.Thread(target=self._watch, name="overdue", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(self._after_s / 4)
            before = time.monotonic() - self._after_s
            with self._lock:
                # Under the lock, so that no connection is cut that has gone on to another use.
                for began, connection in self._uses.values():
                    if began < before:
                        _cut(connection)


def _cut(connection: Connected) -> None:
    """End both directions; the driver closes its own descriptor when it sees that."""
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as same,
    ):  # closed meanwhile
        same.shutdown(socket.SHUT_RDWR)
