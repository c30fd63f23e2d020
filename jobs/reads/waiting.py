"""What a queued job waits for that is not its turn: a pause by an operator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy import Connection, text

from core.db import Database
from core.errors import DatabaseAwayError

log = structlog.get_logger(__name__)

PAUSED = "paused"
FRESH_S = 1.0


class Queued(Protocol):
    """A task or its status: the two facts that decide what it waits for."""

    @property
    def status(self) -> str: ...
    @property
    def provider(self) -> str: ...


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """``reason``: a stable word. ``until``: when that ends; None: it is not known, a person ends it."""

    reason: str
    until: datetime | None = None


# A provider is paused by its own row, or by those of all of its credentials.
_PAUSED = text("""
SELECT name FROM providers WHERE paused_at IS NOT NULL
UNION
SELECT provider FROM credentials WHERE account_id IS NULL GROUP BY provider HAVING bool_and(paused_at IS NOT NULL)
""")


def paused_providers(connection: Connection) -> frozenset[str]:
    """Return the providers to which nothing new is sent because an operator has paused them."""
    return frozenset(connection.execute(_PAUSED).scalars())


class Pauses:
    """Which providers are paused, read at most once in ``FRESH_S`` seconds.

    While the database is away the last answer holds.
    """

    def __init__(self, database: Database, *, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._asked_at = -FRESH_S
        self._paused: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def of(self, task: Queued) -> WaitingFor | None:
        """Return the pause that a queued task waits behind; None for any other task."""
        if task.status != "queued":
            return None
        return WaitingFor(PAUSED) if task.provider in self._current() else None

    def _current(self) -> frozenset[str]:
        with self._lock:
            if self._now() - self._asked_at < FRESH_S:
                return self._paused
            # Stored before asking: other requests use what is known while this one asks.
            self._asked_at = self._now()
        try:
            with self._database.autocommit() as connection:
                self._paused = paused_providers(connection)
        except DatabaseAwayError:
            log.debug("pauses_unknown")
        return self._paused
