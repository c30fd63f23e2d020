"""What a job costs, counted by PostgreSQL: statements, commits, messages of a life (docs/architecture.md section 8).

A server of this file's own writes down every statement it runs. Not counted is what jobs share whatever their
number: the clock's question which providers have something due.
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
    """PostgreSQL, and what it says that it has done."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self.url = embedded.url.replace("postgresql://", "postgresql+psycopg://").rsplit("/", 1)[0]
        self._log = embedded.folder / "log"

    @contextmanager
    def counted(self) -> Iterator[Bill]:
        """A line is written before its statement runs: what has been answered is in the log."""
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
    """(backend, statement): a statement's further lines begin with a tab."""
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
    """An engine whose pool has its connections: what opening one costs is no part of a life."""
    engine.order(account, "warm")
    engine.order(account, "warm", model="gpt-image-2", size="1024x640")
    engine.drive()
    engine.sent.messages = 0
    return engine


def test_an_asynchronous_life_costs_five_statements_five_commits_and_two_messages(
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


def test_a_synchronous_life_costs_three_statements_three_commits_and_one_message(
    warm: Engine, account: Caller, server: Server
) -> None:
    with server.counted() as bill:
        job_id = warm.order(account, model="gpt-image-2", size="1024x640").task.id
        [run] = warm.sent.take()
        warm.handle(run)
    assert warm.job(job_id).status == "succeeded"
    assert (len(bill.statements), bill.commits, warm.sent.messages) == (3, 3, 1), "\n\n".join(bill.statements)


def test_in_a_burst_a_life_costs_no_more(warm: Engine, account: Caller, server: Server) -> None:
    """Forty at once, more than a window is wide: taken together, and each ended by one statement of its own."""
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
    # The images of a burst are fetched by many at once; a lease goes out for each second that takes.
    assert leases <= BURST
    assert warm.sent.messages == BURST + 1


def is_lease(statement: str) -> bool:
    return statement.strip().startswith("UPDATE jobs SET due_at") and "ANY" in statement


def everything_due(engine: Engine) -> None:
    """Time passes, and the clock's tick finds what is due."""
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'waiting'")
    engine.tick()
