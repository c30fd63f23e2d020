"""What one job costs, counted: statements, commits and messages of a whole life (DESIGN section 8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from job_engine import Engine
from sqlalchemy import event

from jobs.desk import Customer

STATEMENTS_AT_MOST = 16
COMMITS_AT_MOST = 6
MESSAGES_AT_MOST = 3


@dataclass
class Bill:
    statements: list[str] = field(default_factory=list)
    commits: int = 0


@contextmanager
def counted(engine: Engine) -> Iterator[Bill]:
    """Every statement, and every commit: by transaction, and each statement on autocommit."""
    bill, target = Bill(), engine.database.engine

    def executed(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        bill.statements.append(statement)
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            bill.commits += 1

    def committed(connection: Any) -> None:
        bill.commits += 1

    event.listen(target, "before_cursor_execute", executed)
    event.listen(target, "commit", committed)
    try:
        yield bill
    finally:
        event.remove(target, "before_cursor_execute", executed)
        event.remove(target, "commit", committed)


def test_a_whole_life_stays_within_its_price(engine: Engine, account: Customer) -> None:
    with counted(engine) as bill:
        job_id = engine.order(account).task.id
        [run] = engine.sent.take()
        engine.handle(run)
        due = "UPDATE jobs SET due_at = clock_timestamp()"
        engine.sql(due)
        engine.tick()  # the clock's look is shared by all jobs that are due
        [poll] = engine.sent.take()
        engine.handle(poll)
    assert engine.job(job_id).status == "succeeded"
    own = [statement for statement in bill.statements if statement != due and "unnest" not in statement]
    commits = bill.commits - 2  # the test's own, and the clock's
    assert len(own) <= STATEMENTS_AT_MOST, "\n".join(own)
    assert commits <= COMMITS_AT_MOST
    assert engine.sent.messages <= MESSAGES_AT_MOST
    print(f"{len(own)} statements, {commits} commits, {engine.sent.messages} messages")  # noqa: T201 - shown by -rP


def test_a_synchronous_life_costs_less(engine: Engine, account: Customer) -> None:
    with counted(engine) as bill:
        engine.order(account, model="gpt-image-2", size="1024x640")
        [run] = engine.sent.take()
        engine.handle(run)
    assert (len(bill.statements), bill.commits, engine.sent.messages) == (9, 3, 1)
