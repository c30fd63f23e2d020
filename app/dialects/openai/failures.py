"""How the end of a job that made nothing is said: the status an OpenAI client expects, and never a retry.

Darkroom has tried again by itself where that was free. A retry of the client's would join the same job, or buy another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.dialects.openai.errors import INVALID, SERVER, Words
from app.http.dialect import Said
from jobs.failures import sentence
from jobs.reads.tasks import Task

NO_RETRY = {"x-should-retry": "false"}
# By failure code, where it is not the upstream's failure that it looks like.
_WORDS: Mapping[str, Words] = {
    "cancelled": Words(409, INVALID, "cancelled"),
    "content_refused": Words(400, "image_generation_user_error", "moderation_blocked"),
    "insufficient_credits": Words(429, "insufficient_quota", "insufficient_quota"),
    "internal_error": Words(500, SERVER, "internal_error"),
    "model_unavailable": Words(404, INVALID, "model_not_found"),
}
_STATUSES: Mapping[str, int] = {
    **dict.fromkeys(("extra_not_allowed", "mask_not_png", "upstream_rejected", "upstream_too_large"), 400),
    **dict.fromkeys(("upstream_overloaded", "upstream_pool_empty", "upstream_rate_limited"), 503),
    **dict.fromkeys(("provider_closed", "storage_unavailable"), 503),
    **dict.fromkeys(("deadline_expired", "upstream_timeout", "upstream_no_answer"), 504),
}


def say(task: Task) -> Said:
    """An ended task without images as an answer."""
    words = _words(task)
    return Said(document(task), words.status, headers=NO_RETRY)


def document(task: Task) -> dict[str, Any]:
    """The envelope, and the task's id."""
    return {"error": error(task), "id": task.id}


def error(task: Task) -> Mapping[str, Any]:
    """OpenAI's error object of a task that has failed or was cancelled."""
    words = _words(task)
    return {"message": _message(task), "type": words.type, "param": None, "code": words.code}


def _message(task: Task) -> str:
    if task.status == "cancelled":
        return "the task was cancelled"
    return task.failure_detail or sentence(task.failure_code or "internal_error")


def _words(task: Task) -> Words:
    code = task.failure_code or "cancelled"
    status = _STATUSES.get(code, 502)
    return _WORDS.get(code) or Words(status, SERVER if status >= 500 else INVALID, code)
