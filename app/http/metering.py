"""What is counted of requests: how many by route and code, how long until the head of the answer, how many at work.

A route is its pattern, so that addresses with ids are one series; what no route takes is counted as ``none``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from flask import Flask, Response, g
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
AT_WORK = Gauge("darkroom_http_requests_in_flight", "Requests that are at work, without streams that are being sent.")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE, OTHER_METHOD = "none", "other"
EXTENSION = "darkroom_requests_at_work"
# ``<operation:operation>`` is ``<operation>`` to a reader.
_CONVERTER = re.compile(r"<[^<>:]+:")


class _AtWork:
    """How many requests of this process are at work; a number of its own, because it is written twice a request."""

    def __init__(self) -> None:
        self.requests = 0

    def note(self) -> None:
        AT_WORK.of().set(self.requests)


def install(app: Flask) -> None:
    """Count every request of the app. Call it before the guard: what comes after an answer runs in reverse."""
    at_work = app.extensions[EXTENSION] = _AtWork()
    patterns = {rule.rule: _CONVERTER.sub("<", rule.rule) for rule in app.url_map.iter_rules()}

    def enter() -> None:
        at_work.requests += 1
        g.counted_from = time.perf_counter()

    def leave(response: Response) -> Response:
        asked = request_ctx.request
        rule = asked.url_rule
        route = NO_ROUTE if rule is None else patterns.get(rule.rule) or _CONVERTER.sub("<", rule.rule)
        method = asked.method if asked.method in METHODS else OTHER_METHOD
        REQUESTS.of(method, route, str(response.status_code)).inc()
        if (began := g.get("counted_from")) is not None:
            REQUEST_SECONDS.of(route).observe(time.perf_counter() - began)
        return response

    def end(_error: BaseException | None) -> None:
        if "counted_from" in g:
            at_work.requests -= 1

    app.before_request(enter)
    app.after_request(leave)
    app.teardown_request(end)


def note_of(app: Flask) -> Callable[[], None]:
    """What notes how many requests of the app are at work."""
    at_work: _AtWork = app.extensions[EXTENSION]
    return at_work.note
