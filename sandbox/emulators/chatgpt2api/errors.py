"""Both error envelopes: ``{"detail": ...}`` of the ``/api`` routes and OpenAI's of the ``/v1`` routes.

Source: providers/upstreams/chatgpt2api/CONTRACT.md, section 5.
"""

from collections.abc import Mapping
from typing import Any

from flask import Response, request

from sandbox.markers import Fault
from sandbox.plumbing.calls import WireError, json_answer
from sandbox.plumbing.pydantic_words import said_of
from sandbox.plumbing.validation import Problem, load_yaml

PREFIX = "/c2a"
DATA: Mapping[str, Any] = load_yaml(__file__, "data.yaml")
_NO_QUOTA = "no available image quota"
_KINDS_AND_CODES = {
    401: ("authentication_error", "invalid_api_key"),
    429: ("rate_limit_exceeded", "rate_limit_exceeded"),
}
# By JSON Schema keyword: the name of its limit in the context of an error.
_LIMITS = {"minLength": "min_length", "minimum": "ge", "maximum": "le"}


def _is_v1() -> bool:
    return request.path.startswith(f"{PREFIX}/v1/")


class ApiError(WireError):
    """A sentence: under ``detail`` on the ``/api`` routes, with ``kind`` and ``code`` on the ``/v1`` routes."""

    def __init__(self, message: str, status: int = 400, kind: str = "", code: str | None = None) -> None:
        super().__init__(message)
        usual = _KINDS_AND_CODES.get(status, ("invalid_request_error", None))
        self.status, (self.kind, self.code) = status, (kind, code) if kind else usual

    def response(self, *, as_v1: bool = False) -> Response:
        """The answer; ``as_v1`` in OpenAI's envelope whatever the route."""
        if not (as_v1 or _is_v1()):
            return json_answer({"detail": {"error": str(self)}}, self.status)
        error = {"message": str(self), "type": self.kind, "param": None, "code": self.code}
        return json_answer({"error": error}, self.status)


class SchemaError(WireError):
    """422 with a list of schema errors as pydantic words them, whatever the route."""

    def __init__(self, *entries: Mapping[str, Any]) -> None:
        super().__init__(f"{len(entries)} schema errors")
        self.entries = entries

    def response(self) -> Response:
        """The answer."""
        return json_answer({"detail": self.entries}, 422)


def invalid_body(kind: str, text: str, given: object, *place: int, **context: object) -> SchemaError:
    """A body that is not there, is no JSON or is no object."""
    entry = {"type": kind, "loc": ["body", *place], "msg": text, "input": given}
    return SchemaError(entry | ({"ctx": context} if context else {}))


def entry_of(problem: Problem, document: Mapping[str, Any]) -> dict[str, Any]:
    """A field that does not fit, for a SchemaError."""
    given = document if problem.keyword == "required" else document[problem.top]
    kind, text = said_of(problem)
    kind = "int_parsing" if kind == "int_type" else kind  # a count may come as a text
    entry = {"type": kind, "loc": ["body", *problem.path], "msg": text, "input": given}
    return entry | ({"ctx": {_LIMITS[problem.keyword]: problem.limit}} if problem.keyword in _LIMITS else {})


def sync_failure(end: str, text: str) -> ApiError:
    """A failed task as the synchronous routes tell it."""
    return ApiError(text, *DATA["sync_errors"].get(end, DATA["sync_errors"]["other"]))


def no_quota() -> ApiError:
    """429: the pool is empty."""
    return sync_failure("quota", _NO_QUOTA)


def for_fault(fault: Fault) -> Response:
    """Words a scripted refusal, an empty pool or a bare status."""
    if fault.name == "refuse":
        return ApiError(*DATA["refusals"].get(fault.value, DATA["refusals"][""])).response()
    if fault.name == "quota":
        return no_quota().response(as_v1=True)
    status = fault.status or 500
    text = _NO_QUOTA if status == 429 and _is_v1() else f"scripted by the sandbox: HTTP {status}"
    return ApiError(text, status).response()
