"""QUEUED -> RUNNING on the first attempt: claimed, its calls written down, its credits held, in one statement.

Only where nothing limits the provider. A retry, a credential with limits, a paused provider or an open
circuit takes the longer way (``claim``, ``calls.intend``, ``hold``), in a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.db import Hot, Statement


@dataclass(frozen=True, slots=True)
class Started:
    """A job in our hands: its calls are on record and nothing is sent yet.

    ``calls``: (id, slot, images) of each. ``published``: the account's next jobs, to be sent now.
    """

    id: str
    account_id: str
    operation: str
    model: str
    provider: str
    n: int
    fence: int
    version: int
    unit_price: int
    fallbacks: int
    credential_id: str
    calls: Sequence[tuple[str, int, int]]
    intended_at: datetime
    request: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    published: Sequence[str]


START = Statement("""
WITH seen AS (
    SELECT id, account_id, provider, n, per_call, CAST(:providers AS jsonb) -> provider AS worker
    FROM jobs
    WHERE id = :id AND status = 'queued' AND attempt = 0 AND due_at <= clock_timestamp()
        AND start_deadline_at > clock_timestamp()
    FOR UPDATE
),
-- A credential that this worker can use and that nothing limits; its row is read, not locked.
credential AS (
    SELECT c.id, seen.worker -> 'credentials' ->> c.id AS base_url
    FROM seen JOIN credentials AS c ON c.provider = seen.provider AND seen.worker -> 'credentials' ->> c.id IS NOT NULL
    WHERE c.max_active IS NULL AND c.max_per_minute IS NULL AND c.paused_at IS NULL
        AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
        AND NOT EXISTS (
            SELECT 1 FROM providers AS p
            WHERE p.name = c.provider AND (p.paused_at IS NOT NULL OR p.open_until IS NOT NULL)
        )
    ORDER BY random() LIMIT 1
),
job AS (
    UPDATE jobs
    SET status = 'running', version = jobs.version + 1, fence = jobs.fence + 1, owner = :owner, node = :node,
        attempt = (seen.n + seen.per_call - 1) / seen.per_call, money = 'held',
        step_deadline_at = clock_timestamp() + make_interval(secs => CAST(seen.worker ->> 'step_s' AS float)),
        deadline_at = clock_timestamp()
            + make_interval(secs => CAST(seen.worker ->> 'deadline_s' AS float) + CAST(:backoff_s AS float)),
        started_at = coalesce(jobs.started_at, clock_timestamp())
    FROM seen, credential
    WHERE jobs.id = seen.id
    RETURNING jobs.id, jobs.account_id, jobs.operation, jobs.model, jobs.provider, jobs.n, jobs.fence, jobs.version,
        jobs.unit_price, jobs.fallbacks, jobs.quoted, jobs.attempt, jobs.weight, jobs.published_at,
        credential.id AS credential_id, credential.base_url, seen.per_call,
        CAST(seen.worker ->> 'deadline_s' AS float) AS deadline_s
),
asked AS (
    SELECT o.job_id, coalesce(behind.request, o.request) AS request,
        coalesce(behind.unit_cost, o.unit_cost) AS unit_cost
    FROM job JOIN orders AS o ON o.job_id = job.id
    -- After a failover the order of another model counts.
    LEFT JOIN LATERAL (
        SELECT f -> 'request' AS request, CAST(f ->> 'unit_cost' AS bigint) AS unit_cost
        FROM jsonb_array_elements(o.fallbacks) AS f WHERE f ->> 'model' = job.model
    ) AS behind ON true
),
call AS (
    INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url,
        dedupe_key, give_up_at, unit_price, expected_cost)
    SELECT made.id, job.id, made.slot, 1, made.images, job.provider, job.model, job.credential_id, job.base_url,
        'dr-' || lower(substr(made.id, 6)), clock_timestamp() + make_interval(secs => job.deadline_s), job.unit_price,
        asked.unit_cost * made.images
    FROM job JOIN asked ON asked.job_id = job.id CROSS JOIN LATERAL (
        SELECT left(CAST(:call_id AS text), -1) || (k - 1) AS id, (k - 1) * job.per_call AS slot,
            least(job.per_call, job.n - (k - 1) * job.per_call) AS images
        FROM generate_series(1, job.attempt) AS k
    ) AS made
    RETURNING id, slot, pictures, intended_at
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'started', jsonb_build_object('worker', CAST(:owner AS text), 'attempt', 0, 'provider', provider,
        'held_microcredits', quoted)
    FROM job
),
held AS (
    -- Where the price is not reserved there is no account, and the whole statement is undone.
    INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
    SELECT CASE WHEN job.quoted = 0 THEN job.account_id ELSE (
            SELECT b.account_id FROM balances AS b WHERE b.account_id = job.account_id AND b.reserved >= job.quoted
        ) END, job.id, 'hold', 'acct:available', 'acct:held', job.quoted
    FROM job
),
-- The account's next jobs take the place of this one, which still counts as published here.
room AS (
    SELECT CAST(:window AS int) * job.weight + CASE WHEN job.published_at IS NULL THEN 0 ELSE 1 END - (
        SELECT count(*)
        FROM (
            SELECT 1 FROM jobs AS p
            WHERE p.account_id = job.account_id AND p.provider = job.provider AND p.status = 'queued'
                AND p.published_at IS NOT NULL
            LIMIT CAST(:window AS int) * job.weight + 1
        ) AS published
    ) AS free
    FROM job
),
next AS (
    SELECT q.id FROM jobs AS q
    WHERE q.account_id = (SELECT account_id FROM job) AND q.provider = (SELECT provider FROM job)
        AND q.status = 'queued' AND q.published_at IS NULL AND q.due_at <= statement_timestamp()
        -- Low priority waits until no normal job of this account waits here.
        AND (NOT q.low_priority OR NOT EXISTS (
            SELECT 1 FROM jobs AS normal
            WHERE normal.account_id = (SELECT account_id FROM job) AND normal.provider = (SELECT provider FROM job)
                AND normal.status = 'queued' AND NOT normal.low_priority AND normal.due_at <= statement_timestamp()
                AND normal.id <> :id
        ))
    ORDER BY q.low_priority, q.due_at, q.id
    LIMIT (SELECT greatest(0, least(free, CAST(:most AS int))) FROM room)
    FOR UPDATE SKIP LOCKED
),
published AS (
    UPDATE jobs SET published_at = clock_timestamp() FROM next WHERE jobs.id = next.id RETURNING jobs.id
)
SELECT job.id, job.account_id, job.operation, job.model, job.provider, job.n, job.fence, job.version, job.unit_price,
    job.fallbacks, job.credential_id, asked.request,
    (SELECT array_agg(id ORDER BY slot) FROM call) AS call_ids,
    (SELECT array_agg(slot ORDER BY slot) FROM call) AS slots,
    (SELECT array_agg(pictures ORDER BY slot) FROM call) AS images,
    (SELECT min(intended_at) FROM call) AS intended_at,
    (SELECT jsonb_agg(jsonb_build_object('role', i.role, 'position', i.position, 'key', i.key, 'mime', i.mime,
        'width_px', i.width_px, 'height_px', i.height_px) ORDER BY i.role, i.position)
        FROM inputs AS i WHERE i.job_id = seen.id) AS inputs,
    (SELECT array_agg(id) FROM published) AS published
FROM seen LEFT JOIN job ON job.id = seen.id LEFT JOIN asked ON asked.job_id = job.id
""")


def start(
    hot: Hot,
    job_id: str,
    *,
    owner: str,
    node: str,
    providers: str,
    call_id: str,
    backoff_s: float,
    window: int,
    most: int,
) -> Started | None:
    """QUEUED -> RUNNING, with everything written that must be before a paid call leaves.

    ``providers``: what this worker can use, as JSON: by name {step_s, deadline_s, credentials: {id: base
    URL}}. ``call_id``: a fresh id; the calls, ten at most, differ in its last digit. ``backoff_s``: how much
    later than its call's deadline the job must have moved on. ``window`` and ``most``: how far the account's
    next jobs are published.
    None: the longer way has to be taken, which also says whether there is anything to start.
    """
    row = hot.one_or_none(
        START,
        {
            "id": job_id,
            "owner": owner,
            "node": node,
            "providers": providers,
            "call_id": call_id,
            "backoff_s": backoff_s,
            "window": window,
            "most": most,
        },
    )
    if row is None or row.id is None:
        return None
    return Started(
        id=row.id,
        account_id=row.account_id,
        operation=row.operation,
        model=row.model,
        provider=row.provider,
        n=row.n,
        fence=row.fence,
        version=row.version,
        unit_price=row.unit_price,
        fallbacks=row.fallbacks,
        credential_id=row.credential_id,
        calls=list(zip(row.call_ids, row.slots, row.images, strict=True)),
        intended_at=row.intended_at,
        request=row.request,
        inputs=row.inputs or (),
        published=row.published or (),
    )
