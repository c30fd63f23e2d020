"""What an account has, as its owner is told: the balance, split by where its jobs stand."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Funds:
    """Micro-credits: free to spend, needed by jobs that wait for their first claim, held for jobs under way."""

    spendable: int = 0
    queued: int = 0
    held: int = 0

    @property
    def available(self) -> int:
        """What is not held: ``queued`` is a part of it until it is."""
        return self.spendable + self.queued


# One statement, so that both counts are of one moment. Held jobs are the few of an account that are under way
# (index jobs_held): its million ended ones and its thousands in the queue cost nothing here.
_FUNDS = text("""
SELECT b.spendable, b.reserved, (
    SELECT coalesce(sum(j.quoted), 0) FROM jobs AS j WHERE j.account_id = b.account_id AND j.money = 'held'
) AS held
FROM balances AS b WHERE b.account_id = :account_id
""")


def funds(connection: Connection, account_id: str) -> Funds:
    """An account's funds, all zero when it was never granted anything."""
    row = connection.execute(_FUNDS, {"account_id": account_id}).one_or_none()
    if row is None:
        return Funds()
    return Funds(spendable=row.spendable, queued=row.reserved - int(row.held), held=int(row.held))
