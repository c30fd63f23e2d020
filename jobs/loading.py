"""Reading what a step needs of a job, in one statement each; nothing here writes.

Unlike ``jobs.repository`` this is the workers' view: across accounts, with calls and inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from jobs.decide import Call
from jobs.states import JobStatus, Outcome

_CALLS = (
    "coalesce((SELECT jsonb_agg(to_jsonb(c) ORDER BY c.slot, c.try) FROM upstream_calls AS c"
    " WHERE c.job_id = j.id), '[]') AS calls"
)

# What an order asks of one of its models: sizes and settings differ between the first and those behind it.
REQUEST = (
    "coalesce((SELECT f -> 'request' FROM jsonb_array_elements({orders}.fallbacks) AS f"
    " WHERE f ->> 'model' = {model}), {orders}.request)"
)


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call as a worker follows it. Times are the database's."""

    id: str
    facts: Call
    credential_id: str
    dedupe_key: str
    upstream_id: str | None
    poll_url: str | None
    overdue: bool  # past the moment at which it is given up
    age_s: float  # since the intent
    intended_at: datetime
    cancel_asked: bool
    missing: bool  # the upstream did not know it at the last look
    result: Sequence[Mapping[str, Any]]

    @property
    def outcome(self) -> Outcome | None:
        return self.facts.outcome


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A job in a worker's hands."""

    id: str
    account_id: str
    operation: str
    model: str
    provider: str
    n: int
    status: JobStatus
    fence: int
    cancel_requested: bool
    calls: Sequence[OpenCall]
    unit_price: int = 0  # micro-credits, of one picture by ``model``
    fallbacks: int = 0  # models left behind this one

    @property
    def facts(self) -> list[Call]:
        return [call.facts for call in self.calls]


@dataclass(frozen=True, slots=True)
class OrderParts:
    """What the request of a paid call is built from."""

    request: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]  # role, position, key, mime, width_px, height_px


def load(connection: Connection, job_id: str) -> LiveJob | None:
    """A job with all its calls, or None when there is no such job."""
    row = connection.execute(
        text(f"SELECT j.*, clock_timestamp() AS now, {_CALLS} FROM jobs AS j WHERE j.id = :id"),
        {"id": job_id},
    ).one_or_none()
    return live_job(row) if row else None


def order_parts(connection: Connection, job_id: str) -> OrderParts:
    row = connection.execute(
        text(
            f"SELECT {REQUEST.format(orders='o', model='(SELECT model FROM jobs WHERE id = o.job_id)')} AS request,"
            " coalesce((SELECT jsonb_agg(to_jsonb(i) ORDER BY i.role, i.position) FROM inputs AS i"
            " WHERE i.job_id = o.job_id), '[]') AS inputs FROM orders AS o WHERE o.job_id = :id"
        ),
        {"id": job_id},
    ).one()
    return OrderParts(row.request, row.inputs)


def image_keys(connection: Connection, job_id: str) -> frozenset[str]:
    """The blobs that a job's pictures lie in."""
    rows = connection.execute(text("SELECT key FROM images WHERE job_id = :id"), {"id": job_id})
    return frozenset(row.key for row in rows)


def take_due(
    connection: Connection,
    provider: str,
    *,
    limit: int,
    interval_s: float,
    interval_max_s: float,
) -> list[LiveJob]:
    """Take a batch of WAITING jobs that are due, and put them off to their next look.

    Taking moves ``due_at`` alone: no fence, because looking twice is harmless. The interval grows
    with the age of the job's oldest open call, within the two bounds (seconds).
    """
    rows = connection.execute(
        text(
            "WITH due AS (SELECT id FROM jobs WHERE provider = :provider AND status = 'waiting'"
            " AND due_at <= statement_timestamp() ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED),"
            " j AS (UPDATE jobs SET due_at = clock_timestamp() + make_interval(secs => greatest(:interval_s,"
            " least(:interval_max_s, extract(epoch FROM clock_timestamp() - started_at) / 8)))"
            " FROM due WHERE jobs.id = due.id RETURNING jobs.*)"
            f" SELECT j.*, clock_timestamp() AS now, {_CALLS} FROM j"
        ),
        {"provider": provider, "limit": limit, "interval_s": interval_s, "interval_max_s": interval_max_s},
    ).all()
    return [live_job(row) for row in rows]


def providers_due(connection: Connection, providers: Sequence[str]) -> list[str]:
    """Of these providers, those with a WAITING job that is due."""
    rows = connection.execute(
        text(
            "SELECT p FROM unnest(CAST(:providers AS text[])) AS p WHERE EXISTS (SELECT 1 FROM jobs"
            " WHERE provider = p AND status = 'waiting' AND due_at <= statement_timestamp())"
        ),
        {"providers": list(providers)},
    )
    return [row.p for row in rows]


def live_job(row: Row[Any]) -> LiveJob:
    return LiveJob(
        id=row.id,
        account_id=row.account_id,
        operation=row.operation,
        model=row.model,
        provider=row.provider,
        n=row.n,
        status=JobStatus(row.status),
        fence=row.fence,
        cancel_requested=row.cancel_requested_at is not None,
        calls=[_open_call(call, row.now) for call in row.calls],
        unit_price=row.unit_price,
        fallbacks=row.fallbacks,
    )


def _open_call(call: dict[str, Any], now: datetime) -> OpenCall:
    return OpenCall(
        id=call["id"],
        facts=Call.from_row(call),
        credential_id=call["credential_id"],
        dedupe_key=call["dedupe_key"],
        upstream_id=call["upstream_id"],
        poll_url=call["poll_url"],
        overdue=datetime.fromisoformat(call["give_up_at"]) <= now,
        age_s=(now - datetime.fromisoformat(call["intended_at"])).total_seconds(),
        intended_at=datetime.fromisoformat(call["intended_at"]),
        cancel_asked=call["cancel_asked_at"] is not None,
        missing=call["missing_since"] is not None,
        result=call["result"] or (),
    )
