"""xAI's error bodies: flat, now and then nested as OpenAI's or bare text.

Source: upstreams sheet "xAI (Grok Imagine)", section 7, read 2026-11-20.
"""

from typing import Any

from flask import Response, jsonify

from sandbox.markers import Fault

_CODES = {
    400: "Client specified an invalid argument",
    401: "Unauthenticated",
    403: "The caller does not have permission to execute the specified operation",
    404: "Some requested entity was not found",
    415: "Unsupported media type",
    422: "Unprocessable entity",
    429: "Some resource has been exhausted",
    503: "The service is currently unavailable",
}
_FALLEN = "Internal error"


class ApiError(Exception):
    """``{"code", "error"}`` with an HTTP status. ``ticks``: what the call cost although it failed."""

    def __init__(self, message: str, *, status: int = 400, code: str = "", ticks: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.ticks = status, code or _CODES.get(status, _FALLEN), ticks

    def response(self, envelope: str = "") -> Response:
        """The answer; ``envelope`` is "nested", "text", or "" for the usual flat one."""
        if envelope == "text":
            return Response(str(self), status=self.status, content_type="text/plain; charset=utf-8")
        body: dict[str, Any] = {"code": self.code, "error": str(self)}
        if envelope == "nested":
            body = {"error": {"message": str(self), "type": "invalid_request_error", "code": self.code}}
        if self.ticks:
            body["usage"] = {"cost_in_usd_ticks": self.ticks}
        answer = jsonify(body)
        answer.status_code = self.status
        return answer


def bad_key(shown: str) -> ApiError:
    """A bad key is a bad argument here: 400."""
    return ApiError(f"Incorrect API key provided: {shown}. You can obtain an API key from https://console.x.ai.")


def no_key() -> ApiError:
    """401 without any."""
    return ApiError("No credentials were given: an Authorization header with a bearer token is needed.", status=401)


def unsupported(name: str) -> ApiError:
    """A field that this route or model does not take."""
    return ApiError(f"Argument not supported: {name}", code="400")


def misfit(message: str) -> ApiError:
    """422: a field that is missing, or of the wrong type."""
    return ApiError(f"Failed to deserialize the JSON body into the target type: {message}", status=422)


def no_model(name: str) -> ApiError:
    """404: unknown, retired, or not for this team."""
    return ApiError(f"The model {name} does not exist or your team does not have access to it.", status=404)


def out_of_credit() -> ApiError:
    """403 that only money mends."""
    text = "You have run out of credits or need a higher spending limit."
    return ApiError(text, status=403, code="personal-team-blocked:spending-limit")


def spent() -> ApiError:
    """The same as 429."""
    text = "Your team has either used all available credits or reached its monthly spending limit."
    return ApiError(text, status=429)


def moderated(ticks: int = 0) -> ApiError:
    """400 for a picture that was made and is not handed out; it may have cost ``ticks``."""
    return ApiError("Generated image rejected by content moderation.", code="imagine:content-moderated", ticks=ticks)


def for_fault(fault: Fault) -> Response:
    """The answer to a scripted refusal, an empty account, or a bare HTTP status."""
    envelope = fault.options.get("envelope", "")
    if fault.name == "refuse":
        return moderated().response(envelope)
    if fault.name == "quota":
        return (spent() if fault.value == "429" else out_of_credit()).response(envelope)
    status = fault.status or 500
    if status not in _CODES and status != 500:
        return gateway_page(status)
    text = "Too many requests for this team and model." if status == 429 else f"Scripted by the sandbox: HTTP {status}."
    return ApiError(text, status=status).response(envelope)


def gateway_page(status: int) -> Response:
    """What the proxy in front says: HTML."""
    page = f"<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>"
    return Response(page, status=status, content_type="text/html")
