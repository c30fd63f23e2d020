"""Outages of servers we depend on: one line when one begins, one with its length when it is over.

Whatever finds a server away or there says so here, as often as it likes; only changes are logged, by process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

# A connection from before the outage may still fail after the first success; that is no second outage.
SETTLE_S = 5.0


class Outage:
    """Whether one server is away, as this process sees it. Safe to use from several threads."""

    def __init__(self, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._clock = clock
        self._lock = threading.Lock()
        self._since: float | None = None
        self._back_at: float | None = None

    @property
    def is_away(self) -> bool:
        """Whether the server is away, as far as this process has seen."""
        return self._since is not None

    def away(self, **facts: object) -> None:
        """Note a failure; logs ``<server>_away`` with ``facts`` if it is the first one."""
        if self._since is not None:
            return
        with self._lock:
            now = self._clock()
            if self._since is not None or (self._back_at is not None and now - self._back_at < SETTLE_S):
                return
            self._since = now
        log.warning(f"{self._server}_away", **facts)

    def back(self) -> None:
        """Note a success; logs ``<server>_back`` with ``lasted_s`` if the server was away."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
            self._back_at = self._clock()
        if since is not None:
            log.warning(f"{self._server}_back", lasted_s=round(self._back_at - since, 1))


_outages: dict[str, Outage] = {}
_lock = threading.Lock()


def of(server: str) -> Outage:
    """The outage of ``database``, ``broker`` or ``redis``; one object per process."""
    with _lock:
        return _outages.setdefault(server, Outage(server))


def are_one(first: str, second: str) -> None:
    """Say that two names mean one server, so that its outage is told once, by the first name."""
    outage = of(first)
    with _lock:
        _outages[second] = outage
