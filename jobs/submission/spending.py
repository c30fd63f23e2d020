"""Spending limits: what the orders of a day or a month may cost, kept exactly however many come at once.

What was spent is read from the books: an ended job counts what was captured, a live one all that was reserved or held
for it, at the day (UTC) of its submit. Whatever is released is free to be spent again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Connection

from accounts import spending_limits
from accounts.keys import Caller
from accounts.spending_limits import SpendingLimits
from core.db import Hot, Statement
from core.errors import ServiceError
from core.ids import id_before
from core.wire import rfc3339
from quota.prices import credits_text

# How far the clocks of web processes, which make the ids, may be from the database's.
_CLOCKS_APART = timedelta(minutes=10)

Period = Literal["day", "month"]


class SpendingLimitError(ServiceError):
    """The order would exceed what the key, or its account, may spend in a day or a month."""

    code = "spending_limit"

    def __init__(self, *, whose: str, period: Period, limit: int, spent: int, price: int, resets_at: datetime) -> None:
        super().__init__(
            f"this order costs {credits_text(price)} credits; of the {credits_text(limit)} that this {whose} may spend"
            f" in a {period}, {credits_text(max(limit - spent, 0))} are left until {rfc3339(resets_at)}",
            limit_of=whose,
            period=period,
            limit_microcredits=limit,
            spent_microcredits=spent,
            price_microcredits=price,
            resets_at=rfc3339(resets_at),
        )


# A range of ids is one of times, and both indexes are by id; the bounds are those of the database's clock.
SPENT_BY_KEY = Statement("""
SELECT coalesce(sum(cost) FILTER (WHERE created_at >= day), 0) AS in_day, coalesce(sum(cost), 0) AS in_month,
    min(day) + interval '1 day' AS day_ends, min(month) + interval '1 month' AS month_ends
FROM (SELECT date_trunc('day', statement_timestamp(), 'UTC') AS day,
        date_trunc('month', statement_timestamp(), 'UTC') AS month) AS now
LEFT JOIN LATERAL (
    SELECT j.created_at, CASE WHEN j.money = 'settled' THEN j.captured ELSE j.quoted END AS cost FROM jobs AS j
    WHERE j.key_id = :id AND j.id > :after AND j.created_at >= month
) AS spent ON true
""")
SPENT_BY_ACCOUNT = Statement("""
SELECT coalesce(sum(cost) FILTER (WHERE created_at >= day), 0) AS in_day, coalesce(sum(cost), 0) AS in_month,
    min(day) + interval '1 day' AS day_ends, min(month) + interval '1 month' AS month_ends
FROM (SELECT date_trunc('day', statement_timestamp(), 'UTC') AS day,
        date_trunc('month', statement_timestamp(), 'UTC') AS month) AS now
LEFT JOIN LATERAL (
    SELECT j.created_at, CASE WHEN j.money = 'settled' THEN j.captured ELSE j.quoted END AS cost FROM jobs AS j
    WHERE j.account_id = :id AND j.id > :after AND j.created_at >= month
) AS spent ON true
""")


def admit(connection: Connection, caller: Caller, price_microcredits: int) -> None:
    """Admit an order of this price under the caller's limits, which stay locked until the transaction ends.

    Must run in a transaction of READ COMMITTED, so that the sum sees what was ordered while the lock was waited for.
    Outside of one it is a look ahead, which locks nothing. Raises SpendingLimitError.
    """
    hot = Hot.of(connection)
    for limits in spending_limits.lock(hot, caller.account_id, caller.key_id):
        check(hot, limits, price_microcredits)


def check(hot: Hot, limits: SpendingLimits, price_microcredits: int) -> None:
    """Raises SpendingLimitError where an order of this price would exceed one of the limits."""
    query = SPENT_BY_KEY if limits.whose == "key" else SPENT_BY_ACCOUNT
    found = hot.one_or_none(query, {"id": limits.id, "after": _first_id(limits)})
    periods: tuple[tuple[Period, int | None, int, datetime], ...] = (
        ("day", limits.day_microcredits, int(found.in_day), found.day_ends),
        ("month", limits.month_microcredits, int(found.in_month), found.month_ends),
    )
    for period, limit, spent, ends in periods:
        if limit is not None and spent + price_microcredits > limit:
            raise SpendingLimitError(
                whose=limits.whose,
                period=period,
                limit=limit,
                spent=spent,
                price=price_microcredits,
                resets_at=ends,
            )


def _first_id(limits: SpendingLimits) -> str:
    """An id before those of the period that has to be read. Our clock may be ahead of the database's."""
    now = datetime.now(UTC) - _CLOCKS_APART
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if limits.month_microcredits is not None:
        start = start.replace(day=1)
    return id_before("job", start - _CLOCKS_APART)
