"""Usage: what was sold and what it cost, by day, account, key, operation, model, provider and outcome.

Everything is read from the ledger and the jobs behind its transfers, by the function ``usage_facts`` of the database.
Spans that jobs/maintenance/usage_rollup.py has added up are read from their sums, the rest from the ledger itself, in
one statement and so of one moment.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter

from sqlalchemy import Connection

from core.db import Hot, Statement

DIMENSIONS = ("day", "account", "key", "operation", "model", "provider", "outcome")
MAX_GROUPS = 50_000


@dataclass(frozen=True, slots=True)
class Amounts:
    """Sums over settled jobs: micro-credits where they are ours, micro-USD where they are an upstream's.

    ``images`` are those sold. ``calls`` may have been billed: their cost is what the upstream reported, else what the
    catalogue expected, and ``uncosted_calls`` have neither.
    """

    jobs: int = 0
    images: int = 0
    captured: int = 0
    released: int = 0
    calls: int = 0
    reported_cost: int = 0
    computed_cost: int = 0
    uncosted_calls: int = 0

    @property
    def cost(self) -> int:
        return self.reported_cost + self.computed_cost

    @classmethod
    def sum(cls, parts: Collection[Amounts]) -> Amounts:
        """All of them together."""
        return cls(**{each.name: sum(map(attrgetter(each.name), parts)) for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class Usage:
    """One group. What it is not grouped by is None, and a key or model that is not known is empty."""

    day: str | None  # YYYY-MM-DD, in UTC
    account: str | None
    key: str | None
    operation: str | None
    model: str | None
    provider: str | None
    outcome: str | None
    amounts: Amounts


class TooManyGroupsError(Exception):
    """There are more than MAX_GROUPS groups."""


# Day and part of a day: a step is a whole hour or a whole day, so it lies in one day.
USAGE = Statement("""
WITH step AS (
    SELECT from_at, to_at FROM usage_steps
    WHERE from_at >= CAST(:from_at AS timestamptz) AND to_at <= CAST(:to_at AS timestamptz)
),
gap AS (
    SELECT since, until FROM (
        SELECT coalesce(lag(to_at) OVER (ORDER BY from_at), CAST(:from_at AS timestamptz)) AS since, from_at AS until
        FROM step
        UNION ALL
        SELECT coalesce(max(to_at), CAST(:from_at AS timestamptz)), CAST(:to_at AS timestamptz) FROM step
    ) AS between_steps
    WHERE since < until
),
fact AS (
    SELECT u.from_at AS at, u.account_id, u.key_id, u.operation, u.model, u.provider, u.outcome, u.jobs, u.images,
        u.captured, u.released, u.calls, u.reported_cost, u.computed_cost, u.uncosted_calls
    FROM step JOIN usage_sums AS u ON u.from_at = step.from_at
    UNION ALL
    SELECT f.at, f.account_id, f.key_id, f.operation, f.model, f.provider, f.outcome, f.jobs, f.images,
        f.captured, f.released, f.calls, f.reported_cost, f.computed_cost, f.uncosted_calls
    FROM gap CROSS JOIN LATERAL usage_facts(gap.since, gap.until) AS f
)
SELECT
    CASE WHEN 'day' = ANY(CAST(:by AS text[])) THEN to_char(date_trunc('day', at, 'UTC') AT TIME ZONE 'UTC',
        'YYYY-MM-DD') END AS day,
    CASE WHEN 'account' = ANY(CAST(:by AS text[])) THEN account_id END AS account,
    CASE WHEN 'key' = ANY(CAST(:by AS text[])) THEN key_id END AS key,
    CASE WHEN 'operation' = ANY(CAST(:by AS text[])) THEN operation END AS operation,
    CASE WHEN 'model' = ANY(CAST(:by AS text[])) THEN model END AS model,
    CASE WHEN 'provider' = ANY(CAST(:by AS text[])) THEN provider END AS provider,
    CASE WHEN 'outcome' = ANY(CAST(:by AS text[])) THEN outcome END AS outcome,
    sum(jobs)::bigint AS jobs, sum(images)::bigint AS images, sum(captured)::bigint AS captured,
    sum(released)::bigint AS released, sum(calls)::bigint AS calls, sum(reported_cost)::bigint AS reported_cost,
    sum(computed_cost)::bigint AS computed_cost, sum(uncosted_calls)::bigint AS uncosted_calls
FROM fact
WHERE CAST(:account_id AS text) IS NULL OR account_id = :account_id
GROUP BY 1, 2, 3, 4, 5, 6, 7
-- Groups of nothing but cost, such as a model that made no image and fell back, are for those who may see cost.
HAVING CAST(:costs AS boolean) OR sum(jobs) > 0 OR sum(captured) > 0 OR sum(released) > 0
LIMIT CAST(:most AS int)
""")


PERIOD = Statement("""
SELECT coalesce(CAST(:from_at AS timestamptz), date_trunc('month', statement_timestamp(), 'UTC')) AS from_at,
    coalesce(CAST(:to_at AS timestamptz), clock_timestamp()) AS to_at
""")


def period(connection: Hot | Connection, from_at: datetime | None, to_at: datetime | None) -> tuple[datetime, datetime]:
    """Return both, by the database's clock where they are None: the first of this month in UTC, and now."""
    row = Hot.of(connection).one_or_none(PERIOD, {"from_at": from_at, "to_at": to_at})
    return row.from_at, row.to_at


def usage(
    connection: Hot | Connection,
    *,
    from_at: datetime,
    to_at: datetime,
    by: Sequence[str],
    account_id: str | None,
    costs: bool,
) -> list[Usage]:
    """Return the groups of what was settled from ``from_at`` on and before ``to_at``, in the order of ``by``.

    ``by`` names some of DIMENSIONS. ``account_id`` None: of all accounts. ``costs``: also groups that have only cost.
    Raises TooManyGroupsError.
    """
    values = {
        "from_at": from_at,
        "to_at": to_at,
        "by": list(by),
        "account_id": account_id,
        "costs": costs,
        "most": MAX_GROUPS + 1,
    }
    rows = Hot.of(connection).all(USAGE, values)
    if len(rows) > MAX_GROUPS:
        raise TooManyGroupsError
    found = [_read(row._asdict()) for row in rows]
    return sorted(found, key=lambda each: [getattr(each, name) or "" for name in by])


def _read(row: dict[str, object]) -> Usage:
    amounts = Amounts(**{each.name: int(str(row.pop(each.name))) for each in fields(Amounts)})
    return Usage(**row, amounts=amounts)  # type: ignore[arg-type]
