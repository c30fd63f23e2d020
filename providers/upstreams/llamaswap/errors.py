"""The error answers of llama-swap and of the sd-server behind it, as our classes.

Two programs answer: ``src`` distinguishes llama-swap's own answers from those it passes on. ``error``
is an object or a text in either. Source: providers/upstreams/llamaswap/CONTRACT.md, section 6, read 2026-11-20.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from providers.errors import Failed, NotRun, ProviderError, RequestRefused, UnknownModel
from providers.http.client import HttpResponse
from providers.shared.reading import json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import retry_after_s
from providers.shared.statuses import by_status

# What sd-server answers to JSON that it cannot use: the same body always gets the same answer.
_BAD_JSON: Final = re.compile(r"json|type_error|parse_error", re.IGNORECASE)


def classify(answer: HttpResponse) -> ProviderError:
    """What an answer other than 2xx means for the one call it answers.

    A 5xx of the upstream's own means that no image was made, and nothing is billed. Any other 5xx may come from
    a proxy, and proves nothing.
    """
    body = json_object(answer.body)
    words = _words(body)
    detail = redact(f"HTTP {answer.status} {words}")
    wait_s = retry_after_s(answer.headers)
    decided = None
    if body is not None and body.get("src") == "llama-swap":
        decided = _by_proxy(answer.status, detail, wait_s)
    elif answer.status == 500 and words:
        decided = _by_server(words, detail)
    elif answer.status == 502 and not answer.body:
        decided = Failed("upstream_failed", f"{detail}: the model's process is gone", retryable=True)
    return decided or by_status(answer.status, detail, wait_s=wait_s)


def _by_proxy(status: int, detail: str, wait_s: float | None) -> ProviderError | None:
    match status:
        case 404:
            return UnknownModel("upstream_model_unknown", detail)
        case 409 | 503:  # the model is not loaded, or not ready
            return NotRun("upstream_overloaded", detail, retry_after_s=wait_s)
        case 500:  # the model could not be loaded, or was unloaded
            return Failed("upstream_failed", detail, retryable=True)
    return None


def _by_server(words: str, detail: str) -> ProviderError:
    if _BAD_JSON.search(words):
        return RequestRefused("upstream_rejected", detail)
    return Failed("upstream_failed", detail, retryable=True)


def _words(body: Mapping[str, Any] | None) -> str:
    """``error`` and ``message``, as far as they are there."""
    error = (body or {}).get("error")
    parts = [error.get("code"), error.get("message")] if isinstance(error, dict) else [error]
    parts.append((body or {}).get("message"))
    return " ".join(part for part in parts if isinstance(part, str))
