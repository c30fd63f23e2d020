"""Which queued jobs have a message on Redis (``Job.published_at``): fills windows, and forgets lost messages.

Verbs of ``jobs/lifecycle`` write it in their own statements, too: submit and fail_over publish the job, start
the account's next ones; retry and defer clear it. ``refill.probes`` publishes the probe of a half-open circuit.

Every account may have ``window x weight`` jobs per provider published and not yet claimed; claiming
one publishes its next. So one caller's 10,000 jobs delay another's one job by a window, and a
million queued jobs cost Redis nothing (docs/architecture.md section 3, "Publishing").
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import states
from jobs.states import Nudge

FILL = Statement("""
-- What is left of the account's window at this provider, counted no further than it is wide.
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
        -- Low priority waits until no normal job of this account waits here.
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
    """Publish an account's next due jobs at one provider, as far as its window has room."""
    rows = Hot.of(connection).all(
        FILL,
        {"account_id": account_id, "provider": provider, "weight": weight, "window": window, "most": most},
    )
    return [states.run(provider, row.id) for row in rows]


PAIRS = Statement("""
-- By hopping along jobs_unpublished instead of reading a backlog of a hundred thousand rows.
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
    """(account, provider, weight) of everyone with unpublished jobs."""
    return [(row.account_id, row.provider, row.weight) for row in Hot.of(connection).all(PAIRS, {})]


FORGET_LOST = Statement("""
WITH lost AS (
    SELECT id FROM jobs
    WHERE status = 'queued' AND published_at IS NOT NULL
        AND published_at < statement_timestamp() - make_interval(secs => CAST(:age_s AS float))
        -- Sent again once, it has twice as long, and so on: what no one reads must not fill the queue.
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
    """Count jobs as unpublished whose message is overdue: it was lost, or will find nothing to do.

    A job whose message has been sent again before waits longer each time: ``first_s``, twice that, and so
    on, so that a queue that no one reads does not grow without end.
    """
    return Hot.of(connection).run(FORGET_LOST, {"age_s": older_than_s, "first_s": first_s, "limit": limit})


MARK_UNPUBLISHED = Statement("""
UPDATE jobs SET published_at = NULL WHERE id = ANY(CAST(:ids AS text[])) AND status = 'queued'
""")


def mark_unpublished(connection: Hot | Connection, job_ids: Sequence[str]) -> None:
    """Count these as unpublished: their messages could not be sent, or were handed back."""
    Hot.of(connection).run(MARK_UNPUBLISHED, {"ids": list(job_ids)})
