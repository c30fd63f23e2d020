"""Reading batches for their owners, always within one account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, text

from core.ids import is_id
from core.wire import rfc3339
from jobs.documents import BatchFault, StoredRefusal
from jobs.errors import BatchNotFoundError

Status = Literal["validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled", "expired"]
LineDialect = Literal["native", "openai"]
Outcome = Literal["succeeded", "failed", "cancelled", "refused"]


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as its owner may see it.

    ``total``: its lines. ``submitted``: those that became jobs or were refused. ``succeeded``, ``failed``,
    ``cancelled`` and ``refused`` are those with that outcome: what is left of ``submitted`` are live jobs.
    """

    id: str
    account_id: str
    key_id: str
    dialect: LineDialect
    endpoint: str | None
    completion_window: str
    input_file_id: str
    status: Status
    stop_code: str | None
    next_line: int
    total: int
    succeeded: int
    failed: int
    cancelled: int
    refused: int
    errors: Sequence[BatchFault]
    metadata: Mapping[str, str]
    fingerprint: bytes | None
    request_id: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    cancelling_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    @property
    def done(self) -> int:
        """Lines with an outcome."""
        return self.succeeded + self.failed + self.cancelled + self.refused


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a batch: its job, or why it has none."""

    line: int
    custom_id: str
    job_id: str | None
    outcome: Outcome | None  # None: its job is live, or its end is not counted yet
    error: StoredRefusal | None


# Jobs that have ended since the worker's last look are counted in, so that an answer is never behind the tasks.
_JUST = """
SELECT count(*) FILTER (WHERE j.status = 'succeeded') AS succeeded,
    count(*) FILTER (WHERE j.status = 'failed') AS failed,
    count(*) FILTER (WHERE j.status = 'cancelled') AS cancelled
FROM batch_lines AS l JOIN jobs AS j ON j.id = l.job_id WHERE l.batch_id = b.id AND l.outcome IS NULL
"""
COLUMNS = """
b.id, b.account_id, b.key_id, b.dialect, b.endpoint, b.completion_window, b.input_file_id, b.status, b.stop_code,
b.next_line, b.total, b.errors, b.metadata, b.fingerprint, b.request_id, b.output_file_id, b.error_file_id,
b.created_at, b.in_progress_at, b.finalizing_at, b.cancelling_at, b.ended_at, b.expires_at, b.refused,
b.succeeded + just.succeeded AS succeeded, b.failed + just.failed AS failed, b.cancelled + just.cancelled AS cancelled
"""

_FIND = text(f"""
SELECT {COLUMNS} FROM batches AS b CROSS JOIN LATERAL ({_JUST}) AS just
WHERE b.account_id = :account_id AND b.id = :id
""")
_FIND_BY_KEY = text("SELECT id FROM batches WHERE account_id = :account_id AND idempotency_key = :key")

# 'c' sorts after every id.
_LIST = text(f"""
SELECT {COLUMNS} FROM (
    SELECT * FROM batches
    WHERE account_id = :account_id AND id < coalesce(CAST(:before_id AS text), 'c')
        AND (CAST(:dialect AS text) IS NULL OR dialect = :dialect)
    ORDER BY account_id DESC, id DESC LIMIT :limit
) AS b CROSS JOIN LATERAL ({_JUST}) AS just
ORDER BY b.id DESC
""")

_LINES = text("""
SELECT line, custom_id, job_id, outcome, error FROM batch_lines
WHERE batch_id = :batch_id AND line >= :first ORDER BY line LIMIT :limit
""")


def batch_of(row: Any) -> Batch:
    """A batch from a row with :data:`COLUMNS`."""
    return Batch(**{name: row._mapping[name] for name in Batch.__slots__})


def find_batch(connection: Connection, account_id: str, batch_id: str) -> Batch:
    """Return a batch of an account. Raises BatchNotFoundError."""
    row = None
    if is_id(batch_id, "batch"):
        row = connection.execute(_FIND, {"account_id": account_id, "id": batch_id}).one_or_none()
    if row is None:
        raise BatchNotFoundError
    return batch_of(row)


def find_by_key(connection: Connection, account_id: str, key: str) -> Batch | None:
    """Return the batch that was made with this Idempotency-Key, or None."""
    found = connection.execute(_FIND_BY_KEY, {"account_id": account_id, "key": key}).scalar_one_or_none()
    return None if found is None else find_batch(connection, account_id, found)


def list_batches(
    connection: Connection,
    account_id: str,
    *,
    before_id: str | None,
    limit: int,
    dialect: LineDialect | None = None,
) -> list[Batch]:
    """Return at most ``limit`` batches, newest first, after ``before_id``."""
    values = {"account_id": account_id, "before_id": before_id, "limit": limit, "dialect": dialect}
    return [batch_of(row) for row in connection.execute(_LIST, values)]


def lines_page(connection: Connection, batch_id: str, *, first: int, limit: int) -> list[Line]:
    """Return at most ``limit`` lines from number ``first`` on. This does not check the account."""
    rows = connection.execute(_LINES, {"batch_id": batch_id, "first": first, "limit": limit})
    return [Line(row.line, row.custom_id, row.job_id, row.outcome, row.error) for row in rows]


def told_of(connection: Connection, account_id: str, batch_id: str) -> dict[str, Any] | None:
    """Return what a callback tells of a batch; None once it is gone."""
    try:
        batch = find_batch(connection, account_id, batch_id)
    except BatchNotFoundError:
        return None
    return {
        "object": "image.batch",
        "id": batch.id,
        "status": batch.status,
        "counts": {
            "total": batch.total,
            "succeeded": batch.succeeded,
            "failed": batch.failed,
            "cancelled": batch.cancelled,
            "refused": batch.refused,
        },
        "metadata": dict(batch.metadata),
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": rfc3339(batch.created_at),
        "ended_at": rfc3339(batch.ended_at),
    }
