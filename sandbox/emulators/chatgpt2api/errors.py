"""Both error envelopes: ``{"detail": ...}`` of the ``/api`` routes and OpenAI's of the ``/v1`` routes.

Source: providers/upstreams/chatgpt2api/CONTRACT.md, section 5.
"""

from collections.abc import Mapping
from typing import Any

from flask import Response, request

from sandbox.markers import Fault
from sandbox.plumbing.calls import WireError, json_answer
from sandbox.plumbing.validation import Problem

PREFIX = "/c2a"
REFUSALS = {
    "": (400, "检测到敏感词，拒绝本次任务"),
    "review": (400, "AI 审核未通过，拒绝本次任务"),
    "config": (400, "ai review config is incomplete"),
    "unavailable": (503, "AI 审核服务暂时不可用，请稍后重试"),
}
NO_QUOTA = "no available image quota"
# By JSON Schema keyword: pydantic's type of the error, its text, and the name of the limit in its context.
_PYDANTIC: Mapping[str, tuple[str, str, str]] = {
    "required": ("missing", "Field required", ""),
    "additionalProperties": ("extra_forbidden", "Extra inputs are not permitted", ""),
    "minLength": ("string_too_short", "String should have at least {} character", "min_length"),
    "minimum": ("greater_than_equal", "Input should be greater than or equal to {}", "ge"),
    "maximum": ("less_than_equal", "Input should be less than or equal to {}", "le"),
}
_TYPES = {"integer": ("int_type", "integer"), "number": ("float_type", "number")}


class V1Error(WireError):
    """An answer in OpenAI's envelope."""

    def __init__(self, status: int, kind: str, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "param": None, "code": code}

    def response(self) -> Response:
        """The answer."""
        return json_answer({"error": self.error}, self.status)


class ApiError(WireError):
    """A sentence in the envelope of the route that was called."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

    def response(self) -> Response:
        """The answer."""
        if not is_v1():
            return json_answer({"detail": {"error": str(self)}}, self.status)
        if self.status == 401:
            return V1Error(401, "authentication_error", "invalid_api_key", str(self)).response()
        return V1Error(self.status, "invalid_request_error", None, str(self)).response()


class SchemaError(WireError):
    """422 with a list of schema errors, whatever the route."""

    def __init__(self, *entries: Mapping[str, Any]) -> None:
        super().__init__("422")
        self.entries = entries

    def response(self) -> Response:
        """The answer."""
        return json_answer({"detail": self.entries}, 422)


def invalid_body(kind: str, text: str, given: object, *place: int, **context: object) -> SchemaError:
    """A body that is not there, is no JSON or is no object."""
    entry = {"type": kind, "loc": ["body", *place], "msg": text, "input": given}
    return SchemaError(entry | ({"ctx": context} if context else {}))


def invalid_fields(problems: list[Problem], document: Mapping[str, Any]) -> SchemaError:
    """Every field that does not fit, as pydantic lists them."""
    return SchemaError(*(_entry(problem, document) for problem in problems))


def _entry(problem: Problem, document: Mapping[str, Any]) -> dict[str, Any]:
    given = document if problem.keyword == "required" else problem.value
    if problem.keyword == "type":
        kind, word = _TYPES.get(str(problem.limit), ("string_type", "string"))
        return {"type": kind, "loc": ["body", *problem.path], "msg": f"Input should be a valid {word}", "input": given}
    kind, text, name = _PYDANTIC[problem.keyword]
    entry = {"type": kind, "loc": ["body", *problem.path], "msg": text.format(problem.limit), "input": given}
    return entry | ({"ctx": {name: problem.limit}} if name else {})


def for_fault(fault: Fault) -> Response:
    """Words a scripted refusal, an empty pool or a bare status."""
    if fault.name == "refuse":
        status, text = REFUSALS.get(fault.value, REFUSALS[""])
        return ApiError(text, status).response()
    if fault.name == "quota" or (fault.status == 429 and is_v1()):
        code = "insufficient_quota" if fault.name == "quota" else "rate_limit_exceeded"
        return V1Error(429, code, code, NO_QUOTA).response()
    status = fault.status or 500
    return ApiError(f"scripted by the sandbox: HTTP {status}", status).response()


def is_v1() -> bool:
    """Whether one of OpenAI's routes was called."""
    return request.path.startswith(f"{PREFIX}/v1/")
