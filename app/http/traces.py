"""A span for each request, where tracing is on: a child of the caller's, whose ``traceparent`` (W3C) says so.

It names the route's pattern and never the address, whose query may be a signature and whose path may hold a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import structlog
from flask import Flask, Response, g, request

from app.http.access import route_of
from core import tracing
from core.tracing import Recorder, Request

_SPAN = "darkroom.span"
# Probes ask every few seconds, and no one asks about them.
UNTRACED = frozenset({"/healthz", "/readyz"})


def install(app: Flask, recorder: Recorder) -> None:
    """Trace every request of the app but those of probes, until its answer has gone out."""
    inner = app.wsgi_app

    def traced(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = environ
        if asked["PATH_INFO"] in UNTRACED:
            structlog.contextvars.unbind_contextvars("trace_id")
            return inner(asked, start_response)
        method = {"http.request.method": asked["REQUEST_METHOD"], "url.scheme": asked["wsgi.url_scheme"]}
        span = asked[_SPAN] = recorder.request(asked.get("HTTP_TRACEPARENT"), method)
        # It replaces that of the previous request on this connection, and is there while an answer streams.
        structlog.contextvars.bind_contextvars(trace_id=tracing.trace_id(span.traceparent))
        try:
            with span.active():
                return inner(asked, start_response)
        except BaseException as error:
            span.fail(type(error).__name__)
            span.end()
            raise

    app.wsgi_app = traced  # type: ignore[method-assign]
    app.after_request(_watch)


def _watch(response: Response) -> Response:
    """Say what became of the request, and end its span when its answer is closed."""
    span: Request | None = request.environ.get(_SPAN)
    if span is None:
        return response
    caller = g.get("caller")
    if (route := route_of(request)) is not None:
        span.name(f"{request.method} {route}")
    else:
        span.name(request.method)
    span.set(
        {
            "http.route": route,
            "http.response.status_code": response.status_code,
            "darkroom.request.id": g.get("request_id"),
            "darkroom.account.id": caller.account_id if caller else None,
        }
    )
    if response.status_code >= 500:
        span.fail(str(response.status_code))
    response.call_on_close(span.end)
    return response
