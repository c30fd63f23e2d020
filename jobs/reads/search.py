"""Jobs of every account, for operators who look for one: by what is known of it, newest first. Writes nothing.

What people wrote is left out unless it is asked for: a prompt is known by its digest and its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from core.ids import id_before, is_id
from jobs.errors import JobNotFoundError
from jobs.reads.tasks import CALLS_AND_IMAGES, UNSTORABLE, Step, Task, task_of

# How far the clocks of web processes, which make the ids, may be from the database's.
_CLOCKS_APART = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Search:
    """What is known of the jobs; all of it must hold. ``status`` as callers see it, ``prompt_sha256`` in hex."""

    account: str | None = None  # id or name
    key_id: str | None = None  # of the API key that ordered it
    status: str | None = None
    operation: str | None = None
    model: str | None = None
    provider: str | None = None
    code: str | None = None  # why it failed
    request_id: str | None = None
    upstream_id: str | None = None
    prompt_sha256: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    cursor: str | None = None  # the id of the last job of the page before
    limit: int = 20


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """One call of a job as it is recorded. Costs in micro-USD."""

    id: str
    slot: int
    attempt: int
    provider: str
    model: str
    credential: str
    outcome: str | None
    upstream_id: str | None
    error_code: str | None
    error_detail: str | None  # the upstream's words
    intended_at: datetime
    answered_at: datetime | None
    resends: int
    written_off: bool
    expected_cost: int | None
    reported_cost: int | None


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job with what its owner does not see of it."""

    task: Task
    account_name: str
    request_id: str
    key_id: str | None
    prompt_sha256: str | None
    prompt_chars: int | None
    calls: Sequence[UpstreamCall] = field(default=())


# It is planned with its values each time (see _plan_with_values), so every condition that is not asked for
# is gone from the plan and the rest find their indexes. Ids begin with their time: a range of them is one of times.
SEARCH = text("""
SELECT p.id FROM jobs AS p
WHERE p.id < :before AND p.id > :after
    AND (CAST(:account_id AS text) IS NULL OR p.account_id = :account_id)
    AND (CAST(:key_id AS text) IS NULL OR p.key_id = :key_id)
    AND (CAST(:status AS text) IS NULL
        OR CAST(:status AS text) = 'queued' AND p.status = 'queued'
        OR CAST(:status AS text) = 'running' AND p.status IN ('running', 'waiting')
        OR CAST(:status AS text) = 'succeeded' AND p.status = 'succeeded'
        OR CAST(:status AS text) = 'failed' AND p.status = 'failed'
        OR CAST(:status AS text) = 'cancelled' AND p.status = 'cancelled')
    AND (CAST(:operation AS text) IS NULL OR p.operation = :operation)
    AND (CAST(:model AS text) IS NULL OR p.model = :model)
    AND (CAST(:provider AS text) IS NULL OR p.provider = :provider)
    AND (CAST(:code AS text) IS NULL OR p.status = 'failed' AND p.failure_code = :code)
    AND (CAST(:request_id AS text) IS NULL OR p.id = ANY(ARRAY(
        SELECT o.job_id FROM orders AS o WHERE o.request_id = :request_id AND o.request_id <> '')))
    AND (CAST(:prompt_sha256 AS text) IS NULL OR p.id = ANY(ARRAY(
        SELECT o.job_id FROM orders AS o WHERE prompt_sha256(o.request) = :prompt_sha256)))
    AND (CAST(:upstream_id AS text) IS NULL OR p.id = ANY(ARRAY(
        SELECT u.job_id FROM upstream_calls AS u WHERE u.upstream_id = :upstream_id)))
    AND (CAST(:created_after AS timestamptz) IS NULL OR p.created_at > :created_after)
    AND (CAST(:created_before AS timestamptz) IS NULL OR p.created_at < :created_before)
ORDER BY p.id DESC LIMIT :limit
""")

_FOUND = text(f"""
SELECT to_jsonb(j) || jsonb_build_object(
    'request', o.request, 'warnings', o.warnings, 'metadata', o.metadata, 'client', o.client, 'webhook', o.webhook,
    'parent_id', o.parent_id, 'behind', o.fallbacks, 'ahead', NULL,
    {CALLS_AND_IMAGES}
) AS task,
    a.name AS account_name, o.request_id, j.key_id, prompt_sha256(o.request) AS prompt_sha256,
    length(o.request ->> 'prompt') AS prompt_chars
FROM jobs AS j JOIN orders AS o ON o.job_id = j.id JOIN accounts AS a ON a.id = j.account_id
WHERE j.id = ANY(CAST(:ids AS text[]))
ORDER BY j.id DESC
""")

_CALLS = text("""
SELECT job_id, id, slot, try AS attempt, provider, model, credential_id AS credential, outcome, upstream_id,
    error_code, error_detail, intended_at, answered_at, resends, written_off, expected_cost, reported_cost
FROM upstream_calls WHERE job_id = ANY(CAST(:ids AS text[])) ORDER BY job_id, slot, try
""")

_ACCOUNT = text("SELECT id FROM accounts WHERE id = :account OR name = :account")

_STEPS = text("SELECT type, at, data FROM job_events WHERE job_id = :id ORDER BY id")


def find_jobs(connection: Connection, search: Search) -> list[FoundJob]:
    """Return at most ``search.limit`` jobs, newest first; none for an unknown account. Must run in a transaction."""
    asked = asdict(search)
    if UNSTORABLE.search("".join(value for value in asked.values() if isinstance(value, str))):
        return []
    account = asked.pop("account")
    asked["account_id"] = None
    if account is not None:
        asked["account_id"] = connection.execute(_ACCOUNT, {"account": account}).scalars().first()
        if asked["account_id"] is None:
            return []
    _plan_with_values(connection)
    return _read(connection, list(connection.execute(SEARCH, {**asked, **bounds(search)}).scalars()))


def bounds(search: Search) -> dict[str, str]:
    """Return the ids between which the jobs are: those of the time range, and of the page. Both ends are left out."""
    after = id_before("job", search.created_after - _CLOCKS_APART) if search.created_after else "job_"
    before = id_before("job", search.created_before + _CLOCKS_APART) if search.created_before else "k"
    return {"after": after, "before": min(before, search.cursor) if search.cursor else before}


def find_job(connection: Connection, job_id: str) -> FoundJob:
    """Return a job of any account. Raises JobNotFoundError. Must run in a transaction."""
    found = _read(connection, [job_id]) if is_id(job_id, "job") else []
    if not found:
        raise JobNotFoundError("no such task")
    return found[0]


def steps_of(connection: Connection, job_id: str) -> list[Step]:
    """Return every transition of a job, oldest first."""
    rows = connection.execute(_STEPS, {"id": job_id}).all()
    return [Step(seq, row.at, row.type, row.data) for seq, row in enumerate(rows, start=1)]


def _plan_with_values(connection: Connection) -> None:
    connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))


def _read(connection: Connection, ids: Sequence[str]) -> list[FoundJob]:
    if not ids:
        return []
    calls: dict[str, list[UpstreamCall]] = {}
    for row in connection.execute(_CALLS, {"ids": ids}).mappings():
        facts: Mapping[str, Any] = {name: value for name, value in row.items() if name != "job_id"}
        calls.setdefault(row["job_id"], []).append(UpstreamCall(**facts))
    return [
        FoundJob(
            task_of(row.task), row.account_name, row.request_id, row.key_id, row.prompt_sha256, row.prompt_chars,
            calls.get(row.task["id"], ()),
        )
        for row in connection.execute(_FOUND, {"ids": ids})
    ]  # fmt: skip
