"""What the routes of fal's queue and of its synchronous host answer alike."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Response

from app.dialects.fal import result
from app.http.responses import json_answer
from jobs.reads.tasks import Task
from quota.prices import credits_text
from storage.base import Store
from webhooks.forms import Links

ORDER_ERRORS = (
    "malformed_json",
    "insufficient_credits",
    "spending_limit",
    "model_not_allowed",
    "content_refused",
    "screening_unavailable",
    "request_too_large",
    "unsupported_media_type",
    "invalid_order",
    "unknown_model",
    "idempotency_key_invalid",
    "idempotency_mismatch",
    "storage_unavailable",
)
REQUEST_HEADERS = (
    "Idempotency-Key",
    "Cache-Control",
    "X-Fal-Request-Timeout",
    "X-Fal-Queue-Priority",
    "x-fal-no-retry",
)
MAX_NAMED = 20


def headers_of(task: Task, ignored: Sequence[str]) -> dict[str, str]:
    """The headers of an accepted order. ``ignored``: members of its input that nothing takes."""
    headers = {"X-Task-Id": task.id, "X-Cost-Quoted": credits_text(task.quoted_microcredits)}
    if names := [name for name in ignored if name.isascii() and name.isidentifier()][:MAX_NAMED]:
        headers["Warning"] = f'299 - "ignored: {", ".join(names)}"'
    return headers


def output(task: Task, links: Links, store: Store) -> Response:
    """The output of an ended task, or how it failed. Raises ImageGoneError, StorageUnavailableError."""
    if (failed := result.failure(task)) is not None:
        return json_answer(failed.body, failed.status, failed.headers)
    return json_answer(result.payload(task, links, result.data_urls(task, store)))
