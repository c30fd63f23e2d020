"""Spending limits: what the orders of a day or a month may cost, kept exactly however many come at once.

What was spent is read from the books: an ended job counts what was captured, a live one all that was reserved or held
for it, at the day (UTC) of its submit. Whatever is released is free to be spent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from accounts.order_limits import OrderLimits
from core.db import Hot, Statement
from core.errors import ServiceError
from core.ids import id_before
from core.wire import rfc3339
from quota.prices import credits_text

# How far the clocks of web processes, which make the ids, may be from the database's.
_CLOCKS_APART = timedelta(minutes=10)

Period = Literal["day", "month"]


class SpendingLimitError(ServiceError):
    """The order would exceed what the key, or its account, may spend in a day or a month; ``limit`` names which."""

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
        self.limit = f"{whose}-{period}"


def _spent(column: str) -> Statement:
    """What the jobs of this month cost that were ordered after the memo, and until when it may be moved on: all
    before ``edge`` have ended, and none can be added."""
    return Statement(f"""
SELECT coalesce(sum(cost) FILTER (WHERE created_at >= day), 0) AS in_day, coalesce(sum(cost), 0) AS in_month,
    min(day) AS day, min(month) AS month, count(cost) AS jobs,
    least(statement_timestamp() - interval '1 minute',
        min(created_at) FILTER (WHERE live) - interval '1 microsecond') AS edge
FROM (SELECT date_trunc('day', statement_timestamp(), 'UTC') AS day,
        date_trunc('month', statement_timestamp(), 'UTC') AS month) AS now
LEFT JOIN LATERAL (
    SELECT j.created_at, j.money <> 'settled' AS live,
        CASE WHEN j.money = 'settled' THEN j.captured ELSE j.quoted END AS cost
    FROM jobs AS j
    WHERE j.{column} = :id AND j.id > :after AND j.created_at >= month
        AND j.created_at > CAST(:upto AS timestamptz)
) AS spent ON true
""")


def _move_memo(column: str) -> Statement:
    return Statement(f"""
INSERT INTO spending_memos (id, upto, in_day, in_month)
SELECT :id, CAST(:edge AS timestamptz),
    coalesce(sum(j.captured) FILTER (WHERE j.created_at >= date_trunc('day', CAST(:edge AS timestamptz), 'UTC')), 0)
        + CASE WHEN CAST(:upto AS timestamptz) >= date_trunc('day', CAST(:edge AS timestamptz), 'UTC')
            THEN CAST(:in_day AS bigint) ELSE 0 END,
    coalesce(sum(j.captured) FILTER (WHERE j.created_at >= date_trunc('month', CAST(:edge AS timestamptz), 'UTC')), 0)
        + CASE WHEN CAST(:upto AS timestamptz) >= date_trunc('month', CAST(:edge AS timestamptz), 'UTC')
            THEN CAST(:in_month AS bigint) ELSE 0 END
FROM jobs AS j
WHERE j.{column} = :id AND j.id > :after AND j.created_at > CAST(:upto AS timestamptz)
    AND j.created_at <= CAST(:edge AS timestamptz)
ON CONFLICT (id) DO UPDATE SET upto = excluded.upto, in_day = excluded.in_day, in_month = excluded.in_month
""")


# A range of ids is one of times, and both indexes are by id; the bounds are those of the database's clock.
SPENT = {"key": _spent("key_id"), "account": _spent("account_id")}
MOVE_MEMO = {"key": _move_memo("key_id"), "account": _move_memo("account_id")}
# So many jobs are read at an order before what has ended is summed up once and for all.
JOBS_READ = 500


@dataclass(frozen=True, slots=True)
class _Memo:
    """What was charged for the jobs until a moment, of its day and of its month; all of them have ended, so that it
    stays true."""

    upto: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    in_day: int = 0
    in_month: int = 0


MEMO = Statement("SELECT upto, in_day, in_month FROM spending_memos WHERE id = :id")


def check(hot: Hot, limits: OrderLimits, price_microcredits: int) -> None:
    """Raises SpendingLimitError where an order of this price would exceed one of the limits.

    Exact in a transaction of READ COMMITTED that has ``limits`` locked, so that the sum sees what was ordered while the
    lock was waited for; else it is a look ahead.
    """
    row = hot.one_or_none(MEMO, {"id": limits.id})
    memo = _Memo(*row) if row else _Memo()
    values = {"id": limits.id, "after": _first_id(memo), "upto": memo.upto}
    found = hot.one_or_none(SPENT[limits.whose], values)
    in_day = int(found.in_day) + (memo.in_day if memo.upto >= found.day else 0)
    in_month = int(found.in_month) + (memo.in_month if memo.upto >= found.month else 0)
    if found.jobs > JOBS_READ and found.edge > memo.upto:
        hot.run(
            MOVE_MEMO[limits.whose], {**values, "edge": found.edge, "in_day": memo.in_day, "in_month": memo.in_month}
        )
    next_month = (found.month + timedelta(days=32)).replace(day=1)
    periods: tuple[tuple[Period, int | None, int, datetime], ...] = (
        ("day", limits.day_microcredits, in_day, found.day + timedelta(days=1)),
        ("month", limits.month_microcredits, in_month, next_month),
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


def _first_id(memo: _Memo) -> str:
    """An id before those of the jobs that have to be read. Our clock may be ahead of the database's, and an id is made
    before its order's images are read."""
    now = datetime.now(UTC) - _CLOCKS_APART
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return id_before("job", max(month, memo.upto) - 2 * _CLOCKS_APART)
