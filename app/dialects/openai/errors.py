"""How an error is said to OpenAI's clients: the envelope, its types and codes, and whether trying again is of use.

The envelope's four members are always there. The members of our own errors stand next to it, so that who reads those
finds them, too. ``x-should-retry`` overrides what the SDKs do by status: ``true`` only where a retry costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.http.dialect import Problem, Said

INVALID = "invalid_request_error"
SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class Words:
    """What a code of ours is to OpenAI's clients. ``retry``: trying again is free, and may help."""

    status: int
    type: str
    code: str
    retry: bool = False


_CODES: Mapping[str, Words] = {
    "key_missing": Words(401, "authentication_error", "invalid_api_key"),
    "key_invalid": Words(401, "authentication_error", "invalid_api_key"),
    "scope_missing": Words(403, "permission_error", "insufficient_permissions"),
    "not_found": Words(404, "not_found_error", "not_found"),
    "unknown_model": Words(404, INVALID, "model_not_found"),
    "insufficient_credits": Words(429, "insufficient_quota", "insufficient_quota"),
    # As OpenAI says that a project lacks a model, and that its budget is spent.
    "model_not_allowed": Words(403, INVALID, "model_not_found"),
    "spending_limit": Words(429, "insufficient_quota", "insufficient_quota"),
    "rate_limited": Words(429, "rate_limit_error", "rate_limit_exceeded", retry=True),
    "request_timeout": Words(408, INVALID, "request_timeout", retry=True),
    "service_unavailable": Words(503, SERVER, "service_unavailable", retry=True),
    "database_unavailable": Words(503, SERVER, "service_unavailable", retry=True),
    "storage_unavailable": Words(503, SERVER, "service_unavailable", retry=True),
    "screening_unavailable": Words(503, SERVER, "service_unavailable", retry=True),
    # As OpenAI says that its own moderation refuses what an image is to show.
    "content_refused": Words(400, "image_generation_user_error", "moderation_blocked"),
    # An image that cannot be read is a value like any other.
    "not_an_image": Words(400, INVALID, "invalid_image_file"),
    "unsupported_image_type": Words(400, INVALID, "invalid_image_file"),
    "truncated_image": Words(400, INVALID, "invalid_image_file"),
    "image_undecodable": Words(400, INVALID, "invalid_image_file"),
    "trailing_data": Words(400, INVALID, "invalid_image_file"),
    # The one answer to a key that stands for another request, whatever the API.
    "idempotency_mismatch": Words(422, INVALID, "idempotency_mismatch"),
}
# And the same of a text.
_CHAT = "/v1/chat/"
_TEXT_REFUSED = Words(400, INVALID, "content_policy_violation")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# A model of a provider without a key here is one that this caller does not have.
_NO_MODEL = frozenset({"unknown_model", "provider_not_configured"})
_FAULTS = {"required": "missing_required_parameter", "not_supported": "unknown_parameter"}


def say(problem: Problem) -> Said:
    """An error of a request in OpenAI's form."""
    words, param = _words(problem), _param(problem.get("errors") or ())
    headers = {"x-should-retry": "true" if words.retry else "false"}
    return Said(envelope(problem, words, param), words.status, headers=headers)


def envelope(problem: Mapping[str, Any], words: Words, param: str | None) -> dict[str, Any]:
    """The body: our own members and ``error`` in OpenAI's words."""
    error = {"message": problem["detail"], "type": words.type, "param": param, "code": words.code}
    return {**problem, "status": words.status, "error": error}


def _words(problem: Problem) -> Words:
    faults: Sequence[Mapping[str, Any]] = problem.get("errors") or ()
    codes = [str(fault["code"]) for fault in faults]
    if _NO_MODEL.intersection(codes):
        return _CODES["unknown_model"]
    code = str(problem["code"])
    if code == "content_refused" and str(problem["instance"]).startswith(_CHAT):
        return _TEXT_REFUSED
    if code in _CODES:
        return _CODES[code]
    status = 400 if problem["status"] == 422 else int(problem["status"])
    if codes and code in ("invalid_order", "invalid_request"):
        return Words(status, INVALID, _CODES[codes[0]].code if codes[0] in _CODES else _fault_code(codes[0]))
    return Words(status, _TYPES.get(status, SERVER if status >= 500 else INVALID), code)


def _fault_code(code: str) -> str:
    return _FAULTS.get(code, "invalid_value")


def _param(faults: Sequence[Mapping[str, Any]]) -> str | None:
    """The field at fault: the model before all others, since nothing else was checked against it."""
    named = [str(fault["field"]) for fault in faults if fault["code"] in _NO_MODEL]
    named += [str(fault["field"]) for fault in faults]
    return named[0] or None if named else None
