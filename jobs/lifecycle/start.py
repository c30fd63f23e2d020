"""QUEUED -> RUNNING on the first attempt: one statement claims the job, records its calls and holds its credits.

A retry runs ``claim``, ``calls.intend`` and ``hold`` in a transaction instead, because which calls it makes depends
on the earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.db import Hot, Statement
from jobs import counts
from jobs.call import planned
from jobs.dispatch.publishing import ShareBy
from jobs.reads.worker import LiveJob, OrderParts
from jobs.states import JobStatus, SafePrompt


@dataclass(frozen=True, slots=True)
class Started:
    """A claimed job: its calls are recorded and nothing is sent yet.

    ``published``: the ids of the account's next jobs, whose messages are to be sent now.
    """

    job: LiveJob
    parts: OrderParts
    published: Sequence[str]


@dataclass(frozen=True, slots=True)
class Full:
    """The job can start, but no credential of its provider has a permit now. Nothing has changed.

    ``own``: the credential of its account's own key, by which alone it goes; empty: that key is gone. None: it goes by
    the operator's.
    """

    provider: str
    own: str | None = None


START = Statement("""
WITH seen AS (
    SELECT j.id, j.account_id, j.provider, j.n, j.per_call, w.facts AS worker,
        (j.n + j.per_call - 1) / j.per_call AS wanted, (w.facts ->> 'choice')::boolean AS choice,
        CASE WHEN j.own_key THEN coalesce((
            SELECT k.credential_id FROM own_keys AS k
            WHERE k.account_id = j.account_id AND k.provider = j.provider AND k.deleted_at IS NULL
        ), '') END AS own
    FROM jobs AS j CROSS JOIN LATERAL (SELECT CAST(:providers AS jsonb) -> j.provider AS facts) AS w
    WHERE id = :id AND status = 'queued' AND attempt = 0 AND due_at <= clock_timestamp()
        AND start_deadline_at > clock_timestamp()
    FOR UPDATE OF j
),
probe AS (
    -- The one call that a half-open circuit lets through. If the circuit's row is locked, this call is not the probe.
    SELECT p.name
    FROM seen CROSS JOIN providers AS p
    WHERE p.name = seen.provider
      AND p.paused_at IS NULL
      AND p.open_until <= clock_timestamp()
      AND NOT EXISTS (SELECT 1 FROM upstream_calls AS u WHERE u.id = p.probe_call_id AND u.outcome IS NULL)
    FOR UPDATE OF p SKIP LOCKED
),
gate AS (
    -- How many calls may be sent: all, one as a probe, or no row while the provider is paused or its circuit is open.
    SELECT seen.wanted AS most, false AS probing
    FROM seen
    WHERE NOT EXISTS (
        SELECT 1 FROM providers AS p
        WHERE p.name = seen.provider AND (p.paused_at IS NOT NULL OR p.open_until IS NOT NULL)
    )
    UNION ALL
    SELECT 1, true FROM probe
),
pick AS (
    -- The credential with the most room, counted only if there are several, and up to ten, the most calls of a job.
    SELECT c.id, c.max_active, c.max_per_minute, gate.most, gate.probing,
        CASE WHEN seen.own IS NULL THEN seen.worker -> 'credentials' ->> c.id ELSE seen.worker ->> 'own' END AS base_url
    FROM gate
    CROSS JOIN seen
    -- By id, because a provider may have as many credentials as there are accounts.
    JOIN credentials AS c ON c.id = ANY(CASE WHEN seen.own IS NULL
        THEN ARRAY(SELECT jsonb_object_keys(seen.worker -> 'credentials')) ELSE ARRAY[seen.own] END)
    WHERE (seen.own IS NULL OR seen.worker ->> 'own' IS NOT NULL)
      AND c.paused_at IS NULL
      AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
    ORDER BY
        CASE WHEN seen.choice THEN least(
            CASE WHEN c.max_active IS NOT NULL THEN (
                SELECT count(*) FROM (
                    SELECT 1 FROM permits AS p
                    WHERE p.credential_id = c.id AND p.call_id IS NULL AND p.number <= c.max_active
                    ORDER BY p.call_id, p.number LIMIT 10
                ) AS free
            ) END,
            CASE WHEN c.max_per_minute IS NOT NULL THEN (
                SELECT count(*) FROM (
                    SELECT 1 FROM submit_tokens AS t
                    WHERE t.credential_id = c.id AND t.free_at <= statement_timestamp()
                    ORDER BY t.free_at LIMIT 10
                ) AS free
            ) END
        ) END DESC NULLS FIRST,
        random()
    LIMIT 1
),
bound AS (
    -- The highest permit number that may be taken. After the limit was lowered, open calls may exist that have no
    -- permit; then only as many free permits are used as keep all calls within the limit.
    SELECT CASE
        WHEN (SELECT max(p.number) FROM permits AS p WHERE p.credential_id = pick.id) <= pick.max_active
            THEN pick.max_active
        ELSE (
            SELECT coalesce(max(free.number), 0) FROM (
                SELECT p.number FROM permits AS p
                WHERE p.credential_id = pick.id AND p.call_id IS NULL AND p.number <= pick.max_active
                ORDER BY p.call_id, p.number
                LIMIT greatest(0, pick.max_active - (
                    SELECT count(*) FROM permits AS t WHERE t.credential_id = pick.id AND t.call_id IS NOT NULL
                ))
            ) AS free
        )
    END AS number
    FROM pick
    WHERE pick.max_active IS NOT NULL
),
permit AS (
    -- In the order of the index permits_free, which has only free permits; the primary key would read all taken ones.
    SELECT p.number
    FROM permits AS p
    WHERE p.credential_id = (SELECT pick.id FROM pick)
      AND p.call_id IS NULL
      AND p.number <= (SELECT bound.number FROM bound)
    ORDER BY p.call_id, p.number
    LIMIT (SELECT pick.most FROM pick)
    FOR UPDATE SKIP LOCKED
),
token AS (
    SELECT t.number
    FROM submit_tokens AS t
    WHERE t.credential_id = (SELECT pick.id FROM pick WHERE pick.max_per_minute IS NOT NULL)
      AND t.free_at <= statement_timestamp()
    ORDER BY t.free_at
    LIMIT (
        SELECT CASE WHEN pick.max_active IS NULL THEN pick.most ELSE (SELECT count(*) FROM permit) END FROM pick
    )
    FOR UPDATE SKIP LOCKED
),
took AS (
    -- As many calls as have a permit and a token, where these are needed; least() ignores NULL.
    SELECT pick.id AS credential_id,
           pick.base_url,
           pick.max_active IS NOT NULL OR pick.max_per_minute IS NOT NULL AS limited,
           pick.probing,
           found.permits,
           found.tokens,
           least(
               pick.most,
               CASE WHEN pick.max_active IS NOT NULL THEN cardinality(found.permits) END,
               CASE WHEN pick.max_per_minute IS NOT NULL THEN cardinality(found.tokens) END
           ) AS taken
    FROM pick
    CROSS JOIN (
        SELECT ARRAY(SELECT permit.number FROM permit) AS permits, ARRAY(SELECT token.number FROM token) AS tokens
    ) AS found
),
permits_taken AS (
    UPDATE permits AS p
    SET call_id = left(CAST(:call_id AS text), -1) || (array_position(took.permits, p.number) - 1),
        taken_at = clock_timestamp()
    FROM took
    WHERE p.credential_id = took.credential_id AND p.number = ANY(took.permits[1:took.taken])
),
tokens_taken AS (
    UPDATE submit_tokens AS t
    SET free_at = clock_timestamp() + interval '62 s'
    FROM took
    WHERE t.credential_id = took.credential_id AND t.number = ANY(took.tokens[1:took.taken])
),
probed AS (
    UPDATE providers AS p
    SET probe_call_id = left(CAST(:call_id AS text), -1) || 0, open_until = clock_timestamp() + interval '10 s'
    FROM seen, took
    WHERE p.name = seen.provider AND took.probing AND took.taken > 0
),
job AS (
    UPDATE jobs
    SET status = 'running', version = jobs.version + 1, fence = jobs.fence + 1, owner = :owner, node = :node,
        attempt = took.taken, money = 'held',
        step_deadline_at = clock_timestamp() + make_interval(secs => CAST(seen.worker ->> 'step_s' AS float)),
        deadline_at = clock_timestamp()
            + make_interval(secs => CAST(seen.worker ->> 'deadline_s' AS float) + CAST(:backoff_s AS float)),
        started_at = coalesce(jobs.started_at, clock_timestamp())
    FROM seen, took
    WHERE jobs.id = seen.id AND took.taken > 0
    RETURNING jobs.id, jobs.account_id, jobs.operation, jobs.model, jobs.provider, jobs.n, jobs.fence, jobs.version,
        jobs.unit_price, jobs.fallbacks, jobs.quoted, jobs.attempt, jobs.weight, jobs.safe_prompt,
        took.credential_id, took.base_url, took.limited AND seen.own IS NULL AS limited, seen.per_call,
        CAST(extract(epoch FROM jobs.started_at - jobs.created_at) AS float) AS queued_s,
        CAST(seen.worker ->> 'deadline_s' AS float) AS deadline_s
),
asked AS (
    SELECT o.job_id, o.request_id, o.traceparent, coalesce(behind.request, o.request) AS request,
        coalesce(behind.unit_cost, o.unit_cost) AS unit_cost
    FROM job JOIN orders AS o ON o.job_id = job.id
    -- After a failover the request of the fallback model applies.
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
    WHERE receiver.events @> '"image.task.started"'
),
held AS (
    -- If the price is not reserved, account_id is NULL here, which undoes the whole statement.
    INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
    SELECT CASE WHEN job.quoted = 0 THEN job.account_id ELSE (
            SELECT b.account_id FROM balances AS b WHERE b.account_id = job.account_id AND b.reserved >= job.quoted
        ) END, job.id, 'hold', 'acct:available', 'acct:held', job.quoted
    FROM job
),
-- The account's next jobs take the place of this one, which is left out here because it still counts as published. If
-- the credential has a limit, accounts take turns instead (jobs/dispatch/refill.py), but where it is the account's own.
-- The places of windows are counted as in jobs/dispatch/publishing.py.
room AS (
    SELECT ceil(greatest(
        w.weight - own.share,
        least(w.size - own.share, (2 * w.size - w.weight * every.share - own.share) / 2)
    ) - 0.01) AS free
    FROM (
        SELECT job.account_id, job.provider, job.weight, CAST(:window AS int) * job.weight AS size
        FROM job WHERE NOT job.limited
    ) AS w
    CROSS JOIN LATERAL (
        SELECT coalesce(avg(share), 1) AS mean,
            CASE WHEN count(*) < 8 * CAST(:window AS int) THEN coalesce(sum(share / weight) / avg(share), 0)
                ELSE 2 * CAST(:window AS int) END AS share
        FROM (
            SELECT p.weight, job_share(:share_by, p.n, p.unit_price) AS share FROM jobs AS p
            WHERE p.provider = w.provider AND p.status = 'queued' AND p.published_at IS NOT NULL AND p.id <> :id
            ORDER BY p.account_id LIMIT 8 * CAST(:window AS int)
        ) AS published
    ) AS every
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(share), 0) / every.mean AS share
        FROM (
            SELECT job_share(:share_by, p.n, p.unit_price) AS share FROM jobs AS p
            WHERE p.account_id = w.account_id AND p.provider = w.provider AND p.status = 'queued'
                AND p.published_at IS NOT NULL AND p.id <> :id
            LIMIT CAST(:window AS int) * w.weight
        ) AS published
    ) AS own
),
next AS (
    SELECT q.id FROM jobs AS q
    WHERE q.account_id = (SELECT account_id FROM job) AND q.provider = (SELECT provider FROM job)
        AND q.status = 'queued' AND q.published_at IS NULL AND q.due_at <= statement_timestamp()
        -- Low priority waits while a normal job of this account waits here.
        AND (NOT q.low_priority OR NOT EXISTS (
            SELECT 1 FROM jobs AS normal
            WHERE normal.account_id = (SELECT account_id FROM job) AND normal.provider = (SELECT provider FROM job)
                AND normal.status = 'queued' AND NOT normal.low_priority AND normal.due_at <= statement_timestamp()
                AND normal.id <> :id
        ))
    ORDER BY q.low_priority, q.due_at, q.id
    LIMIT (SELECT coalesce(max(greatest(0, least(free, CAST(:most AS int)))), 0) FROM room)
    FOR UPDATE SKIP LOCKED
),
published AS (
    UPDATE jobs SET published_at = clock_timestamp() FROM next WHERE jobs.id = next.id RETURNING jobs.id
)
SELECT seen.provider AS wanted_of, seen.own, job.id, job.account_id, job.operation, job.model, job.provider, job.n,
    job.fence,
    job.version, job.fallbacks, job.safe_prompt, job.credential_id, job.queued_s, asked.request, asked.request_id,
    asked.traceparent,
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
    share_by: ShareBy = "jobs",
) -> Started | Full | None:
    """QUEUED -> RUNNING, with everything recorded that must be before a paid call is sent.

    ``providers``: what this worker can use, as JSON: by name {step_s, deadline_s, credentials: {id: base URL}, own}.
    ``own`` is the base URL for accounts' own keys, null where it cannot use them.
    ``call_id``: a new id; the calls, ten at most, differ in its last digit. ``backoff_s``: by how many seconds after
    its call's deadline the job must have moved on. ``window`` and ``most``: the account's publishing window, and how
    many of its next jobs to publish at most. ``share_by``: what a job counts in that window.

    Returns None if the job cannot start now or this is not its first attempt.
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
            "share_by": share_by,
        },
    )
    if row is None:
        return None
    if row.id is None:
        return Full(row.wanted_of, row.own)
    calls = [
        replace(
            planned(call_id, slot=slot, attempt=1, image_count=image_count, model=row.model),
            credential_id=row.credential_id,
            intended_at=row.intended_at,
        )
        for call_id, slot, image_count in zip(row.call_ids, row.slots, row.images, strict=True)
    ]
    job = LiveJob(
        id=row.id,
        account_id=row.account_id,
        operation=row.operation,
        model=row.model,
        provider=row.provider,
        n=row.n,
        status=JobStatus.RUNNING,
        fence=row.fence,
        cancel_requested=False,
        calls=calls,
        fallbacks=row.fallbacks,
        version=row.version,
        request_id=row.request_id or "",
        traceparent=row.traceparent,
        safe_prompt=SafePrompt(row.safe_prompt) if row.safe_prompt else None,
    )
    counts.STATE_SECONDS.of("queued").observe(row.queued_s)
    return Started(job, OrderParts(row.request, row.inputs or ()), row.published or ())
