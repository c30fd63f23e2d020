"""Reading jobs for their owners, always within one account. Writes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, TextClause, text

from core.ids import is_id
from jobs.documents import StepData, StoredAnswer, StoredRequest, StoredWebhook
from jobs.errors import ImageGoneError, ImageNotFoundError, ImageNotReadyError, JobNotFoundError
from jobs.failures import PATIENT_CODES, Stage, stage_of

# PostgreSQL stores neither NUL nor an unpaired surrogate.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Queue positions beyond this are not counted.
QUEUE_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Image:
    """A kept image of a job."""

    index: int
    key: str
    mime: str
    width_px: int | None  # None: a 3D file or a text
    height_px: int | None
    size_bytes: int
    sha256: str
    seed: int | None
    text: str | None = None
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a job that was tried waits for. ``code``: why its last call made nothing."""

    code: str
    retry_at: datetime
    first_call_at: datetime
    deadline_at: datetime

    def until(self, max_wait_s: float) -> datetime:
        """Return by when the job has been tried again or has failed.

        ``max_wait_s``: how long it may wait for an upstream that only asks to come back later, from its first call on.
        """
        if self.code not in PATIENT_CODES:
            return self.deadline_at
        return max(self.retry_at, self.first_call_at + timedelta(seconds=max_wait_s))


def waiting_of(row: Mapping[str, Any]) -> Waiting | None:
    """Return what a job waits for, from its ``waiting_code`` and its times as JSON has them; None without a code."""
    code, due_at, started_at = row["waiting_code"], _moment(row["due_at"]), _moment(row["started_at"])
    deadline_at = _moment(row["deadline_at"])
    if code is None or due_at is None or started_at is None or deadline_at is None:
        return None
    return Waiting(code, due_at, started_at, deadline_at)


@dataclass(frozen=True, slots=True)
class Task:
    """A job as its owner may see it: the task of the HTTP API."""

    id: str
    account_id: str
    status: str  # jobs.states.JobStatus
    operation: str
    model: str
    provider: str
    n: int
    priority: str
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    start_deadline_at: datetime | None
    version: int  # grows with every visible change: the task's ETag
    quoted_microcredits: int
    captured_microcredits: int | None  # None until the end
    released_microcredits: int | None
    queue_position: int | None
    failure_code: str | None
    failure_detail: str | None
    failure_stage: Stage | None  # None unless it failed
    cancel_requested_at: datetime | None
    cancel_outcome: str | None
    request: StoredRequest  # to the current model
    warnings: Sequence[str]
    metadata: Mapping[str, str]
    images: Sequence[Image] = field(default=())
    fallback_models: Sequence[str] = ()  # as ordered, including those already tried
    keep_s: int | None = None  # how many seconds the images are kept after the end; None: by the operator's policy
    progress: float | None = None  # 0 to 1 while it runs, if the upstream reports it
    waiting: Waiting | None = None  # while it is queued for another try
    client: Mapping[str, Any] = field(default_factory=dict)  # what the dialect of its order keeps with it
    webhook: StoredWebhook | None = field(default=None, repr=False)  # the order's own URL for callbacks
    parent_id: str | None = None  # the job that it repeats
    cached_from: str | None = None  # the earlier job whose images answered it

    @property
    def ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a job's timeline."""

    seq: int
    at: datetime
    type: str  # queued, started, waiting, retry, image, succeeded, failed, cancelled, ...
    data: StepData


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a list of tasks."""

    status: str | None = None
    operation: str | None = None
    model: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    parent_id: str | None = None  # only jobs that repeat this one
    cursor: str | None = None  # the id of the last task of the previous page
    limit: int = 20


# What a task says of its calls and images. ``accepted`` is whether the upstream had taken on the call by which a job
# failed, ``waiting_code`` why a job that is queued again was tried in vain.
CALLS_AND_IMAGES = """\
'waiting_code', CASE WHEN j.status = 'queued' AND j.attempt > 0 THEN (
        SELECT c.error_code FROM upstream_calls AS c
        WHERE c.job_id = j.id AND c.error_code IS NOT NULL ORDER BY c.intended_at DESC, c.id DESC LIMIT 1
    ) END,
    'accepted', CASE WHEN j.status = 'failed' THEN (
        SELECT c.upstream_id IS NOT NULL FROM upstream_calls AS c WHERE c.job_id = j.id
        ORDER BY c.error_code = j.failure_code DESC NULLS LAST, c.intended_at DESC, c.id DESC LIMIT 1
    ) END,
    'images', CASE WHEN j.finished_at IS NULL THEN '[]' ELSE coalesce((
        SELECT jsonb_agg(to_jsonb(i) ORDER BY i.index) FROM images AS i WHERE i.job_id = j.id
    ), '[]') END"""

# One JSON object per task, because the driver's cost grows with the columns of a result, and a task has forty.
# ``ahead`` counts the jobs ahead of a queued one at its provider; ``behind`` are the fallbacks.
_TASKS = text(f"""
SELECT to_jsonb(j) || jsonb_build_object(
    'request', o.request, 'warnings', o.warnings, 'metadata', o.metadata, 'client', o.client,
    'webhook', o.webhook, 'parent_id', o.parent_id, 'behind', o.fallbacks,
    'ahead', CASE WHEN j.status = 'queued' THEN (
        SELECT count(*) FROM (
            SELECT 1 FROM jobs AS q WHERE q.provider = j.provider AND q.status = 'queued' AND q.id < j.id
            LIMIT {QUEUE_COUNTED}
        ) AS ahead
    ) END,
    {CALLS_AND_IMAGES}
) AS task
FROM jobs AS j JOIN orders AS o ON o.job_id = j.id
JOIN unnest(CAST(:account_ids AS text[]), CAST(:ids AS text[])) AS wanted (account_id, id)
    ON j.account_id = wanted.account_id AND j.id = wanted.id
""")


def find_task(connection: Connection, account_id: str, job_id: str) -> Task:
    """Return a task of an account. Raises JobNotFoundError: unknown, malformed, or another account's."""
    found = find_tasks(connection, [(account_id, job_id)])
    if not found:
        raise JobNotFoundError("no such task")
    return found[account_id, job_id]


def find_tasks(connection: Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Task]:
    """Return tasks by (account id, job id), each only within that account; unknown ones are left out."""
    wanted = [(account_id, job_id) for account_id, job_id in wanted if is_id(job_id, "job")]
    if not wanted:
        return {}
    account_ids, ids = zip(*wanted, strict=True)
    rows = connection.execute(_TASKS, {"account_ids": list(account_ids), "ids": list(ids)})
    tasks = [task_of(row.task) for row in rows]
    return {(task.account_id, task.id): task for task in tasks}


def _list(status: str, more: str = "") -> TextClause:
    """Return the statement for the tasks of an account whose jobs ``p`` meet a condition on their status.

    Its shape avoids two bad generic plans. With one join, the planner would scan all orders backwards for their
    metadata, so the page of ids is selected first and reads the metadata job by job. It would also scan the newest jobs
    of all accounts, so ORDER BY names the account: for an array of one element the planner does not drop it as a
    constant. 'k' sorts after every id, so that the cursor always bounds the index.
    """
    return text(f"""
SELECT to_jsonb(j) || jsonb_build_object(
    -- A page of tasks with all that was passed on to upstreams would be as large as their callers like.
    'request', o.request - 'extra', 'warnings', o.warnings, 'metadata', o.metadata, 'client', o.client,
    'webhook', o.webhook, 'parent_id', o.parent_id, 'behind', (
        SELECT jsonb_agg(b.behind #- '{{request,extra}}' ORDER BY b.at)
        FROM jsonb_array_elements(o.fallbacks) WITH ORDINALITY AS b (behind, at)
    ),
    'ahead', CASE WHEN j.status = 'queued' THEN (
        SELECT count(*) FROM (
            SELECT 1 FROM jobs AS q WHERE q.provider = j.provider AND q.status = 'queued' AND q.id < j.id
            LIMIT {QUEUE_COUNTED}
        ) AS ahead
    ) END,
    {CALLS_AND_IMAGES}
) AS task
FROM jobs AS j JOIN orders AS o ON o.job_id = j.id
WHERE j.id = ANY(ARRAY(
    SELECT p.id FROM jobs AS p
    WHERE p.account_id = ANY(CAST(:account_ids AS text[])) AND {status} AND p.id < coalesce(CAST(:cursor AS text), 'k')
        AND (CAST(:operation AS text) IS NULL OR p.operation = :operation)
        AND (CAST(:model AS text) IS NULL OR p.model = :model)
        AND (CAST(:created_after AS timestamptz) IS NULL OR p.created_at > :created_after)
        AND (CAST(:created_before AS timestamptz) IS NULL OR p.created_at < :created_before)
        AND (CAST(:metadata AS jsonb) IS NULL OR (
            SELECT m.metadata @> CAST(:metadata AS jsonb) FROM orders AS m WHERE m.job_id = p.id
        ))
        {more}
    ORDER BY p.account_id DESC, p.id DESC LIMIT :limit
))
ORDER BY j.id DESC
""")


# Read once, and looked up one by one: the list itself is not searched for them.
_REPEATS = "AND p.id = ANY(ARRAY(SELECT r.job_id FROM orders AS r WHERE r.parent_id = CAST(:parent_id AS text)))"

# One statement for each status, with the status as a literal, because a partial index does not match a parameter.
# Callers see RUNNING and WAITING both as running. The ended states share one index, with the status as a column.
_STATUSES = {
    None: "true",
    "queued": "p.status = 'queued'",
    "running": "p.status IN ('running', 'waiting')",
    "succeeded": "p.status = 'succeeded'",
    "failed": "p.status = 'failed'",
    "cancelled": "p.status = 'cancelled'",
}
_LISTS = {status: _list(condition) for status, condition in _STATUSES.items()}
_LISTS_OF_REPEATS = {status: _list(condition, _REPEATS) for status, condition in _STATUSES.items()}

_NEWEST_BEFORE = text("""
SELECT max(id) FROM (
    -- An array, so that the planner keeps the account in ORDER BY: see _list.
    SELECT id FROM jobs WHERE account_id = ANY(CAST(:account_ids AS text[])) AND id > :job_id
    ORDER BY account_id, id LIMIT :limit
) AS page
""")

_IMAGE = text("""
SELECT j.finished_at, to_jsonb(i) AS image
FROM jobs AS j LEFT JOIN images AS i ON i.job_id = j.id AND i.index = :index
WHERE j.id = :id AND j.account_id = :account_id
""")

_TIMELINE = text("""
SELECT e.type, e.at, e.data FROM jobs AS j JOIN job_events AS e ON e.job_id = j.id
WHERE j.id = :id AND j.account_id = :account_id
ORDER BY e.id
""")


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What an upstream answered to one call of a task, without keys and bytes."""

    call_id: str
    first_image: int  # the index of the first image that the call is to make
    attempt: int  # of those images, from 1
    provider: str
    model: str
    outcome: str | None  # jobs.states.Outcome
    answered_at: datetime | None  # None: no answer is kept
    answer: StoredAnswer | None


_RAW_ANSWERS = text("""
SELECT c.id, c.slot, c.try AS attempt, c.provider, c.model, c.outcome, a.answered_at, a.answer
FROM jobs AS j JOIN upstream_calls AS c ON c.job_id = j.id LEFT JOIN call_answers AS a ON a.call_id = c.id
WHERE j.id = :id AND j.account_id = :account_id
ORDER BY c.slot, c.try
""")


def raw_answers(connection: Connection, account_id: str, job_id: str) -> list[RawAnswer]:
    """Return the upstreams' answers to the calls of a task of this account, in the order of its images and tries."""
    rows = connection.execute(_RAW_ANSWERS, {"id": job_id, "account_id": account_id})
    return [
        RawAnswer(row.id, row.slot, row.attempt, row.provider, row.model, row.outcome, row.answered_at, row.answer)
        for row in rows
    ]


def list_tasks(connection: Connection, account_id: str, filters: Filters) -> list[Task]:
    """Return at most ``filters.limit`` tasks, newest first, without ``extra``; none for an unknown status."""
    if not _askable(filters) or filters.status not in _LISTS:
        return []
    lists = _LISTS if filters.parent_id is None else _LISTS_OF_REPEATS
    rows = connection.execute(
        lists[filters.status],
        {
            "account_ids": [account_id],
            "cursor": filters.cursor,
            "operation": filters.operation,
            "model": filters.model,
            "created_after": filters.created_after,
            "created_before": filters.created_before,
            "metadata": json.dumps(dict(filters.metadata)) if filters.metadata else None,
            "limit": filters.limit,
            **({} if filters.parent_id is None else {"parent_id": filters.parent_id}),
        },
    )
    return [task_of(row.task) for row in rows]


def newest_before(connection: Connection, account_id: str, job_id: str, limit: int) -> str | None:
    """Return the newest id of the page of ``limit`` tasks that comes before a job in a list, newest first; None where
    the job is the first."""
    found: str | None = connection.execute(
        _NEWEST_BEFORE, {"account_ids": [account_id], "job_id": job_id, "limit": limit}
    ).scalar()
    return found


def _askable(filters: Filters) -> bool:
    """Return whether PostgreSQL can take the filters' values: no NUL and no unpaired surrogate."""
    texts = (filters.status, filters.operation, filters.model, filters.parent_id, filters.cursor)
    every = "".join((*filter(None, texts), *filters.metadata, *filters.metadata.values()))
    return UNSTORABLE.search(every) is None


def find_image(connection: Connection, account_id: str, job_id: str, index: int) -> Image:
    """Return a kept image of a task.

    An image may be kept before its job ends. Raises JobNotFoundError, ImageNotReadyError (neither ended nor kept),
    ImageNotFoundError, ImageGoneError (deleted).
    """
    row = None
    if is_id(job_id, "job"):
        row = connection.execute(_IMAGE, {"id": job_id, "account_id": account_id, "index": index}).one_or_none()
    if row is None:
        raise JobNotFoundError("no such task")
    if row.image is None:
        if row.finished_at is None:
            raise ImageNotReadyError("the image is not made yet")
        raise ImageNotFoundError(f"the task ended without an image {index}")
    image = image_of(row.image)
    if image.deleted_at is not None:
        raise ImageGoneError("the image has been deleted")
    return image


def timeline(connection: Connection, account_id: str, job_id: str) -> list[Step]:
    """Return every transition of a job, oldest first. Raises JobNotFoundError."""
    if not is_id(job_id, "job"):
        raise JobNotFoundError("no such task")
    rows = connection.execute(_TIMELINE, {"id": job_id, "account_id": account_id}).all()
    if not rows:
        raise JobNotFoundError("no such task")
    return [Step(seq, row.at, row.type, row.data) for seq, row in enumerate(rows, start=1)]


def versions(connection: Connection, job_ids: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """Return (version, ended) of many jobs by one query, for requests that wait for them.

    This does not check the account, so it is only for ids that were read within their account before.
    """
    rows = connection.execute(
        text("SELECT id, version, finished_at IS NOT NULL AS ended FROM jobs WHERE id = ANY(:ids)"),
        {"ids": list(job_ids)},
    )
    return {row.id: (row.version, row.ended) for row in rows}


def task_of(row: Mapping[str, Any]) -> Task:
    """Return a task from the JSON object of ``_TASKS``."""
    ahead = row["ahead"]
    return Task(
        id=row["id"],
        account_id=row["account_id"],
        status="running" if row["status"] == "waiting" else row["status"],
        operation=row["operation"],
        model=row["model"],
        provider=row["provider"],
        n=row["n"],
        priority="low" if row["low_priority"] else "normal",
        attempt=row["attempt"],
        created_at=datetime.fromisoformat(row["created_at"]),
        started_at=_moment(row["started_at"]),
        finished_at=_moment(row["finished_at"]),
        start_deadline_at=_moment(row["start_deadline_at"]),
        version=row["version"],
        quoted_microcredits=row["quoted"],
        captured_microcredits=row["captured"],
        released_microcredits=row["released"],
        queue_position=None if ahead is None or ahead >= QUEUE_COUNTED else ahead,
        failure_code=row["failure_code"],
        failure_detail=row["failure_detail"],
        failure_stage=stage_of(row["failure_code"], row["accepted"]) if row["failure_code"] else None,
        cancel_requested_at=_moment(row["cancel_requested_at"]),
        cancel_outcome=row["cancel_outcome"],
        request=_running(row),
        warnings=[*row["warnings"], *(row["notes"] or [])],
        metadata=row["metadata"],
        images=[image_of(image) for image in row["images"]],
        waiting=waiting_of(row),
        fallback_models=[each["model"] for each in row["behind"] or ()],
        keep_s=row["keep_s"],
        progress=row["progress"] if row["finished_at"] is None else None,
        client=row["client"] or {},
        webhook=row["webhook"],
        parent_id=row["parent_id"],
        cached_from=row["cached_from"],
    )


def _running(row: Mapping[str, Any]) -> StoredRequest:
    """Return the request to the current model; sizes and settings differ between models."""
    own: StoredRequest = row["request"]
    return next((each["request"] for each in row["behind"] or () if each["model"] == row["model"]), own)


def image_of(row: Mapping[str, Any]) -> Image:
    """Return an image from a row of the table ``images`` as a JSON object."""
    return Image(
        index=row["index"],
        key=row["key"],
        mime=row["mime"],
        width_px=row["width_px"],
        height_px=row["height_px"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        seed=row["seed"],
        text=row["text"],
        deleted_at=_moment(row["deleted_at"]),
    )


def _moment(written: str | None) -> datetime | None:
    return datetime.fromisoformat(written) if written else None
