"""Reading what a step needs to know about a job, in one statement each. Writes nothing.

Unlike ``jobs.reads.tasks`` this is the workers' view: of all accounts, with calls and inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs.call import Call
from jobs.documents import InputPart, StoredRequest
from jobs.states import JobStatus, Outcome, SafePrompt


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A job as a worker reads it, with all its calls."""

    id: str
    account_id: str
    operation: str
    model: str
    provider: str
    n: int
    status: JobStatus
    fence: int
    cancel_requested: bool
    calls: Sequence[Call]
    fallbacks: int = 0  # how many models are left after this one
    version: int = 1  # when this was read: a verb moves the job only from this version
    request_id: str = ""  # X-Request-Id of the submit
    traceparent: str | None = None  # the span of the submit, where that is traced
    safe_prompt: SafePrompt | None = None
    prompt_adjusted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OrderParts:
    """What a paid call's request is built from."""

    request: StoredRequest
    inputs: Sequence[InputPart]


LOAD = Statement("""
SELECT j.id, j.account_id, j.operation, j.model, j.provider, j.n, j.status, j.fence, j.version,
    j.fallbacks, j.cancel_requested_at IS NOT NULL AS cancel_requested, j.safe_prompt, j.prompt_adjusted_at,
    clock_timestamp() AS now,
    (SELECT ARRAY[o.request_id, o.traceparent] FROM orders AS o WHERE o.job_id = j.id) AS origin,
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
FROM jobs AS j WHERE j.id = :id
""")


def load(connection: Hot | Connection, job_id: str) -> LiveJob | None:
    """Return a job with all its calls, or None if there is no such job."""
    row = Hot.of(connection).one_or_none(LOAD, {"id": job_id})
    return live_job(row) if row else None


ORDER_PARTS = Statement("""
SELECT coalesce((
        SELECT f -> 'request' FROM jsonb_array_elements(o.fallbacks) AS f WHERE f ->> 'model' = j.model
    ), o.request) AS request,
    coalesce((
        SELECT jsonb_agg(jsonb_build_object('role', i.role, 'position', i.position, 'key', i.key, 'mime', i.mime,
            'width_px', i.width_px, 'height_px', i.height_px) ORDER BY i.role, i.position)
        FROM inputs AS i WHERE i.job_id = j.id), '[]') AS inputs
FROM jobs AS j JOIN orders AS o ON o.job_id = j.id WHERE j.id = :id
""")


def order_parts(connection: Hot | Connection, job_id: str) -> OrderParts:
    """Return the request to the job's current model and the reference images."""
    row = Hot.of(connection).one_or_none(ORDER_PARTS, {"id": job_id})
    return OrderParts(row.request, row.inputs)


IMAGE_KEYS = Statement("SELECT key FROM images WHERE job_id = :id")


def image_keys(connection: Hot | Connection, job_id: str) -> frozenset[str]:
    """Return the store keys of a job's images."""
    return frozenset(row.key for row in Hot.of(connection).all(IMAGE_KEYS, {"id": job_id}))


def live_job(row: Any) -> LiveJob:
    request_id, traceparent = row.origin or ("", None)
    return LiveJob(
        id=row.id,
        account_id=row.account_id,
        operation=row.operation,
        model=row.model,
        provider=row.provider,
        n=row.n,
        status=JobStatus(row.status),
        fence=row.fence,
        cancel_requested=row.cancel_requested,
        calls=[_call(call, row.now) for call in row.calls],
        fallbacks=row.fallbacks,
        version=row.version,
        request_id=request_id,
        traceparent=traceparent,
        safe_prompt=SafePrompt(row.safe_prompt) if row.safe_prompt else None,
        prompt_adjusted_at=row.prompt_adjusted_at,
    )


def _call(row: Mapping[str, Any], now: datetime) -> Call:
    """Return a call from the JSON object that LOAD and TAKE_DUE make of a row of ``upstream_calls``."""
    intended_at = datetime.fromisoformat(row["intended_at"])
    return Call(
        row["id"],
        row["dedupe_key"],
        row["model"],
        row["upstream_id"],
        row["poll_url"],
        intended_at,
        (now - intended_at).total_seconds(),
        slot=row["slot"],
        attempt=row["try"],
        image_count=row["pictures"],
        credential_id=row["credential_id"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        kept=row["pictures_kept"],
        code=row["error_code"],
        retryable=bool(row["retryable"]),
        charged=row["charged"],
        retry_after_s=row["retry_after_s"],
        overdue=datetime.fromisoformat(row["give_up_at"]) <= now,
        cancel_asked=row["cancel_asked"],
        missing=row["missing"],
        result=row["result"] or (),
    )
