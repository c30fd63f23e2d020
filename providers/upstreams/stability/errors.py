"""The error answers of Stability AI as our classes: by their name first, because 403 has two meanings.

Source: providers/upstreams/stability/CONTRACT.md, section 5 (OpenAPI of v2beta, help page on rate limits), read
2026-11-20.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    Misconfigured,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
)
from providers.http.client import HttpResponse
from providers.shared.looks import as_not_run
from providers.shared.reading import json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import retry_after_s
from providers.shared.statuses import by_status

LOCKED_OUT_S: Final = 60.0  # after more than 150 requests in 10 s; no Retry-After is documented

_BY_NAME: Final[Mapping[str, Callable[[str], ProviderError]]] = MappingProxyType(
    {
        "bad_request": lambda detail: RequestRefused("upstream_rejected", detail),
        "unauthorized": lambda detail: BadCredentials("upstream_bad_credentials", detail),
        "payment_required": lambda detail: OutOfCredit("upstream_out_of_credit", detail),
        "content_moderation": lambda detail: ContentRefused(detail=detail, stage="input"),
        "permission_denied": lambda detail: BadCredentials("upstream_forbidden", detail),
        "payload_too_large": lambda detail: RequestRefused("upstream_too_large", detail),
    }
)
# There is no status "failed": a call that failed has one of these names (section 4).
_ENDS_A_CALL = frozenset({"bad_request", "content_moderation"})


@dataclass(frozen=True, slots=True)
class Fault:
    """``name`` and texts of an error answer; empty where there are none."""

    name: str = ""
    text: str = ""


def read_fault(body: bytes) -> Fault:
    """The fault in v2beta's envelope, v1's, or a bare ``{"message": ...}``; errors are JSON with any Accept."""
    document = json_object(body) or {}
    name, errors = document.get("name"), document.get("errors")
    texts = [text for text in errors if isinstance(text, str)] if isinstance(errors, list) else []
    text = "; ".join(texts) or document.get("message")
    return Fault(name if isinstance(name, str) else "", text if isinstance(text, str) else "")


def classify(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What an answer other than 2xx means for the one call it answers.

    Of the 5xx only the API's own ``internal_error`` under 500 proves that the call failed (and is free);
    502 to 504 come from a gateway, behind which the work may continue.
    """
    fault = read_fault(body)
    detail = redact(f"HTTP {status} {fault.name}: {fault.text}")
    if status == 429 or (status < 500 and fault.name == "rate_limit_exceeded"):
        # Only by the header: the text names the window of 10 s, which is not the time to wait.
        return NotRun("upstream_rate_limited", detail, retry_after_s=retry_after_s(headers) or LOCKED_OUT_S)
    if status < 500 and fault.name in _BY_NAME:
        return _BY_NAME[fault.name](detail)
    if status == 500 and fault.name == "internal_error":
        return Failed("upstream_failed", detail, retryable=True)
    return by_status(status, detail, wait_s=retry_after_s(headers))


def classify_look(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """The error of a look: only one about the call itself ends it, any other is a failed look.

    A 500 may be about the call or the look; assuming the look costs time, assuming the call a second purchase.
    """
    error = classify(status, headers, body)
    if status < 500 and read_fault(body).name in _ENDS_A_CALL:
        return error
    if isinstance(error, Misconfigured):
        return as_not_run(error)
    if isinstance(error, NotRun):
        return error
    return Uncertain(error.code, error.detail, retry_after_s=error.retry_after_s)


def is_unknown(answer: HttpResponse) -> bool:
    """Whether the API itself, not something in front of it, says that it does not know this id."""
    return answer.status == 404 and read_fault(answer.body).name == "not_found"
