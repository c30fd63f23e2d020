"""OpenAI's error envelope; what it says is in ``errors.yaml``."""

from typing import Any

from flask import Response

from sandbox.markers import Fault
from sandbox.plumbing.calls import WireError, html_answer, json_answer
from sandbox.plumbing.validation import Problem, json_type, load_yaml

_SAID: dict[str, dict[str, Any]] = load_yaml(__file__, "errors.yaml")
_KIND = "invalid_request_error"
_A_TYPE = {"integer": "an integer", "array": "an array", "object": "an object"}


class ApiError(WireError):
    """``{"error": {"message", "type", "param", "code"}}`` with an HTTP status: the entry ``name`` of errors.yaml."""

    def __init__(self, name: str, *, param: str | None = None, status: int | None = None, **facts: object) -> None:
        said = _SAID[name]
        self.status = status or said.get("status", 400)
        message = said["message"].format(param=param, status=self.status, **facts)
        super().__init__(message)
        shown = {"message": message, "type": said.get("type", _KIND)}
        self.document = {"error": {**shown, "param": said.get("param", param), "code": said.get("code")}}

    def response(self) -> Response:
        """The answer."""
        return json_answer(self.document, self.status)


def of_problem(problem: Problem, *, at: str = "", model: str = "") -> ApiError:
    """What OpenAI says to a request that fails its schema; ``at`` is "chat." for a chat."""
    names = (f"{at}{problem.top}.{problem.keyword}", f"{at}{problem.keyword}", f"{problem.top}.{problem.keyword}")
    value, limit = problem.value, problem.limit
    return ApiError(
        next((name for name in names if name in _SAID), problem.keyword),
        param=problem.field,
        model=model,
        value=value,
        given=a_type(json_type(value)),
        limit=a_type(limit) if problem.keyword == "type" else limit,
        listed=listed(limit) if problem.keyword == "enum" else "",
        length=len(value) if isinstance(value, str | list) else 0,
        complaint=problem.message,
    )


def a_type(name: str) -> str:
    """A JSON type with its article."""
    return name if name == "null" else _A_TYPE.get(name, f"a {name}")


def listed(words: list[str]) -> str:
    """Quoted words, the last one after an ``and``."""
    return ", ".join(f"'{word}'" for word in words[:-1]) + f", and '{words[-1]}'"


def for_fault(fault: Fault, model: str) -> Response:
    """The answer to a scripted refusal, an empty account, or a bare HTTP status."""
    status = fault.status or 503
    if fault.name in ("refuse", "quota"):
        return ApiError(fault.name).response()
    if status in (502, 504, 413) or status >= 520:
        return html_answer(status)
    if status in (429, 503):
        return ApiError(str(status), model=model, wait=fault.options.get("retry_after") or "12").response()
    return ApiError("server_error" if status >= 500 else "scripted", status=status).response()
