"""Moves between live states: the claim of a retry, back to the queue, and away from a lost worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import counts, failures, states
from jobs.errors import StaleJobError
from jobs.states import Ended, Money, Nudge, Signal
from quota import ledger

CLAIM = Statement("""
WITH seen AS (
    SELECT id, money, started_at FROM jobs
    WHERE id = :id AND status = 'queued' AND due_at <= clock_timestamp()
        AND (attempt > 0 OR start_deadline_at > clock_timestamp())
        AND safe_prompt IS DISTINCT FROM 'adjusting'
    FOR UPDATE
),
job AS (
    UPDATE jobs
    SET status = 'running', version = jobs.version + 1, fence = jobs.fence + 1, owner = :owner, node = :node,
        money = 'held', started_at = coalesce(jobs.started_at, clock_timestamp()),
        step_deadline_at = clock_timestamp()
            + make_interval(secs => coalesce(CAST(CAST(:step_s AS jsonb) ->> jobs.provider AS float), 120)),
        deadline_at = clock_timestamp()
            + make_interval(secs => coalesce(CAST(CAST(:deadline_s AS jsonb) ->> jobs.provider AS float), 3600))
    FROM seen WHERE jobs.id = seen.id
    RETURNING jobs.id, jobs.account_id, jobs.provider, jobs.weight, jobs.version, jobs.fence, jobs.quoted, jobs.attempt,
        jobs.own_key, seen.money AS money_before, seen.started_at IS NULL AS first
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'started', jsonb_strip_nulls(jsonb_build_object('worker', CAST(:owner AS text), 'attempt', attempt,
        'provider', provider, 'held_microcredits', CASE WHEN money_before = 'queued' THEN quoted END))
    FROM job
),
told AS (
    INSERT INTO webhook_messages (account_id, job_id, event, endpoint_id, target, form)
    SELECT job.account_id, job.id, 'image.task.started', receiver.endpoint_id, receiver.target, receiver.form
    FROM job CROSS JOIN LATERAL (
        -- The account's endpoints and the order's own URL; without any, this is two looks into an index.
        SELECT e.id AS endpoint_id, e.id AS target, 'standard' AS form, e.events
        FROM webhook_endpoints AS e WHERE e.account_id = job.account_id AND e.disabled_at IS NULL
        UNION ALL
        SELECT NULL, o.webhook ->> 'target', o.webhook ->> 'form', o.webhook -> 'events'
        FROM orders AS o WHERE o.job_id = job.id AND o.webhook IS NOT NULL
    ) AS receiver
    WHERE job.first AND receiver.events @> '"image.task.started"'
)
SELECT id, account_id, provider, weight, version, fence, quoted, attempt, own_key, money_before FROM job
""")


def claim(
    connection: Connection,
    job_id: str,
    *,
    owner: str,
    step_s: Mapping[str, float],
    node: str = "",
    deadline_s: Mapping[str, float] | None = None,
) -> Any:
    """QUEUED -> RUNNING under a new fence; :func:`hold` holds the credits in the same transaction.

    ``step_s``: how long one step may take, in seconds by provider; after that the job counts as lost even if its
    owner is alive. ``deadline_s``: after how many seconds, by provider, the job must have moved on. Returns the job's
    row with ``money_before``. Raises StaleJobError when the job is not queued, not due, or past its start deadline.
    """
    row = Hot.of(connection).one_or_none(
        CLAIM,
        {
            "id": job_id,
            "owner": owner,
            "node": node,
            "step_s": json.dumps(dict(step_s)),
            "deadline_s": json.dumps(dict(deadline_s or {})),
        },
    )
    if row is None:
        raise StaleJobError(f"{job_id} cannot be claimed")
    return row


def hold(connection: Connection, job: Any) -> None:
    """Hold the credits of a claimed job, once in its life; for a retry they are held already."""
    if job.money_before == Money.QUEUED:
        ledger.hold(connection, job.account_id, job.id, job.quoted)


DEFER = Statement("""
UPDATE jobs
SET published_at = NULL, lost_messages = 0,
    due_at = clock_timestamp() + make_interval(secs => CAST(:after_s AS float) + CAST(:spread_s AS float) * random())
WHERE id = :id AND status = 'queued'
""")


def defer(connection: Hot | Connection, job_id: str, *, after_s: float, spread_s: float = 0.0) -> None:
    """Put off the start of a QUEUED job by ``after_s`` seconds plus up to ``spread_s`` at random."""
    Hot.of(connection).run(DEFER, {"id": job_id, "after_s": after_s, "spread_s": spread_s})


DUE_NOW = Statement("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id AND status = 'waiting'")


def due_now(connection: Connection, job_id: str) -> None:
    """Make a WAITING job due now, because there is news that its next status check should use."""
    Hot.of(connection).run(DUE_NOW, {"id": job_id})


RETRY = Statement("""
WITH job AS (
    UPDATE jobs
    SET status = 'queued', version = version + 1, owner = NULL, step_deadline_at = NULL, published_at = NULL,
        lost_messages = 0, progress = NULL,
        due_at = clock_timestamp() + make_interval(secs => CAST(:after_s AS float)),
        deadline_at = clock_timestamp() + make_interval(secs => CAST(:after_s AS float) + CAST(:deadline_s AS float))
    WHERE id = :id AND version = :version AND status IN ('running', 'waiting') AND cancel_requested_at IS NULL
    RETURNING id, attempt, provider, node,
        CAST(extract(epoch FROM clock_timestamp() - started_at) AS float) AS runtime_s
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'retry', jsonb_build_object('code', CAST(:code AS text), 'after_s', round(CAST(:after_s AS numeric), 1),
        'attempt', attempt, 'provider', provider)
    FROM job
)
SELECT provider, node, runtime_s FROM job
""")


def retry(
    connection: Connection, job_id: str, version: int, *, code: str, after_s: float, deadline_s: float
) -> list[Signal]:
    """RUNNING or WAITING -> QUEUED, to be claimed again after ``after_s`` and within ``deadline_s`` seconds after that.

    The hold stays. Returns the signals to publish. Raises StaleJobError.
    """
    row = Hot.of(connection).one_or_none(
        RETRY, {"id": job_id, "version": version, "code": code, "after_s": after_s, "deadline_s": deadline_s}
    )
    if row is None:
        raise StaleJobError(f"{job_id} cannot be tried again")
    counts.MOVED_BACK.of(row.provider, "retry", code).inc()
    return [Ended(job_id, "retried", code, row.runtime_s, row.node)]


FAIL_OVER = Statement("""
WITH seen AS (
    SELECT j.id, j.model AS model_before, o.fallbacks -> CAST(-j.fallbacks AS int) AS next
    FROM jobs AS j JOIN orders AS o ON o.job_id = j.id
    WHERE j.id = :id AND (CAST(:version AS int) IS NULL OR j.version = :version)
        AND j.status IN ('queued', 'running', 'waiting') AND j.cancel_requested_at IS NULL AND j.fallbacks > 0
    FOR UPDATE OF j
),
job AS (
    UPDATE jobs
    SET status = 'queued', version = jobs.version + 1, owner = NULL, step_deadline_at = NULL, lost_messages = 0,
        progress = NULL, model = seen.next ->> 'model', provider = seen.next ->> 'provider',
        unit_price = CAST(seen.next ->> 'unit_price' AS bigint),
        per_call = coalesce(CAST(seen.next ->> 'per_call' AS smallint), 1), fallbacks = jobs.fallbacks - 1,
        own_key = coalesce(CAST(seen.next ->> 'own_key' AS boolean), false),
        notes = coalesce(jobs.notes, '[]') || jsonb_build_array(seen.model_before || ': ' || CAST(:why AS text) || '; '
            || (seen.next ->> 'model') || ' was asked instead'),
        due_at = clock_timestamp(), published_at = clock_timestamp(),
        deadline_at = greatest(jobs.deadline_at, clock_timestamp() + make_interval(
            secs => coalesce(CAST(CAST(:deadline_s AS jsonb) ->> (seen.next ->> 'provider') AS float), 0)))
    FROM seen WHERE jobs.id = seen.id
    RETURNING jobs.id, jobs.provider, jobs.attempt, jobs.node,
        CAST(extract(epoch FROM clock_timestamp() - jobs.started_at) AS float) AS runtime_s
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'failover', jsonb_build_object('code', CAST(:code AS text), 'attempt', attempt, 'provider', provider)
    FROM job
)
SELECT provider, node, runtime_s FROM job
""")


def fail_over(
    connection: Connection,
    job_id: str,
    version: int | None,
    *,
    code: str,
    deadline_s: Mapping[str, float] | None = None,
) -> list[Signal]:
    """Any live state -> QUEUED for the next model of the order; the price stays reserved or held.

    Images that earlier models made are kept, at those models' prices. Returns the signals to publish. Raises
    StaleJobError, also when no model is left.
    """
    row = Hot.of(connection).one_or_none(
        FAIL_OVER,
        {
            "id": job_id,
            "version": version,
            "code": code,
            "why": failures.sentence(code),
            "deadline_s": json.dumps(dict(deadline_s or {})),
        },
    )
    if row is None:
        raise StaleJobError(f"{job_id} has no other model to go to")
    counts.MOVED_BACK.of(row.provider, "failover", code).inc()
    retried: list[Signal] = [Ended(job_id, "retried", code, row.runtime_s, row.node)] if row.node else []
    return [*retried, states.run(row.provider, job_id)]


LAPSE = Statement("""
WITH job AS (
    UPDATE jobs
    -- The new fence keeps a worker that wakes up later from changing the job.
    SET status = 'waiting', version = version + 1, fence = fence + 1, owner = NULL, step_deadline_at = NULL,
        due_at = clock_timestamp()
    WHERE id = :id AND fence = :fence AND status = 'running'
    RETURNING id, provider, attempt
),
call AS (
    -- A call without an answer may have run.
    UPDATE upstream_calls AS c
    SET outcome = 'uncertain', give_up_at = least(c.give_up_at, clock_timestamp()
        + make_interval(secs => coalesce(CAST(CAST(:give_up_s AS jsonb) ->> job.provider AS float), 1e6)))
    FROM job WHERE c.job_id = job.id AND c.outcome IS NULL
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'lapsed', jsonb_build_object('code', CAST(:code AS text), 'attempt', attempt, 'provider', provider)
    FROM job
)
SELECT provider FROM job
""")


def lapse(connection: Connection, job_id: str, fence: int, *, code: str, give_up_s: Mapping[str, float]) -> list[Nudge]:
    """RUNNING -> WAITING, due now, because its owner is dead or its step is overdue or has crashed.

    Calls without an answer become uncertain; a poll then checks all calls and decides how the job goes on.
    ``give_up_s``: for providers whose calls cannot be recovered, how many seconds a late answer is waited for.
    Returns the poll to publish. Raises StaleJobError.
    """
    row = Hot.of(connection).one_or_none(
        LAPSE, {"id": job_id, "fence": fence, "code": code, "give_up_s": json.dumps(dict(give_up_s))}
    )
    if row is None:
        raise StaleJobError(f"{job_id} is in other hands")
    counts.MOVED_BACK.of(row.provider, "lapse", code).inc()
    return [states.poll(row.provider)]
