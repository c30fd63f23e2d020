"""Which queued jobs have a message in Redis (``Job.published_at``): fills windows and finds lost messages.

Verbs of ``jobs/lifecycle`` also write ``published_at``: submit and fail_over publish the job, start publishes the
account's next jobs, retry and defer clear it. ``refill.probes`` publishes the probe of a half-open circuit.

Every account may have ``window x weight`` jobs per provider published and not yet claimed; claiming one publishes
the next. So 10,000 jobs of one account delay one job of another by one window at most, and a million queued jobs
need no memory in Redis (docs/architecture.md section 3, "Publishing").
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import states
from jobs.states import Nudge

FILL = Statement("""
-- Free places in the account's window at this provider; no more rows are counted than the window has places.
WITH room AS (
    SELECT CAST(:window AS int) * CAST(:weight AS int) - count(*) AS free
    FROM (
        SELECT 1 FROM jobs
        WHERE account_id = :account_id AND provider = :provider AND status = 'queued' AND published_at IS NOT NULL
        LIMIT CAST(:window AS int) * CAST(:weight AS int)
    ) AS published
),
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
    connection: Hot | Connection, account_id: str, provider: str, weight: int, *, window: int, most: int = 500
) -> list[Nudge]:
    """Publish up to ``most`` of an account's next due jobs at one provider, as far as its window has room."""
    rows = Hot.of(connection).all(
        FILL,
        {"account_id": account_id, "provider": provider, "weight": weight, "window": window, "most": most},
    )
    return [states.run(provider, row.id) for row in rows]


PAIRS = Statement("""
-- One index probe (jobs_unpublished) per pair, instead of reading a backlog of a hundred thousand rows.
WITH RECURSIVE pair AS (
    (
        SELECT account_id, provider, weight FROM jobs WHERE status = 'queued' AND published_at IS NULL
        ORDER BY account_id, provider LIMIT 1
    )
    UNION ALL
    SELECT n.account_id, n.provider, n.weight
    FROM pair CROSS JOIN LATERAL (
        SELECT account_id, provider, weight FROM jobs
        WHERE status = 'queued' AND published_at IS NULL
            AND (account_id, provider) > (pair.account_id, pair.provider)
        ORDER BY account_id, provider LIMIT 1
    ) AS n
)
SELECT account_id, provider, weight FROM pair
""")


def pairs(connection: Hot | Connection) -> list[tuple[str, str, int]]:
    """Return (account, provider, weight) for every account with unpublished jobs at a provider."""
    return [(row.account_id, row.provider, row.weight) for row in Hot.of(connection).all(PAIRS, {})]


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
