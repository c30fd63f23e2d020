"""What operators give to accounts, and take back: transfers that belong to no job.

A grant that carries the key of its request is made once, however often the request comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from core.errors import ServiceError
from quota import ledger
from quota.prices import credits_text


class NotEnoughToTakeError(ServiceError):
    """More should be taken back than the account is free to spend."""

    code = "not_enough_to_take"


@dataclass(frozen=True, slots=True)
class Grant:
    """Micro-credits given to an account; negative: taken back. ``kind``: grant or adjust."""

    id: int
    account_id: str
    kind: str
    amount_microcredits: int
    note: str
    created_at: datetime


_SHOWN = """id, account_id, kind, note, created_at,
    CASE WHEN target = 'acct:available' THEN amount ELSE -amount END AS amount_microcredits"""

_GIVE = text(f"""
WITH balance AS (
    INSERT INTO balances (account_id, spendable)
    VALUES (:account_id, :amount)
    ON CONFLICT (account_id) DO UPDATE SET spendable = balances.spendable + :amount
)
INSERT INTO transfers (account_id, kind, source, target, amount, note, request_key)
VALUES (:account_id, 'grant', 'house:issued', 'acct:available', :amount, :note, :request_key)
RETURNING {_SHOWN}
""")

_TAKE = text(f"""
WITH balance AS (
    UPDATE balances SET spendable = spendable - :amount
    WHERE account_id = :account_id AND spendable >= :amount RETURNING account_id
)
INSERT INTO transfers (account_id, kind, source, target, amount, note, request_key)
SELECT account_id, 'adjust', 'acct:available', 'house:issued', :amount, :note, :request_key FROM balance
RETURNING {_SHOWN}
""")


def issue(
    connection: Connection,
    account_id: str,
    amount_microcredits: int,
    *,
    note: str = "",
    request_key: str | None = None,
) -> Grant:
    """Give credits to an account; of a negative amount, take back what it is free to spend.

    Raises ValueError for zero, NotEnoughToTakeError, IntegrityError for a request that was granted before
    (:func:`find_request`) and for an unknown account.
    """
    if not amount_microcredits:
        raise ValueError("a grant is not zero")
    values = {
        "account_id": account_id,
        "amount": abs(amount_microcredits),
        "note": note,
        "request_key": request_key,
    }
    row = connection.execute(_GIVE if amount_microcredits > 0 else _TAKE, values).one_or_none()
    if row is None:
        free = ledger.balance(connection, account_id).spendable_microcredits
        raise NotEnoughToTakeError(
            f"{credits_text(-amount_microcredits)} credits cannot be taken back: {credits_text(free)} are free",
            balance_microcredits=free,
        )
    return Grant(**row._mapping)


def find_request(connection: Connection, request_key: str) -> Grant | None:
    """What an earlier request with this key was granted."""
    query = text(f"SELECT {_SHOWN} FROM transfers WHERE request_key = :request_key")
    row = connection.execute(query, {"request_key": request_key}).one_or_none()
    return Grant(**row._mapping) if row else None


_PAGE = text(f"""
SELECT {_SHOWN} FROM transfers
WHERE job_id IS NULL AND (CAST(:account_id AS text) IS NULL OR account_id = :account_id)
    AND (CAST(:before_id AS bigint) IS NULL OR id < :before_id)
ORDER BY id DESC LIMIT :limit
""")


def grants(connection: Connection, account_id: str | None, *, before_id: int | None, limit: int) -> list[Grant]:
    """At most ``limit`` grants and corrections of an account, or of all, newest first: those before ``before_id``."""
    values = {"account_id": account_id, "before_id": before_id, "limit": limit}
    return [Grant(**row._mapping) for row in connection.execute(_PAGE, values)]
