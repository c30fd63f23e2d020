"""What accounts have spent in a day or month so far: what the ledger captured in it, and what live jobs have reserved.

Captures are final. So a process reads the hours that are closed once, by their sums (jobs/maintenance/usage_rollup.py),
and in each round what came after them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from core.db import Hot, Statement
from jobs.abuse.figures import MOST, Figure

# Until when nothing can be added: the first moment that no step covers.
_EDGE = """
WITH step AS (
    SELECT from_at, to_at FROM usage_steps
    WHERE from_at >= CAST(:since AS timestamptz) AND to_at <= CAST(:until AS timestamptz)
),
edge AS (
    SELECT min(free.at) AS upto FROM (
        SELECT CAST(:since AS timestamptz) AS at UNION ALL SELECT to_at FROM step
    ) AS free
    WHERE NOT EXISTS (SELECT 1 FROM step WHERE step.from_at = free.at)
)
"""
EDGE = Statement(f"{_EDGE} SELECT upto FROM edge")
CLOSED = Statement(f"""
{_EDGE}
SELECT edge.upto, u.account_id, sum(u.captured) AS captured
FROM edge LEFT JOIN step ON step.to_at <= edge.upto LEFT JOIN usage_sums AS u ON u.from_at = step.from_at
GROUP BY edge.upto, u.account_id
""")

CAPTURED = Statement("""
SELECT account_id, sum(amount) AS captured FROM transfers
WHERE kind IN ('capture', 'release') AND kind = 'capture'
    AND created_at >= CAST(:since AS timestamptz) AND created_at < CAST(:until AS timestamptz)
GROUP BY account_id
""")

# Subqueries by primary key: the balances of all accounts are not read from end to end.
ACCOUNTS = Statement("""
SELECT a.id, a.spend_day_limit, a.spend_month_limit,
    coalesce((SELECT b.reserved FROM balances AS b WHERE b.account_id = a.id), 0) AS reserved
FROM accounts AS a
""")


@dataclass
class _Closed:
    """What was captured from ``since`` on and before ``upto``, of each account."""

    since: datetime
    upto: datetime
    captured: Counter[str]


@dataclass
class Spend:
    """What accounts have spent; one for each process, which remembers what is closed."""

    _closed: dict[str, _Closed] = field(default_factory=dict, init=False)

    def of(self, hot: Hot, period: str, since: datetime, until: datetime) -> list[Figure]:
        """What accounts have spent in a ``day`` or ``month`` that began at ``since``, the most first."""
        closed = self._known(hot, period, since, until)
        spent = closed.captured + _captured(hot, closed.upto, until)
        budget = "spend_day_limit" if period == "day" else "spend_month_limit"
        figures = [
            Figure(spent[row.id] + int(row.reserved), row.id, budget=getattr(row, budget))
            for row in hot.all(ACCOUNTS, {})
        ]
        return sorted((each for each in figures if each.value), key=lambda each: each.value, reverse=True)[:MOST]

    def _known(self, hot: Hot, period: str, since: datetime, until: datetime) -> _Closed:
        known = self._closed.get(period)
        if known is None or known.since != since or known.upto > until:
            known = self._closed[period] = _read(hot, since, until)
            return known
        upto = hot.scalar(EDGE, {"since": since, "until": until})
        if upto > known.upto:
            known.captured += _captured(hot, known.upto, upto)
            known.upto = upto
        return known


def _read(hot: Hot, since: datetime, until: datetime) -> _Closed:
    rows = hot.all(CLOSED, {"since": since, "until": until})
    captured = Counter({row.account_id: int(row.captured) for row in rows if row.account_id is not None})
    return _Closed(since, rows[0].upto, captured)


def _captured(hot: Hot, since: datetime, until: datetime) -> Counter[str]:
    rows = hot.all(CAPTURED, {"since": since, "until": until})
    return Counter({row.account_id: int(row.captured) for row in rows})
