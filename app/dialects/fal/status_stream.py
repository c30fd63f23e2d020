"""The stream of a request's status: each object that a poll would have seen, as soon as it changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flask import Response

from app.dialects.fal.status import status_of
from app.http import event_stream
from app.services import Services
from core.errors import UnavailableError
from core.wire import json_text
from jobs.errors import JobNotFoundError
from jobs.reads.brief import Brief

# The place in the queue changes without a change of the job: it is read again so often.
LOOK_S = 5.0
PAUSE_S = 1.0


def answer(service: Services, first: Brief, about: Mapping[str, Any], *, events: bool) -> Response:
    """Follow a task from what was read of it first. ``about`` goes with every object; ``events``: with its log."""
    chunks = _records(service, first, about, events=events)
    return event_stream.answer(chunks)


def _records(service: Services, task: Brief, about: Mapping[str, Any], *, events: bool) -> Iterator[bytes]:
    last: dict[str, Any] = {}
    told = 0  # lines of the log: clients add what comes to what they have
    while True:
        said = status_of(task)
        if said == last:
            yield event_stream.comment("waiting")
        else:
            last = dict(said)
            lines: Sequence[Any] | None = said.get("logs")
            if lines is not None:
                said["logs"], told = lines[told:], len(lines)
            yield b"data: " + json_text({**said, **about}).encode() + b"\n\n"
        if task.ended or service.waits.stopping:
            return
        try:
            task = _next(service, task, events=events)
        except JobNotFoundError:
            return


def _next(service: Services, seen: Brief, *, events: bool) -> Brief:
    """The task when it changes, or after a while. Raises JobNotFoundError."""
    began = time.monotonic()
    with suppress(UnavailableError):
        service.waits.until(
            lambda: service.task_reads.task(seen.account_id, seen.id),
            lambda found: found.ended or found.version != seen.version,
            account_id=seen.account_id,
            timeout_s=LOOK_S,
        )
        found = service.task_reads.brief(seen.account_id, seen.id, events=events)
        if found.version != seen.version or time.monotonic() - began >= PAUSE_S:
            return found
    time.sleep(PAUSE_S)  # too many wait already, or the database is away
    return seen
