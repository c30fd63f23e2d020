"""Which queued jobs have a message on Redis: the only writer of ``Job.published_at`` after submit.

Every account may have ``window x weight`` jobs per provider published and not yet claimed; claiming
one publishes its next. So one caller's 10,000 jobs delay another's one job by a window, and a
million queued jobs cost Redis nothing (DESIGN section 3, "Publishing").
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from jobs import states
from jobs.states import Nudge

# How much room an account's window has; counts no further than the window itself.
ROOM = (
    "SELECT CAST(:window AS int) * :weight - count(*) AS free FROM (SELECT 1 FROM jobs"
    " WHERE account_id = :account_id AND provider = :provider AND status = 'queued' AND published_at IS NOT NULL"
    " LIMIT CAST(:window AS int) * :weight) AS published"
)

_FILL = text(
    "WITH room AS (" + ROOM + "), next AS (SELECT id FROM jobs WHERE account_id = :account_id"
    " AND provider = :provider AND status = 'queued' AND published_at IS NULL AND due_at <= statement_timestamp()"
    # Low priority waits until no normal job of this account waits here.
    " AND (NOT low_priority OR NOT EXISTS (SELECT 1 FROM jobs AS normal WHERE normal.account_id = :account_id"
    " AND normal.provider = :provider AND normal.status = 'queued' AND NOT normal.low_priority"
    " AND normal.due_at <= statement_timestamp()))"
    " ORDER BY low_priority, due_at, id LIMIT (SELECT greatest(0, least(free, :most)) FROM room)"
    " FOR UPDATE SKIP LOCKED)"
    " UPDATE jobs SET published_at = clock_timestamp() FROM next WHERE jobs.id = next.id RETURNING jobs.id"
)

# Each (account, provider) with something due to publish, by hopping along the index
# instead of reading a backlog of a hundred thousand rows.
_PAIRS = text(
    "WITH RECURSIVE pair AS ("
    " (SELECT account_id, provider, weight FROM jobs WHERE status = 'queued' AND published_at IS NULL"
    " ORDER BY account_id, provider LIMIT 1)"
    " UNION ALL SELECT n.account_id, n.provider, n.weight FROM pair, LATERAL (SELECT account_id, provider, weight"
    " FROM jobs WHERE status = 'queued' AND published_at IS NULL"
    " AND (account_id, provider) > (pair.account_id, pair.provider) ORDER BY account_id, provider LIMIT 1) AS n)"
    " SELECT account_id, provider, weight FROM pair"
)


def fill(
    connection: Connection, account_id: str, provider: str, weight: int, *, window: int, most: int = 500
) -> list[Nudge]:
    """Publish an account's next due jobs at one provider, as far as its window has room."""
    rows = connection.execute(
        _FILL,
        {"account_id": account_id, "provider": provider, "weight": weight, "window": window, "most": most},
    )
    return [states.run(provider, row.id) for row in rows]


def pairs(connection: Connection) -> list[tuple[str, str, int]]:
    """(account, provider, weight) of everyone with unpublished jobs."""
    return [(row.account_id, row.provider, row.weight) for row in connection.execute(_PAIRS)]


def forget_lost(connection: Connection, *, older_than_s: float, limit: int = 500) -> int:
    """Count jobs as unpublished whose message is overdue: it was lost, or will find nothing to do."""
    done = connection.execute(
        text(
            "WITH lost AS (SELECT id FROM jobs WHERE status = 'queued' AND published_at IS NOT NULL"
            " AND published_at < statement_timestamp() - make_interval(secs => :age_s)"
            " ORDER BY published_at LIMIT :limit FOR UPDATE SKIP LOCKED)"
            " UPDATE jobs SET published_at = NULL FROM lost WHERE jobs.id = lost.id"
        ),
        {"age_s": older_than_s, "limit": limit},
    )
    return done.rowcount


def forget(connection: Connection, job_ids: list[str]) -> None:
    """Count these as unpublished: their messages could not be sent, or were handed back."""
    connection.execute(
        text("UPDATE jobs SET published_at = NULL WHERE id = ANY(:ids) AND status = 'queued'"),
        {"ids": job_ids},
    )
