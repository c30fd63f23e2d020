"""What several routes need of HTTP: JSON answers, ETags, the Prefer header."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Response, request
from werkzeug.datastructures import Headers

from core.wire import json_text

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_WAIT_S = 60
# Of an answer that is sent in pieces: nginx would hold them back until its buffer is full.
IN_PIECES = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def json_answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer that no cache keeps."""
    return text_answer(json_text(body), status, headers)


class Complete(Response):
    """An answer whose headers are complete: Werkzeug would copy them and search the copy."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:  # noqa: ARG002
        return self.headers


def text_answer(body: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The same for a body that is JSON text already."""
    data = body.encode()
    return Complete(
        data,
        status=status,
        headers={
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            **(headers or {}),
        },
    )


def unchanged(etag: str) -> bool:
    """Whether the caller's If-None-Match names this (quoted) entity tag; weak comparison, RFC 9110 13.1.2."""
    header = request.headers.get("If-None-Match")
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return etag.removeprefix("W/") in re.findall(r'"[\x21\x23-\x7e]*"', header)


def if_match() -> Callable[[str], bool]:
    """What the caller's If-Match says of a (quoted) entity tag: whether it names it, by strong comparison (RFC 9110
    13.1.1). Without the header every tag will do; a header without a tag names none."""
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return lambda _: True
    return re.findall(r'(?<!W/)"[\x21\x23-\x7e]*"', header).__contains__


def not_modified(headers: Mapping[str, str]) -> Response:
    """A 304 with these headers."""
    response = Response(status=304)
    response.headers.update(headers)
    # A 304 has no body to describe.
    response.headers.pop("Content-Type", None)
    return response


def preferred_wait_s() -> int:
    """The ``wait=n`` of the Prefer header (RFC 7240), at most MAX_WAIT_S; 0 without one."""
    for header in request.headers.getlist("Prefer"):
        for part in header.split(","):
            name, _, value = part.split(";")[0].partition("=")
            digits = value.strip().strip('"')
            if name.strip().lower() == "wait" and re.fullmatch(r"[0-9]{1,6}", digits):
                return min(int(digits), MAX_WAIT_S)
    return 0


def prefers_async() -> bool:
    """Whether the Prefer header has ``respond-async``: the caller collects the answer later."""
    parts = (part for header in request.headers.getlist("Prefer") for part in header.split(","))
    return any(part.split(";")[0].strip().lower() == "respond-async" for part in parts)
