"""Any live state -> SUCCEEDED, FAILED or CANCELLED: one statement charges the images kept and returns the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from sqlalchemy import Connection

from core import tracing
from core.db import Hot, Statement
from jobs import counts, failures, states
from jobs.call import KeptImage
from jobs.errors import StaleJobError
from jobs.lifecycle.calls import CallRow
from jobs.lifecycle.park import outcome_params
from jobs.states import Ended, EndStatus, JobStatus, Signal
from quota.errors import LedgerMismatchError
from quota.prices import MICROCREDITS_PER_CREDIT

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class End:
    """How a job ends. ``charged``: the images kept are charged; otherwise all credits are returned.

    ``code`` says why it failed, ``outcome`` how its cancel ended; ``notes`` are warnings for its owner.
    """

    status: EndStatus
    charged: bool
    code: str | None = None
    outcome: str | None = None
    notes: Sequence[str] = ()


# ``before`` and ``image`` share one snapshot and do not see each other, so together they are all images of the job.
# An image added meanwhile has raised the version, and then this statement changes nothing.
END = Statement("""
WITH seen AS (
    SELECT id, account_id, unit_price, quoted, money, status FROM jobs
    WHERE id = :id AND version = :version AND status IN ('queued', 'running', 'waiting')
    FOR UPDATE
),
said AS (
    SELECT c.id, c.outcome, c.frees, c.closes, c.upstream_id, c.poll_url, c.result, c.error_code, c.error_detail,
        c.retryable, c.retry_after_s, c.kept, c.written_off, c.deadline_s, c.reported_cost, c.usage, c.raw
    FROM seen, jsonb_to_recordset(CAST(:calls AS jsonb)) AS c(id text, outcome text, frees boolean, closes boolean,
        upstream_id text, poll_url text, result jsonb, error_code text, error_detail text, retryable boolean,
        retry_after_s float, kept smallint, written_off boolean, deadline_s float, reported_cost bigint, usage jsonb,
        raw jsonb)
),
call AS (
    UPDATE upstream_calls AS c
    SET outcome = said.outcome, answered_at = coalesce(c.answered_at, clock_timestamp()),
        closed_at = CASE WHEN said.closes THEN clock_timestamp() END,
        upstream_id = coalesce(said.upstream_id, c.upstream_id), poll_url = coalesce(said.poll_url, c.poll_url),
        result = said.result, missing_since = NULL, error_code = said.error_code, error_detail = said.error_detail,
        retryable = said.retryable, retry_after_s = said.retry_after_s, pictures_kept = said.kept,
        written_off = c.written_off OR said.written_off,
        reported_cost = coalesce(said.reported_cost, c.reported_cost), usage = coalesce(said.usage, c.usage)
    FROM said WHERE c.id = said.id
    RETURNING c.id, c.answered_at
),
answer AS (
    INSERT INTO call_answers (call_id, answer)
    SELECT said.id, said.raw FROM said JOIN call ON call.id = said.id WHERE said.raw IS NOT NULL
    ON CONFLICT (call_id) DO UPDATE SET answer = excluded.answer, answered_at = clock_timestamp()
),
image AS (
    INSERT INTO images (job_id, index, call_id, key, mime, width_px, height_px, size_bytes, sha256, seed,
        revised_prompt, text)
    SELECT seen.id, i.index, i.call_id, i.key, i.mime, i.width_px, i.height_px, i.size_bytes, i.sha256, i.seed,
        i.revised_prompt, i.text
    FROM seen, jsonb_to_recordset(CAST(:images AS jsonb)) AS i(index smallint, call_id text, key text, mime text,
        width_px int, height_px int, size_bytes bigint, sha256 text, seed bigint, revised_prompt text, text text)
    ON CONFLICT (job_id, index) DO NOTHING
    RETURNING index, call_id
),
before AS (
    SELECT i.call_id FROM seen JOIN images AS i ON i.job_id = seen.id
),
-- The price of the images kept, each at the unit price of the model that made it.
made AS (
    SELECT count(*) AS images, coalesce(sum(coalesce(c.unit_price, seen.unit_price)), 0) AS worth
    FROM (SELECT call_id FROM before UNION ALL SELECT call_id FROM image) AS kept
    JOIN upstream_calls AS c ON c.id = kept.call_id CROSS JOIN seen
),
freed AS (
    UPDATE permits SET call_id = NULL, taken_at = NULL FROM said WHERE said.frees AND permits.call_id = said.id
    RETURNING permits.number
),
job AS (
    UPDATE jobs
    SET status = :status, version = jobs.version + 1, owner = NULL, step_deadline_at = NULL, money = 'settled',
        finished_at = clock_timestamp(),
        captured = CASE WHEN CAST(:charged AS boolean) THEN made.worth ELSE 0 END,
        released = jobs.quoted - CASE WHEN CAST(:charged AS boolean) THEN made.worth ELSE 0 END,
        failure_code = :code, failure_detail = :detail, cancel_outcome = :outcome,
        cancel_requested_at = CASE WHEN CAST(:status AS text) = 'cancelled'
            THEN coalesce(jobs.cancel_requested_at, clock_timestamp()) ELSE jobs.cancel_requested_at END,
        notes = coalesce(jobs.notes || CAST(:notes AS jsonb), jobs.notes, CAST(:notes AS jsonb))
    FROM seen, made
    WHERE jobs.id = seen.id
    RETURNING jobs.id, jobs.account_id, jobs.provider, jobs.model, jobs.attempt, jobs.captured, jobs.released,
        jobs.quoted, jobs.node, seen.money AS money_before, seen.status AS status_before, made.images,
        CAST(extract(epoch FROM jobs.finished_at - jobs.started_at) AS float) AS runtime_s,
        CAST(extract(epoch FROM jobs.finished_at - jobs.created_at) AS float) AS life_s
),
event AS (
    INSERT INTO job_events (job_id, type, at, data)
    SELECT job.id, 'collecting', clock_timestamp() - make_interval(secs => CAST(:collected_s AS float)),
        jsonb_build_object('worker', CAST(:owner AS text), 'attempt', job.attempt, 'provider', job.provider)
    FROM job WHERE CAST(:collected_s AS float) IS NOT NULL
    UNION ALL
    SELECT job.id, CAST(:status AS text), clock_timestamp(), jsonb_strip_nulls(jsonb_build_object(
        'code', CAST(:code AS text), 'outcome', CAST(:outcome AS text), 'pictures', job.images,
        'attempt', job.attempt, 'provider', job.provider,
        'captured_microcredits', job.captured, 'released_microcredits', job.released))
    FROM job
),
-- Last, because balances are the most contended rows. A price that was never held is only no longer reserved.
balance AS (
    UPDATE balances AS b SET reserved = b.reserved - job.quoted, spendable = b.spendable + job.released
    FROM job
    WHERE b.account_id = job.account_id AND job.quoted > 0 AND (SELECT count(*) FROM freed) >= 0
    RETURNING b.account_id
),
settled AS (
    INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
    SELECT job.account_id, job.id, part.kind, 'acct:held', part.target, part.amount
    FROM job CROSS JOIN LATERAL (VALUES
        ('capture', 'house:revenue', job.captured), ('release', 'acct:available', job.released)
    ) AS part(kind, target, amount)
    WHERE job.money_before = 'held' AND part.amount > 0
),
told AS (
    INSERT INTO webhook_messages (account_id, job_id, event, endpoint_id, target, form)
    SELECT job.account_id, job.id, said.event, receiver.endpoint_id, receiver.target, receiver.form
    FROM job CROSS JOIN LATERAL (
        -- The account's endpoints and the order's own URL; without any, this is two looks into an index.
        SELECT e.id AS endpoint_id, e.id AS target, 'standard' AS form, e.events
        FROM webhook_endpoints AS e WHERE e.account_id = job.account_id AND e.disabled_at IS NULL
        UNION ALL
        SELECT NULL, o.webhook ->> 'target', o.webhook ->> 'form', o.webhook -> 'events'
        FROM orders AS o WHERE o.job_id = job.id AND o.webhook IS NOT NULL
    ) AS receiver
    CROSS JOIN LATERAL (
        VALUES ('image.task.' || CAST(:status AS text), true), ('image.task.refunded', job.released > 0)
    ) AS said(event, happened)
    WHERE said.happened AND receiver.events @> to_jsonb(said.event)
    RETURNING id
)
SELECT (SELECT count(*) FROM told) AS told,
    job.captured, job.released, job.images, job.node, job.runtime_s, job.account_id, job.provider, job.model,
    job.attempt, job.status_before, job.life_s,
    CAST(extract(epoch FROM clock_timestamp() - (SELECT min(answered_at) FROM call)) AS float) AS waited_s,
    (SELECT o.request_id FROM orders AS o WHERE o.job_id = job.id) AS request_id,
    -- A price that no balance has reserved, an end without its hold, and a capture of what was never held are
    -- errors: the division by zero raises, and the whole statement is undone.
    1 / CASE WHEN (job.quoted = 0 OR EXISTS (SELECT 1 FROM balance)) AND CASE job.money_before
        WHEN 'queued' THEN job.captured = 0
        -- A count instead of EXISTS, because PostgreSQL may answer EXISTS by hashing the whole table.
        ELSE (
            SELECT count(*) FROM transfers AS t
            WHERE t.job_id = job.id AND t.kind = 'hold' AND t.amount = job.quoted
        ) = 1 END
    THEN 1 ELSE 0 END AS booked,
    EXISTS (
        SELECT 1 FROM providers AS p WHERE p.name = job.provider AND (p.failures > 0 OR p.trips > 0)
    ) AS troubled
FROM job
""")


@dataclass(frozen=True, slots=True)
class Done:
    """``signals``: what to publish. ``troubled``: the circuit counts failures, so good answers must be counted, too."""

    signals: Sequence[Signal]
    troubled: bool


def end(
    connection: Hot | Connection,
    job_id: str,
    version: int,
    how: End,
    *,
    calls: Sequence[CallRow] = (),
    images: Sequence[tuple[str, KeptImage]] = (),
    collected_s: float | None = None,
    owner: str | None = None,
    traceparent: str | None = None,
) -> Done:
    """End a job and settle its price.

    ``calls`` and ``images``: the outcomes and images of the last step. ``collected_s``: for how many seconds
    ``owner`` was fetching the images, for the timeline. ``traceparent``: the trace it is part of.
    Raises StaleJobError when the job has ended or its version is not ``version``, and LedgerMismatchError when its
    price is not reserved or not held; then nothing has changed.
    """
    values = {
        "id": job_id,
        "version": version,
        "status": how.status,
        "charged": how.charged,
        "code": how.code,
        "detail": failures.sentence(how.code) if how.code else None,
        "outcome": how.outcome,
        "notes": json.dumps(list(how.notes)) if how.notes else None,
        "collected_s": collected_s,
        "owner": owner,
        **outcome_params(calls, images),
    }
    with tracing.span("jobs.settle", of=traceparent, attributes={"darkroom.job.id": job_id}) as span:
        try:
            row = Hot.of(connection).one_or_none(END, values)
        except psycopg.errors.DivisionByZero as error:
            raise LedgerMismatchError(f"{job_id} cannot be settled: its price is not reserved, or not held") from error
        if row is None:
            raise StaleJobError(f"{job_id} has moved on")
        span.set(_told_of(how, row))
    _tell(job_id, how, row)
    _count(how, row)
    ended = Ended(job_id, how.status, how.code, row.runtime_s, row.node)
    told = [states.tell(job_id)] if row.told else []
    return Done([states.wake(job_id), ended, *told], bool(row.troubled))


def _told_of(how: End, row: Any) -> tracing.Attributes:
    return {
        "darkroom.job.status": how.status,
        "darkroom.job.code": how.code or how.outcome,
        "darkroom.captured_microcredits": row.captured,
        "darkroom.released_microcredits": row.released,
    }


def _tell(job_id: str, how: End, row: Any) -> None:
    """One line for the end of a job: ``job_succeeded``, ``job_failed`` or ``job_cancelled``."""
    facts = {
        "code": how.code or how.outcome,
        "account_id": row.account_id,
        "provider": row.provider,
        "model": row.model,
        "attempts": row.attempt,
        "images": row.images,
        "seconds": None if row.runtime_s is None else round(row.runtime_s, 3),
        "credits": row.captured / MICROCREDITS_PER_CREDIT,
        "request_id": row.request_id,
    }
    log.info(f"job_{how.status}", job_id=job_id, **{name: value for name, value in facts.items() if value is not None})


def _count(how: End, row: Any) -> None:
    """Count the end for metrics, and the time in the state that it ends."""
    counts.ENDED.of(row.provider, how.status, how.code or how.outcome or "").inc()
    counts.LIFE_SECONDS.of(row.provider, how.status).observe(row.life_s)
    if row.images:
        counts.IMAGES.of(row.provider).inc(row.images)
    if row.captured:
        counts.CREDITS.of(row.provider).inc(row.captured / MICROCREDITS_PER_CREDIT)
    if row.status_before == JobStatus.WAITING and row.waited_s is not None:
        counts.STATE_SECONDS.of("waiting").observe(row.waited_s)
    elif row.status_before == JobStatus.QUEUED and row.runtime_s is None:
        counts.STATE_SECONDS.of("queued").observe(row.life_s)


def succeed(*, notes: Sequence[str] = ()) -> End:
    """Return the end of a job with images: their price is captured, the rest is released."""
    return End(JobStatus.SUCCEEDED.value, charged=True, notes=notes)


def fail(code: str, *, notes: Sequence[str] = ()) -> End:
    """Return the end of a failed job: all credits are returned."""
    return End(JobStatus.FAILED.value, charged=False, code=code, notes=notes)


def expired() -> End:
    """Return the end of a job that was not started or retried before its deadline: free."""
    return fail("deadline_expired")


def cancelled(outcome: str, *, charged: bool) -> End:
    """Return the end of a cancelled job; the images that were made are charged if ``charged``."""
    return End(JobStatus.CANCELLED.value, charged=charged, outcome=outcome)
