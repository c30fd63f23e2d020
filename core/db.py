"""PostgreSQL: an engine with bounds, transactions, and autocommit for single statements.

A connection is never held during a call to another server. Times in SQL are always the database's
``clock_timestamp()``; hosts' wall clocks are never compared.

The hottest verbs run a :class:`Statement` on the driver's own connection (:meth:`Database.hot`): the
driver prepares it, and a wide row costs a sixth of what SQLAlchemy's result costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, Engine, ExceptionContext, Pool, PoolProxiedConnection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from core.errors import DatabaseAwayError, DatabaseBusyError, DatabaseChangedError
from core.outages import Outage
from core.overdue import Overdue

STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 5_000
# A hot statement whose answer takes three times what the server allows it will never come.
HOT_TIMEOUT_S = 3 * STATEMENT_TIMEOUT_MS / 1000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000

# A dead peer is noticed by the kernel within about 15 s, whatever TCP believes.
_TCP = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


# What PostgreSQL says when it is reachable but could not run this statement now.
_BUSY = (
    psycopg.errors.LockNotAvailable,  # 55P03
    psycopg.errors.DeadlockDetected,  # 40P01
    psycopg.errors.QueryCanceled,  # 57014
    psycopg.errors.SerializationFailure,  # 40001
)


# Each connection plans a statement once, because planning it again costs more than running it. A plan made while the
# tables were small is dropped by their next ANALYZE, which the sweep runs (jobs/maintenance/growth.py).
_PLANNED_ONCE = " -c plan_cache_mode=force_generic_plan -c jit=off"


def make_engine(
    url: str,
    *,
    pool_size: int = 20,
    application_name: str = "darkroom",
    prepare: bool = True,
    max_overflow: int | None = None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    reports: bool = False,
) -> Engine:
    """Build an engine whose every wait is bounded; it connects on first use.

    ``prepare`` False: nothing is prepared on the server, for a pooler that gives each transaction another connection
    (PgBouncer). ``max_overflow``: connections beyond ``pool_size``; as many again if left out. ``reports``: for
    commands that read whole tables, which are planned at each run.
    """
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size if max_overflow is None else max_overflow,
        pool_timeout=10,
        pool_recycle=1800,
        pool_use_lifo=True,
        hide_parameters=True,  # an error may quote a statement, never a prompt
        connect_args={
            "connect_timeout": 5,
            "application_name": application_name,
            **({} if prepare else {"prepare_threshold": None}),
            "options": (
                f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={lock_timeout_ms} "
                f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} -c timezone=UTC"
                f"{'' if reports else _PLANNED_ONCE}"
            ),
            **_TCP,
        },
    )
    event.listen(engine, "handle_error", _outdated_plan_is_a_disconnect)
    return engine


def _outdated_plan_is_a_disconnect(context: ExceptionContext) -> None:
    """Treat a statement that a migration has outdated as a lost connection.

    A migration under a running process makes what its connections have prepared unusable. They are dropped, the
    pool's idle ones too, and the statement counts as not having reached the database: callers that can try again do
    so on a new connection, and a deploy costs no call.
    """
    if _is_outdated_plan(context.original_exception):
        context.is_disconnect = True


def _is_outdated_plan(error: BaseException | None) -> bool:
    return isinstance(error, psycopg.errors.FeatureNotSupported) and "cached plan" in str(error)


class Statement:
    """One whole SQL statement, as psql takes it: parameters are ``:name``.

    Made once, at import; the server's own form (``$1``) is derived from it. The driver's (``%(name)s``) would be taken
    apart at each execution where a statement is longer than 4 KiB, which costs more than all else the driver does.
    """

    def __init__(self, sql: str) -> None:
        self.sql = sql
        bare = _COMMENT.sub("", sql)
        self._names = tuple(dict.fromkeys(_PARAMETER.findall(bare)))
        self.query = _PARAMETER.sub(lambda found: f"${self._names.index(found[1]) + 1}", bare).encode()

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(self._names)

    def ordered(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The values of the parameters, as :attr:`query` numbers them. Raises KeyError for one that is missing."""
        return [values[name] for name in self._names]


_COMMENT = re.compile(r"--[^\n]*")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")  # and not the second half of a cast, ``::``


class Hot:
    """A connection of the driver itself. From :meth:`Database.hot` each statement is its own transaction."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    @classmethod
    def of(cls, connection: Hot | Connection) -> Hot:
        """The driver's connection below one of SQLAlchemy's, in the same transaction if there is one."""
        if isinstance(connection, Hot):
            return connection
        return cls(connection.connection.driver_connection)  # type: ignore[arg-type]

    def all(self, statement: Statement, values: Mapping[str, Any]) -> Sequence[Any]:
        """Every row, by column name."""
        with psycopg.RawCursor(self._connection, row_factory=namedtuple_row) as cursor:
            return cursor.execute(statement.query, statement.ordered(values)).fetchall()

    def one_or_none(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        """The first row, or None."""
        rows = self.all(statement, values)
        return rows[0] if rows else None

    def scalar(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        """The first column of the first row; None where there is no row."""
        with psycopg.RawCursor(self._connection) as cursor:
            row = cursor.execute(statement.query, statement.ordered(values)).fetchone()
            return row[0] if row else None

    def run(self, statement: Statement, values: Mapping[str, Any]) -> int:
        """Run it. Returns how many rows it changed."""
        with psycopg.RawCursor(self._connection) as cursor:
            return cursor.execute(statement.query, statement.ordered(values)).rowcount


class Database:
    """Hands out connections and turns their absence into :class:`DatabaseAwayError`.

    ``outage`` is told of every success and of every connection that cannot be had, for one log line a change.
    A use of :meth:`hot` that takes longer than ``hot_timeout_s`` is cut off, and so is one of the others after
    ``use_timeout_s``, where that is given.
    """

    def __init__(
        self,
        engine: Engine,
        outage: Outage | None = None,
        *,
        hot_timeout_s: float = HOT_TIMEOUT_S,
        use_timeout_s: float | None = None,
    ) -> None:
        self.engine = engine
        self._outage = outage
        self._overdue = Overdue(hot_timeout_s)
        self._long_overdue = None if use_timeout_s is None else Overdue(use_timeout_s)
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing: commits on leaving, rolls back on any exception. Raises DatabaseAwayError."""
        with self._watched(), translated(), self.engine.begin() as connection, self._bounded(connection):
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """For single statements: each is its own transaction, without BEGIN and COMMIT. Raises DatabaseAwayError."""
        with self._watched(), translated(), self._autocommit.connect() as connection, self._bounded(connection):
            yield connection

    def _bounded(self, connection: Connection) -> AbstractContextManager[None]:
        driver = connection.connection.driver_connection
        return nullcontext() if self._long_overdue is None or driver is None else self._long_overdue.use(driver)

    @contextmanager
    def hot(self) -> Iterator[Hot]:
        """The same without SQLAlchemy, for statements that run for every job.

        Raises DatabaseAwayError like the others; the driver's other errors (psycopg.Error) are not translated.
        """
        with self._watched(), self._hot() as hot:
            yield hot

    @contextmanager
    def _hot(self) -> Iterator[Hot]:
        pool = self.engine.pool
        try:
            pooled = self.engine.raw_connection()
        except PoolTimeoutError as error:
            raise DatabaseAwayError("every database connection is busy") from error
        except (DBAPIError, psycopg.OperationalError) as error:
            raise DatabaseAwayError("the database cannot be reached") from error
        with _given_back(pooled) as connection:
            try:
                connection.autocommit = True
                with self._overdue.use(connection):
                    yield Hot(connection)
            except psycopg.Error as error:
                self._drop_unusable(pool, pooled, connection, error)
                _raise_translated(error)
                raise

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Tell ``outage`` how it went; other errors say nothing about the server."""
        try:
            yield
        except (DatabaseBusyError, DatabaseChangedError):
            raise
        except DatabaseAwayError as error:
            if self._outage is not None:
                self._outage.away(reason=error.detail)
            raise
        if self._outage is not None:
            self._outage.back()

    def _drop_unusable(
        self, pool: Pool, pooled: PoolProxiedConnection, connection: psycopg.Connection[Any], error: psycopg.Error
    ) -> None:
        """Drop this connection and the pool's idle ones, which the same event has ended or outdated."""
        if not (connection.closed or _is_outdated_plan(error) or _is_gone(error)):
            return
        pooled.invalidate()
        if self.engine.pool is pool:  # else another greenlet has done it already, and the idle ones are new
            self.engine.dispose()

    def dispose(self) -> None:
        self.engine.dispose()


@contextmanager
def _given_back(pooled: PoolProxiedConnection) -> Iterator[psycopg.Connection[Any]]:
    """The driver's connection below a pooled one; goes back to the pool with autocommit off."""
    connection: psycopg.Connection[Any] = pooled.driver_connection  # type: ignore[assignment]
    try:
        yield connection
    finally:
        if not connection.closed and connection.autocommit:
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                connection.autocommit = False
            else:  # a killed greenlet left it in the middle of a statement
                pooled.invalidate()
        pooled.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn every way in which the database can be unreachable into DatabaseAwayError; other errors pass through."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseAwayError("every database connection is busy") from error
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            _raise_translated(error.orig, cause=error)
        if error.connection_invalidated:
            raise DatabaseAwayError("the database cannot be reached") from error
        raise
    except psycopg.Error as error:
        _raise_translated(error)
        raise


def _raise_translated(error: psycopg.Error, *, cause: Exception | None = None) -> None:
    """Raise what the error means to a caller; return if it is the statement's own fault."""
    if _is_outdated_plan(error):
        raise DatabaseChangedError("the tables have changed") from cause or error
    if isinstance(error, _BUSY):
        raise DatabaseBusyError("the database is busy with these rows") from cause or error
    if _is_gone(error):
        raise DatabaseAwayError("the database cannot be reached") from cause or error


def _is_gone(error: psycopg.Error) -> bool:
    """Whether the error is about the connection or the server, not the statement."""
    if isinstance(error, psycopg.errors.IdleInTransactionSessionTimeout):
        return True
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not isinstance(error, _BUSY)


def is_away(error: DBAPIError) -> bool:
    """Whether an error that was not translated says that the database is away or busy."""
    return error.connection_invalidated or (
        isinstance(error.orig, psycopg.Error) and (_is_gone(error.orig) or isinstance(error.orig, _BUSY))
    )
