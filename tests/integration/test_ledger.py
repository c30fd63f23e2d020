"""Exact admission, holds by double entry, and a list of transfers that only grows."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ledger_verbs
import pytest
from job_engine import CREDIT, Engine
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from accounts.keys import Caller
from quota import ledger
from quota.errors import InsufficientCreditsError, LedgerMismatchError
from quota.ledger import Balance


def balance(engine: Engine, customer: Caller) -> Balance:
    with engine.database.autocommit() as connection:
        return ledger.balance(connection, customer.account_id)


def test_of_many_at_once_exactly_those_covered_are_accepted(engine: Engine) -> None:
    customer = engine.account(1)  # covers ten of 0.1 each
    start, results = threading.Barrier(64), []

    def submit() -> None:
        start.wait()
        try:
            engine.order(customer, publish=False)
            results.append("accepted")
        except InsufficientCreditsError:
            results.append("refused")

    threads = [threading.Thread(target=submit) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results.count("accepted"), results.count("refused")) == (10, 54)
    assert balance(engine, customer) == Balance(0, CREDIT)


def test_orders_beyond_the_balance_leave_no_row(engine: Engine) -> None:
    customer = engine.account(0.25)
    accepted = [engine.order(customer, publish=False).task.id for _ in range(2)]
    with pytest.raises(InsufficientCreditsError) as refusal:
        engine.order(customer)
    facts = {"price_microcredits": 100_000, "price": "0.1", "balance_microcredits": 50_000, "balance": "0.05"}
    assert refusal.value.facts == facts
    assert [row.id for row in engine.rows("SELECT id FROM jobs ORDER BY id")] == accepted
    assert engine.one("SELECT count(*) FROM orders") == len(accepted)
    engine.assert_books_balance()


def test_an_account_without_a_grant_has_nothing_to_spend(engine: Engine) -> None:
    customer = engine.account(0)
    with pytest.raises(InsufficientCreditsError):
        engine.order(customer)


def test_a_hold_exists_once_per_job(engine: Engine, account: Caller) -> None:
    with engine.database.transaction() as connection:
        ledger_verbs.admit(connection, account.account_id, 2 * CREDIT)
        ledger.hold(connection, account.account_id, "job_x", CREDIT)
    before = balance(engine, account)
    with pytest.raises(IntegrityError), engine.database.transaction() as connection:
        ledger.hold(connection, account.account_id, "job_x", CREDIT)
    assert balance(engine, account) == before


def test_a_hold_changes_no_balance_row(engine: Engine, account: Caller) -> None:
    """Nor waits for one that another transaction has locked."""
    with engine.database.transaction() as connection:
        ledger_verbs.admit(connection, account.account_id, CREDIT)
    [row] = engine.rows("SELECT ctid, xmin, xmax, spendable, reserved FROM balances")
    with engine.database.transaction() as other, engine.database.transaction() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
        ledger.lock(other, account.account_id)
        [locked] = engine.rows("SELECT ctid, xmin, xmax, spendable, reserved FROM balances")
        ledger.hold(connection, account.account_id, "job_x", CREDIT)
    assert engine.transfers("job_x") == {"hold": CREDIT}
    assert engine.rows("SELECT ctid, xmin, xmax, spendable, reserved FROM balances") == [locked]
    assert row[:2] == locked[:2]


def test_money_that_is_not_there_does_not_move(engine: Engine, account: Caller) -> None:
    """A hold without its balance row or its reservation is an error."""
    poor, nothing = engine.account(0), Balance()
    with engine.database.transaction() as connection:
        ledger_verbs.admit(connection, account.account_id, 10)
        ledger.hold(connection, account.account_id, "job_held", 10)
    verbs: dict[str, Callable[[Connection], None]] = {
        "no row to hold from": lambda c: ledger.hold(c, poor.account_id, "job_x", 1),
        "less reserved than that": lambda c: ledger.hold(c, account.account_id, "job_x", 11),
    }
    before, count = balance(engine, account), engine.one("SELECT count(*) FROM transfers")
    for why, verb in verbs.items():
        with pytest.raises(LedgerMismatchError), engine.database.transaction() as connection:
            verb(connection)
        assert (balance(engine, account), balance(engine, poor), why) == (before, nothing, why)
    assert engine.one("SELECT count(*) FROM transfers") == count


def test_what_costs_nothing_needs_no_balance(engine: Engine) -> None:
    poor = engine.account(0)
    with engine.database.transaction() as connection:
        ledger.hold(connection, poor.account_id, "job_free", 0)
    assert engine.transfers("job_free") == {"hold": 0}
    assert engine.one("SELECT count(*) FROM balances") == 0


@pytest.mark.parametrize(
    "statement", ["UPDATE transfers SET amount = 0", "DELETE FROM transfers", "TRUNCATE transfers"]
)
def test_transfers_are_final(engine: Engine, account: Caller, statement: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        engine.sql(statement)
    assert engine.one("SELECT sum(amount) FROM transfers") == 1000 * CREDIT


@pytest.mark.parametrize(
    "row",
    [
        "'grant', 'house:issued', 'acct:available', -1, NULL",
        "'gift', 'house:issued', 'acct:available', 1, NULL",
        "'capture', 'acct:available', 'house:revenue', 1, 'job_x'",
        "'hold', 'acct:available', 'acct:held', 1, NULL",
        "'grant', 'house:issued', 'acct:available', 1, 'job_x'",
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(engine: Engine, account: Caller, row: str) -> None:
    with pytest.raises(IntegrityError):
        engine.sql(
            f"INSERT INTO transfers (account_id, kind, source, target, amount, job_id) VALUES (:a, {row})",
            a=account.account_id,
        )


@pytest.mark.parametrize("amount", [0, -1])
def test_a_grant_is_positive(engine: Engine, account: Caller, amount: int) -> None:
    with pytest.raises(ValueError, match="positive"), engine.database.transaction() as connection:
        ledger.grant(connection, account.account_id, amount)


def test_entries_are_paged_newest_first_within_one_account(engine: Engine, account: Caller) -> None:
    engine.account()
    with engine.database.transaction() as connection:
        for amount in (1, 2, 3):
            ledger.grant(connection, account.account_id, amount, note="gift")
        first = ledger.entries(connection, account.account_id, limit=2)
        rest = ledger.entries(connection, account.account_id, before_id=first[-1].id)
    assert [entry.amount_microcredits for entry in first] == [3, 2]
    assert [entry.amount_microcredits for entry in rest] == [1, 1000 * CREDIT]
