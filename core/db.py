"""The one door to PostgreSQL: an engine with bounds, transactions, and autocommit for single statements.

A connection is never held across a call to somebody else's server. Times in SQL are always the
database's ``clock_timestamp()``; hosts' wall clocks are never compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from core.errors import DatabaseAwayError, DatabaseChangedError

STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 5_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000

# A dead peer is noticed by the kernel within about 15 s, whatever TCP believes.
_TCP = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def make_engine(url: str, *, pool_size: int = 20, application_name: str = "darkroom") -> Engine:
    """Build an engine whose every wait has an end; connecting happens on first use."""
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=10,
        pool_recycle=1800,
        pool_use_lifo=True,
        hide_parameters=True,  # an error may quote a statement, never a prompt
        connect_args={
            "connect_timeout": 5,
            "application_name": application_name,
            "options": (
                f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS} "
                f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} -c timezone=UTC"
            ),
            **_TCP,
        },
    )
    event.listen(engine, "handle_error", _outdated_plan_is_a_disconnect)
    return engine


def _outdated_plan_is_a_disconnect(context: ExceptionContext) -> None:
    """A migration under a running process makes what its connections have prepared unusable for good.

    So they are dropped, the pool's idle ones too, and the statement counts as not having reached the
    database: whoever can try again does so on a new connection, and a deploy costs no call.
    """
    if _is_outdated_plan(context.original_exception):
        context.is_disconnect = True


def _is_outdated_plan(error: BaseException | None) -> bool:
    return isinstance(error, psycopg.errors.FeatureNotSupported) and "cached plan" in str(error)


class Database:
    """Hands out connections and turns their absence into :class:`DatabaseAwayError`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing: commits on leaving, rolls back on any exception."""
        with translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """For single statements: each is its own transaction, with no BEGIN and COMMIT around it."""
        with translated(), self._autocommit.connect() as connection:
            yield connection

    def dispose(self) -> None:
        self.engine.dispose()


@contextmanager
def translated() -> Iterator[None]:
    """Say "away" for every way in which the database can be away; other faults pass through."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseAwayError("every database connection is busy") from error
    except DBAPIError as error:
        if _is_outdated_plan(error.orig):
            raise DatabaseChangedError("the tables have changed") from error
        if is_away(error):
            raise DatabaseAwayError("the database cannot be reached") from error
        raise


def is_away(error: DBAPIError) -> bool:
    """Whether the fault is the connection's or the server's state, not the statement's."""
    if error.connection_invalidated:
        return True
    if isinstance(error, OperationalError):
        return True
    return isinstance(error.orig, psycopg.errors.AdminShutdown | psycopg.errors.CannotConnectNow)
