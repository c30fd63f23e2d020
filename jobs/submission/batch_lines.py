"""A line of a batch as the key of its job: the same line becomes one job, however often it is submitted.

The row of a line is written in the transaction of its job's submit. It also locks the batch against a stop, so that a
batch that is being cancelled knows all of its jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class BatchLine:
    """``line``: its number in the batch, from 0. ``custom_id``: the caller's own name for it; empty: none."""

    batch_id: str
    line: int
    custom_id: str = ""


_CLAIM = text("""
INSERT INTO batch_lines (batch_id, line, custom_id, job_id)
SELECT b.id, :line, :custom_id, :job_id FROM (
    SELECT id FROM batches WHERE id = :batch_id AND status = 'in_progress' AND stop_code IS NULL FOR SHARE
) AS b
ON CONFLICT (batch_id, line) DO NOTHING
RETURNING 1
""")

_FIND = text("SELECT job_id FROM batch_lines WHERE batch_id = :batch_id AND line = :line")


def claim(connection: Connection, line: BatchLine, job_id: str) -> bool:
    """Take the line for a job about to be inserted, as the first statement of its transaction; False where it has been
    taken before, or the batch is being stopped."""
    values = {"batch_id": line.batch_id, "line": line.line, "custom_id": line.custom_id, "job_id": job_id}
    return connection.execute(_CLAIM, values).one_or_none() is not None


def find(connection: Connection, line: BatchLine) -> str | None:
    """The job of the line; None where it has none."""
    found: str | None = connection.execute(_FIND, {"batch_id": line.batch_id, "line": line.line}).scalar_one_or_none()
    return found
