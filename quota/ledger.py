"""Balances and transfers: grants, holds, corrections and what an account sees of them.

A balance row says what may still be ordered (``spendable``) and what queued and running jobs may cost
(``reserved``); transfers say where credits are. Submitting a job moves its price from one column to the other, a hold
is a transfer alone, a settlement takes from ``reserved``. Amounts are whole micro-credits. A unique index allows one
transfer for each job and kind, so no crash and no race can hold, capture or release twice.

Submitting, the first start and the end of a job move money in the statements that also write the job
(``jobs/lifecycle``: ``submit.py``, ``start.py``, ``end.py``); everything else is here.

Every verb is one statement in the caller's transaction, and the last one before COMMIT: balance rows are the
hottest locks there are (lock order: docs/architecture.md section 4). A verb that finds nothing to change raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from sqlalchemy import Connection, text

from core.db import Hot, Statement
from quota.errors import InsufficientCreditsError, LedgerMismatchError


@dataclass(frozen=True, slots=True)
class Balance:
    """What may still be ordered, and what accepted jobs may cost until they end."""

    spendable_microcredits: int = 0
    reserved_microcredits: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One transfer, as its account sees it."""

    id: int
    kind: str
    source: str
    target: str
    amount_microcredits: int
    job_id: str | None
    note: str
    created_at: datetime


_GRANT = text("""
WITH balance AS (
    INSERT INTO balances (account_id, spendable)
    VALUES (:account_id, :amount)
    ON CONFLICT (account_id) DO UPDATE SET spendable = balances.spendable + :amount
)
INSERT INTO transfers (account_id, kind, source, target, amount, note)
VALUES (:account_id, 'grant', 'house:issued', 'acct:available', :amount, :note)
""")


def grant(connection: Connection, account_id: str, amount_microcredits: int, *, note: str = "") -> None:
    """Issue credits to an account. Raises ValueError unless the amount is positive."""
    if amount_microcredits <= 0:
        raise ValueError("a grant is a positive number of micro-credits")
    connection.execute(_GRANT, {"account_id": account_id, "amount": amount_microcredits, "note": note})


def refuse(connection: Hot | Connection, account_id: str, price_microcredits: int) -> NoReturn:
    """Raise InsufficientCreditsError with the price and the account's balance."""
    raise InsufficientCreditsError(
        price_microcredits=price_microcredits,
        spendable_microcredits=balance(connection, account_id).spendable_microcredits,
    )


# The balance row is read and not locked: the price of a job that can be claimed was reserved by a transaction that has
# committed.
_HOLD = text("""
INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
SELECT :account_id, :job_id, 'hold', 'acct:available', 'acct:held', :price
WHERE CAST(:price AS bigint) = 0
    OR EXISTS (SELECT 1 FROM balances WHERE account_id = :account_id AND reserved >= :price)
RETURNING id
""")


def hold(connection: Connection, account_id: str, job_id: str, price_microcredits: int) -> None:
    """Move a reserved price from available to held, by a transfer alone: no balance row changes.

    Raises IntegrityError if the job was held before, LedgerMismatchError where no such amount is reserved.
    """
    values = {"account_id": account_id, "job_id": job_id, "price": price_microcredits}
    if connection.execute(_HOLD, values).one_or_none() is None:
        raise LedgerMismatchError(f"{account_id} does not have {price_microcredits} reserved for {job_id}")


_LOCK = text("SELECT spendable, reserved FROM balances WHERE account_id = :account_id FOR UPDATE")


def lock(connection: Connection, account_id: str) -> Balance | None:
    """Lock an account's balance until the transaction ends; what it is, or None where it has no row."""
    row = connection.execute(_LOCK, {"account_id": account_id}).one_or_none()
    return Balance(row.spendable, row.reserved) if row else None


_RECOUNT = text("""
INSERT INTO balances (account_id, spendable, reserved)
VALUES (:account_id, :spendable, :reserved)
ON CONFLICT (account_id) DO UPDATE SET reserved = :reserved
""")


def reconcile(
    connection: Connection, account_id: str, *, spendable_microcredits: int, reserved_microcredits: int, note: str
) -> list[str]:
    """Close a drift, with an ``adjust`` transfer that says what was done. Returns what was wrong, in words.

    The two amounts are what transfers and jobs add up to, read after :func:`lock`. What an account may spend stays as
    its balance says, because its owner was told so, and the transfers are adjusted to it; what is reserved is a mere
    count, and is counted again under a transfer of nothing. A missing balance row is made again, which raises
    IntegrityError where jobs need more than there is.
    """
    row = lock(connection, account_id)
    stands = spendable_microcredits if row is None else row.spendable_microcredits
    done: list[str] = []
    if stands != spendable_microcredits:
        done.append(f"spendable: transfers said {spendable_microcredits}, the balance {stands}")
        _adjust(connection, account_id, stands - spendable_microcredits, f"{note}: {done[-1]}")
    if row is None or row.reserved_microcredits != reserved_microcredits:
        before = "no balance row" if row is None else f"reserved {row.reserved_microcredits}"
        done.append(f"{before}: counted as {stands} spendable, {reserved_microcredits} reserved")
        _adjust(connection, account_id, 0, f"{note}: {done[-1]}")
        connection.execute(_RECOUNT, {"account_id": account_id, "spendable": stands, "reserved": reserved_microcredits})
    return done


_ADJUST = text("""
INSERT INTO transfers (account_id, kind, source, target, amount, note)
VALUES (:account_id, 'adjust', :source, :target, :amount, :note)
""")


def _adjust(connection: Connection, account_id: str, difference_microcredits: int, note: str) -> None:
    """A correcting entry: a positive difference adds to what is available, a negative one takes from it."""
    places = ("house:issued", "acct:available")
    source, target = places if difference_microcredits >= 0 else reversed(places)
    values = {"account_id": account_id, "source": source, "target": target, "note": note}
    connection.execute(_ADJUST, {**values, "amount": abs(difference_microcredits)})


BALANCE = Statement("SELECT spendable, reserved FROM balances WHERE account_id = :account_id")


def balance(connection: Hot | Connection, account_id: str) -> Balance:
    """What an account has, zeroes where it has no balance row; takes no lock and waits for none."""
    row = Hot.of(connection).one_or_none(BALANCE, {"account_id": account_id})
    return Balance(row.spendable, row.reserved) if row else Balance()


_ENTRIES = text("""
SELECT id, kind, source, target, amount AS amount_microcredits, job_id, note, created_at FROM transfers
WHERE account_id = :account_id AND (CAST(:before_id AS bigint) IS NULL OR id < :before_id)
ORDER BY id DESC LIMIT :limit
""")


def entries(connection: Connection, account_id: str, *, before_id: int | None = None, limit: int = 50) -> list[Entry]:
    """At most ``limit`` of the account's transfers, newest first: those before the entry ``before_id``."""
    rows = connection.execute(_ENTRIES, {"account_id": account_id, "before_id": before_id, "limit": limit})
    return [Entry(**row._mapping) for row in rows]
