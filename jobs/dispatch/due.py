"""Taking jobs in progress that are due for a status check: in batches, the accounts in turns.

Taking changes only ``due_at`` and no fence, because checking twice is harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs.reads.worker import LiveJob, live_job

TAKE_DUE = Statement("""
-- Accounts with images in progress, in circular order from a given account on, by one index probe each
-- (jobs_waiting_turns); the first row of each account is the job due first.
WITH RECURSIVE turn AS (
    (
        SELECT account_id, due_at, 1 AS hop FROM jobs
        WHERE provider = :provider AND status = 'waiting' AND account_id > :after
        ORDER BY account_id, due_at LIMIT 1
    )
    UNION ALL
    SELECT n.account_id, n.due_at, turn.hop + 1
    FROM turn CROSS JOIN LATERAL (
        SELECT account_id, due_at FROM jobs
        WHERE provider = :provider AND status = 'waiting' AND account_id > turn.account_id
        ORDER BY account_id, due_at LIMIT 1
    ) AS n
    WHERE turn.hop < CAST(:accounts AS int)
),
waits AS (
    SELECT account_id, count(*) OVER () AS accounts FROM turn WHERE due_at <= statement_timestamp()
),
candidate AS (
    SELECT own.id, own.due_at, own.turn FROM waits CROSS JOIN LATERAL (
        SELECT id, due_at, row_number() OVER (ORDER BY due_at) AS turn FROM (
            SELECT id, due_at FROM jobs
            WHERE provider = :provider AND status = 'waiting' AND account_id = waits.account_id
                AND due_at <= statement_timestamp()
            ORDER BY due_at LIMIT 1 + 2 * CAST(:limit AS int) / waits.accounts
        ) AS first
    ) AS own
    UNION ALL
    -- The rest of the batch goes to the jobs due for longest, of any account.
    SELECT id, due_at, CAST(:limit AS int) + 1 FROM (
        SELECT id, due_at FROM jobs
        WHERE provider = :provider AND status = 'waiting' AND due_at <= statement_timestamp()
        ORDER BY due_at LIMIT 2 * CAST(:limit AS int)
    ) AS oldest
),
-- Twice as many as wanted, because another worker may be taking the same jobs.
chosen AS (
    SELECT id, row_number() OVER (ORDER BY min(turn), min(due_at)) AS place FROM candidate GROUP BY id
    ORDER BY place LIMIT 2 * CAST(:limit AS int)
),
due AS (
    SELECT w.id FROM jobs AS w JOIN chosen ON chosen.id = w.id
    WHERE w.status = 'waiting' AND w.due_at <= statement_timestamp()
    ORDER BY chosen.place LIMIT CAST(:limit AS int)
    FOR UPDATE OF w SKIP LOCKED
),
taken AS (
    UPDATE jobs
    SET due_at = clock_timestamp() + make_interval(secs => greatest(CAST(:interval_s AS float),
        least(CAST(:interval_max_s AS float), extract(epoch FROM clock_timestamp() - jobs.started_at) / 8)))
    FROM due WHERE jobs.id = due.id
    RETURNING jobs.id, jobs.account_id, jobs.operation, jobs.model, jobs.provider, jobs.n, jobs.status, jobs.fence,
        jobs.version, jobs.fallbacks, jobs.cancel_requested_at, jobs.safe_prompt, jobs.prompt_adjusted_at
)
SELECT j.id, j.account_id, j.operation, j.model, j.provider, j.n, j.status, j.fence, j.version,
    j.fallbacks, j.cancel_requested_at IS NOT NULL AS cancel_requested, j.safe_prompt, j.prompt_adjusted_at,
    clock_timestamp() AS now,
    (SELECT ARRAY[o.request_id, o.traceparent] FROM orders AS o WHERE o.job_id = j.id) AS origin,
    (SELECT max(account_id) FROM turn) AS last_account, (SELECT count(*) FROM turn) AS accounts,
    coalesce((
        SELECT jsonb_agg(jsonb_build_object('id', c.id, 'slot', c.slot, 'try', c.try, 'pictures', c.pictures,
            'outcome', c.outcome, 'pictures_kept', c.pictures_kept, 'error_code', c.error_code,
            'retryable', c.retryable, 'retry_after_s', c.retry_after_s, 'model', c.model,
            'credential_id', c.credential_id, 'dedupe_key', c.dedupe_key, 'upstream_id', c.upstream_id,
            'poll_url', c.poll_url, 'give_up_at', c.give_up_at, 'intended_at', c.intended_at,
            'charged', c.written_off,
            'cancel_asked', c.cancel_asked_at IS NOT NULL, 'missing', c.missing_since IS NOT NULL,
            'result', c.result) ORDER BY c.slot, c.try)
        FROM upstream_calls AS c WHERE c.job_id = j.id), '[]') AS calls
FROM taken AS j
""")

# How many accounts one batch considers; the next batch continues after them.
ACCOUNTS_AT_ONCE = 100


@dataclass(slots=True)
class Turns:
    """At which account of a provider the next batch of this worker begins."""

    after: dict[str, str] = field(default_factory=dict)


def take_due(
    connection: Hot | Connection,
    provider: str,
    *,
    limit: int,
    interval_s: float,
    interval_max_s: float,
    turns: Turns | None = None,
) -> list[LiveJob]:
    """Take at most ``limit`` WAITING jobs that are due, the accounts in turns, and set their next status check.

    The interval until then grows with the age of the job, from ``interval_s`` to ``interval_max_s`` seconds.
    """
    turns = turns or Turns()
    rows = Hot.of(connection).all(
        TAKE_DUE,
        {
            "provider": provider,
            "limit": limit,
            "interval_s": interval_s,
            "interval_max_s": interval_max_s,
            "after": turns.after.get(provider, ""),
            "accounts": ACCOUNTS_AT_ONCE,
        },
    )
    full = bool(rows) and rows[0].accounts >= ACCOUNTS_AT_ONCE
    turns.after[provider] = rows[0].last_account if full else ""
    return [live_job(row) for row in rows]


LEASE = Statement("""
UPDATE jobs SET due_at = clock_timestamp() + make_interval(secs => CAST(:lease_s AS float))
WHERE id = ANY(CAST(:ids AS text[])) AND status = 'waiting' AND cancel_requested_at IS NULL
""")


def lease(hot: Hot, job_ids: Sequence[str], *, lease_s: float) -> None:
    """Keep other workers from checking these jobs for ``lease_s`` seconds while their images are fetched here."""
    hot.run(LEASE, {"ids": list(job_ids), "lease_s": lease_s})


PROVIDERS_DUE = Statement("""
SELECT p AS name FROM unnest(CAST(:providers AS text[])) AS p
WHERE EXISTS (
    SELECT 1 FROM jobs WHERE provider = p AND status = 'waiting' AND due_at <= statement_timestamp()
)
""")


def providers_due(connection: Hot | Connection, providers: Sequence[str]) -> list[str]:
    """Return those of the providers that have a WAITING job that is due."""
    return [row.name for row in Hot.of(connection).all(PROVIDERS_DUE, {"providers": list(providers)})]
