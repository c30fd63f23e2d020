"""The error answers of OpenAI and of upstreams that speak its dialect, as our classes.

Source: providers/upstreams/openai/CONTRACT.md, section 9 (package openai 3.51.0, error-code pages), read 2026-11-20.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    UnknownModel,
)
from providers.shared.litellm_errors import in_openais_words
from providers.shared.reading import json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import retry_after_s
from providers.shared.statuses import by_status

Stage = Literal["input", "output", "unknown"]

_REFUSED_CONTENT = frozenset({"moderation_blocked", "content_policy_violation"})
_NO_MONEY = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "usage_limit_exceeded",
    }
)
_OVERLOADED = frozenset({"server_is_overloaded", "server_overloaded", "slow_down"})
_OWN_FAILURES = frozenset({"server_error", "image_generation_server_error"})


@dataclass(frozen=True, slots=True)
class Fault:
    """The ``error`` object of an answer; an empty string for what the upstream did not send."""

    message: str = ""
    type: str = ""
    code: str = ""
    param: str = ""
    stage: Stage = "unknown"

    @property
    def words(self) -> frozenset[str]:
        """Type and code: upstreams use either for the same thing."""
        return frozenset({self.type, self.code})


def read_fault(answer: Mapping[str, Any] | None) -> Fault | None:
    """The fault in a JSON answer, or None where there is none in a known shape; a gateway's wrapping is taken off.

    Some compatible servers answer flat: the message is ``error`` itself, next to a ``code`` or none.
    """
    error = (answer or {}).get("error")
    if isinstance(error, str) and error:
        return Fault(message=error, code=_text((answer or {}).get("code")))
    if not isinstance(error, dict):
        return None
    texts = {name: _text(error.get(name)) for name in ("message", "type", "code", "param")}
    return Fault(**in_openais_words(texts), stage=_stage(error)) if any(texts.values()) else None


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""


def _stage(error: Mapping[str, Any]) -> Stage:
    details = error.get("moderation_details")
    match details.get("moderation_stage") if isinstance(details, dict) else None:
        case "input":
            return "input"
        case "output":
            return "output"
        case _:
            return "unknown"


def classify(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What an answer other than 2xx means for the one call it answers.

    The body decides before the status: 400 and 429 each have several meanings. From 500 on only an error
    object of the upstream's own proves that no image was made; a proxy's page proves nothing.
    """
    fault = read_fault(json_object(body))
    detail = describe(status, fault)
    wait_s = retry_after_s(headers, fault.message if fault else "")
    decided = _server_fault(status, fault, detail, wait_s) if status >= 500 else _by_words(fault, detail)
    if decided is None and status == 404 and fault is not None and "model" in fault.message.lower():
        decided = UnknownModel("upstream_model_unknown", detail)
    return decided or by_status(status, detail, wait_s=wait_s)


def classify_in_stream(fault: Fault) -> ProviderError:
    """The error of a fault inside an answer that began with 200: the upstream itself gave up."""
    detail = describe(200, fault)
    return _by_words(fault, detail) or Failed("upstream_failed", detail, retryable=True)


def describe(status: int, fault: Fault | None) -> str:
    """The answer in one line for the log, redacted."""
    if fault is None:
        return f"HTTP {status}"
    words = " ".join(word for word in (fault.type, fault.code, fault.param) if word)
    return redact(f"HTTP {status} {words}: {fault.message}")


def _by_words(fault: Fault | None, detail: str) -> ProviderError | None:
    if fault is None:
        return None
    if fault.words & _REFUSED_CONTENT or "safety_violations" in fault.message:
        return ContentRefused(detail=detail, stage=fault.stage)
    if fault.words & _NO_MONEY:
        return OutOfCredit("upstream_out_of_credit", detail)
    if fault.code == "model_not_found":
        return UnknownModel("upstream_model_unknown", detail)
    if fault.code == "invalid_api_key":
        return BadCredentials("upstream_bad_credentials", detail)
    return None


def _server_fault(status: int, fault: Fault | None, detail: str, wait_s: float | None) -> ProviderError | None:
    if fault is not None and status == 500 and fault.type in _OWN_FAILURES:
        return Failed("upstream_failed", detail, retryable=True, retry_after_s=wait_s)
    if fault is not None and status == 503 and fault.words & _OVERLOADED:
        return NotRun("upstream_overloaded", detail, retry_after_s=wait_s)
    return None
