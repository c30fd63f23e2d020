"""Whether the parts that the service needs are there. The answer is public, so it names no secrets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from threading import Lock, Thread

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from core import schema
from core.db import Database
from core.errors import DatabaseAwayError
from providers.catalog.live import LiveCatalog
from storage.base import StorageUnavailableError, Store

Check = Callable[[], str | None]

# A check that has not answered by then counts as failed: a balancer must get its answer while a server hangs.
CHECK_S = 5.0

# Orders are accepted and kept without these; they only start later.
OPTIONAL = frozenset({"redis", "broker", "catalog"})
_LATER = "tasks are kept and start when it is back"


def checks_of(
    database: Database,
    client: redis.Redis,
    store: Store,
    catalogs: LiveCatalog,
    *,
    broker_answers: Callable[[], bool] | None = None,
) -> Mapping[str, Check]:
    """A check for each part, by its name; a check returns None, or what is wrong.

    ``broker_answers``: whether the broker does, where it is another server than ``client`` asks.
    """
    checks: dict[str, Check] = {
        "database": lambda: _database(database),
        "migrations": lambda: _migrations(database),
        "redis": lambda: _redis(client),
        "storage": lambda: _storage(store),
        "catalog": lambda: _catalog(catalogs),
    }
    if broker_answers is not None:
        checks["broker"] = lambda: None if broker_answers() else f"does not answer; {_LATER}"
    return checks


def _database(database: Database) -> str | None:
    try:
        with database.autocommit() as connection:
            connection.execute(text("SELECT 1"))
    except (DatabaseAwayError, SQLAlchemyError) as error:
        return f"cannot be asked ({type(error).__name__})"
    return None


def _migrations(database: Database) -> str | None:
    try:
        with database.autocommit() as connection:
            pending = schema.pending(connection)
    except (DatabaseAwayError, SQLAlchemyError):
        return "unknown without the database"
    return f"pending: {', '.join(pending)}; run darkroom db upgrade" if pending else None


def _redis(client: redis.Redis) -> str | None:
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        return f"cannot be reached ({type(error).__name__}); {_LATER}"
    return None


def _storage(store: Store) -> str | None:
    try:
        store.check()
    except StorageUnavailableError:
        return "cannot be written"
    return None


def _catalog(catalogs: LiveCatalog) -> str | None:
    faults = len(catalogs.faults)
    # This answer is public; the faults themselves are in the log and in `darkroom doctor`.
    return f"the operator's file is not in force (faults: {faults}); see darkroom doctor" if faults else None


class Readiness:
    """Runs every check at most once in ``fresh_s`` seconds: the route is open, and a flood of it must cost nothing."""

    def __init__(
        self,
        known: Mapping[str, Check],
        *,
        fresh_s: float = 1.0,
        check_s: float = CHECK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = known
        self._fresh_s = fresh_s
        self._check_s = check_s
        self._running: dict[str, Future[str | None]] = {}
        self._clock = clock
        self._lock = Lock()
        self._asked_at = float("-inf")
        self._found: dict[str, str | None] = {}

    def look(self) -> dict[str, str | None]:
        """What is wrong with each part, by its name; None for a part that is well."""
        with self._lock:
            if self._clock() - self._asked_at >= self._fresh_s:
                self._found = self._ask_all()
                self._asked_at = self._clock()
            return dict(self._found)

    def _ask_all(self) -> dict[str, str | None]:
        """Run the checks side by side. One that hangs is left running, and not started again until it has ended."""
        for name, check in self._checks.items():
            if name not in self._running:
                self._running[name] = _begun(check)
        wait(self._running.values(), timeout=self._check_s)
        ended = {name: self._running.pop(name) for name in list(self._running) if self._running[name].done()}
        return {
            name: ended[name].result() if name in ended else f"does not answer within {self._check_s:.0f} s"
            for name in self._checks
        }


def _begun(check: Check) -> Future[str | None]:
    """The result of a check that runs in a thread of its own: a greenlet in the web process."""
    found: Future[str | None] = Future()

    def run() -> None:
        try:
            found.set_result(check())
        except Exception as error:  # noqa: BLE001 (raised again where the result is read)
            found.set_exception(error)

    Thread(target=run, name="readiness", daemon=True).start()
    return found
