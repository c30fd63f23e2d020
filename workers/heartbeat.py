"""A worker's heartbeat: a row touched every few seconds, from before its first claim until it signs off."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import structlog

from core.db import Database
from core.errors import DatabaseAwayError
from jobs.dispatch import heartbeats

log = structlog.get_logger(__name__)

# Signing off waits so long for a beat on its way; one that takes longer hangs on a database that is away.
LAST_BEAT_S = 1.0


@dataclass
class Heartbeat:
    """``database`` is the ticker's own, so that no backlog of work can silence the heartbeat."""

    database: Database
    owner: str
    _left: bool = field(default=False, init=False)
    _beating: threading.Lock = field(default_factory=threading.Lock, init=False)

    def beat(self) -> None:
        """Say that this worker lives; once it has signed off, nothing. Raises DatabaseAwayError."""
        with self._beating:
            if self._left:
                return
            with self.database.autocommit() as connection:
                heartbeats.beat(connection, self.owner)

    def leave(self) -> None:
        """Sign off: what this worker still owns is free at once. No beat follows. Never raises."""
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
