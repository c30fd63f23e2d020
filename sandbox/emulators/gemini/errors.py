"""Google's error envelope: ``{"error": {code, message, status, details}}`` with ``google.rpc`` details.

Source: upstreams sheet "Google Gemini API", section 7, read 2026-11-20.
"""

from typing import Any

from flask import Response, jsonify

from sandbox.markers import Fault

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


class ApiError(Exception):
    """An answer in the envelope. ``field`` is where in the body the fault is."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        rpc: str = "",
        details: tuple[dict[str, Any], ...] = (),
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.status, self.rpc = status, rpc or RPC[status]
        violation = {"field": field, "description": message}
        self.details = (*details, *([_detail("BadRequest", fieldViolations=[violation])] if field else []))

    def response(self, *, in_list: bool = False) -> Response:
        """The answer; now and then the real service wraps it into a list of one."""
        error: dict[str, Any] = {"code": self.status, "message": str(self), "status": self.rpc}
        if self.details:
            error["details"] = list(self.details)
        answer = jsonify([{"error": error}] if in_list else {"error": error})
        answer.status_code = self.status
        return answer


def _detail(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def _info(reason: str) -> dict[str, Any]:
    domain, service = "googleapis.com", "generativelanguage.googleapis.com"
    return _detail("ErrorInfo", reason=reason, domain=domain, metadata={"service": service})


def bad_key() -> ApiError:
    """A bad key is a bad argument here: 400."""
    text = "API key not valid. Please pass a valid API key."
    return ApiError(text, details=(_info("API_KEY_INVALID"), _detail("LocalizedMessage", locale="en-US", message=text)))


def no_key() -> ApiError:
    """403 without any."""
    text = (
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API."
    )
    return ApiError(text, status=403)


def no_billing() -> ApiError:
    """400 that only an account with billing mends."""
    text = "User location is not supported for the API use without a billing account linked."
    return ApiError(text, rpc="FAILED_PRECONDITION")


def not_found(model: str, method: str) -> ApiError:
    """404: a model that is unknown, shut down, or cannot do this."""
    return ApiError(f"models/{model} is not found, or is not supported for {method}.", status=404)


def out_of_credit() -> ApiError:
    """429 that no waiting mends."""
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
    details = (_detail("QuotaFailure", violations=[violation]), _detail("Help", links=[]), _retry_info(delay_s))
    return ApiError(text, status=429, details=details)


def _retry_info(delay_s: str) -> dict[str, Any]:
    return _detail("RetryInfo", retryDelay=f"{delay_s}s")


def for_fault(fault: Fault, model: str) -> Response:
    """The answer to a scripted refusal, an empty account, or a bare HTTP status."""
    if fault.name == "refuse":
        return blocked_prompt(fault.value.upper() or "PROHIBITED_CONTENT")
    delay_s = fault.options.get("retry_after", RETRY_DELAY)
    per_day = "GenerateRequestsPerDayPerProjectPerModel"
    scripted = {
        ("quota", ""): out_of_credit(),
        ("quota", "day"): exhausted(model, per_day, "10", delay_s),
        ("quota", "free"): exhausted(model, f"{per_day}-FreeTier", "0", delay_s),
        ("429", ""): exhausted(model, "GenerateRequestsPerMinutePerProjectPerModel", "10", delay_s),
        ("503", ""): ApiError(
            "The model is overloaded. Please try again later.", status=503, details=(_retry_info(delay_s),)
        ),
    }
    error = scripted.get((fault.name, fault.value))
    status = fault.status or 500
    if error is None and status not in RPC:
        return gateway_page(status)
    error = error or ApiError(f"Scripted by the sandbox: HTTP {status}.", status=status)
    return error.response(in_list=fault.options.get("envelope") == "list")


def blocked_prompt(reason: str) -> Response:
    """A refused prompt: 200 without candidates."""
    usage = {"promptTokenCount": 9, "totalTokenCount": 9}
    return jsonify(promptFeedback={"blockReason": reason}, usageMetadata=usage)


def gateway_page(status: int) -> Response:
    """What stands in front says: HTML."""
    page = f"<!DOCTYPE html><html><title>Error {status}</title><p><b>{status}.</b> That's an error.</html>"
    return Response(page, status=status, content_type="text/html; charset=UTF-8")
