"""fal's queue: submit, status, its stream, result, cancel."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, Request, Response, g, request
from flask.globals import request_ctx

from app.accepting import accept, cancel_job
from app.dialects.fal import links, orders, status_stream
from app.dialects.fal.answers import ORDER_ERRORS, REQUEST_HEADERS, headers_of, output
from app.dialects.fal.apps import prefix_of
from app.dialects.fal.dialect import REQUEST_ID, name_request
from app.dialects.fal.request_ids import job_id_of, request_id_of
from app.dialects.fal.schemas import Cancelled, Input, LogsQuery, Output, Status, SubmitQuery, Submitted
from app.dialects.fal.status import status_of
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer, text_answer
from app.services import services
from core.errors import ServiceError
from core.wire import json_text
from jobs.errors import JobNotFoundError
from jobs.failures import CancelOutcome

bp = Blueprint("fal_queue", __name__, url_prefix=links.QUEUE)

# As fal's clients write it; whatever else is asked for is looked at in full.
_LOGS = {b"": False, b"logs=0": False, b"logs=false": False, b"logs=1": True, b"logs=true": True}


class InProgressError(ServiceError):
    """The result of a request that has not ended."""

    code = "bad_request"


@bp.post("/<path:app>")
@describe(
    Endpoint(
        "Submit to an application's queue",
        "fal",
        (Answer(200, "Accepted, and kept whatever happens next.", Submitted, headers=("X-Task-Id", "X-Cost-Quoted")),),
        scope="jobs:write",
        pace="submit",
        errors=ORDER_ERRORS,
        query=SubmitQuery,
        body=Input,
        request_headers=REQUEST_HEADERS,
        description="`app` is fal's name of an application, or `darkroom/<model>[/<operation>]`; the body is its input."
        " Members that nothing here takes are ignored and named in the header `Warning`.",
    )
)
def submit(app: str) -> Response:
    service = services()
    asked = orders.read(service, request, app, key_id=g.caller.key_id, queued=True)
    here = links.here()
    submitted = accept(service, g.caller, asked.order, key=asked.key, request_id=g.request_id)
    task, request_id = submitted.task, request_id_of(submitted.task.id)
    name_request(request_id)
    headers = headers_of(task, asked.ignored)
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    body = {
        "status": "COMPLETED" if task.ended else "IN_QUEUE" if task.status == "queued" else "IN_PROGRESS",
        "gateway_request_id": request_id,
        **links.of_request(here.base, prefix_of(app), request_id),
        "queue_position": task.queue_position or 0,
    }
    return json_answer(body, headers=headers)


@bp.get("/<path:app>/requests/<request_id>/status")
@describe(
    Endpoint(
        "How far a request is",
        "fal",
        (Answer(200, "It has ended.", Status), Answer(202, "It waits or runs.", Status)),
        pace="read",
        errors=("not_found",),
        query=LogsQuery,
        description="With `logs`, the transitions of the job go along. A request that has failed is `COMPLETED` with"
        " `error` and `error_type`.",
    )
)
def status(app: str, request_id: str) -> Response:
    asked = request_ctx.request  # looked up once: every use of Flask's proxy costs
    job_id = job_id_of(request_id)
    if job_id is None:
        raise JobNotFoundError("there is no such request")
    found = services().task_reads.brief(g.caller.account_id, job_id, events=_wants_logs(asked))
    body = {**status_of(found), **_about(asked, app, request_id)}
    return text_answer(json_text(body), 200 if found.ended else 202, {REQUEST_ID: request_id})


@bp.get("/<path:app>/requests/<request_id>/status/stream")
@describe(
    Endpoint(
        "Follow a request",
        "fal",
        (
            Answer(
                200,
                "Server-sent events: the status, and again whenever it changes.",
                media_types=("text/event-stream",),
            ),
        ),
        pace="read",
        errors=("not_found",),
        query=LogsQuery,
    )
)
def stream(app: str, request_id: str) -> Response:
    service, account_id, job_id = services(), g.caller.account_id, _job_id(request_id)
    events = _wants_logs(request)
    first = service.task_reads.brief(account_id, job_id, events=events)
    service.waits.places.check(account_id)
    return status_stream.answer(service, first, _about(request, app, request_id), events=events)


@bp.get("/<path:app>/requests/<request_id>", endpoint="result")
@bp.get("/<path:app>/requests/<request_id>/response")
@describe(
    Endpoint(
        "The output of a request",
        "fal",
        (Answer(200, "The output.", Output),),
        pace="read",
        errors=("not_found", "bad_request", "image_gone", "storage_unavailable"),
        description="A request that has not ended is 400. One that has failed has the status of its failure.",
    )
)
def response(app: str, request_id: str) -> Response:  # noqa: ARG001 (a request's id names it alone)
    service = services()
    task = service.task_reads.task(g.caller.account_id, _job_id(request_id))
    if not task.ended:
        raise InProgressError("Request is still in progress")
    return output(task, links.here(), service.store)


@bp.put("/<path:app>/requests/<request_id>/cancel")
@describe(
    Endpoint(
        "Cancel a request",
        "fal",
        (Answer(202, "It is asked to stop, or was stopped in the queue.", Cancelled),),
        scope="jobs:write",
        errors=("not_found", "bad_request"),
        description="400 `ALREADY_COMPLETED`: it had ended. 404 `NOT_FOUND`.",
    )
)
def cancel(app: str, request_id: str) -> Response:  # noqa: ARG001 (a request's id names it alone)
    try:
        done = cancel_job(services(), g.caller.account_id, _job_id(request_id))
    except JobNotFoundError:
        return _refused("NOT_FOUND", "not_found", "there is no such request", 404)
    if done.outcome == CancelOutcome.TOO_LATE:
        return _refused("ALREADY_COMPLETED", "bad_request", "the request has ended already", 400)
    return json_answer({"status": "CANCELLATION_REQUESTED"}, 202)


def _refused(word: str, kind: str, message: str, status: int) -> Response:
    body = {"status": word, "detail": message, "message": message, "error_type": kind}
    return json_answer(body, status, {"x-fal-error-type": kind})


def _job_id(request_id: str) -> str:
    """The job of a request. Raises JobNotFoundError for what cannot be one, asking no database."""
    job_id = job_id_of(request_id)
    if job_id is None:
        raise JobNotFoundError("there is no such request")
    name_request(request_id)
    return job_id


def _about(asked: Request, app: str, request_id: str) -> Mapping[str, str]:
    return links.of_request(links.base(asked), app, request_id)


def _wants_logs(asked: Request) -> bool:
    known = _LOGS.get(asked.query_string)
    return asked.args.get("logs", "").lower() in ("1", "true") if known is None else known
