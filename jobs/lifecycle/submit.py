"""- -> QUEUED: the order is admitted, written, and published if the account's window has room."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import states
from jobs.dispatch import publishing
from jobs.dispatch.publishing import ROOM, ShareBy
from jobs.documents import StoredFallback, StoredInput, StoredMetadata, StoredRequest, StoredWebhook
from jobs.reads import tasks
from jobs.reads.tasks import Task
from jobs.states import Nudge
from quota import ledger


@dataclass(frozen=True, slots=True)
class NewJob:
    """Everything a job is created with.

    ``quoted_microcredits``: what is held, n times the unit price of the most expensive model of the order.
    ``fallbacks``: the models to try after ``model``. ``keep_s``: how many seconds the images are kept after the end;
    None: as long as the operator's policy says. ``per_call``: images that one call of the model makes at most.
    ``client``: what the dialect of the order keeps with it. ``parent_id``: the job that it repeats.
    ``cancel_after_s``: after so many seconds it is cancelled.
    ``unit_cost_microusd``: expected upstream cost of one image; None: not known beforehand.
    ``traceparent``: the span of its submit, where that is traced. ``order_sha256``: by which later equal orders find
    it; None: it answers none. ``own_key``: ``model`` is called with the account's own key.
    """

    id: str
    account_id: str
    weight: int
    operation: str
    model: str
    provider: str
    n: int
    low_priority: bool
    start_within_s: int
    unit_price_microcredits: int
    quoted_microcredits: int
    request: StoredRequest
    warnings: Sequence[str]
    metadata: StoredMetadata
    inputs: Sequence[StoredInput]
    price_version: str = ""
    request_id: str = ""
    client: Mapping[str, Any] | None = None
    parent_id: str | None = None
    cancel_after_s: int | None = None
    fallbacks: Sequence[StoredFallback] = ()
    keep_s: int | None = None
    per_call: int = 1
    unit_cost_microusd: int | None = None
    webhook: StoredWebhook | None = field(default=None, repr=False)
    key_id: str | None = None  # of the API key that it was ordered with
    safe_prompt: bool = False  # a refused prompt may be adjusted once
    traceparent: str | None = None
    order_sha256: bytes | None = None
    own_key: bool = False


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted job as its owner may see it, and the nudges to publish after the commit."""

    task: Task
    nudges: Sequence[Nudge]
    replayed: bool = False  # the job of an earlier submit with the same Idempotency-Key
    spendable_microcredits: int | None = None  # left of the balance; None: not known without asking again
    standings: Sequence[Any] = ()  # where it leaves its caller with limits of load (jobs/submission/load.py)


# This locks the balance until the commit, and nothing in between waits.
SUBMIT = Statement(f"""
WITH paid AS (
    UPDATE balances
    SET spendable = spendable - CAST(:price AS bigint), reserved = reserved + CAST(:price AS bigint)
    WHERE account_id = :account_id AND spendable >= CAST(:price AS bigint)
    RETURNING account_id, spendable
),
{ROOM},
crowd AS (
    -- Where permits are few and jobs wait for them, a new one takes its turn with those (jobs/dispatch/refill.py). A
    -- job by the account's own key needs none of these permits.
    SELECT NOT CAST(:own_key AS boolean) AND EXISTS (
        SELECT 1 FROM credentials AS c
        WHERE c.provider = :provider AND c.account_id IS NULL AND c.paused_at IS NULL
            AND (c.max_active IS NOT NULL OR c.max_per_minute IS NOT NULL)
    ) AND NOT EXISTS (
        SELECT 1 FROM providers AS s
        WHERE s.name = :provider AND (s.paused_at IS NOT NULL OR s.open_until IS NOT NULL)
    ) AND EXISTS (
        SELECT 1 FROM (
            SELECT q.published_at, q.attempt, q.own_key FROM jobs AS q
            WHERE q.provider = :provider AND q.status = 'queued'
            ORDER BY q.id LIMIT 64
        ) AS oldest
        WHERE oldest.published_at IS NULL AND oldest.attempt = 0 AND NOT oldest.own_key
    ) AS waits
),
job AS (
    INSERT INTO jobs (id, account_id, weight, operation, model, provider, n, low_priority, status, money,
        unit_price, quoted, start_deadline_at, published_at, fallbacks, keep_s, per_call, safe_prompt, cancel_after_at,
        key_id, own_key)
    SELECT :id, :account_id, CAST(:weight AS int), :operation, :model, :provider, CAST(:n AS int),
        CAST(:low_priority AS boolean), 'queued', 'queued', CAST(:unit_price AS bigint), CAST(:price AS bigint),
        clock_timestamp() + make_interval(secs => :start_within_s),
        CASE WHEN room.free > 0 AND NOT crowd.waits AND NOT CAST(:low_priority AS boolean)
            THEN clock_timestamp() END,
        CAST(:fallback_count AS int), CAST(:keep_s AS int), CAST(:per_call AS int),
        CASE WHEN CAST(:safe_prompt AS boolean) THEN 'wanted' END,
        clock_timestamp() + make_interval(secs => CAST(:cancel_after_s AS float)), CAST(:key_id AS text),
        CAST(:own_key AS boolean)
    FROM room CROSS JOIN crowd
    -- An order that costs nothing needs no balance.
    WHERE EXISTS (SELECT 1 FROM paid) OR CAST(:price AS bigint) = 0
    RETURNING id, account_id, provider, model, quoted, created_at, start_deadline_at, published_at
),
written AS (
    INSERT INTO orders (job_id, request, warnings, metadata, price_version, request_id, fallbacks, unit_cost, client,
        webhook, parent_id, traceparent, order_sha256)
    SELECT id, CAST(:request AS jsonb), CAST(:warnings AS jsonb), CAST(:metadata AS jsonb), :price_version,
        :request_id, CAST(:fallbacks AS jsonb), CAST(:unit_cost AS bigint), CAST(:client AS jsonb),
        CAST(:webhook AS jsonb), CAST(:parent_id AS text), CAST(:traceparent AS text),
        CAST(:order_digest AS bytea)
    FROM job
),
input AS (
    INSERT INTO inputs (job_id, role, position, key, mime, width_px, height_px, size_bytes, sha256)
    SELECT job.id, i.role, i.position, i.key, i.mime, i.width_px, i.height_px, i.size_bytes, i.sha256
    FROM job, jsonb_to_recordset(CAST(:inputs AS jsonb)) AS i(role text, position smallint, key text, mime text,
        width_px int, height_px int, size_bytes int, sha256 text)
),
event AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT id, 'queued', jsonb_build_object('quoted_microcredits', quoted, 'model', model, 'provider', provider)
    FROM job
),
told AS (
    INSERT INTO webhook_messages (account_id, job_id, event, endpoint_id, target, form)
    SELECT job.account_id, job.id, 'image.task.queued', receiver.endpoint_id, receiver.target, receiver.form
    FROM job CROSS JOIN LATERAL (
        SELECT e.id AS endpoint_id, e.id AS target, 'standard' AS form, e.events
        FROM webhook_endpoints AS e WHERE e.account_id = job.account_id AND e.disabled_at IS NULL
        UNION ALL
        -- The order's own URL, from the parameter: this statement does not see the row that it writes.
        SELECT NULL, o.webhook ->> 'target', o.webhook ->> 'form', o.webhook -> 'events'
        FROM (SELECT CAST(:webhook AS jsonb) AS webhook) AS o WHERE o.webhook IS NOT NULL
    ) AS receiver
    WHERE receiver.events @> '"image.task.queued"'
    RETURNING id
)
SELECT created_at, start_deadline_at, published_at IS NOT NULL AS published, (SELECT count(*) FROM told) AS told, (
    SELECT count(*)
    FROM (
        SELECT 1 FROM jobs AS q
        WHERE q.provider = job.provider AND q.status = 'queued' AND q.id < job.id
        LIMIT CAST(:counted AS int)
    ) AS ahead
) AS ahead, (SELECT spendable FROM paid) AS spendable
FROM job
""")


def submit(connection: Hot | Connection, job: NewJob, *, window: int, share_by: ShareBy = "jobs") -> Submitted:
    """Insert a job as QUEUED and reserve its price in the balance. Raises InsufficientCreditsError.

    The row is inserted as published if the account's window has room, which saves the sweep the work, and no other
    job waits for a permit of the provider. This is one statement; low priority needs two, in the caller's transaction.
    """
    hot = Hot.of(connection)
    values = {**order_values(job), "window": window, "share_by": share_by, "counted": tasks.QUEUE_COUNTED}
    born = hot.one_or_none(SUBMIT, values)
    if born is None:
        ledger.refuse(hot, job.account_id, job.quoted_microcredits)
    nudges = [states.run(job.provider, job.id, traceparent=job.traceparent)] if born.published else []
    if job.low_priority:
        nudges = publishing.fill(hot, job.account_id, job.provider, job.weight, window=window, share_by=share_by)
    if born.told:
        nudges = [*nudges, states.tell(job.id)]
    return Submitted(_task(job, born), nudges, spendable_microcredits=born.spendable)


def order_values(job: NewJob) -> dict[str, Any]:
    """Return what a new job says, as the parameters of a statement."""
    return {
        "id": job.id,
        "account_id": job.account_id,
        "weight": job.weight,
        "operation": job.operation,
        "model": job.model,
        "provider": job.provider,
        "n": job.n,
        "low_priority": job.low_priority,
        "unit_price": job.unit_price_microcredits,
        "price": job.quoted_microcredits,
        "start_within_s": float(job.start_within_s),
        "request": json.dumps(job.request),
        "warnings": json.dumps(list(job.warnings)),
        "metadata": json.dumps(job.metadata),
        "price_version": job.price_version,
        "request_id": job.request_id,
        "inputs": json.dumps(list(job.inputs)),
        "fallbacks": json.dumps(list(job.fallbacks)) if job.fallbacks else None,
        "fallback_count": len(job.fallbacks),
        "keep_s": job.keep_s,
        "per_call": job.per_call,
        "cancel_after_s": None if job.cancel_after_s is None else float(job.cancel_after_s),
        "unit_cost": job.unit_cost_microusd,
        "safe_prompt": job.safe_prompt,
        "key_id": job.key_id,
        "own_key": job.own_key,
        "client": json.dumps(dict(job.client)) if job.client else None,
        "webhook": json.dumps(job.webhook) if job.webhook else None,
        "parent_id": job.parent_id,
        "traceparent": job.traceparent,
        "order_digest": job.order_sha256,
    }


def _task(job: NewJob, born: Any) -> Task:
    """Return the job as its owner sees it, from what was written; nothing is read back."""
    return Task(
        id=job.id,
        account_id=job.account_id,
        status="queued",
        operation=job.operation,
        model=job.model,
        provider=job.provider,
        n=job.n,
        priority="low" if job.low_priority else "normal",
        attempt=0,
        created_at=born.created_at,
        started_at=None,
        finished_at=None,
        start_deadline_at=born.start_deadline_at,
        version=1,
        quoted_microcredits=job.quoted_microcredits,
        captured_microcredits=None,
        released_microcredits=None,
        queue_position=None if born.ahead >= tasks.QUEUE_COUNTED else born.ahead,
        failure_code=None,
        failure_detail=None,
        failure_stage=None,
        cancel_requested_at=None,
        cancel_outcome=None,
        request=job.request,
        warnings=list(job.warnings),
        metadata=job.metadata,
        fallback_models=[each["model"] for each in job.fallbacks],
        keep_s=job.keep_s,
        client=job.client or {},
        webhook=job.webhook,
        parent_id=job.parent_id,
    )
