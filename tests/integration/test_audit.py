"""Each invariant must find the very thing it is there to find."""

from __future__ import annotations

import pytest
from job_engine import Engine

from accounts.keys import Caller
from jobs.maintenance import audit

WRONGS = {
    "spendable_is_transferred_less_queued": "UPDATE balances SET spendable = spendable + 1",
    "reserved_is_queued_and_held": "UPDATE balances SET reserved = reserved + 1",
    "held_is_what_jobs_say": "UPDATE jobs SET quoted = quoted + 1 WHERE money = 'held'",
    "money_has_a_balance": "DELETE FROM balances",
    "transfers_sum_to_zero": "UPDATE balances SET reserved = reserved + 1",
    "transfers_are_of_a_job": "DELETE FROM jobs WHERE status = 'succeeded'",
    "what_started_was_held": "UPDATE jobs SET started_at = clock_timestamp() WHERE status = 'queued'",
    "job_is_settled_once": "UPDATE jobs SET captured = 0, released = quoted WHERE status = 'succeeded'",
    "captured_is_pictures_kept": "DELETE FROM images",
    "only_pictures_are_charged": "DELETE FROM images",
    "permits_are_open_calls": "UPDATE permits SET call_id = NULL WHERE call_id IS NOT NULL",
    "ended_jobs_have_no_open_calls": "WITH j AS (UPDATE jobs SET finished_at = finished_at - interval '1 hour'"
    " WHERE status = 'succeeded' RETURNING id)"
    " UPDATE upstream_calls SET outcome = 'accepted' FROM j WHERE job_id = j.id",
    "usage_is_the_sum_of_its_facts": "INSERT INTO usage_steps (from_at, to_at)"
    " VALUES (now() - interval '1 day', now() + interval '1 day')",
    "usage_is_what_was_transferred": "WITH s AS (INSERT INTO usage_steps (from_at, to_at)"
    " VALUES (now() - interval '1 day', now() + interval '1 day') RETURNING *) INSERT INTO usage_sums"
    " SELECT s.from_at, f.account_id, '', '', '', '', '', 0, 0, 1, 0, 0, 0, 0, 0 FROM s, balances AS f",
    "usage_steps_do_not_overlap": "INSERT INTO usage_steps (from_at, to_at)"
    " VALUES ('2026-01-01 00:00Z', '2026-01-01 02:00Z'), ('2026-01-01 01:00Z', '2026-01-01 03:00Z')",
}


@pytest.fixture
def books(engine: Engine, account: Caller) -> Engine:
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


def test_the_facts_of_usage_are_compared_for_the_newest_and_for_others_each_day(books: Engine) -> None:
    days = 4
    steps = [f"2026-01-{day:02d}T00:00:00Z" for day in range(days, 0, -1)]  # the newest first
    for step in steps:  # sums of jobs that there are not: wrong, each
        books.sql(
            "WITH s AS (INSERT INTO usage_steps (from_at, to_at)"
            " VALUES (:at, CAST(:at AS timestamptz) + interval '1 day'))"
            " INSERT INTO usage_sums VALUES (:at, 'acct', '', '', '', '', '', 100, 0, 0, 0, 0, 0, 0, 0)",
            at=step,
        )

    def found(most: int | None) -> list[str]:
        with books.database.transaction() as connection:
            findings = audit.check(connection, facts_at_most=most)
        return sorted(each.subject for each in findings if each.invariant == "usage_is_the_sum_of_its_facts")

    assert found(None) == sorted(steps)
    assert found(1000) == sorted(steps)
    today = books.one("SELECT floor(extract(epoch FROM clock_timestamp()) / 86400)")
    # Three older steps of as many jobs as are compared at once take turns: each in three days once.
    assert found(100) == sorted([steps[0], steps[1 + int(today) % (days - 1)]])
