"""Exact admission, holds and settlement by double entry, and a list of transfers that only grows."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from job_engine import ASYNC_PRICE, CREDIT, Engine
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
            with engine.database.transaction() as connection:
                ledger.admit(connection, customer.account_id, ASYNC_PRICE)
            results.append("accepted")
        except InsufficientCreditsError:
            results.append("refused")

    threads = [threading.Thread(target=submit) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results.count("accepted"), results.count("refused")) == (10, 54)
    assert balance(engine, customer) == Balance(spendable=0, reserved=CREDIT)


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
    with engine.database.transaction() as connection:
        ledger.admit(connection, customer.account_id, 0)  # what costs nothing needs no balance


def test_a_hold_exists_once_per_job(engine: Engine, account: Caller) -> None:
    with engine.database.transaction() as connection:
        ledger.admit(connection, account.account_id, 2 * CREDIT)
        ledger.hold(connection, account.account_id, "job_x", CREDIT)
    before = balance(engine, account)
    with pytest.raises(IntegrityError), engine.database.transaction() as connection:
        ledger.hold(connection, account.account_id, "job_x", CREDIT)
    assert balance(engine, account) == before


def test_a_job_is_settled_once(engine: Engine, account: Caller) -> None:
    with engine.database.transaction() as connection:
        for job_id in ("job_x", "job_y"):  # another job's hold must not pay for a second settlement
            ledger.admit(connection, account.account_id, CREDIT)
            ledger.hold(connection, account.account_id, job_id, CREDIT)
        ledger.settle(connection, account.account_id, "job_x", captured=CREDIT - 1, released=1)
    before = balance(engine, account)
    assert before == Balance(spendable=1000 * CREDIT - 2 * CREDIT + 1, reserved=CREDIT)
    with pytest.raises(IntegrityError), engine.database.transaction() as connection:
        ledger.settle(connection, account.account_id, "job_x", captured=CREDIT - 1, released=1)
    assert balance(engine, account) == before


def test_a_hold_changes_no_balance_row(engine: Engine, account: Caller) -> None:
    """Nor waits for one that another transaction has locked."""
    with engine.database.transaction() as connection:
        ledger.admit(connection, account.account_id, CREDIT)
    [row] = engine.rows("SELECT ctid, xmin, xmax, spendable, reserved FROM balances")
    with engine.database.transaction() as other, engine.database.transaction() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
        ledger.lock(other, account.account_id)
        [locked] = engine.rows("SELECT ctid, xmin, xmax, spendable, reserved FROM balances")
        ledger.hold(connection, account.account_id, "job_x", CREDIT)
    assert engine.transfers("job_x") == {"hold": CREDIT}
    assert engine.rows("SELECT ctid, xmin, xmax, spendable, reserved FROM balances") == [locked]
    assert row[:2] == locked[:2]


@pytest.mark.parametrize("captured", [0, 3, 10])
def test_a_settlement_splits_the_hold(engine: Engine, account: Caller, captured: int) -> None:
    released = 10 - captured
    with engine.database.transaction() as connection:
        ledger.admit(connection, account.account_id, 10)
        ledger.hold(connection, account.account_id, "job_x", 10)
        ledger.settle(connection, account.account_id, "job_x", captured=captured, released=released)
    assert balance(engine, account) == Balance(spendable=1000 * CREDIT - captured, reserved=0)
    moved = {"hold": 10, "capture": captured, "release": released}
    assert engine.transfers("job_x") == {kind: amount for kind, amount in moved.items() if amount}


def test_money_that_is_not_there_does_not_move(engine: Engine, account: Caller) -> None:
    """Each verb without its balance row, its reservation or its hold is an error and no silence."""
    poor, nothing = engine.account(0), Balance()
    with engine.database.transaction() as connection:
        ledger.admit(connection, account.account_id, 10)
        ledger.hold(connection, account.account_id, "job_held", 10)
    verbs: dict[str, Callable[[Connection], None]] = {
        "no row to withdraw to": lambda c: ledger.withdraw(c, poor.account_id, 1),
        "no row to hold from": lambda c: ledger.hold(c, poor.account_id, "job_x", 1),
        "less reserved than that": lambda c: ledger.hold(c, account.account_id, "job_x", 11),
        "never held": lambda c: ledger.settle(c, account.account_id, "job_x", captured=1, released=0),
        "less held": lambda c: ledger.settle(c, account.account_id, "job_held", captured=0, released=11),
        "more held": lambda c: ledger.settle(c, account.account_id, "job_held", captured=9, released=0),
        "held by another": lambda c: ledger.settle(c, poor.account_id, "job_held", captured=0, released=10),
    }
    before, count = balance(engine, account), engine.one("SELECT count(*) FROM transfers")
    for why, verb in verbs.items():
        with pytest.raises(LedgerMismatchError), engine.database.transaction() as connection:
            verb(connection)
        assert (balance(engine, account), balance(engine, poor), why) == (before, nothing, why)
    assert engine.one("SELECT count(*) FROM transfers") == count
    engine.sql("DELETE FROM balances")
    with pytest.raises(LedgerMismatchError), engine.database.transaction() as connection:
        ledger.settle(connection, account.account_id, "job_held", captured=0, released=10)


def test_what_costs_nothing_needs_no_balance(engine: Engine) -> None:
    poor = engine.account(0)
    with engine.database.transaction() as connection:
        ledger.withdraw(connection, poor.account_id, 0)
        ledger.hold(connection, poor.account_id, "job_free", 0)
        ledger.settle(connection, poor.account_id, "job_free", captured=0, released=0)
    assert engine.transfers("job_free") == {"hold": 0}
    assert engine.one("SELECT count(*) FROM balances") == 0


def test_more_is_never_given_back_than_was_reserved(engine: Engine, account: Caller) -> None:
    with pytest.raises(IntegrityError), engine.database.transaction() as connection:
        ledger.withdraw(connection, account.account_id, 1)


def test_withdrawing_undoes_an_admission(engine: Engine, account: Caller) -> None:
    before = balance(engine, account)
    with engine.database.transaction() as connection:
        ledger.admit(connection, account.account_id, CREDIT)
        ledger.withdraw(connection, account.account_id, CREDIT)
    assert balance(engine, account) == before


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
    assert [entry.amount for entry in first] == [3, 2]
    assert [entry.amount for entry in rest] == [1, 1000 * CREDIT]
