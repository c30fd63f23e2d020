"""Both error envelopes: llama-swap's own, and sd-server's behind it.

Source: providers/upstreams/llamaswap/CONTRACT.md, section 6.
"""

from flask import Response, request

from sandbox.emulators import keys
from sandbox.markers import Fault
from sandbox.plumbing.calls import WireError, html_answer, json_answer

OLD_BUILD_KEY = "old-build"  # its errors are texts
_PROXY_ERRORS = {
    401: ("authentication_error", "unauthorized", "unauthorized: invalid or missing API key"),
    404: ("invalid_request_error", "not_found", "no model id could be identified"),
    409: ("conflict_error", "conflict", "model is not loaded"),
    429: ("rate_limit_error", "concurrency_limit", "Too many requests"),
    500: ("server_error", "internal_error", "unspecific error: upstream command exited prematurely"),
    503: ("server_error", "service_unavailable", "process is not ready"),
}


class ServerError(WireError):
    """sd-server's ``{"error": text}``, with ``message`` on a few routes."""

    def __init__(self, error: str, status: int = 400, message: str = "") -> None:
        super().__init__(error)
        self.status, self.message = status, message

    def response(self) -> Response:
        """The answer."""
        return json_answer({"error": str(self)} | ({"message": self.message} if self.message else {}), self.status)


class ProxyError(WireError):
    """llama-swap's ``{"src", "error": {...}}``; builds before 2026-08-22 had a text for ``error``."""

    def __init__(self, status: int, message: str = "") -> None:
        self.kind, self.code, usual = _PROXY_ERRORS[status]
        super().__init__(message or usual)
        self.status = status

    def response(self) -> Response:
        """The answer."""
        told = {"message": str(self), "type": self.kind, "param": None, "code": self.code}
        error = str(self) if sent_key() == OLD_BUILD_KEY else told
        answer = json_answer({"src": "llama-swap", "error": error}, self.status)
        if self.status == 401:
            answer.headers["WWW-Authenticate"] = 'Basic realm="llama-swap"'
        if self.status == 429:
            answer.headers["Retry-After"] = "1"
        return answer


def sent_key() -> str:
    """The caller's key: Basic is looked at first, then Bearer, then ``x-api-key``."""
    basic = request.authorization
    if basic is not None and basic.type == "basic":
        return basic.password or ""
    return keys.bearer_key() or request.headers.get("x-api-key", "")


def invalid(message: str) -> ServerError:
    """400 with the reason in ``message``."""
    return ServerError("invalid params", message=message)


def wrong_json(name: str) -> ServerError:
    """A null or a wrong type: an exception in the server, and not a 400."""
    return ServerError("server_error", 500, f"[json.exception.type_error.302] type of '{name}' is not what it must be")


def process_died() -> Response:
    """502 without a body: the model's process broke off."""
    return Response(b"", status=502)


def for_fault(fault: Fault) -> Response:
    """The answer to a scripted status. There is no moderation and no money here: the nearest of each kind."""
    status = {"refuse": 400, "quota": 429}.get(fault.name, fault.status or 503)
    if status == 502:
        return process_died()
    if status in _PROXY_ERRORS:
        return ProxyError(status).response()
    return ServerError("invalid generation parameters", status).response() if status < 500 else html_answer(status)
