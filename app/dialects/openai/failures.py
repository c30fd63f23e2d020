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
_REFUSED = Words(400, "image_generation_user_error", "moderation_blocked")
_AWAY = frozenset(
    {
        "upstream_overloaded",
        "upstream_pool_empty",
        "upstream_rate_limited",
        "provider_closed",
        "storage_unavailable",
    }
)
_LATE = frozenset({"deadline_expired", "upstream_timeout", "upstream_no_answer"})
_ORDERS_FAULT = frozenset({"extra_not_allowed", "mask_not_png", "upstream_rejected", "upstream_too_large"})


def say(task: Task) -> Said:
    """An ended task without images as an answer. Its status is the one of the first attempt to read it, or of any."""
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
    if code == "content_refused":
        return _REFUSED
    if code == "insufficient_credits":
        return Words(429, "insufficient_quota", "insufficient_quota")
    if task.status == "cancelled":
        return Words(409, INVALID, "cancelled")
    if code == "model_unavailable":
        return Words(404, INVALID, "model_not_found")
    if code in _ORDERS_FAULT:
        return Words(400, INVALID, code)
    if code == "internal_error":
        return Words(500, SERVER, code)
    return Words(503 if code in _AWAY else 504 if code in _LATE else 502, SERVER, code)
