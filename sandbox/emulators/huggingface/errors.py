"""Refusals in the shape of who speaks: the router, or one of the providers behind it.

Source: providers/upstreams/huggingface/CONTRACT.md, section 5.
"""

from collections.abc import Callable

from flask import Response

from sandbox.markers import Fault
from sandbox.plumbing.calls import WireError, html_answer, json_answer

_TEXTS = {401: "Invalid username or password.", 404: "Not Found", 429: "Too Many Requests"}


class RouteError(WireError):
    """``route`` is router, fal-ai, hf-inference, nscale or wavespeed; ``kind`` and ``field`` are told by fal alone."""

    def __init__(self, route: str, status: int, message: str, *, kind: str = "value_error", field: str = "") -> None:
        super().__init__(message)
        self.route, self.status, self.kind, self.field = route, status, kind, field

    def response(self) -> Response:
        """The answer."""
        message = str(self)
        shapes: dict[str, dict[str, object]] = {
            "fal-ai": {"detail": [{"loc": ["body", *self.field.split(".")], "msg": message, "type": self.kind}]},
            "wavespeed": {"code": self.status, "message": message},
            "nscale": {"error": {"message": message, "type": "invalid_request_error"}},
        }
        return json_answer(shapes.get(self.route, {"error": message}), self.status)


def no_credits() -> RouteError:
    """402 of the router."""
    text = "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO to get more."
    return RouteError("router", 402, text)


def content_refused(route: str) -> RouteError:
    """Each provider in its own way."""
    if route == "fal-ai":
        return RouteError(route, 422, "The content was flagged.", kind="content_policy_violation", field="prompt")
    return RouteError(route, 400, "The prompt was blocked by the content policy.")


def for_fault(route: str) -> Callable[[Fault], Response]:
    """Words a scripted refusal, an empty account or a bare status as the route would."""

    def error_for(fault: Fault) -> Response:
        if fault.name == "refuse":
            return content_refused(route).response()
        return no_credits().response() if fault.name == "quota" else _bare(route, fault)

    return error_for


def _bare(route: str, fault: Fault) -> Response:
    status = fault.status or 503
    if status in (502, 504) or status >= 520:
        return html_answer(status)
    if status == 503 and route == "hf-inference":
        return json_answer({"error": "Model sandbox is currently loading", "estimated_time": 20.0}, status)
    answer = RouteError("router", status, _TEXTS.get(status, f"HTTP {status}")).response()
    if status == 429 and "retry_after" not in fault.options:
        answer.headers["RateLimit"] = '"api";r=0;t=55'
        answer.headers["RateLimit-Policy"] = '"fixed window";"api";q=500;w=300'
    return answer
