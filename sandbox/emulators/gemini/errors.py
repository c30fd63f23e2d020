"""Google's error envelope: ``{"error": {code, message, status, details}}`` with ``google.rpc`` details.

Source: providers/upstreams/gemini/CONTRACT.md, sections 3 and 7.
"""

from typing import Any

from flask import Response, jsonify

from sandbox.markers import Fault
from sandbox.misbehave import ErrorFor
from sandbox.plumbing.calls import WireError, html_answer, json_answer

RPC = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
QUOTA_METRIC = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
RETRY_DELAY = "32"


class ApiError(WireError):
    """An answer in the envelope. ``field`` is where in the body the fault is."""

    def __init__(
        self, message: str, *details: dict[str, Any], status: int = 400, rpc: str = "", field: str = ""
    ) -> None:
        super().__init__(message)
        violation = {"field": field, "description": message}
        misfit = [detail("BadRequest", fieldViolations=[violation])] if field else []
        self.status, self.rpc, self.details = status, rpc or RPC[status], [*details, *misfit]

    def response(self, *, in_list: bool = False) -> Response:
        """The answer; now and then the real service wraps it into a list of one."""
        error: dict[str, Any] = {"code": self.status, "message": str(self), "status": self.rpc}
        if self.details:
            error["details"] = self.details
        return json_answer([{"error": error}] if in_list else {"error": error}, self.status)


def detail(kind: str, **fields: Any) -> dict[str, Any]:
    """One of the ``details``."""
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def out_of_credit() -> ApiError:
    """429 however long the caller waits."""
    text = "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing."
    return ApiError(text, status=429)


def exhausted(model: str, quota_id: str, value: str, delay_s: str) -> ApiError:
    """429 with all that Google tells: which quota, where to read on, when to come back."""
    violation = {
        "quotaMetric": QUOTA_METRIC,
        "quotaId": quota_id,
        "quotaDimensions": {"model": model, "location": "global"},
        "quotaValue": value,
    }
    text = f"You exceeded your current quota. * Quota exceeded for metric: {QUOTA_METRIC}, limit: {value}"
    retry = detail("RetryInfo", retryDelay=f"{delay_s}s")
    failure = detail("QuotaFailure", violations=[violation])
    return ApiError(text, failure, detail("Help", links=[]), retry, status=429)


def for_fault(model: str) -> ErrorFor:
    """Words a scripted refusal (200 without candidates), an empty account or a bare status for a call to ``model``."""

    def error_for(fault: Fault) -> Response:
        if fault.name == "refuse":
            reason, usage = fault.value.upper() or "PROHIBITED_CONTENT", {"promptTokenCount": 9, "totalTokenCount": 9}
            return jsonify(promptFeedback={"blockReason": reason}, usageMetadata=usage)
        error = _scripted(fault, model)
        if error is None:
            return html_answer(fault.status or 500)
        return error.response(in_list=fault.options.get("envelope") == "list")

    return error_for


def _scripted(fault: Fault, model: str) -> ApiError | None:
    """The error of a quota or a status; None where it comes from what stands in front."""
    delay_s, status = fault.options.get("retry_after", RETRY_DELAY), fault.status or 500
    match fault.name, fault.value:
        case "quota", "":
            return out_of_credit()
        case "quota", "day":
            return exhausted(model, "GenerateRequestsPerDayPerProjectPerModel", "10", delay_s)
        case "quota", "free":
            return exhausted(model, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0", delay_s)
        case "429", "":
            return exhausted(model, "GenerateRequestsPerMinutePerProjectPerModel", "10", delay_s)
        case "503", "":
            text = "The model is overloaded. Please try again later."
            return ApiError(text, detail("RetryInfo", retryDelay=f"{delay_s}s"), status=503)
    return ApiError(f"Scripted by the sandbox: HTTP {status}.", status=status) if status in RPC else None
