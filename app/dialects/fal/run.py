"""fal's synchronous host: a call that is answered with the output."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

from flask import Blueprint, Response, g, request

from app.accepting import accept
from app.callbacks import SignedLinks
from app.dialects.fal import links, orders, result
from app.dialects.fal.answers import ORDER_ERRORS, REQUEST_HEADERS, headers_of, output
from app.dialects.fal.dialect import name_request
from app.dialects.fal.request_ids import request_id_of
from app.dialects.fal.schemas import Input, Output
from app.dialects.watching import Watching
from app.http.endpoint import Answer, Endpoint, describe
from app.http.held import BrokenOff, held, hold_here
from app.services import Services, services
from app.serving import seats
from core.errors import DatabaseAwayError, ServiceError
from core.wire import json_text
from jobs.errors import JobNotFoundError
from jobs.reads.tasks import Task
from jobs.submission import unanswered
from storage.base import StorageUnavailableError

bp = Blueprint("fal_run", __name__, url_prefix="/fal/run")

# fal's clients repeat a call whose connection broke, and name neither an attempt nor a key: for so long the same call
# sent again gets the job of one that was not answered.
UNANSWERED_S = 15 * 60


@bp.post("/<path:app>")
@describe(
    Endpoint(
        "Run an application and wait for its output",
        "fal",
        (Answer(200, "The output.", Output, headers=("X-Task-Id", "X-Cost-Quoted")),),
        scope="jobs:write",
        pace="submit",
        errors=ORDER_ERRORS,
        body=Input,
        request_headers=REQUEST_HEADERS,
        description="`app` is fal's name of an application, or `darkroom/<model>[/<operation>]`. An end within 15 s has"
        " its true status. After that the head of a 200 is sent and white space follows; a failure then breaks the"
        " answer off, and the same call sent again gets its error. A client that leaves cancels nothing.",
    )
)
def run(app: str) -> Response:
    call, headers = _accepted(services(), app)
    name_request(request_id_of(call.watching.task.id))
    hold = hold_here()
    if (ended := call.end(hold.quiet_s)) is not None:
        answer = output(ended, call.here, call.watching.service.store)
    else:
        answer = held(
            call.watching.end_within(math.inf),
            call.say,
            beat_s=hold.beat_s,
            content_type="application/json",
            stopping=hold.stopping,
        )
        answer.call_on_close(call.close)
    answer.headers.update(headers)
    return answer


def _accepted(service: Services, app: str) -> tuple[_Call, dict[str, str]]:
    """The call of this request and the headers of its answer. The order, whose images may be large, is let go of."""
    asked = orders.read(service, request, app, key_id=g.caller.key_id, queued=False)
    here = links.here()
    service.waits.places.check(g.caller.account_id)  # refused before anything is accepted
    task = _earlier(service, g.caller.account_id, asked.attempt)
    if task is None:
        task = accept(service, g.caller, asked.order, key=asked.key, request_id=g.request_id).task
    return _Call(Watching(service, task), asked.attempt, here), headers_of(task, asked.ignored)


def _earlier(service: Services, account_id: str, attempt: bytes) -> Task | None:
    """The task of an equal call that was not answered."""
    job_id = service.connections.autocommit(unanswered.take, account_id, attempt, life_s=UNANSWERED_S)
    if job_id is None:
        return None
    try:
        return service.task_reads.task(account_id, job_id)
    except JobNotFoundError:
        return None  # deleted since: the call is a new one


@dataclass(slots=True)
class _Call:
    """One call that waits; it outlives its request."""

    watching: Watching
    attempt: bytes
    here: SignedLinks
    answered: bool = False

    def end(self, timeout_s: float) -> Task | None:
        """The task once it has ended; None after so many seconds, or when the client has left."""
        self.watching.until(lambda task: task.ended or seats.current().gone, timeout_s)
        if not self.watching.task.ended and seats.current().gone:
            self.close()  # at once: its client may be back before this answer finds out
        return self.watching.task if self.watching.task.ended else None

    def say(self, task: Task) -> bytes:
        """The output. Raises BrokenOff: there is none, and the status of a success has gone out."""
        try:
            if result.failure(task) is None:
                inline = result.data_urls(task, self.watching.service.store)
                body = json_text(result.payload(task, self.here, inline)).encode()
                self.answered = True
                return body
        except (ServiceError, StorageUnavailableError):
            pass  # the same call sent again is told
        self.close()
        raise BrokenOff

    def close(self) -> None:
        """Note that the answer was not complete: its client may send the call again."""
        if not self.answered:
            self.answered = True
            with suppress(DatabaseAwayError):
                lend, task = self.watching.service.connections.autocommit, self.watching.task
                lend(unanswered.note, task.account_id, self.attempt, task.id)
