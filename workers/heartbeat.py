"""A worker's heartbeat: a row updated every few seconds, from before its first claim until it signs off."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import structlog

from core.db import Database
from core.errors import DatabaseAwayError
from jobs.dispatch import heartbeats

log = structlog.get_logger(__name__)

# How long signing off waits for a heartbeat that is being written; a longer one hangs because the database is away.
LAST_BEAT_S = 1.0


@dataclass
class Heartbeat:
    """Writes a worker's heartbeats on the ticker's ``database``, so that no backlog of work can delay them."""

    database: Database
    owner: str
    _left: bool = field(default=False, init=False)
    _beating: threading.Lock = field(default_factory=threading.Lock, init=False)

    def beat(self) -> None:
        """Record that this worker is alive, unless it has signed off. Raises DatabaseAwayError."""
        with self._beating:
            if self._left:
                return
            with self.database.autocommit() as connection:
                heartbeats.beat(connection, self.owner)

    def leave(self) -> None:
        """Sign off, which releases this worker's jobs at once and stops its heartbeats. Never raises."""
        waited = self._beating.acquire(timeout=LAST_BEAT_S)
        try:
            self._left = True
            with self.database.autocommit() as connection:
                heartbeats.leave(connection, self.owner)
        except DatabaseAwayError:
            log.warning("sign_off_failed")
        finally:
            if waited:
                self._beating.release()
