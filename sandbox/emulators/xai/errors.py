"""xAI's error bodies: flat, now and then nested as OpenAI's or bare text.

Source: providers/upstreams/xai/CONTRACT.md, section 7, read 2026-11-20.
"""

from typing import Any

from flask import Response

from sandbox.markers import Fault
from sandbox.plumbing.calls import WireError, html_answer, json_answer

_CODES = {
    400: "Client specified an invalid argument",
    401: "Unauthenticated",
    403: "The caller does not have permission to execute the specified operation",
    404: "Some requested entity was not found",
    415: "Unsupported media type",
    422: "Unprocessable entity",
    429: "Some resource has been exhausted",
    500: "Internal error",
    503: "The service is currently unavailable",
}


class ApiError(WireError):
    """``{"code", "error"}`` with an HTTP status. ``ticks``: what the call cost although it failed."""

    def __init__(self, message: str, *, status: int = 400, code: str = "", ticks: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.ticks = status, code or _CODES.get(status, _CODES[500]), ticks

    def response(self, envelope: str = "") -> Response:
        """The answer; ``envelope`` is "nested", "text", or "" for the usual flat one."""
        if envelope == "text":
            return Response(str(self), status=self.status, content_type="text/plain; charset=utf-8")
        body: dict[str, Any] = {"code": self.code, "error": str(self)}
        if envelope == "nested":
            body = {"error": {"message": str(self), "type": "invalid_request_error", "code": self.code}}
        if self.ticks:
            body["usage"] = {"cost_in_usd_ticks": self.ticks}
        return json_answer(body, self.status)


def unsupported(name: str) -> ApiError:
    """A field that this route or model does not take."""
    return ApiError(f"Argument not supported: {name}", code="400")


def misfit(message: str) -> ApiError:
    """422: a field that is missing, or of the wrong type."""
    return ApiError(f"Failed to deserialize the JSON body into the target type: {message}", status=422)


def no_model(name: str) -> ApiError:
    """404: unknown, retired, or not for this team."""
    return ApiError(f"The model {name} does not exist or your team does not have access to it.", status=404)


def out_of_credit(status: int = 403, *, never_paid: bool = False) -> ApiError:
    """403, or 429 in other words: only money helps. ``never_paid``: as a team is told that never bought credits."""
    if never_paid:
        return ApiError("Your newly created team doesn't have any credits or licenses yet.", status=403)
    if status == 429:
        text = "Your team has either used all available credits or reached its monthly spending limit."
        return ApiError(text, status=429)
    text = "You have run out of credits or need a higher spending limit."
    return ApiError(text, status=403, code="personal-team-blocked:spending-limit")


def moderated(ticks: int = 0) -> ApiError:
    """400 for an image that was made and is not handed out; it may have cost ``ticks``."""
    return ApiError("Generated image rejected by content moderation.", code="imagine:content-moderated", ticks=ticks)


def for_fault(fault: Fault) -> Response:
    """The answer to a scripted refusal, an empty account, or a bare HTTP status."""
    envelope, status = fault.options.get("envelope", ""), fault.status or 500
    if fault.name == "refuse":
        return moderated().response(envelope)
    if fault.name == "quota":
        never_paid = fault.value == "new"
        return out_of_credit(429 if fault.value == "429" else 403, never_paid=never_paid).response(envelope)
    if status not in _CODES:
        return html_answer(status)
    text = "Too many requests for this team and model." if status == 429 else f"Scripted by the sandbox: HTTP {status}."
    return ApiError(text, status=status).response(envelope)
