"""The access log: one line for each request, once its answer is sent (DARKROOM_ACCESS_LOG).

It names the route's pattern instead of the address asked for, whose query may be a signature.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import structlog
from flask import Flask, Request, Response, g, request

log = structlog.get_logger("access")

_BEGAN = "darkroom.began"


def install(app: Flask) -> None:
    """Log every request of the app. Call it after what names requests and callers."""
    inner = app.wsgi_app

    def timed(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ[_BEGAN] = time.monotonic()
        return inner(environ, start_response)

    app.wsgi_app = timed  # type: ignore[method-assign]
    app.after_request(_watch)


# ``<operation:operation>`` is ``<operation>`` to a reader.
_CONVERTER = re.compile(r"<[^<>:]+:")


def route_of(request: Request) -> str | None:
    """The pattern of a request's route; None where there is no such route."""
    return _CONVERTER.sub("<", request.url_rule.rule) if request.url_rule else None


def _watch(response: Response) -> Response:
    """Log the request when its answer is closed, with the bytes that were sent until then."""
    began = request.environ.get(_BEGAN, time.monotonic())
    caller = g.get("caller")
    facts = {
        "method": request.method,
        "route": route_of(request),
        "status": response.status_code,
        "account_id": caller.account_id if caller else None,
        "request_id": g.get("request_id"),
    }
    sent = _Counted()
    if response.is_streamed and response.content_length is None:
        response.response = sent.counting(response.response)
    elif request.method != "HEAD":
        sent.bytes = response.content_length or 0

    def tell() -> None:
        told = {name: value for name, value in facts.items() if value is not None}
        log.info("request", ms=round((time.monotonic() - began) * 1000, 1), bytes=sent.bytes, **told)

    response.call_on_close(tell)
    return response


class _Counted:
    """How many bytes of an answer of unknown length have been handed on."""

    def __init__(self) -> None:
        self.bytes = 0

    def counting(self, parts: Iterable[Any]) -> Iterator[Any]:
        for part in parts:
            self.bytes += len(part)
            yield part
