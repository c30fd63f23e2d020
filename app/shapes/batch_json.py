"""A batch as the native routes answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.http.errors import CODES, document
from core.wire import rfc3339
from jobs.documents import StoredRefusal
from jobs.reads.batches import Batch, Line

BATCHES = "/api/images/batches"


def batch_json(batch: Batch, base: str, lines: Sequence[Line] | None = None) -> dict[str, Any]:
    """app.shapes.schemas.batches.BatchOut. ``base``: the public address before our paths."""
    written = max(batch.next_line, batch.done)
    path = f"{base}{BATCHES}/{batch.id}"
    return {
        "id": batch.id,
        "object": "image.batch",
        "status": batch.status,
        "counts": {
            "total": batch.total,
            "waiting": batch.total - written,
            "live": written - batch.done,
            "succeeded": batch.succeeded,
            "failed": batch.failed,
            "cancelled": batch.cancelled,
            "refused": batch.refused,
        },
        "input_file_id": batch.input_file_id,
        "errors": [dict(each) for each in batch.errors],
        "metadata": dict(batch.metadata),
        "created_at": rfc3339(batch.created_at),
        "in_progress_at": rfc3339(batch.in_progress_at),
        "cancelling_at": rfc3339(batch.cancelling_at),
        "ended_at": rfc3339(batch.ended_at),
        "expires_at": rfc3339(batch.expires_at),
        "lines": None if lines is None else [line_json(batch, each) for each in lines],
        "urls": {"self": path, "cancel": f"{path}/cancel", "results": f"{path}/results"},
    }


def line_json(batch: Batch, line: Line) -> dict[str, Any]:
    """app.shapes.schemas.batches.BatchLineOut."""
    return {
        "line": line.line,
        "custom_id": line.custom_id or None,
        "task_id": line.job_id,
        "error": error_of(batch, line),
    }


def error_of(batch: Batch, line: Line) -> Mapping[str, Any] | None:
    """The problem of a line that became no task; None for one that did."""
    return None if line.error is None else problem_of(line.error, batch)


def problem_of(refusal: StoredRefusal, batch: Batch) -> dict[str, Any]:
    """A refusal as the answer that its order would have got by itself, but for a dialect's words."""
    code = refusal["code"] if refusal["code"] in CODES else "invalid_order"
    path = f"{BATCHES}/{batch.id}"
    return document(code, refusal["detail"], instance=path, request_id=batch.request_id, **refusal["facts"])
