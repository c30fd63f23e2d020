"""The only writer of balances and transfers.

Every function is one statement inside the caller's transaction, and is called last in it, right
before COMMIT: balance rows are the hottest locks we have (DESIGN section 4, lock order). Amounts
are whole micro-credits. At most one transfer per job and kind exists, by a unique index, so that
no crash and no race can hold, capture or release twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from sqlalchemy import Connection, text

from quota.errors import InsufficientCreditsError


@dataclass(frozen=True, slots=True)
class Balance:
    """``available`` includes ``queued``, the part that accepted jobs will need."""

    available: int = 0
    queued: int = 0
    held: int = 0

    @property
    def spendable(self) -> int:
        return self.available - self.queued


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


def grant(connection: Connection, account_id: str, amount: int, *, note: str = "") -> None:
    """Issue credits to an account. Raises ValueError unless ``amount`` is positive."""
    if amount <= 0:
        raise ValueError("a grant is a positive number of micro-credits")
    connection.execute(
        text(
            "WITH balance AS (INSERT INTO balances (account_id, available) VALUES (:account_id, :amount)"
            " ON CONFLICT (account_id) DO UPDATE SET available = balances.available + :amount)"
            " INSERT INTO transfers (account_id, kind, source, target, amount, note)"
            " VALUES (:account_id, 'grant', 'house:issued', 'acct:available', :amount, :note)"
        ),
        {"account_id": account_id, "amount": amount, "note": note},
    )


# Admission as part of the statement that inserts the job; no row comes back when it is refused.
ADMIT = (
    "UPDATE balances SET queued = queued + :price"
    " WHERE account_id = :account_id AND available - queued >= :price RETURNING 1"
)


def admit(connection: Connection, account_id: str, price: int) -> None:
    """Count an order against the balance, exactly. Raises InsufficientCreditsError."""
    if price == 0:
        return  # nothing to cover, by an account that may never have been granted anything
    row = connection.execute(text(ADMIT), {"account_id": account_id, "price": price}).one_or_none()
    if row is None:
        refuse(connection, account_id, price)


def refuse(connection: Connection, account_id: str, price: int) -> NoReturn:
    """Raise InsufficientCreditsError with what there is."""
    raise InsufficientCreditsError(
        price_microcredits=price, spendable_microcredits=balance(connection, account_id).spendable
    )


def withdraw(connection: Connection, account_id: str, price: int) -> None:
    """Undo :func:`admit` for a job that ends before it was held."""
    connection.execute(
        text("UPDATE balances SET queued = queued - :price WHERE account_id = :account_id"),
        {"account_id": account_id, "price": price},
    )


def hold(connection: Connection, account_id: str, job_id: str, price: int) -> None:
    """Move a queued price from available to held. Raises IntegrityError if it was held before."""
    _execute(
        connection,
        "WITH balance AS (UPDATE balances SET queued = queued - :price, available = available - :price,"
        " held = held + :price WHERE account_id = :account_id RETURNING account_id)"
        " INSERT INTO transfers (account_id, job_id, kind, source, target, amount)"
        " SELECT account_id, :job_id, 'hold', 'acct:available', 'acct:held', :price FROM balance",
        {"account_id": account_id, "job_id": job_id, "price": price},
    )


def settle(connection: Connection, account_id: str, job_id: str, *, captured: int, released: int) -> None:
    """End a hold: keep ``captured``, give ``released`` back; together they are what was held.

    Raises ValueError for a negative part, which is how a capture above the hold shows itself.
    """
    if captured < 0 or released < 0:
        raise ValueError(f"{job_id} cannot be settled by {captured} captured and {released} released")
    _execute(
        connection,
        "WITH balance AS (UPDATE balances SET held = held - :captured - :released,"
        " available = available + :released WHERE account_id = :account_id RETURNING account_id),"
        " parts (kind, source, target, amount) AS (VALUES"
        " ('capture', 'acct:held', 'house:revenue', CAST(:captured AS bigint)),"
        " ('release', 'acct:held', 'acct:available', CAST(:released AS bigint)))"
        " INSERT INTO transfers (account_id, job_id, kind, source, target, amount)"
        " SELECT account_id, :job_id, kind, source, target, amount FROM balance, parts"
        " WHERE amount > 0",
        {"account_id": account_id, "job_id": job_id, "captured": captured, "released": released},
    )


def lock(connection: Connection, account_id: str) -> Balance:
    """The balance, with nobody else moving this account's money until the transaction ends."""
    row = connection.execute(
        text("SELECT available, queued, held FROM balances WHERE account_id = :account_id FOR UPDATE"),
        {"account_id": account_id},
    ).one_or_none()
    return Balance(*row) if row else Balance()


def reconcile(connection: Connection, account_id: str, *, queued: int, held: int, note: str) -> list[str]:
    """Close a drift in the open: an ``adjust`` transfer says what was done. Returns what was, in words.

    Call :func:`lock` first, then count ``queued`` and ``held`` from the jobs. What an account has
    available is left as it stands, for its owner was told so, and the transfers are brought to it; parts
    that are only counted (``queued``, ``held``) are counted anew, under a transfer of nothing. Raises
    ValueError when the transfers of holds do not fit the jobs: no adjustment can mend that.
    """
    row = balance(connection, account_id)
    said = connection.execute(
        text(
            "SELECT coalesce(sum(CASE WHEN target = 'acct:available' THEN amount WHEN source = 'acct:available'"
            " THEN -amount END), 0) AS available, coalesce(sum(CASE WHEN target = 'acct:held' THEN amount"
            " WHEN source = 'acct:held' THEN -amount END), 0) AS held FROM transfers WHERE account_id = :account_id"
        ),
        {"account_id": account_id},
    ).one()
    if said.held != held:
        raise ValueError(f"transfers hold {said.held}, jobs {held}")
    done: list[str] = []
    if row.available != said.available:
        done.append(f"available: transfers said {said.available}, the balance {row.available}")
        _adjust(connection, account_id, int(row.available - said.available), f"{note}: {done[-1]}")
    if (row.queued, row.held) != (queued, held):
        done.append(f"queued {row.queued} counted as {queued}, held {row.held} counted as {held}")
        _adjust(connection, account_id, 0, f"{note}: {done[-1]}")
        connection.execute(
            text("UPDATE balances SET queued = :queued, held = :held WHERE account_id = :account_id"),
            {"account_id": account_id, "queued": queued, "held": held},
        )
    return done


def _adjust(connection: Connection, account_id: str, amount: int, note: str) -> None:
    """A correcting entry: positive gives to what is available, negative takes from it."""
    source, target = ("house:issued", "acct:available") if amount >= 0 else ("acct:available", "house:issued")
    _execute(
        connection,
        "INSERT INTO transfers (account_id, kind, source, target, amount, note)"
        " VALUES (:account_id, 'adjust', :source, :target, :amount, :note)",
        {"account_id": account_id, "source": source, "target": target, "amount": abs(amount), "note": note},
    )


def balance(connection: Connection, account_id: str) -> Balance:
    row = connection.execute(
        text("SELECT available, queued, held FROM balances WHERE account_id = :account_id"),
        {"account_id": account_id},
    ).one_or_none()
    return Balance(*row) if row else Balance()


def entries(connection: Connection, account_id: str, *, before_id: int | None = None, limit: int = 50) -> list[Entry]:
    """The account's transfers, newest first."""
    rows = connection.execute(
        text(
            "SELECT id, kind, source, target, amount, job_id, note, created_at FROM transfers"
            " WHERE account_id = :account_id AND (CAST(:before_id AS bigint) IS NULL OR id < :before_id)"
            " ORDER BY id DESC LIMIT :limit"
        ),
        {"account_id": account_id, "before_id": before_id, "limit": limit},
    )
    return [Entry(**row._mapping) for row in rows]


def _execute(connection: Connection, statement: str, values: Mapping[str, Any]) -> None:
    connection.execute(text(statement), dict(values))
