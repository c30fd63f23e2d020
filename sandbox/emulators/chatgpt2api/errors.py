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
    403: ("permission_error", "permission_denied"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
_BAD_REQUEST = ("invalid_request_error", "bad_request")
_OWN_FAULT = ("server_error", "upstream_error")
# By JSON Schema keyword: the name of its limit in the context of an error.
_LIMITS = {"minLength": "min_length", "minimum": "ge", "maximum": "le"}


def _is_v1() -> bool:
    return request.path.startswith(f"{PREFIX}/v1/")


class ApiError(WireError):
    """A sentence: under ``detail`` on the ``/api`` routes, with ``kind`` and ``code`` on the ``/v1`` routes."""

    def __init__(self, message: str, status: int = 400, kind: str = "", code: str | None = None) -> None:
        super().__init__(message)
        usual = _KINDS_AND_CODES.get(status, _BAD_REQUEST if status < 500 else _OWN_FAULT)
        self.status, (self.kind, self.code) = status, (kind, code) if kind else usual

    def response(self, *, as_v1: bool = False) -> Response:
        """The answer; ``as_v1`` in OpenAI's envelope whatever the route."""
        if not (as_v1 or _is_v1()):
            return json_answer({"detail": {"error": str(self)}}, self.status)
        error = {"message": str(self), "type": self.kind, "param": None, "code": self.code}
        return json_answer({"error": error}, self.status)


class SchemaError(WireError):
    """422: a list of schema errors as pydantic words them, on the ``/v1`` routes as one sentence."""

    def __init__(self, *entries: Mapping[str, Any]) -> None:
        super().__init__(f"{len(entries)} schema errors")
        self.entries = entries

    def response(self) -> Response:
        """The answer."""
        if _is_v1():
            return ApiError("; ".join(map(_told, self.entries)), 422).response()
        return json_answer({"detail": self.entries}, 422)


def _told(entry: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in entry["loc"] if part != "body")
    return f"{place}: {entry['msg']}" if place else str(entry["msg"])


def invalid_body(kind: str, text: str, given: object, *place: int, **context: object) -> SchemaError:
    """A body that is not there, is no JSON or is no object."""
    entry = {"type": kind, "loc": ["body", *place], "msg": text, "input": given}
    return SchemaError(entry | ({"ctx": context} if context else {}))


def entry_of(problem: Problem, document: Mapping[str, Any]) -> dict[str, Any]:
    """A field that does not fit, for a SchemaError."""
    given = document if problem.keyword == "required" else document[problem.top]
    kind, text = said_of(problem)
    if kind == "int_type" and isinstance(given, str):  # a count may come as a text
        kind, text = "int_parsing", f"{text}, unable to parse string as an integer"
    entry = {"type": kind, "loc": ["body", *problem.path], "msg": text, "input": given}
    return entry | ({"ctx": {_LIMITS[problem.keyword]: problem.limit}} if problem.keyword in _LIMITS else {})


def sync_failure(end: str, text: str) -> ApiError:
    """A failed task as the synchronous routes tell it."""
    status, kind, code = DATA["sync_errors"].get(end, DATA["sync_errors"]["other"])
    if status == 429:
        text = _NO_QUOTA
    elif any(word in text.lower() for word in DATA["masked"]):
        text = DATA["mask"]
    return ApiError(text, status, kind, code)


def unknown_model() -> str:
    """What is said of a model that the server does not draw with."""
    return f"unsupported image model,supported models: {', '.join(DATA['image_models'])}"


def draws_with(model: str) -> bool:
    """Whether an order for the model is carried out."""
    return model in DATA["image_models"] or model in DATA["fork_image_models"]


def plain(text: str, status: int) -> Response:
    """What the framework itself says, in the envelope of the route."""
    return ApiError(text, status).response() if _is_v1() else json_answer({"detail": text}, status)


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
