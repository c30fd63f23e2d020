"""A task that has ended without an image as the error of a request that waited for it: status, code and words.

``failure_code`` in the problem is the task's own (docs/errors.md, "Failed jobs"); nothing of it was charged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.reads.tasks import Task

REFUSED, TIMED_OUT, UNAVAILABLE, FAILED = "task_refused", "task_timed_out", "task_unavailable", "task_failed"
CANCELLED = "task_cancelled"
_CODES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "content_refused",
            "extra_not_allowed",
            "mask_not_png",
            "upstream_rejected",
            "upstream_said_no",
            "upstream_too_large",
        ),
        REFUSED,
    ),
    **dict.fromkeys(("deadline_expired", "upstream_no_answer", "upstream_timeout"), TIMED_OUT),
    **dict.fromkeys(
        (
            "model_unavailable",
            "own_key_deleted",
            "own_key_unusable",
            "provider_closed",
            "storage_unavailable",
            "upstream_overloaded",
            "upstream_pool_empty",
            "upstream_rate_limited",
            "upstream_unreachable",
        ),
        UNAVAILABLE,
    ),
    "insufficient_credits": "insufficient_credits",
    "internal_error": "internal_error",
}


def problem_of(task: Task) -> tuple[str, str, dict[str, Any]]:
    """Code (app.http.errors.CODES), detail and facts of an ended task's problem."""
    charged = bool(task.captured_microcredits)
    facts: dict[str, Any] = {"task_id": task.id, "charged": charged, "warnings": list(task.warnings)}
    if task.status == "cancelled":
        return CANCELLED, "the task was cancelled", {**facts, "cancel_outcome": task.cancel_outcome}
    code = task.failure_code or "upstream_failed"
    facts |= {"failure_code": code, "stage": task.failure_stage, "provider": task.provider}
    return _CODES.get(code, FAILED), task.failure_detail or code, facts
