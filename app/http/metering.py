"""What is counted of requests: how many by route and code, how long until the head of the answer, how many at work.

A route is its pattern, so that addresses with ids are one series; what no route takes is counted as ``none``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from flask import Flask, Response
from flask.globals import request_ctx

from core.metrics.families import SHORT, Counter, Gauge, Histogram

REQUESTS = Counter(
    "darkroom_http_requests_total", "Requests by route (its pattern) and status code.", ("method", "route", "code")
)
REQUEST_SECONDS = Histogram(
    "darkroom_http_request_duration_seconds",
    "From the arrival of a request to the head of its answer, waits for a task included.",
    ("route",),
    buckets=SHORT,
)
AT_WORK = Gauge("darkroom_http_requests_in_flight", "Requests that are at work, without answers that are being sent.")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE, OTHER_METHOD = "none", "other"
EXTENSION = "darkroom_requests_at_work"
_BEGAN = "darkroom.counted_from"
# ``<operation:operation>`` is ``<operation>`` to a reader.
_CONVERTER = re.compile(r"<[^<>:]+:")


class _AtWork:
    """How many requests of this process are at work; a number of its own, because it changes twice a request."""

    def __init__(self) -> None:
        self.requests = 0

    def note(self) -> None:
        AT_WORK.of().set(self.requests)


def install(app: Flask) -> None:
    """Count every request of the app."""
    at_work = app.extensions[EXTENSION] = _AtWork()
    inner = app.wsgi_app

    def counted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ[_BEGAN] = time.perf_counter()
        at_work.requests += 1
        try:
            return inner(environ, start_response)
        finally:
            at_work.requests -= 1

    app.wsgi_app = counted  # type: ignore[method-assign]
    app.after_request(_count)


def _count(response: Response) -> Response:
    asked = request_ctx.request  # looked up once: every use of Flask's proxy costs
    rule = asked.url_rule
    route = NO_ROUTE if rule is None else _pattern(rule.rule)
    method = asked.method if asked.method in METHODS else OTHER_METHOD
    REQUESTS.of(method, route, str(response.status_code)).inc()
    if (began := asked.environ.get(_BEGAN)) is not None:
        REQUEST_SECONDS.of(route).observe(time.perf_counter() - began)
    return response


@cache
def _pattern(rule: str) -> str:
    return _CONVERTER.sub("<", rule)


def note_of(app: Flask) -> Callable[[], None]:
    """What notes how many requests of the app are at work."""
    at_work: _AtWork = app.extensions[EXTENSION]
    return at_work.note
