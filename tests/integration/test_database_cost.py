"""What a job costs in the database: statements, commits and messages (docs/architecture.md section 8).

A PostgreSQL server of this file logs every statement. The ticker's query for providers with due jobs is not counted,
because all jobs share it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from job_engine import Engine

from accounts.keys import Caller
from core import schema
from core.db import Database, make_engine
from core.embedded import postgres
from core.embedded.postgres import EmbeddedPostgres

BURST = 40
_LINE = re.compile(r"^(\d+) LOG:  (?:statement|execute [^:]*): (.*)")
_names = itertools.count(1)


@dataclass
class Bill:
    """``statements`` without BEGIN and COMMIT; on autocommit each of them is a commit, too."""

    statements: list[str] = field(default_factory=list)
    commits: int = 0


class Server:
    """PostgreSQL and its log of statements."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self.url = embedded.url.replace("postgresql://", "postgresql+psycopg://").rsplit("/", 1)[0]
        self._log = embedded.folder / "log"

    @contextmanager
    def counted(self) -> Iterator[Bill]:
        """Count the statements of the block. A line is logged before its statement runs, so none is missed."""
        bill, begin = Bill(), self._log.stat().st_size
        yield bill
        with self._log.open("rb") as log:
            log.seek(begin)
            _read(log.read().decode(), bill)


def _read(said: str, bill: Bill) -> None:
    in_transaction: set[str] = set()
    for pid, statement in _statements(said):
        match statement.split()[0].upper().rstrip(";"):
            case "BEGIN":
                in_transaction.add(pid)
            case "COMMIT":
                in_transaction.discard(pid)
                bill.commits += 1
            case "ROLLBACK":
                in_transaction.discard(pid)
            case _:
                bill.statements.append(statement)
                bill.commits += pid not in in_transaction


def _statements(said: str) -> list[tuple[str, str]]:
    """Return (backend, statement) pairs; further lines of a statement begin with a tab."""
    found: list[tuple[str, str]] = []
    for line in said.splitlines():
        if begun := _LINE.match(line):
            found.append((begun[1], begun[2]))
        elif found and line.startswith("\t"):
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line[1:]}")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(postgres._SETTINGS, "log_statement", "all")
        patch.setitem(postgres._SETTINGS, "log_line_prefix", "%p ")
        folder: Path = tmp_path_factory.mktemp("counting")
        with EmbeddedPostgres(folder, durable=False) as embedded:
            # The tests make databases, which the role of the service may not.
            with psycopg.connect(embedded.superuser_url, autocommit=True) as superuser:
                superuser.execute("ALTER ROLE darkroom CREATEDB")
            yield Server(embedded)


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    name = f"counted_{next(_names)}"
    login = f"{server.url}/darkroom".replace("+psycopg", "")
    with psycopg.connect(login, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    database = Database(make_engine(f"{server.url}/{name}", pool_size=32))
    with database.transaction() as connection:
        schema.upgrade(connection)
    yield database
    database.dispose()


@pytest.fixture
def warm(engine: Engine, account: Caller) -> Engine:
    """An engine with open connections, so that the cost of opening them is not counted."""
    engine.order(account, "warm")
    engine.order(account, "warm", model="gpt-image-2", size="1024x640")
    engine.drive()
    engine.sent.messages = 0
    return engine


def test_an_asynchronous_job_costs_five_statements_five_commits_and_two_messages(
    warm: Engine, account: Caller, server: Server
) -> None:
    """Submit, start, park, take and end; a message to run and one to look."""
    with server.counted() as bill:
        job_id = warm.order(account).task.id
        [run] = warm.sent.take()
        warm.handle(run)
    everything_due(warm)
    [poll] = warm.sent.take()
    with server.counted() as rest:
        warm.handle(poll)
    assert warm.job(job_id).status == "succeeded"
    statements = bill.statements + rest.statements
    assert (len(statements), bill.commits + rest.commits) == (5, 5), "\n\n".join(statements)
    assert warm.sent.messages == 2


def test_a_synchronous_job_costs_three_statements_three_commits_and_one_message(
    warm: Engine, account: Caller, server: Server
) -> None:
    with server.counted() as bill:
        job_id = warm.order(account, model="gpt-image-2", size="1024x640").task.id
        [run] = warm.sent.take()
        warm.handle(run)
    assert warm.job(job_id).status == "succeeded"
    assert (len(bill.statements), bill.commits, warm.sent.messages) == (3, 3, 1), "\n\n".join(bill.statements)


def test_in_a_burst_a_job_costs_no_more(warm: Engine, account: Caller, server: Server) -> None:
    """Forty at once, more than a window: taken in one batch, and each ended by its own statement."""
    with server.counted() as bill:
        for _ in range(BURST):
            warm.order(account)
        while warm.step():
            pass
    assert warm.one("SELECT count(*) FROM jobs WHERE status = 'waiting'") == BURST
    everything_due(warm)
    [poll] = warm.sent.take()
    with server.counted() as rest:
        warm.handle(poll)
    assert warm.one("SELECT count(*) FROM jobs WHERE status <> 'succeeded'") == 0
    statements = bill.statements + rest.statements
    leases = sum(1 for each in rest.statements if is_lease(each))
    assert len(statements) - leases == 4 * BURST + 1, "\n\n".join(sorted(set(statements)))
    assert bill.commits + rest.commits - leases == 4 * BURST + 1
    # The images are fetched in parallel; while that takes, a lease is written every second.
    assert leases <= BURST
    assert warm.sent.messages == BURST + 1


def is_lease(statement: str) -> bool:
    return statement.strip().startswith("UPDATE jobs SET due_at") and "ANY" in statement


def everything_due(engine: Engine) -> None:
    """Make all jobs due, and run the ticker's query for due jobs."""
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'waiting'")
    engine.tick()
