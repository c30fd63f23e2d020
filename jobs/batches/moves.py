"""The statements that move a batch; nothing else writes its row.

Every one may be repeated, and says on which state it rests: a feeder that has lost its lease does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from core.ids import new_id
from jobs.documents import BatchFault, StoredRefusal
from jobs.errors import BatchEndedError, BatchNotFoundError
from jobs.reads.batches import Batch, LineDialect, find_batch
from jobs.reads.files import find_file
from jobs.submission.idempotency import TakenError

CANCELLED = "batch_cancelled"
EXPIRED = "batch_expired"


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a batch is made with. ``checked``: its lines need no look at the whole file first. ``lease_s``: for how long
    its maker submits its lines itself. ``key``: the caller's Idempotency-Key and the digest of the request with it."""

    dialect: LineDialect
    input_file_id: str
    completion_window: str
    window_s: float
    endpoint: str | None = None
    metadata: Mapping[str, str] | None = None
    key: tuple[str, bytes] | None = None
    request_id: str = ""
    checked: bool = False
    lease_s: float = 0.0


_INSERT = text("""
INSERT INTO batches (id, account_id, key_id, dialect, endpoint, completion_window, input_file_id, status, total,
    metadata, idempotency_key, fingerprint, request_id, in_progress_at, expires_at, due_at)
VALUES (:id, :account_id, :key_id, :dialect, :endpoint, :completion_window, :input_file_id, :status, :total,
    CAST(:metadata AS jsonb), :key, :fingerprint, :request_id,
    CASE WHEN CAST(:status AS text) = 'in_progress' THEN clock_timestamp() END,
    clock_timestamp() + make_interval(secs => :window_s), clock_timestamp() + make_interval(secs => :lease_s))
ON CONFLICT (account_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING id
""")
_KEEP_INPUT = text("SELECT 1 FROM files WHERE id = :id FOR KEY SHARE")


def create(connection: Connection, account_id: str, key_id: str, new: NewBatch) -> Batch:
    """Insert a batch, in the caller's transaction. Raises UploadNotFoundError, UploadGoneError for its file, TakenError
    where its key was used before."""
    connection.execute(_KEEP_INPUT, {"id": new.input_file_id})
    file = find_file(connection, account_id, new.input_file_id)
    batch_id = new_id("batch")
    made = connection.execute(
        _INSERT,
        {
            "id": batch_id,
            "account_id": account_id,
            "key_id": key_id,
            "dialect": new.dialect,
            "endpoint": new.endpoint,
            "completion_window": new.completion_window,
            "input_file_id": file.id,
            "status": "in_progress" if new.checked else "validating",
            "total": file.lines,
            "metadata": json.dumps(dict(new.metadata or {})),
            "key": new.key[0] if new.key else None,
            "fingerprint": new.key[1] if new.key else None,
            "request_id": new.request_id,
            "window_s": float(new.window_s),
            "lease_s": float(new.lease_s),
        },
    ).one_or_none()
    if made is None:
        raise TakenError(new.key[0] if new.key else "")
    return find_batch(connection, account_id, batch_id)


_TAKE = text("""
UPDATE batches SET due_at = clock_timestamp() + make_interval(secs => :lease_s)
WHERE id = (
    SELECT id FROM batches WHERE ended_at IS NULL AND due_at <= statement_timestamp()
    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, account_id
""")
_ANY_DUE = text("SELECT 1 FROM batches WHERE ended_at IS NULL AND due_at <= statement_timestamp() LIMIT 1")
_LEASE = text("""
UPDATE batches SET due_at = clock_timestamp() + make_interval(secs => :s) WHERE id = :id AND ended_at IS NULL
""")


def any_due(connection: Connection) -> bool:
    """Whether a batch is due."""
    return connection.execute(_ANY_DUE).one_or_none() is not None


def take_due(connection: Connection, *, lease_s: float) -> Batch | None:
    """Take the batch that is due longest for ``lease_s`` seconds; None where none is due."""
    row = connection.execute(_TAKE, {"lease_s": lease_s}).one_or_none()
    return None if row is None else find_batch(connection, row.account_id, row.id)


def look_again(connection: Connection, batch_id: str, after_s: float) -> None:
    """The next look is in so many seconds; while one lasts, this lengthens its lease."""
    connection.execute(_LEASE, {"id": batch_id, "s": after_s})


_BEGIN = text("""
UPDATE batches SET status = 'in_progress', in_progress_at = clock_timestamp()
WHERE id = :id AND status = 'validating'
""")
# Endpoints that want to hear of the end of a batch; the sender looks for due messages twice a second.
_TOLD = """
INSERT INTO webhook_messages (account_id, job_id, event, endpoint_id, target, form)
SELECT batch.account_id, batch.id, 'batch.' || batch.status, e.id, e.id, 'standard'
FROM batch JOIN webhook_endpoints AS e ON e.account_id = batch.account_id AND e.disabled_at IS NULL
WHERE e.events @> to_jsonb('batch.' || batch.status)
"""
_FAIL = text(f"""
WITH batch AS (
    UPDATE batches SET status = 'failed', ended_at = clock_timestamp(), errors = CAST(:errors AS jsonb)
    WHERE id = :id AND status = 'validating'
    RETURNING id, account_id, status
)
{_TOLD}
""")


def begin(connection: Connection, batch_id: str) -> None:
    """validating -> in_progress."""
    connection.execute(_BEGIN, {"id": batch_id})


def fail(connection: Connection, batch_id: str, faults: Sequence[BatchFault]) -> None:
    """validating -> failed: nothing of it was submitted."""
    connection.execute(_FAIL, {"id": batch_id, "errors": json.dumps(list(faults))})


_ADVANCE = text("UPDATE batches SET next_line = greatest(next_line, :line) WHERE id = :id")

_REFUSE = text("""
WITH refused AS (
    INSERT INTO batch_lines (batch_id, line, custom_id, outcome, error)
    SELECT :id, r.line, r.custom_id, :outcome, r.error
    FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS r(line int, custom_id text, error jsonb)
    ON CONFLICT (batch_id, line) DO NOTHING
    RETURNING outcome
)
UPDATE batches SET refused = refused + (SELECT count(*) FROM refused WHERE outcome = 'refused'),
    cancelled = cancelled + (SELECT count(*) FROM refused WHERE outcome = 'cancelled')
WHERE id = :id
""")

_TAKEN = text("SELECT line FROM batch_lines WHERE batch_id = :id AND line >= :first AND line < :behind")


def advance(connection: Connection, batch_id: str, line: int) -> None:
    """The lines before ``line`` are written down."""
    connection.execute(_ADVANCE, {"id": batch_id, "line": line})


def refuse(
    connection: Connection, batch_id: str, lines: Sequence[tuple[int, str, StoredRefusal]], *, stopped: bool = False
) -> None:
    """Write down lines (number, custom id, why) that become no jobs; those that are there already stay as they are."""
    rows = [{"line": line, "custom_id": custom_id, "error": error} for line, custom_id, error in lines]
    connection.execute(
        _REFUSE, {"id": batch_id, "lines": json.dumps(rows), "outcome": "cancelled" if stopped else "refused"}
    )


def taken_lines(connection: Connection, batch_id: str, first: int, behind: int) -> set[int]:
    """The lines from ``first`` to before ``behind`` that are written down: by a feeder that was killed."""
    rows = connection.execute(_TAKEN, {"id": batch_id, "first": first, "behind": behind})
    return set(rows.scalars())


# A line is counted by whoever writes its outcome: the condition is asked again under the line's lock.
_SETTLE = text("""
WITH ended AS (
    SELECT l.line, j.status FROM batch_lines AS l JOIN jobs AS j ON j.id = l.job_id
    WHERE l.batch_id = :id AND l.outcome IS NULL AND j.status IN ('succeeded', 'failed', 'cancelled')
), noted AS (
    UPDATE batch_lines AS l SET outcome = ended.status FROM ended
    WHERE l.batch_id = :id AND l.line = ended.line AND l.outcome IS NULL
    RETURNING l.outcome
)
UPDATE batches SET succeeded = succeeded + (SELECT count(*) FROM noted WHERE outcome = 'succeeded'),
    failed = failed + (SELECT count(*) FROM noted WHERE outcome = 'failed'),
    cancelled = cancelled + (SELECT count(*) FROM noted WHERE outcome = 'cancelled')
WHERE id = :id AND EXISTS (SELECT 1 FROM ended)
""")

_LIVE = text("""
SELECT count(*) AS live, count(*) FILTER (WHERE j.status = 'queued') AS queued
FROM batch_lines AS l JOIN jobs AS j ON j.id = l.job_id WHERE l.batch_id = :id AND l.outcome IS NULL
""")

_TO_CANCEL = text("""
SELECT j.id FROM batch_lines AS l JOIN jobs AS j ON j.id = l.job_id
WHERE l.batch_id = :id AND l.outcome IS NULL AND j.cancel_requested_at IS NULL
    AND j.status IN ('queued', 'running', 'waiting')
LIMIT :limit
""")


def settle(connection: Connection, batch_id: str) -> tuple[int, int]:
    """Write down the outcomes of jobs that have ended; how many lines have live jobs, and how many queued ones."""
    connection.execute(_SETTLE, {"id": batch_id})
    row = connection.execute(_LIVE, {"id": batch_id}).one()
    return int(row.live), int(row.queued)


def jobs_to_cancel(connection: Connection, batch_id: str, limit: int) -> list[str]:
    """Live jobs of a batch that no one has asked to stop yet."""
    return list(connection.execute(_TO_CANCEL, {"id": batch_id, "limit": limit}).scalars())


_CANCEL = text("""
UPDATE batches
SET status = 'cancelling', cancelling_at = clock_timestamp(), stop_code = :code, due_at = clock_timestamp()
WHERE id = :id AND account_id = :account_id AND status IN ('validating', 'in_progress') AND stop_code IS NULL
RETURNING id
""")

_EXPIRE = text("""
UPDATE batches SET status = 'finalizing', finalizing_at = clock_timestamp(), stop_code = :code
WHERE id = :id AND status IN ('validating', 'in_progress') AND expires_at <= clock_timestamp()
RETURNING id
""")


def cancel(connection: Connection, account_id: str, batch_id: str) -> Batch:
    """in_progress -> cancelling: nothing more is submitted, and the feeder cancels its jobs. A batch that is being
    stopped stays as it is. Raises BatchNotFoundError, BatchEndedError."""
    found = connection.execute(_CANCEL, {"id": batch_id, "account_id": account_id, "code": CANCELLED}).one_or_none()
    batch = find_batch(connection, account_id, batch_id)
    if found is None and batch.ended:
        raise BatchEndedError(f"the batch has ended: it is {batch.status}")
    return batch


def expire(connection: Connection, batch_id: str) -> bool:
    """A batch whose time is over is stopped; whether this one is."""
    return connection.execute(_EXPIRE, {"id": batch_id, "code": EXPIRED}).one_or_none() is not None


_FINISH = text(f"""
WITH batch AS (
    UPDATE batches SET status = :status, ended_at = clock_timestamp(),
        finalizing_at = CASE WHEN stop_code IS NULL THEN coalesce(finalizing_at, clock_timestamp())
            ELSE finalizing_at END,
        output_file_id = CASE WHEN dialect = 'openai' AND succeeded > 0 THEN CAST(:output_id AS text) END,
        error_file_id = CASE WHEN dialect = 'openai' AND succeeded < next_line THEN CAST(:errors_id AS text) END
    WHERE id = :id AND ended_at IS NULL AND next_line >= total
        AND succeeded + failed + cancelled + refused >= next_line
    RETURNING *
), made AS (
    SELECT coalesce(sum(i.size_bytes), 0) AS bytes
    FROM batch JOIN batch_lines AS l ON l.batch_id = batch.id JOIN images AS i ON i.job_id = l.job_id
    WHERE batch.output_file_id IS NOT NULL
), output AS (
    INSERT INTO files (id, account_id, kind, batch_id, file_name, size_bytes, sha256, lines, expires_at)
    SELECT each.id, batch.account_id, each.kind, batch.id, batch.id || '_' || each.kind || '.jsonl',
        CAST(each.lines * 512 + each.bytes * 4 / 3 AS bigint), '', each.lines,
        clock_timestamp() + make_interval(secs => CAST(:keep_s AS float))
    FROM batch CROSS JOIN made CROSS JOIN LATERAL (VALUES
        (batch.output_file_id, 'output', batch.succeeded, made.bytes),
        (batch.error_file_id, 'errors', batch.next_line - batch.succeeded, 0)
    ) AS each(id, kind, lines, bytes)
    WHERE each.id IS NOT NULL
), told AS ({_TOLD})
SELECT id FROM batch
""")


def finish(connection: Connection, batch_id: str, status: str, *, keep_s: float | None) -> bool:
    """End a batch all of whose lines have an outcome, with the files of its results; whether it has ended by this."""
    values: dict[str, Any] = {
        "id": batch_id,
        "status": status,
        "output_id": new_id("file"),
        "errors_id": new_id("file"),
        "keep_s": keep_s,
    }
    return connection.execute(_FINISH, values).one_or_none() is not None


def refind(connection: Connection, batch: Batch) -> Batch | None:
    """The batch as it is now; None once it is gone."""
    try:
        return find_batch(connection, batch.account_id, batch.id)
    except BatchNotFoundError:
        return None
