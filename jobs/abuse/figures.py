"""What happened in a window, of each account, key and address: read by index, at most ``MOST`` of them a query.

Spend of a day or month is in jobs/abuse/spend.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from core.db import Hot, Statement
from core.ids import id_before
from jobs.abuse.refusals import refusals
from jobs.abuse.rules import Per
from jobs.abuse.tallies import TallyKind

MOST: Final = 10_000
USUAL_DAYS: Final = 14
LEAST_DAYS: Final = 3  # an account with fewer days of use has no usual day yet
_CLOCKS_APART = timedelta(minutes=10)

# As in jobs/reads/usage.py: the sums of steps, and the ledger where there is none.
_FACT = """
WITH step AS (
    SELECT from_at, to_at FROM usage_steps
    WHERE from_at >= CAST(:since AS timestamptz) AND to_at <= CAST(:until AS timestamptz)
),
gap AS (
    SELECT gap_since, gap_until FROM (
        SELECT coalesce(lag(to_at) OVER (ORDER BY from_at), CAST(:since AS timestamptz)) AS gap_since,
            from_at AS gap_until FROM step
        UNION ALL
        SELECT coalesce(max(to_at), CAST(:since AS timestamptz)), CAST(:until AS timestamptz) FROM step
    ) AS between_steps
    WHERE gap_since < gap_until
),
fact AS (
    SELECT u.from_at AS at, u.account_id, u.jobs, u.images, u.captured
    FROM step JOIN usage_sums AS u ON u.from_at = step.from_at
    UNION ALL
    SELECT f.at, f.account_id, f.jobs, f.images, f.captured
    FROM gap CROSS JOIN LATERAL usage_facts(gap.gap_since, gap.gap_until) AS f
)
"""
# Over the days on which something was ordered: a studio that rests at weekends has its usual weekday.
USUAL = Statement(f"""
{_FACT},
day AS (
    SELECT account_id, date_trunc('day', at, 'UTC') AS day, sum(jobs) AS jobs, sum(images) AS images,
        sum(captured) AS captured
    FROM fact GROUP BY 1, 2 HAVING sum(jobs) > 0
)
SELECT account_id, CAST(avg(jobs) AS float) AS jobs, CAST(avg(images) AS float) AS images,
    CAST(avg(captured) AS float) AS captured
FROM day GROUP BY account_id HAVING count(*) >= CAST(:least_days AS int)
""")

# A range of ids is one of times, and the primary key is by id; the bounds are those of the database's clock.
ORDERED = Statement("""
SELECT account_id, coalesce(key_id, '') AS key_id, count(*) AS jobs, sum(n) AS images,
    sum(CASE WHEN money = 'settled' THEN captured ELSE quoted END) AS spent
FROM jobs
WHERE id > :after AND id < :before
    AND created_at >= CAST(:since AS timestamptz) AND created_at < CAST(:until AS timestamptz)
GROUP BY account_id, coalesce(key_id, '')
""")

TALLIED = Statement("""
SELECT t.subject, sum(t.tally) AS tally, (SELECT k.account_id FROM api_keys AS k WHERE k.id = t.subject) AS account_id
FROM abuse_tallies AS t
WHERE t.kind = CAST(:kind AS text) AND t.minute >= date_trunc('minute', CAST(:since AS timestamptz))
    AND t.minute < CAST(:until AS timestamptz)
GROUP BY t.subject ORDER BY sum(t.tally) DESC LIMIT CAST(:most AS int)
""")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and whose it is; money is in micro-credits. ``budget``: the account's own limit of the period."""

    value: float
    account_id: str | None = None
    key_id: str | None = None
    address: str | None = None
    budget: int | None = None

    @property
    def subject(self) -> str:
        """The same text for the same account, key or address."""
        if self.address is not None:
            return f"address {self.address}"
        return f"{self.account_id} {self.key_id}" if self.key_id is not None else str(self.account_id)


@dataclass(frozen=True, slots=True)
class Usual:
    """What an account has on one of its days."""

    jobs: float
    images: float
    captured: float


@dataclass(frozen=True, slots=True)
class Ordered:
    """What was ordered in a window by one key of an account: an ended job costs what was captured, a live one its
    whole price."""

    account_id: str
    key_id: str
    jobs: int
    images: int
    spent: int


def usual_days(hot: Hot, today: datetime) -> dict[str, Usual]:
    """The usual day of each account that has one, by the two weeks before ``today``."""
    values = {"since": today - timedelta(days=USUAL_DAYS), "until": today, "least_days": LEAST_DAYS}
    return {row.account_id: Usual(row.jobs, row.images, row.captured) for row in hot.all(USUAL, values)}


def ordered(hot: Hot, since: datetime, until: datetime) -> list[Ordered]:
    """What was ordered in a window, by account and key."""
    values = {
        "since": since,
        "until": until,
        "after": id_before("job", since - _CLOCKS_APART),
        "before": id_before("job", until + _CLOCKS_APART),
    }
    rows = hot.all(ORDERED, values)
    return [Ordered(row.account_id, row.key_id, int(row.jobs), int(row.images), int(row.spent)) for row in rows]


def refused(hot: Hot, since: datetime, until: datetime, per: Per) -> list[Figure]:
    """How often content was refused."""
    return by(per, {subject: float(count) for subject, count in refusals(hot, since, until).items()})


def tallied(hot: Hot, kind: TallyKind, since: datetime, until: datetime) -> list[Figure]:
    """What web processes have counted, the most first."""
    rows = hot.all(TALLIED, {"kind": kind, "since": since, "until": until, "most": MOST})
    if kind == "wrong_address":
        return [Figure(int(row.tally), address=row.subject) for row in rows]
    return [Figure(int(row.tally), row.account_id, row.subject) for row in rows if row.account_id]


def by(per: Per, values: Mapping[tuple[str, str], float]) -> list[Figure]:
    """Figures of each key, or of each account, the greatest first and at most ``MOST``."""
    if per == "key":
        found = [Figure(value, account_id, key_id) for (account_id, key_id), value in values.items()]
    else:
        sums: dict[str, float] = {}
        for (account_id, _), value in values.items():
            sums[account_id] = sums.get(account_id, 0.0) + value
        found = [Figure(value, account_id) for account_id, value in sums.items()]
    return _most(found)


def _most(found: Sequence[Figure]) -> list[Figure]:
    return sorted(found, key=lambda each: each.value, reverse=True)[:MOST]
