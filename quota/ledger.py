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
    """End a hold: keep ``captured``, give ``released`` back; together they are what was held."""
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
