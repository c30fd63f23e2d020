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
_NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). "
    "Please use API Key or other form of API consumer identity to call this API."
)
_NO_CREDIT = "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing."


class ApiError(WireError):
    """An answer in the envelope. ``field`` is where in the body the fault is."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        rpc: str = "",
        details: list[dict[str, Any]] | None = None,
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.status, self.rpc, self.details = status, rpc or RPC[status], details or []
        if field:
            violation = {"field": field, "description": message}
            self.details = [*self.details, _detail("BadRequest", fieldViolations=[violation])]

    def response(self, *, in_list: bool = False) -> Response:
        """The answer; now and then the real service wraps it into a list of one."""
        error: dict[str, Any] = {"code": self.status, "message": str(self), "status": self.rpc}
        if self.details:
            error["details"] = self.details
        return json_answer([{"error": error}] if in_list else {"error": error}, self.status)


def _detail(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def _retry_info(delay_s: str) -> dict[str, Any]:
    return _detail("RetryInfo", retryDelay=f"{delay_s}s")


def bad_key() -> ApiError:
    """A bad key is a bad argument here: 400."""
    text = "API key not valid. Please pass a valid API key."
    service = {"service": "generativelanguage.googleapis.com"}
    info = _detail("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com", metadata=service)
    return ApiError(text, details=[info, _detail("LocalizedMessage", locale="en-US", message=text)])


def no_key() -> ApiError:
    """403 without any."""
    return ApiError(_NO_KEY, status=403)


def no_billing() -> ApiError:
    """400 until the account has billing."""
    text = "User location is not supported for the API use without a billing account linked."
    return ApiError(text, rpc="FAILED_PRECONDITION")


def not_found(model: str, method: str) -> ApiError:
    """404: a model that is unknown, shut down, or cannot do this."""
    return ApiError(f"models/{model} is not found, or is not supported for {method}.", status=404)


def out_of_credit() -> ApiError:
    """429 however long the caller waits."""
    return ApiError(_NO_CREDIT, status=429)


def exhausted(model: str, quota_id: str, value: str, delay_s: str) -> ApiError:
    """429 with all that Google tells: which quota, where to read on, when to come back."""
    violation = {
        "quotaMetric": QUOTA_METRIC,
        "quotaId": quota_id,
        "quotaDimensions": {"model": model, "location": "global"},
        "quotaValue": value,
    }
    text = f"You exceeded your current quota. * Quota exceeded for metric: {QUOTA_METRIC}, limit: {value}"
    failure = _detail("QuotaFailure", violations=[violation])
    return ApiError(text, status=429, details=[failure, _detail("Help", links=[]), _retry_info(delay_s)])


def for_fault(model: str) -> ErrorFor:
    """Words a scripted refusal, an empty account or a bare HTTP status for a call to ``model``."""

    def error_for(fault: Fault) -> Response:
        if fault.name == "refuse":
            return blocked_prompt(fault.value.upper() or "PROHIBITED_CONTENT")
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
            return ApiError(text, status=503, details=[_retry_info(delay_s)])
    return ApiError(f"Scripted by the sandbox: HTTP {status}.", status=status) if status in RPC else None


def blocked_prompt(reason: str) -> Response:
    """A refused prompt: 200 without candidates."""
    usage = {"promptTokenCount": 9, "totalTokenCount": 9}
    return jsonify(promptFeedback={"blockReason": reason}, usageMetadata=usage)
