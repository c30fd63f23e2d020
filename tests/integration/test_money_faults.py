"""Faults that no CHECK prevents: each is visible in the books, and the audit names it."""

from __future__ import annotations

import pytest
from job_engine import ASYNC_PRICE, CREDIT, Engine

from accounts.keys import Caller
from jobs.maintenance import audit

SPENDABLE, RESERVED = "spendable_is_transferred_less_queued", "reserved_is_queued_and_held"
HELD, STARTED, SETTLED = "held_is_what_jobs_say", "what_started_was_held", "job_is_settled_once"
SUM, JOB, ROW = "transfers_sum_to_zero", "transfers_are_of_a_job", "money_has_a_balance"
OF_IMAGES = {"captured_is_pictures_kept", "only_pictures_are_charged"}
RULES = {SPENDABLE, RESERVED, HELD, STARTED, SETTLED, SUM, JOB, ROW} | OF_IMAGES

HOLD, RELEASE, CAPTURE = (
    "INSERT INTO transfers (account_id, job_id, kind, source, target, amount)"
    f" SELECT account_id, id, {places}, quoted FROM jobs WHERE status = "
    for places in (
        "'hold', 'acct:available', 'acct:held'",
        "'release', 'acct:held', 'acct:available'",
        "'capture', 'acct:held', 'house:revenue'",
    )
)
ENDED = "UPDATE jobs SET status = 'succeeded', money = 'settled', finished_at = clock_timestamp(),"
MOVED = f"UPDATE balances SET spendable = spendable + {ASYNC_PRICE}, reserved = reserved - {ASYNC_PRICE}"
TAKEN = f"UPDATE balances SET reserved = reserved - {ASYNC_PRICE}"

# Fault -> the statements that make it, and every rule that it breaks. The account has one waiting job, one queued,
# one that was refused (held, then released) and one that succeeded.
FAULTS: dict[str, tuple[list[str], set[str]]] = {
    "credits out of nothing": (["UPDATE balances SET spendable = spendable + 1"], {SPENDABLE, SUM}),
    "a withdrawal that no job made": ([MOVED], {SPENDABLE, RESERVED}),
    "a settlement that left the reservation": (
        [CAPTURE + "'waiting'", ENDED + " captured = quoted, released = 0 WHERE status = 'waiting'"],
        {RESERVED, SUM} | OF_IMAGES,
    ),
    "an admission that reserved too little": (
        ["UPDATE jobs SET quoted = quoted + 1 WHERE status = 'queued'"],
        {SPENDABLE, RESERVED},
    ),
    "a claim without a hold": (
        [
            "UPDATE jobs SET status = 'running', money = 'held', owner = 'wkr_test', started_at = clock_timestamp()"
            " WHERE status = 'queued'"
        ],
        {SPENDABLE, RESERVED, HELD, STARTED},
    ),
    "a hold without a claim": ([HOLD + "'queued'"], {SPENDABLE, RESERVED, HELD, STARTED}),
    "a hold of another amount": (
        ["UPDATE jobs SET quoted = quoted - 1 WHERE status = 'waiting'"],
        {HELD, STARTED},
    ),
    "an end that moved no transfer": (
        [TAKEN, ENDED + " captured = quoted, released = 0 WHERE status = 'waiting'"],
        {RESERVED, HELD, SETTLED, SUM} | OF_IMAGES,
    ),
    "a capture of what was never held": (
        [TAKEN, ENDED + " captured = quoted, released = 0 WHERE status = 'queued'"],
        {SPENDABLE, SETTLED, SUM} | OF_IMAGES,
    ),
    "a hold given back as if it had been a reservation": (
        [
            MOVED,
            ENDED + " captured = 0, released = quoted, started_at = NULL WHERE status = 'waiting'",
        ],
        {SPENDABLE, RESERVED, HELD, STARTED, SETTLED},
    ),
    "a release under a job that goes on": (
        [RELEASE + "'waiting'", MOVED],
        {HELD, SETTLED},
    ),
    "a second settlement of an ended job": (
        [RELEASE + "'succeeded'", MOVED],
        {HELD, SETTLED},
    ),
    "a job that says less than was captured": (
        ["UPDATE jobs SET captured = quoted - 1, released = 1 WHERE status = 'succeeded'"],
        {SETTLED, "captured_is_pictures_kept"},
    ),
    "transfers under another account": (
        [
            "INSERT INTO accounts (id, name) VALUES ('acct_other', 'other')",
            "UPDATE jobs SET account_id = 'acct_other' WHERE status = 'succeeded'",
        ],
        {JOB},
    ),
    "transfers of no job": (["DELETE FROM jobs WHERE status = 'succeeded'"], {JOB}),
    "a balance that is gone": (["DELETE FROM balances"], {SPENDABLE, RESERVED, SUM, ROW}),
}  # fmt: skip


@pytest.fixture
def books(engine: Engine, account: Caller) -> Engine:
    engine.order(account)
    engine.order(account, "no [sandbox:refuse]")
    engine.drive()
    engine.run(engine.order(account, "on [sandbox:never]").task.id)
    engine.order(account, "later")
    engine.assert_books_balance()
    return engine


def broken(engine: Engine) -> set[str]:
    with engine.database.transaction() as connection:
        return {finding.invariant for finding in audit.check(connection)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_every_rule_it_breaks(books: Engine, fault: str) -> None:
    statements, rules = FAULTS[fault]
    for statement in statements:
        books.sql(statement)
    assert broken(books) & RULES == rules


def test_every_rule_about_money_is_broken_by_a_fault() -> None:
    assert set(audit.INVARIANTS) >= RULES == set().union(*(rules for _, rules in FAULTS.values()))


def test_a_missing_balance_is_found_even_if_all_was_spent(engine: Engine) -> None:
    """Its transfers then sum to zero, so no amount shows that it is missing."""
    customer = engine.account(ASYNC_PRICE / CREDIT)
    engine.order(customer)
    engine.drive()
    engine.assert_books_balance()
    engine.sql("DELETE FROM balances")
    assert broken(engine) == {ROW}


def test_a_job_that_costs_nothing_breaks_no_rule(engine: Engine) -> None:
    """Its account may never have been granted anything."""
    customer = engine.account(0)
    engine.sql(
        "INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted, owner,"
        " started_at) VALUES ('job_free', :a, 'generate', 'm', 'p', 1, 'running', 'held', 0, 0, 'wkr_test',"
        " clock_timestamp())",
        a=customer.account_id,
    )
    assert broken(engine) == set()
