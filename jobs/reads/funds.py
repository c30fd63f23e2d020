"""An account's funds: its balance, split by the state of its jobs."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Funds:
    """An account's micro-credits: free to spend, reserved for jobs not claimed yet, and held for running jobs."""

    spendable: int = 0
    queued: int = 0
    held: int = 0

    @property
    def available(self) -> int:
        """What is not held; it includes ``queued``, which becomes held with the claim."""
        return self.spendable + self.queued


# One statement, so that both sums are of the same time. It reads the index jobs_held, which has only the account's
# running jobs.
_FUNDS = text("""
SELECT b.spendable, b.reserved, (
    SELECT coalesce(sum(j.quoted), 0) FROM jobs AS j WHERE j.account_id = b.account_id AND j.money = 'held'
) AS held
FROM balances AS b WHERE b.account_id = :account_id
""")


def funds(connection: Connection, account_id: str) -> Funds:
    """Return an account's funds; all zero if it was never granted any credits."""
    row = connection.execute(_FUNDS, {"account_id": account_id}).one_or_none()
    if row is None:
        return Funds()
    return Funds(spendable=row.spendable, queued=row.reserved - int(row.held), held=int(row.held))
