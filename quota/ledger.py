"""The only writer of balances and transfers.

A balance row says what may still be ordered (``spendable``) and what queued and running jobs may cost
(``reserved``); transfers say where credits are. Admission moves from one column to the other, a hold is a transfer
alone, a settlement takes from ``reserved``. Amounts are whole micro-credits. At most one transfer per job and kind
exists, by a unique index, so that no crash and no race can hold, capture or release twice.

Every verb is one statement inside the caller's transaction, called last in it, right before COMMIT: balance rows
are the hottest locks we have (DESIGN section 4, lock order). Where it finds nothing to change it raises.
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

    spendable: int = 0
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    id: int
    kind: str
    source: str
    target: str
    amount: int
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


def grant(connection: Connection, account_id: str, amount: int, *, note: str = "") -> None:
    """Issue credits to an account. Raises ValueError unless ``amount`` is positive."""
    if amount <= 0:
        raise ValueError("a grant is a positive number of micro-credits")
    connection.execute(_GRANT, {"account_id": account_id, "amount": amount, "note": note})


# No row comes back when the price is not covered.
ADMIT = """
UPDATE balances SET spendable = spendable - :price, reserved = reserved + :price
WHERE account_id = :account_id AND spendable >= :price
RETURNING 1
"""
_ADMIT = text(ADMIT)


def admit(connection: Connection, account_id: str, price: int) -> None:
    """Reserve the price of an order, exactly. Raises InsufficientCreditsError."""
    if price == 0:
        return  # nothing to cover, by an account that may never have been granted anything
    if connection.execute(_ADMIT, {"account_id": account_id, "price": price}).one_or_none() is None:
        refuse(connection, account_id, price)


def refuse(connection: Hot | Connection, account_id: str, price: int) -> NoReturn:
    """Raise InsufficientCreditsError with what there is."""
    raise InsufficientCreditsError(
        price_microcredits=price, spendable_microcredits=balance(connection, account_id).spendable
    )


_WITHDRAW = text("""
UPDATE balances SET spendable = spendable + :price, reserved = reserved - :price
WHERE account_id = :account_id
RETURNING 1
""")


def withdraw(connection: Connection, account_id: str, price: int) -> None:
    """Undo :func:`admit` for a job that ends before it was held. Raises LedgerMismatchError."""
    if price == 0:
        return
    if connection.execute(_WITHDRAW, {"account_id": account_id, "price": price}).one_or_none() is None:
        raise LedgerMismatchError(f"{account_id} has no balance to give {price} back to")


# The balance row is read and not locked: a job that can be claimed was admitted by a transaction that is committed.
_HOLD = text("""
INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
SELECT :account_id, :job_id, 'hold', 'acct:available', 'acct:held', :price
WHERE CAST(:price AS bigint) = 0
    OR EXISTS (SELECT 1 FROM balances WHERE account_id = :account_id AND reserved >= :price)
RETURNING id
""")


def hold(connection: Connection, account_id: str, job_id: str, price: int) -> None:
    """Move a reserved price from available to held, by a transfer alone: no balance row changes.

    Raises IntegrityError if the job was held before, LedgerMismatchError where no such amount is reserved.
    """
    values = {"account_id": account_id, "job_id": job_id, "price": price}
    if connection.execute(_HOLD, values).one_or_none() is None:
        raise LedgerMismatchError(f"{account_id} has not {price} reserved for {job_id}")


# Everything follows from the hold: without it, or with another amount, nothing moves.
_SETTLE = text("""
WITH held AS (
    SELECT account_id, amount FROM transfers
    WHERE job_id = :job_id AND kind = 'hold' AND account_id = :account_id
        AND amount = CAST(:captured AS bigint) + CAST(:released AS bigint)
), balance AS (
    UPDATE balances SET spendable = spendable + :released, reserved = reserved - held.amount
    FROM held
    WHERE balances.account_id = held.account_id
    RETURNING balances.account_id
), entry AS (
    INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
    SELECT balance.account_id, :job_id, part.kind, part.source, part.target, part.amount
    FROM balance, (VALUES
        ('capture', 'acct:held', 'house:revenue', CAST(:captured AS bigint)),
        ('release', 'acct:held', 'acct:available', CAST(:released AS bigint))
    ) AS part (kind, source, target, amount)
    WHERE part.amount > 0
    RETURNING id
)
SELECT count(*) FROM entry
""")


def settle(connection: Connection, account_id: str, job_id: str, *, captured: int, released: int) -> None:
    """End a hold: keep ``captured``, give ``released`` back; together they are what was held.

    Raises ValueError for a negative part, which is how a capture above the hold shows itself, IntegrityError if
    the job was settled before, LedgerMismatchError where it has no hold of that amount.
    """
    if captured < 0 or released < 0:
        raise ValueError(f"{job_id} cannot be settled by {captured} captured and {released} released")
    if captured + released == 0:
        return  # a job that cost nothing has nothing to move
    values = {"account_id": account_id, "job_id": job_id, "captured": captured, "released": released}
    if connection.execute(_SETTLE, values).scalar_one() == 0:
        raise LedgerMismatchError(f"{job_id} of {account_id} has no hold of {captured + released}")


_LOCK = text("SELECT spendable, reserved FROM balances WHERE account_id = :account_id FOR UPDATE")


def lock(connection: Connection, account_id: str) -> Balance | None:
    """The balance, with nothing else moving this account's money until the transaction ends; None: no row."""
    row = connection.execute(_LOCK, {"account_id": account_id}).one_or_none()
    return Balance(row.spendable, row.reserved) if row else None


_RECOUNT = text("""
INSERT INTO balances (account_id, spendable, reserved)
VALUES (:account_id, :spendable, :reserved)
ON CONFLICT (account_id) DO UPDATE SET reserved = :reserved
""")


def reconcile(connection: Connection, account_id: str, *, spendable: int, reserved: int, note: str) -> list[str]:
    """Close a drift in the open: an ``adjust`` transfer says what was done. Returns what was, in words.

    ``spendable`` and ``reserved`` are what transfers and jobs make them, read after :func:`lock`. What an account may
    spend is left as it stands, for its owner was told so, and the transfers are brought to it; what is reserved is
    only counted, and counted again under a transfer of nothing. A balance row that is gone is made again, which
    raises IntegrityError where jobs need more than there is.
    """
    row = lock(connection, account_id)
    stands = spendable if row is None else row.spendable
    done: list[str] = []
    if stands != spendable:
        done.append(f"spendable: transfers said {spendable}, the balance {stands}")
        _adjust(connection, account_id, stands - spendable, f"{note}: {done[-1]}")
    if row is None or row.reserved != reserved:
        before = "no balance row" if row is None else f"reserved {row.reserved}"
        done.append(f"{before}: counted as {stands} spendable, {reserved} reserved")
        _adjust(connection, account_id, 0, f"{note}: {done[-1]}")
        connection.execute(_RECOUNT, {"account_id": account_id, "spendable": stands, "reserved": reserved})
    return done


_ADJUST = text("""
INSERT INTO transfers (account_id, kind, source, target, amount, note)
VALUES (:account_id, 'adjust', :source, :target, :amount, :note)
""")


def _adjust(connection: Connection, account_id: str, amount: int, note: str) -> None:
    """A correcting entry: positive gives to what is available, negative takes from it."""
    source, target = ("house:issued", "acct:available") if amount >= 0 else ("acct:available", "house:issued")
    values = {"account_id": account_id, "source": source, "target": target, "amount": abs(amount), "note": note}
    connection.execute(_ADJUST, values)


BALANCE = Statement("SELECT spendable, reserved FROM balances WHERE account_id = :account_id")


def balance(connection: Hot | Connection, account_id: str) -> Balance:
    """What an account has, without waiting for those who change it."""
    row = Hot.of(connection).one_or_none(BALANCE, {"account_id": account_id})
    return Balance(row.spendable, row.reserved) if row else Balance()


_ENTRIES = text("""
SELECT id, kind, source, target, amount, job_id, note, created_at FROM transfers
WHERE account_id = :account_id AND (CAST(:before_id AS bigint) IS NULL OR id < :before_id)
ORDER BY id DESC LIMIT :limit
""")


def entries(connection: Connection, account_id: str, *, before_id: int | None = None, limit: int = 50) -> list[Entry]:
    """The account's transfers, newest first."""
    rows = connection.execute(_ENTRIES, {"account_id": account_id, "before_id": before_id, "limit": limit})
    return [Entry(**row._mapping) for row in rows]
