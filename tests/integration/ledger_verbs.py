"""Today's balance statements one at a time, for tests that make rows by hand.

The product runs admission and settlement inside the statements of ``jobs/lifecycle`` (``submit.py``, ``end.py``),
which also write the job; these do the same to balances and transfers alone.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from quota.ledger import grant, hold, refuse

__all__ = ["admit", "grant", "hold", "settle", "withdraw"]

_ADMIT = text("""
UPDATE balances SET spendable = spendable - :price, reserved = reserved + :price
WHERE account_id = :account_id AND spendable >= :price
RETURNING 1
""")
_WITHDRAW = text("""
UPDATE balances SET spendable = spendable + :price, reserved = reserved - :price WHERE account_id = :account_id
""")
_SETTLE = text("""
WITH balance AS (
    UPDATE balances SET spendable = spendable + :released, reserved = reserved - (:captured + :released)
    WHERE account_id = :account_id
)
INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
SELECT :account_id, :job_id, part.kind, 'acct:held', part.target, part.amount
FROM (VALUES
    ('capture', 'house:revenue', CAST(:captured AS bigint)), ('release', 'acct:available', CAST(:released AS bigint))
) AS part (kind, target, amount)
WHERE part.amount > 0
""")


def admit(connection: Connection, account_id: str, price: int) -> None:
    """Reserve the price of a job. Raises InsufficientCreditsError."""
    if connection.execute(_ADMIT, {"account_id": account_id, "price": price}).one_or_none() is None:
        refuse(connection, account_id, price)


def withdraw(connection: Connection, account_id: str, price: int) -> None:
    """Undo :func:`admit` for a job that ends before it was held."""
    connection.execute(_WITHDRAW, {"account_id": account_id, "price": price})


def settle(connection: Connection, account_id: str, job_id: str, *, captured: int, released: int) -> None:
    """End a hold of ``captured + released``."""
    values = {"account_id": account_id, "job_id": job_id, "captured": captured, "released": released}
    connection.execute(_SETTLE, values)
