"""One request for images from the moment its order is accepted: what outlives the view, and the wait for the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flask import current_app, g, request

from app.accepting import accept, cancel_job
from app.dialects.openai import orders
from app.dialects.openai.orders import ResponseFormat, Route
from app.dialects.watching import Watching
from app.http import links
from app.http.held import Hold, hold_here, leaving
from app.http.strict_request import StrictRequest
from app.orders import idempotency_key
from app.services import Services, services
from core.turns import Turns
from jobs.reads.tasks import Task
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.sdk_attempts import SdkAttempt
from storage.base import MediaBusyError

OPENAI = "darkroom_openai"
CANCEL_HEADER = "X-Darkroom-Cancel-On-Disconnect"
LOOK_S = 1.0
# Bodies of one account that are in memory at once, and how long another waits for its turn.
BODIES_AT_ONCE = 4
BODY_TURN_S = 240.0
LARGE_BODY_BYTES = 64 * 1024
_bodies = Turns(BODY_TURN_S, BODIES_AT_ONCE)


@dataclass(frozen=True, slots=True)
class OpenAiOptions:
    """What the operator has set for these routes. ``keep_images_days`` 0: forever."""

    response_format: ResponseFormat
    keep_images_days: float


@dataclass(frozen=True, slots=True)
class Call:
    """An accepted request. ``counts_retries``: its SDK repeats a broken answer;
    ``left``: whether the client is gone, asked only of callers who want their job cancelled then."""

    watching: Watching
    replayed: bool
    key: IdempotencyKey | SdkAttempt | None
    route: Route
    stream: bool
    wanted: ResponseFormat
    ignored: str
    base: str
    path: str
    request_id: str
    hold: Hold
    counts_retries: bool
    left: Callable[[], bool] | None

    @property
    def service(self) -> Services:
        """The services of its app."""
        return self.watching.service

    @property
    def task(self) -> Task:
        """The job as it was last read."""
        return self.watching.task

    def until_end(self, wait_s: float) -> Task:
        """The task once it has ended, or as it is after so many seconds, or once the client has left."""
        self.watching.until(lambda task: task.ended or self.has_left(), wait_s)
        return self.task

    def has_left(self) -> bool:
        """Whether the client is gone, for callers who want their job cancelled then."""
        return self.left is not None and self.left()

    def cancel(self) -> None:
        """Cancel the job, whose client has left. Raises DatabaseAwayError."""
        cancel_job(self.service, self.task.account_id, self.task.id)


def options() -> OpenAiOptions:
    """The settings of these routes."""
    return cast("OpenAiOptions", current_app.extensions[OPENAI])


def public_base() -> str:
    """The address before our paths, as this caller can reach it; empty where its host is not known to be ours."""
    return links.here().base


def accept_call(route: Route) -> Call:
    """Accept the order of this request; nothing of its body is held afterwards.

    Raises what reading an order and submitting it raise.
    """
    asked = cast("StrictRequest", request._get_current_object())  # type: ignore[attr-defined]
    try:
        return _turn_accepted(asked, route)
    finally:
        asked.let_go()


def _turn_accepted(asked: StrictRequest, route: Route) -> Call:
    """Large bodies are read a few at a time, once they have arrived: until its turn comes, a body waits on the disk."""
    length = asked.content_length
    if length is not None and length < LARGE_BODY_BYTES:
        return _accepted(asked, route)
    asked.arrive()
    try:
        with _bodies.turn(g.caller.account_id):
            return _accepted(asked, route)
    except TimeoutError:
        raise MediaBusyError("other requests of this account are being read") from None


def _accepted(asked: StrictRequest, route: Route) -> Call:
    service, caller = services(), g.caller
    read = orders.read(asked, route, service.catalog, options().response_format)
    if read.response_format == "url" and not public_base():
        raise links.HostNotAllowedError
    key = idempotency_key.read(asked, read.order, key_id=caller.key_id)
    submitted = accept(service, caller, read.order, key=key, request_id=g.request_id)
    left = leaving(asked.environ) if asked.headers.get(CANCEL_HEADER, "").lower() in ("1", "true") else None
    return Call(
        watching=Watching(service, submitted.task, look_s=LOOK_S if left else math.inf),
        replayed=submitted.replayed,
        key=key,
        route=route,
        stream=read.stream,
        wanted=read.response_format,
        ignored=orders.ignored_header(read.ignored, list(submitted.task.warnings)),
        base=public_base(),
        path=asked.path,
        request_id=g.request_id,
        hold=hold_here(),
        counts_retries=idempotency_key.COUNT_HEADER in asked.headers,
        left=left,
    )
