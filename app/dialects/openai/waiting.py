"""The synchronous answer: its true status while nothing was sent, and after that what the client can make of it.

Once white space has gone out the status is 200. A failure is then told by breaking the answer off, to an SDK that asks
again and gets the true error; to others by the envelope in the body.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress

from flask import Response

from app.accepting import note_answer
from app.dialects.openai import answers, errors, failures
from app.dialects.openai.calls import Call
from app.http.dialect import Said
from app.http.errors import CODES
from app.http.errors import document as problem_document
from app.http.held import BrokenOff, held, on_end
from core.errors import ServiceError, UnavailableError
from jobs.reads.tasks import Task
from quota.prices import credits_text
from storage.base import StorageUnavailableError

JSON = "application/json"
STILL_RUNNING = "the image is still being made; read it at {url}"


def answer(call: Call, quiet_s: float) -> Response:
    """The images, or why there are none: at once when the job ends within ``quiet_s``, else by an answer that is
    kept alive. Raises what answers.answer raises."""
    task = call.until_end(quiet_s)
    response = finished(call, task) if task.ended else _held(call)
    with_headers(response, call, task)
    note_answer(call.service, response, call.key, task.id)
    cancel_when_left(response, call)
    return response


def finished(call: Call, task: Task) -> Response:
    """The answer of an ended task, with its true status. Raises what answers.answer raises."""
    if task.status != "succeeded":
        return _said(failures.say(task))
    body = answers.answer(call.service, task, call.wanted, call.base)
    response = Response(body.pieces(), 200, content_type=JSON)
    response.headers["Content-Length"] = str(body.size_bytes)
    response.headers["Cache-Control"] = "no-store"
    response.call_on_close(body.close)
    return response


def with_headers(response: Response, call: Call, task: Task) -> None:
    """Add what Darkroom tells of a task by headers."""
    headers = response.headers
    headers["X-Task-Id"] = task.id
    headers["X-Cost-Quoted"] = credits_text(task.quoted_microcredits)
    if task.captured_microcredits is not None:
        headers["X-Cost-Captured"] = credits_text(task.captured_microcredits)
    if task.ended:
        headers["X-Provider"] = task.provider
        headers["X-Attempts"] = str(task.attempt)
    if call.replayed:
        headers["Idempotent-Replayed"] = "true"
    if call.ignored:
        headers["X-Darkroom-Ignored-Fields"] = call.ignored


def _said(said: Said) -> Response:
    response = Response(json.dumps(said.body, ensure_ascii=False), said.status, content_type=said.content_type)
    response.headers.update(said.headers or {})
    response.headers["Cache-Control"] = "no-store"
    return response


def _held(call: Call) -> Response:
    ends_at = time.monotonic() + call.hold.most_s

    def ended(wait_s: float) -> Task | None:
        left_s = ends_at - time.monotonic()
        latest = call.until_end(min(wait_s, left_s))
        if not latest.ended and call.has_left():
            raise BrokenOff
        return latest if latest.ended or left_s <= wait_s else None

    hold = call.hold
    return held(
        ended,
        lambda found: _late(call, found),
        beat_s=hold.beat_s,
        content_type=JSON,
        stopping=hold.stopping,
    )


def _late(call: Call, task: Task) -> Iterable[bytes]:
    """The end of an answer that has begun. Raises BrokenOff."""
    if task.status == "succeeded":
        try:
            return answers.answer(call.service, task, call.wanted, call.base).pieces()
        except (ServiceError, StorageUnavailableError) as error:
            failed = of_error(call, error)
    elif task.ended:
        failed = failures.document(task)
    else:
        url = f"{call.base}/v1/images/tasks/{task.id}"
        late = problem_document("request_timeout", STILL_RUNNING.format(url=url), **_about(call))
        failed = dict(errors.say(late).body)
    if call.counts_retries:
        raise BrokenOff
    return [json.dumps(failed, ensure_ascii=False).encode()]


def of_error(call: Call, error: ServiceError | StorageUnavailableError) -> dict[str, object]:
    """The envelope of an error that came up after the head of the answer had gone out."""
    code = error.code if isinstance(error, ServiceError) else "storage_unavailable"
    detail = error.detail if isinstance(error, ServiceError) else ""
    return dict(errors.say(problem_document(code if code in CODES else "internal_error", detail, **_about(call))).body)


def _about(call: Call) -> dict[str, str]:
    return {"instance": call.path, "request_id": call.request_id}


def cancel_when_left(response: Response, call: Call) -> None:
    """Cancel the job, where its caller wants that, when the client closes the connection before it has its answer. A
    server that stops closes it, too, and cancels nothing."""
    if (left := call.left) is None:
        return

    def tell(_whole: bool) -> None:
        if left():
            with suppress(UnavailableError):
                call.cancel()

    on_end(response, tell)
