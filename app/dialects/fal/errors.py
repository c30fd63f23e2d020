"""Errors of requests in fal's words: at 422 ``detail`` is a list of what is wrong with the input, else a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flask import g

from app.dialects.fal.failures import Where
from app.dialects.fal.inputs import where_of
from app.http.dialect import Problem, Said

# Codes of requests that fal has another status for.
_STATUS: Final[Mapping[str, int]] = {
    "unknown_model": 404,
    **dict.fromkeys(("image_too_large_bytes", "url_too_large", "not_an_image", "unsupported_image_type"), 422),
}
# What fal calls a fault of a field; what is not here keeps our code.
_FAULT_TYPES: Final[Mapping[str, str]] = {
    "required": "missing",
    "wrong_type": "type_error",
    "out_of_range": "value_error",
    "not_allowed": "value_error",
    "conflict": "value_error",
    "too_long": "string_too_long",
    "too_many": "sequence_too_long",
    "too_few": "sequence_too_short",
    "content_refused": "content_policy_violation",
    "not_supported": "feature_not_supported",
    "image_too_large_bytes": "file_too_large",
    "url_too_large": "file_too_large",
    "not_an_image": "unsupported_image_format",
    "unsupported_image_type": "unsupported_image_format",
    "truncated_image": "image_load_error",
    "image_undecodable": "image_load_error",
    "trailing_data": "image_load_error",
    "image_too_many_pixels": "image_too_large",
    "image_too_many_frames": "image_too_large",
}
_URL_FAULTS = ("url_",)  # codes of an image's URL that could not be fetched begin so
_REQUEST_TYPES: Final[Mapping[int, str]] = {
    400: "bad_request",
    401: "authentication_error",
    402: "insufficient_credits",
    403: "permission_error",
    404: "not_found",
    422: "validation_error",
    429: "rate_limited",
    500: "internal_error",
    503: "service_unavailable",
}


def say(problem: Problem) -> Said:
    """An error of a request in fal's words."""
    status = _STATUS.get(problem["code"], problem["status"])
    faults: Sequence[Mapping[str, str]] = problem.get("errors") or ()
    kind = _type_of(problem["code"], status, faults)
    body: dict[str, Any] = {**problem, "status": status, "error_type": kind}
    if status == 422:
        places: Mapping[str, Where] = g.get("fal_where") or {}
        told = [_told(fault, places) for fault in faults]
        body["detail"] = told or [{"loc": ["body"], "msg": problem["detail"], "type": kind}]
        if told:  # by the names that the client knows
            body["message"] = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in told)
    return Said(body, status, headers={"x-fal-error-type": kind})


def _type_of(code: str, status: int, faults: Sequence[Mapping[str, str]]) -> str:
    if status == 422 and len({fault["code"] for fault in faults}) == 1:
        return _fault_type(faults[0]["code"])
    if status in _REQUEST_TYPES:
        return _REQUEST_TYPES[status]
    return code


def _fault_type(code: str) -> str:
    if code.startswith(_URL_FAULTS):
        return _FAULT_TYPES.get(code, "file_download_error")
    return _FAULT_TYPES.get(code, code)


def _told(fault: Mapping[str, str], places: Mapping[str, Where]) -> dict[str, Any]:
    return {
        "loc": list(where_of(fault["field"], places)),
        "msg": fault["message"],
        "type": _fault_type(fault["code"]),
    }
