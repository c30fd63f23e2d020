"""Which queued jobs have a message in Redis (``Job.published_at``): fills windows and finds lost messages.

Verbs of ``jobs/lifecycle`` also write ``published_at``: submit and fail_over publish the job, start publishes the
account's next jobs, retry and defer clear it. ``refill.probes`` publishes the probe of a half-open circuit.

An account that is alone at a provider may have ``window x weight`` jobs published there and not yet claimed; claiming
one publishes the next. The windows of all share two of them: an account may have as many jobs published, by its weight,
as the two windows have places left, and one by its weight at least. So n busy accounts have 2 x window / (n + 1) each,
10,000 jobs of one delay one job of another by a window at most and those of 10,000 accounts by one job of each, and a
million queued jobs need no memory in Redis (docs/architecture.md section 3, "Publishing").

``share_by`` is what a job counts: one (jobs), its images, or their price. Counted is against the mean of what is
published at the provider, so that an account which is alone has the same window whatever its jobs cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import states
from jobs.states import Nudge

ShareBy = Literal["jobs", "images", "price"]

# Free places in the window of the account at this provider; no more rows are counted than windows have places. A job
# takes a place of the two windows of all and one of what is the own one, hence the half. A submit has the same;
# jobs/lifecycle/start.py leaves the job that it starts out.
ROOM = """room AS (
    SELECT ceil(greatest(
        w.weight - own.share,
        least(w.size - own.share, (2 * w.size - w.weight * every.share - own.share) / 2)
    ) - 0.01) AS free
    FROM (
        SELECT CAST(:weight AS int) AS weight, CAST(:window AS int) * CAST(:weight AS int) AS size
    ) AS w
    CROSS JOIN (
        SELECT coalesce(avg(share), 1) AS mean,
            CASE WHEN count(*) < 8 * CAST(:window AS int) THEN coalesce(sum(share / weight) / avg(share), 0)
                ELSE 2 * CAST(:window AS int) END AS share
        FROM (
            SELECT p.weight, job_share(:share_by, p.n, p.unit_price) AS share FROM jobs AS p
            WHERE p.provider = :provider AND p.status = 'queued' AND p.published_at IS NOT NULL
            ORDER BY p.account_id LIMIT 8 * CAST(:window AS int)
        ) AS published
    ) AS every
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(share), 0) / every.mean AS share
        FROM (
            SELECT job_share(:share_by, p.n, p.unit_price) AS share FROM jobs AS p
            WHERE p.account_id = :account_id AND p.provider = :provider AND p.status = 'queued'
                AND p.published_at IS NOT NULL
            LIMIT CAST(:window AS int) * CAST(:weight AS int)
        ) AS published
    ) AS own
)"""

FILL = Statement(f"""
WITH {ROOM},
next AS (
    SELECT id FROM jobs
    WHERE account_id = :account_id AND provider = :provider AND status = 'queued' AND published_at IS NULL
        AND due_at <= statement_timestamp()
        -- Low priority waits while a normal job of this account waits here.
        AND (NOT low_priority OR NOT EXISTS (
            SELECT 1 FROM jobs AS normal
            WHERE normal.account_id = :account_id AND normal.provider = :provider AND normal.status = 'queued'
                AND NOT normal.low_priority AND normal.due_at <= statement_timestamp()
        ))
    ORDER BY low_priority, due_at, id
    LIMIT (SELECT greatest(0, least(free, CAST(:most AS int))) FROM room)
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET published_at = clock_timestamp() FROM next WHERE jobs.id = next.id RETURNING jobs.id
""")


def fill(
    connection: Hot | Connection,
    account_id: str,
    provider: str,
    weight: int,
    *,
    window: int,
    most: int = 500,
    share_by: ShareBy = "jobs",
) -> list[Nudge]:
    """Publish up to ``most`` of an account's next due jobs at one provider, as far as its window has room."""
    rows = Hot.of(connection).all(
        FILL,
        {
            "account_id": account_id,
            "provider": provider,
            "weight": weight,
            "window": window,
            "most": most,
            "share_by": share_by,
        },
    )
    return [states.run(provider, row.id) for row in rows]


FILL_TURNS = Statement("""
WITH turn AS (
    SELECT t.account_id, t.most
    FROM unnest(CAST(:account_ids AS text[]), CAST(:most AS int[])) AS t(account_id, most)
),
next AS (
    SELECT job.id FROM turn CROSS JOIN LATERAL (
        SELECT j.id FROM jobs AS j
        WHERE j.account_id = turn.account_id AND j.provider = :provider AND j.status = 'queued'
            AND j.published_at IS NULL AND j.due_at <= statement_timestamp()
            -- Low priority waits while a normal job of this account waits here.
            AND (NOT j.low_priority OR NOT EXISTS (
                SELECT 1 FROM jobs AS normal
                WHERE normal.account_id = turn.account_id AND normal.provider = :provider
                    AND normal.status = 'queued' AND NOT normal.low_priority
                    AND normal.due_at <= statement_timestamp()
            ))
        ORDER BY j.low_priority, j.due_at, j.id
        LIMIT turn.most
        FOR UPDATE SKIP LOCKED
    ) AS job
)
UPDATE jobs SET published_at = clock_timestamp() FROM next WHERE jobs.id = next.id
RETURNING jobs.id, jobs.account_id, job_share(:share_by, jobs.n, jobs.unit_price) AS share
""")


@dataclass(frozen=True, slots=True)
class Published:
    """A job whose message is to be sent now, and what it counts in its account's share."""

    job_id: str
    account_id: str
    share: float


def fill_turns(
    connection: Hot | Connection, provider: str, turns: Mapping[str, int], *, share_by: ShareBy = "jobs"
) -> list[Published]:
    """Publish so many of each account's next due jobs at one provider, whatever their windows."""
    values = {
        "provider": provider,
        "account_ids": list(turns),
        "most": list(turns.values()),
        "share_by": share_by,
    }
    return [Published(row.id, row.account_id, row.share) for row in Hot.of(connection).all(FILL_TURNS, values)]


PAIRS = Statement("""
-- One index probe (jobs_unpublished) per pair, instead of reading a backlog of a hundred thousand rows.
WITH RECURSIVE pair AS (
    (
        SELECT account_id, provider, weight, n, unit_price, created_at FROM jobs
        WHERE status = 'queued' AND published_at IS NULL
        ORDER BY account_id, provider, low_priority, due_at LIMIT 1
    )
    UNION ALL
    SELECT n.account_id, n.provider, n.weight, n.n, n.unit_price, n.created_at
    FROM pair CROSS JOIN LATERAL (
        SELECT account_id, provider, weight, n, unit_price, created_at FROM jobs
        WHERE status = 'queued' AND published_at IS NULL
            AND (account_id, provider) > (pair.account_id, pair.provider)
        ORDER BY account_id, provider, low_priority, due_at LIMIT 1
    ) AS n
)
SELECT pair.account_id, pair.provider, pair.weight, job_share(:share_by, pair.n, pair.unit_price) AS share,
    coalesce(t.passed, 0) AS passed, coalesce(t.at < pair.created_at, true) AS entering, (
        SELECT count(*) FROM (
            SELECT 1 FROM jobs AS p
            WHERE p.account_id = pair.account_id AND p.provider = pair.provider AND p.status = 'queued'
                AND p.published_at IS NOT NULL
            LIMIT CAST(:window AS int) * pair.weight
        ) AS published
    ) AS published
FROM pair LEFT JOIN dispatch_turns AS t ON t.provider = pair.provider AND t.account_id = pair.account_id
""")


@dataclass(frozen=True, slots=True)
class Pair:
    """An account with unpublished jobs at a provider.

    ``share``: what the next of them counts. ``published``: how many of its jobs there are published, counted up to its
    window. ``passed``: the virtual time up to which it was served (``jobs/dispatch/turns.py``). ``entering``: its
    next job came after that was noted, so in between it had none that waited.
    """

    account_id: str
    provider: str
    weight: int
    share: float
    published: int
    passed: float
    entering: bool


def pairs(connection: Hot | Connection, *, window: int, share_by: ShareBy = "jobs") -> list[Pair]:
    """Return every account with unpublished jobs at a provider, by account and provider."""
    rows = Hot.of(connection).all(PAIRS, {"window": window, "share_by": share_by})
    return [
        Pair(row.account_id, row.provider, row.weight, row.share, row.published, row.passed, row.entering)
        for row in rows
    ]


UNPUBLISH_LOST = Statement("""
WITH lost AS (
    SELECT id FROM jobs
    WHERE status = 'queued' AND published_at IS NOT NULL
        AND published_at < statement_timestamp() - make_interval(secs => CAST(:age_s AS float))
        -- The wait doubles each time a message is sent again, so that a queue that no worker reads does not fill up.
        AND published_at < statement_timestamp()
            - make_interval(secs => CAST(:first_s AS float) * power(2, least(lost_messages, 8)))
    ORDER BY published_at LIMIT CAST(:limit AS int)
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET published_at = NULL, lost_messages = least(jobs.lost_messages + 1, 100)
FROM lost WHERE jobs.id = lost.id
""")


def mark_lost_unpublished(
    connection: Hot | Connection, *, older_than_s: float, first_s: float = 0.0, limit: int = 500
) -> int:
    """Mark jobs as unpublished whose message is overdue and probably lost. Returns how many.

    A message is overdue after ``older_than_s``. If it was sent again before, the wait doubles each time, starting at
    ``first_s``, so that a queue that no worker reads does not grow without end.
    """
    return Hot.of(connection).run(UNPUBLISH_LOST, {"age_s": older_than_s, "first_s": first_s, "limit": limit})


MARK_UNPUBLISHED = Statement("""
UPDATE jobs SET published_at = NULL WHERE id = ANY(CAST(:ids AS text[])) AND status = 'queued'
""")


def mark_unpublished(connection: Hot | Connection, job_ids: Sequence[str]) -> None:
    """Mark jobs as unpublished, because their messages could not be sent or were handed back."""
    Hot.of(connection).run(MARK_UNPUBLISHED, {"ids": list(job_ids)})
