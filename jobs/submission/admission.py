"""Whether an order may be accepted now, by the limits of its key, its account and the installation.

Orders that no limit concerns are not looked at (docs/decisions/0093-limits-of-load-in-the-database.md). The others are
admitted in the transaction of their submit, one after the other under each limit: the account is locked first, then
the key, then the installation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from accounts import order_limits
from accounts.keys import Caller
from accounts.order_limits import OrderLimits
from core.db import Hot, Statement
from jobs.submission import budget, load, spending
from jobs.submission.load import LoadLimits, LoadStanding

# A lock of the transaction: its number is ours alone, as those of core.schema and the sweep are.
LOCK_INSTALLATION = Statement("SELECT pg_advisory_xact_lock(7100093)")


@dataclass(frozen=True, slots=True)
class Installation:
    """Limits of all orders together; None: no such limit."""

    in_flight: int | None = None
    images_per_minute: int | None = None
    day_microcredits: int | None = None

    @property
    def limited(self) -> bool:
        return (self.in_flight, self.images_per_minute, self.day_microcredits) != (None, None, None)

    @property
    def load(self) -> LoadLimits:
        return LoadLimits(
            "installation", load.INSTALLATION, in_flight=self.in_flight, images_per_minute=self.images_per_minute
        )


@dataclass(frozen=True, slots=True)
class Admission:
    """Judges orders by every limit that concerns them."""

    installation: Installation = Installation()

    def concerns(self, caller: Caller) -> bool:
        """Whether the caller's orders have a limit to keep."""
        return caller.orders_by_limits or self.installation.limited

    def admit(self, connection: Connection, caller: Caller, price_microcredits: int, n: int) -> Sequence[LoadStanding]:
        """Admit an order of ``n`` images, and where that leaves the caller with each limit of load.

        Must run in a transaction of READ COMMITTED, which keeps the locks until its end. Raises SpendingLimitError,
        LoadLimitError, InvalidOrderError for more images than a minute has.
        """
        if not self.concerns(caller):
            return ()
        hot, standings = Hot.of(connection), list[LoadStanding]()
        for limits in order_limits.lock(hot, caller.account_id, caller.key_id):
            if limits.of_spending:
                spending.check(hot, limits, price_microcredits)
            standings += load.admit(hot, _load_of(limits, caller), n)
        if self.installation.limited:
            hot.all(LOCK_INSTALLATION, {})
            self._check_budget(hot, price_microcredits)
            standings += load.admit(hot, self.installation.load, n)
        return standings

    def look_ahead(self, connection: Connection, caller: Caller, price_microcredits: int, n: int) -> None:
        """Raise what :meth:`admit` would raise as things are now; takes and locks nothing."""
        if not self.concerns(caller):
            return
        hot = Hot.of(connection)
        for limits in order_limits.read(hot, caller.account_id, caller.key_id):
            if limits.of_spending:
                spending.check(hot, limits, price_microcredits)
            load.look_ahead(hot, _load_of(limits, caller), n)
        self._check_budget(hot, price_microcredits)
        load.look_ahead(hot, self.installation.load, n)

    def _check_budget(self, hot: Hot, price_microcredits: int) -> None:
        if self.installation.day_microcredits is not None:
            budget.check(hot, self.installation.day_microcredits, price_microcredits)


def _load_of(limits: OrderLimits, caller: Caller) -> LoadLimits:
    return LoadLimits(limits.whose, limits.id, caller.account_id, limits.in_flight, limits.images_per_minute)
