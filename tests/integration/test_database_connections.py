"""The three doors to PostgreSQL: what is one transaction, what comes back clean, and what a cut connection leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from app import services
from chaos.proxy import Mode, Proxy
from core.db import Database, Hot, Statement, make_engine
from core.errors import DatabaseAwayError
from core.ids import new_id
from core.settings import Settings
from jobs.errors import JobNotFoundError

ADD = Statement("INSERT INTO marks (name, value) VALUES (:name, '') RETURNING name")
TOUCH = Statement("UPDATE marks SET value = :value")
NAMES = Statement("SELECT name, value FROM marks ORDER BY name")
ONE = Statement("SELECT value FROM marks WHERE name = :name")
MODE = Statement("SELECT pg_backend_pid() AS pid, current_setting('plan_cache_mode') AS plans")
CUT = Statement("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
def single(database: Database) -> Iterator[Database]:
    """The same database over one connection, so that each use sees the state in which the last one left it."""
    url = database.engine.url.render_as_string(hide_password=False)
    single = Database(make_engine(url, pool_size=1, max_overflow=0))
    yield single
    single.dispose()


def names(database: Database) -> list[str]:
    with database.autocommit() as connection:
        return list(connection.execute(text("SELECT name FROM marks ORDER BY name")).scalars())


def test_a_hot_statement_is_its_own_transaction(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.hot() as hot:
        hot.one_or_none(ADD, {"name": "a"})
        raise ZeroDivisionError
    assert names(database) == ["a"]


def test_a_hot_statement_inside_a_sqlalchemy_transaction_is_part_of_it(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        connection.execute(text("INSERT INTO marks (name, value) VALUES ('a', '')"))
        Hot.of(connection).one_or_none(ADD, {"name": "b"})
        raise ZeroDivisionError
    assert names(database) == []
    with database.transaction() as connection:
        # The transaction has to have begun: a hot statement alone does not begin SQLAlchemy's.
        Hot.of(connection).one_or_none(ADD, {"name": "a"})
        Hot.of(connection).one_or_none(ADD, {"name": "b"})
    assert names(database) == ["a", "b"]


def test_a_transaction_of_hot_statements_alone_is_all_or_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        Hot.of(connection).one_or_none(ADD, {"name": "a"})
        raise ZeroDivisionError
    assert names(database) == []


def test_nested_hot_uses_the_same_connection(database: Database) -> None:
    with database.hot() as hot:
        assert Hot.of(hot) is hot


def test_what_all_scalar_one_or_none_and_run_return(database: Database) -> None:
    with database.hot() as hot:
        assert hot.one_or_none(ONE, {"name": "a"}) is None
        assert hot.scalar(ONE, {"name": "a"}) is None
        assert hot.one_or_none(ADD, {"name": "a"}).name == "a"
        hot.one_or_none(ADD, {"name": "b"})
        assert hot.run(TOUCH, {"value": "v"}) == 2
        assert [(row.name, row.value) for row in hot.all(NAMES, {})] == [("a", "v"), ("b", "v")]
        assert hot.scalar(ONE, {"name": "a"}) == "v"


def test_a_connection_is_returned_in_its_default_state(single: Database) -> None:
    """After a hot statement, also a failed one, a transaction works as before."""
    with single.hot() as hot:
        hot.one_or_none(ADD, {"name": "a"})
    with pytest.raises(psycopg.errors.UniqueViolation), single.hot() as hot:
        hot.one_or_none(ADD, {"name": "a"})
    with pytest.raises(ZeroDivisionError), single.transaction() as connection:
        connection.execute(text("INSERT INTO marks (name, value) VALUES ('b', '')"))
        raise ZeroDivisionError
    assert names(single) == ["a"]


def test_an_error_of_the_statement_itself_keeps_the_connection(single: Database) -> None:
    with single.hot() as hot:
        before = hot.one_or_none(MODE, {}).pid
        hot.one_or_none(ADD, {"name": "a"})
    with pytest.raises(psycopg.errors.UniqueViolation), single.hot() as hot:
        hot.one_or_none(ADD, {"name": "a"})
    with single.hot() as hot:
        assert hot.one_or_none(MODE, {}).pid == before


def test_a_lost_connection_is_not_reused(single: Database) -> None:
    with pytest.raises(DatabaseAwayError), single.hot() as hot:
        hot.all(CUT, {})
    with single.hot() as hot:
        assert hot.all(NAMES, {}) == []


def test_a_killed_greenlets_connection_is_not_reused(single: Database) -> None:
    """The answer to a statement of a killed greenlet must not be read by the next user of the connection."""

    class Killed(BaseException):
        """What ends a greenlet from outside."""

    with single.hot() as hot:
        first = hot.one_or_none(MODE, {}).pid
    with pytest.raises(Killed), single.hot() as hot:
        hot._connection.pgconn.send_query(b"SELECT pg_sleep(0.2)")
        raise Killed
    with single.hot() as hot:
        assert hot.one_or_none(MODE, {}).pid != first


def test_waiting_for_a_connection_ends_in_time(single: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single.engine.pool, "_timeout", 0.05)
    has_it, may_go = threading.Event(), threading.Event()

    def keep() -> None:
        with single.hot():
            has_it.set()
            may_go.wait(10)

    holder = threading.Thread(target=keep)
    holder.start()
    assert has_it.wait(10)
    for door in (single.hot, single.transaction, single.autocommit):
        with pytest.raises(DatabaseAwayError, match="busy"), door():
            pass
    may_go.set()
    holder.join()


def test_hot_statements_use_one_generic_plan(single: Database) -> None:
    """Planning a verb's statement costs more than running it."""
    with single.hot() as hot:
        assert hot.one_or_none(MODE, {}).plans == "force_generic_plan"
        for number in range(7):
            hot.one_or_none(ONE, {"name": str(number)})
        prepared = Statement("SELECT count(*) AS n FROM pg_prepared_statements WHERE statement LIKE 'SELECT value%'")
        assert hot.scalar(prepared, {}) == 1


def test_nothing_is_prepared_for_a_pooler(database: Database) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    unprepared = Database(make_engine(url, pool_size=1, prepare=False))
    with unprepared.hot() as hot:
        for number in range(12):
            hot.one_or_none(ONE, {"name": str(number)})
        assert hot.scalar(Statement("SELECT count(*) FROM pg_prepared_statements"), {}) == 0
    unprepared.dispose()


def test_a_connection_that_is_acknowledged_and_never_answered_is_cut(database: Database) -> None:
    """A pooler or a load balancer in between can do this: neither the server nor TCP ends such a wait."""
    url = database.engine.url
    proxy = Proxy(url.host or "", url.port or 5432)
    near = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    through = Database(make_engine(near, pool_size=1, max_overflow=0), hot_timeout_s=0.5)
    try:
        with through.hot() as hot:
            assert hot.one_or_none(ADD, {"name": "a"})
        proxy.spoil(Mode.BLACK_HOLE)
        with pytest.raises(DatabaseAwayError), through.hot() as hot:
            hot.one_or_none(ADD, {"name": "b"})
        with through.hot() as hot:  # on a new connection
            assert hot.one_or_none(ADD, {"name": "c"})
    finally:
        through.dispose()
        proxy.close()
    assert names(database) == ["a", "c"]


@pytest.mark.parametrize("door", ["transaction", "autocommit"])
def test_a_worker_bounds_every_use_of_a_connection(database: Database, door: str) -> None:
    """A worker's clock once stood still for as long as such a connection stayed open."""
    url = database.engine.url
    proxy = Proxy(url.host or "", url.port or 5432)
    near = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    through = Database(make_engine(near, pool_size=1, max_overflow=0), use_timeout_s=0.5)
    try:
        with getattr(through, door)() as connection:
            connection.execute(text("SELECT 1"))
        proxy.spoil(Mode.BLACK_HOLE)
        with pytest.raises(DatabaseAwayError), getattr(through, door)() as connection:  # never_answered
            connection.execute(text("SELECT 1"))
        with getattr(through, door)() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
    finally:
        through.dispose()
        proxy.close()


def test_a_web_process_bounds_every_use_of_a_connection(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams and waits share their readings: one that was never answered once stopped all of them."""
    monkeypatch.setattr(services, "USE_TIMEOUT_S", 0.5)
    url = database.engine.url
    proxy = Proxy(url.host or "", url.port or 5432)
    near = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    settings = Settings(_env_file=None, DARKROOM_VAR=tmp_path, DATABASE_URL=near, REDIS_URL=redis_url)
    task_reads, job_id = services.build(settings, {}).task_reads, new_id("job")
    try:
        with pytest.raises(JobNotFoundError):
            task_reads.task("acct", job_id)
        proxy.spoil(Mode.BLACK_HOLE)
        with pytest.raises(DatabaseAwayError):
            task_reads.task("acct", job_id)
        with pytest.raises(JobNotFoundError):
            task_reads.task("acct", job_id)
    finally:
        proxy.close()


def test_that_holds_under_gevent() -> None:
    """There a wait for a socket is a wait of its greenlet, which the cut has to end as well."""
    if "UNDER_GEVENT" in os.environ:
        pytest.skip("this is the inner run")
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, pytest\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', 'never_answered or bounds_every', {__file__!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, env={**os.environ, "UNDER_GEVENT": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
