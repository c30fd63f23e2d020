"""How a job that has ended without an image is said in fal's words. Pure: callbacks use it, too.

No failure is said with 502, 503 or 504, which fal's clients answer by sending the order again, but for a latest start
that the client has set itself (docs/decisions/0085-fal-failures-are-not-retried.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from jobs.failures import sentence

TIMEOUT_TYPE = "x-fal-request-timeout-type"
Where = tuple[str | int, ...]  # as FastAPI's ``loc``: ("body", "image_urls", 0)


@dataclass(frozen=True, slots=True)
class Failure:
    """How a job's end without an image is said: status, fal's type, and the member of the input that is at fault."""

    status: int
    type: str
    where: Where | None = None


_CONTENT = Failure(422, "content_policy_violation", ("body", "prompt"))
_NO_MEDIA = Failure(422, "no_media_generated", ("body", "prompt"))
_REFUSED = Failure(400, "downstream_service_error")
_AWAY = Failure(500, "downstream_service_unavailable")
_SLOW = Failure(500, "generation_timeout")
_OURS = Failure(500, "internal_error")
CANCELLED = Failure(499, "client_cancelled")
LATE = Failure(504, "request_timeout")
FAILURES: Final[Mapping[str, Failure]] = MappingProxyType(
    {
        "content_refused": _CONTENT,
        "deadline_expired": LATE,
        "empty_result": _NO_MEDIA,
        "upstream_empty_result": _NO_MEDIA,
        "upstream_said_no": _NO_MEDIA,
        "extra_not_allowed": Failure(422, "value_error", ("body",)),
        "mask_not_png": Failure(422, "unsupported_image_format", ("body", "mask_url")),
        "insufficient_credits": Failure(402, "insufficient_credits"),
        "upstream_rejected": _REFUSED,
        "upstream_too_large": _REFUSED,
        "upstream_cancelled": _REFUSED,
        "upstream_no_answer": _SLOW,
        "upstream_timeout": _SLOW,
        "internal_error": _OURS,
        "storage_unavailable": _OURS,
        "model_unavailable": Failure(404, "not_found"),
    }
)


def failure_of(code: str | None) -> Failure:
    """How a failure code is said; None is the code of a cancelled job."""
    return CANCELLED if code is None else FAILURES.get(code, _AWAY)


def words_of(code: str | None, detail: str | None) -> str:
    """The sentence for a job's end without an image."""
    return "the request was cancelled" if code is None else detail or sentence(code)


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer for a job that has ended without an image."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]


def failed(code: str | None, detail: str | None, *, own_timeout: bool) -> Failed:
    """The answer for a job that has ended without an image. ``own_timeout``: the client had set its latest start."""
    failure, words = failure_of(code), words_of(code, detail)
    status = failure.status
    headers = {"x-fal-error-type": failure.type}
    if failure is LATE:
        if own_timeout:
            headers[TIMEOUT_TYPE] = "user"
        else:
            status = 500
    told: Any = words
    if status == 422:
        told = [{"loc": list(failure.where or ("body",)), "msg": words, "type": failure.type}]
    body = {
        "detail": told,
        "message": words,
        "error": words,
        "error_type": failure.type,
        "status": status,
        "code": code or "cancelled",
    }
    return Failed(status, body, headers)
