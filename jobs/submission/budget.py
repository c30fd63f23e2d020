"""What the installation as a whole may charge in a day (UTC), kept exactly however many orders come at once.

Counted is what was charged today, whenever it was ordered, and all that live jobs may still cost.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from core.db import Hot, Statement
from core.errors import ServiceError
from core.wire import rfc3339
from jobs.submission.spending import JOBS_READ, MEMO, SpendingLimitError

INSTALLATION = "installation"

# Every balance is read, because an index of what is reserved would cost each submit of those who have no budget.
# One statement, so that a job that ends meanwhile is in one of the sums and in no more. Captures of the last minute
# may still be uncommitted, and a memo must stay true: it ends before them.
SPENT = Statement("""
SELECT (SELECT coalesce(sum(reserved), 0) FROM balances) AS live, today.day, charged.amount, charged.transfers,
    statement_timestamp() - interval '1 minute' AS edge
FROM (SELECT date_trunc('day', statement_timestamp(), 'UTC') AS day) AS today
CROSS JOIN LATERAL (
    SELECT coalesce(sum(t.amount), 0) AS amount, count(*) AS transfers FROM transfers AS t
    WHERE t.kind = 'capture' AND t.created_at >= today.day AND t.created_at > CAST(:upto AS timestamptz)
) AS charged
""")
MOVE_MEMO = Statement("""
INSERT INTO spending_memos (id, upto, in_day, in_month)
SELECT :id, CAST(:edge AS timestamptz), coalesce(sum(t.amount), 0)
    + CASE WHEN CAST(:upto AS timestamptz) >= date_trunc('day', CAST(:edge AS timestamptz), 'UTC')
        THEN CAST(:in_day AS bigint) ELSE 0 END, 0
FROM transfers AS t
WHERE t.kind = 'capture' AND t.created_at >= date_trunc('day', CAST(:edge AS timestamptz), 'UTC')
    AND t.created_at > CAST(:upto AS timestamptz) AND t.created_at <= CAST(:edge AS timestamptz)
HAVING CAST(:edge AS timestamptz) > CAST(:upto AS timestamptz)
ON CONFLICT (id) DO UPDATE SET upto = excluded.upto, in_day = excluded.in_day, in_month = 0
""")
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class BudgetSpentError(SpendingLimitError):
    """What the installation may charge today is spent; how much that is, is its operator's affair."""

    def __init__(self, resets_at: datetime) -> None:
        words = f"what may be spent here in a day is spent until {rfc3339(resets_at)}"
        ServiceError.__init__(self, words, limit_of=INSTALLATION, period="day", resets_at=rfc3339(resets_at))
        self.limit = f"{INSTALLATION}-day"


def check(hot: Hot, limit_microcredits: int, price_microcredits: int) -> None:
    """Raises BudgetSpentError where an order of this price would exceed the budget of the day.

    Exact in a transaction that holds a lock which every order under the budget takes; else a look ahead.
    """
    row = hot.one_or_none(MEMO, {"id": INSTALLATION})
    upto, in_day = (row.upto, row.in_day) if row else (_NEVER, 0)
    found = hot.one_or_none(SPENT, {"upto": upto})
    charged = int(found.amount) + (in_day if upto >= found.day else 0)
    if found.transfers > JOBS_READ:
        hot.run(MOVE_MEMO, {"id": INSTALLATION, "upto": upto, "edge": found.edge, "in_day": in_day})
    if charged + int(found.live) + price_microcredits > limit_microcredits:
        raise BudgetSpentError(found.day + timedelta(days=1))
