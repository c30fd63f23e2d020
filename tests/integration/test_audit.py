"""Each invariant must find the very thing it is there to find."""

from __future__ import annotations

import pytest
from job_engine import Engine

from jobs import audit
from jobs.desk import Customer

WRONGS = {
    "balance_is_sum_of_transfers": "UPDATE balances SET available = available + 1",
    "transfers_sum_to_zero": "UPDATE balances SET held = held + 1",
    "queued_is_what_jobs_say": "UPDATE balances SET queued = queued + 1",
    "held_is_what_jobs_say": "UPDATE balances SET held = held + 1",
    "job_is_settled_once": "UPDATE jobs SET captured = 0, released = quoted WHERE status = 'succeeded'",
    "captured_is_pictures_kept": "DELETE FROM images",
    "only_pictures_are_charged": "DELETE FROM images",
    "permits_are_open_calls": "UPDATE permits SET call_id = NULL WHERE call_id IS NOT NULL",
    "ended_jobs_have_no_open_calls": "WITH j AS (UPDATE jobs SET finished_at = finished_at - interval '1 hour'"
    " WHERE status = 'succeeded' RETURNING id)"
    " UPDATE upstream_calls SET outcome = 'accepted' FROM j WHERE job_id = j.id",
}


@pytest.fixture
def books(engine: Engine, account: Customer) -> Engine:
    """One job of each kind: done, refused, in progress, queued."""
    engine.limit("chatgpt2api", max_active=3)
    engine.order(account)
    engine.order(account, "no [sandbox:refuse]")
    engine.drive()
    engine.run(engine.order(account, "on [sandbox:never]").task.id)
    engine.order(account, "later")
    engine.assert_books_balance()
    return engine


def test_every_invariant_is_tried_here() -> None:
    assert set(WRONGS) == set(audit.INVARIANTS)


@pytest.mark.parametrize("invariant", WRONGS)
def test_a_wrong_is_found_by_its_invariant(books: Engine, invariant: str) -> None:
    books.sql(WRONGS[invariant])
    with books.database.transaction() as connection:
        assert invariant in {finding.invariant for finding in audit.check(connection)}


def test_an_audit_writes_nothing(books: Engine) -> None:
    with books.database.transaction() as connection:
        audit.check(connection)
        assert connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on"
