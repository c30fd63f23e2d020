"""An account's funds: its balance, split by the state of its jobs."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Funds:
    """Micro-credits: free to spend, needed by jobs that wait for their first claim, held for running jobs."""

    spendable: int = 0
    queued: int = 0
    held: int = 0

    @property
    def available(self) -> int:
        """What is not held: ``queued`` is a part of it until it is."""
        return self.spendable + self.queued


# One statement, so that both sums are of one moment. The index jobs_held has only the few running jobs of an account:
# its ended and queued ones cost nothing here.
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
