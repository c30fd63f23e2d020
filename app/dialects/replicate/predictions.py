"""Predictions: made, waited for, read, listed, cancelled, streamed."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import cast
from urllib.parse import urlencode

from flask import Blueprint, Response, current_app, g, request

from app.accepting import accept, cancel_job, ended_or_latest
from app.dialects.replicate import stream
from app.dialects.replicate.headers import Wait, read_cancel_after, read_prefer
from app.dialects.replicate.names import Named, names_of
from app.dialects.replicate.orders import Asked, Reader
from app.dialects.replicate.prediction import PATH, Links, prediction, unfinished
from app.dialects.watching import Watching
from app.http import event_stream, held, links
from app.http.bodies import read_json_object, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.links import Here
from app.http.responses import json_answer
from app.http.strict_request import StrictRequest
from app.orders import forms, idempotency_key
from app.services import Services, services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.replicate import (
    PredictionBody,
    PredictionOut,
    PredictionPage,
    PredictionsQuery,
    StreamQuery,
)
from app.shapes.schemas.tasks import is_job_id
from core.wire import json_text
from jobs.errors import InvalidOrderError, JobNotFoundError
from jobs.reads import tasks
from jobs.reads.tasks import Filters, Task
from providers.catalog.catalog import UnknownModelError

bp = Blueprint("replicate_predictions", __name__)

TAG = "replicate"
DEFAULT_MODEL = "REPLICATE_MODEL_ID"
PAGE = 100
AFTER = "~"  # sorts behind every character of an id: a cursor with it takes in the id itself
CANCEL_WAIT_S = 2.0  # most cancels end within it, and clients read the status in the answer

_CREATE = Endpoint(
    "Make a prediction",
    TAG,
    (
        Answer(
            201,
            "Accepted; with Prefer it may have ended. Unfinished, its status is `starting`.",
            PredictionOut,
            headers=("Location", "Preference-Applied"),
        ),
    ),
    scope="jobs:write",
    pace="submit",
    errors=(
        "malformed_json",
        "insufficient_credits",
        "spending_limit",
        "model_not_allowed",
        "content_refused",
        "screening_unavailable",
        "not_found",
        "host_not_allowed",
        "invalid_order",
        "invalid_request",
        "unknown_model",
        "idempotency_key_invalid",
        "idempotency_mismatch",
        "image_too_large_bytes",
        "url_too_large",
        "not_an_image",
        "unsupported_image_type",
        "storage_unavailable",
    ),
    body=PredictionBody,
    request_headers=("Prefer", "Cancel-After", "Idempotency-Key", "Cache-Control"),
)


@bp.post(PATH)
@describe(_CREATE)
def create() -> Response:
    return _create(None)


@bp.post("/v1/models/<owner>/<name>/predictions")
@describe(_CREATE)
def create_with_model(owner: str, name: str) -> Response:
    return _create(f"{owner}/{name}")


@bp.post("/v1/deployments/<owner>/<name>/predictions")
@describe(_CREATE)
def create_with_deployment(owner: str, name: str) -> Response:
    return _create(f"{owner}/{name}")


def _create(model: str | None) -> Response:
    read_query(Empty, request.args)
    here = links.here()
    here.absolute(PATH)  # its clients follow absolute links only: no prediction without them
    service = services()
    cancel_after_s, faults = read_cancel_after(request.headers.get("Cancel-After"))
    default = current_app.config.get(DEFAULT_MODEL)
    reader = Reader(names_of(service.catalog), service.submission.quoting, forms.kinds_of(service.catalog), default)
    asked = reader.read(read_json_object(request), model=model, cancel_after_s=cancel_after_s, faults=faults)
    task = _submitted(service, asked)
    del asked
    cast("StrictRequest", request).let_go()  # what waits on holds no image
    wait = read_prefer(request.headers.getlist("Prefer"), request.headers.get("User-Agent", ""))
    show = partial(unfinished, named=None)
    room = service.waits.places.room(g.caller.account_id)  # without, its client looks again, as after a wait
    answer = (
        _waited(service, task, here, wait) if wait and room else json_answer(show(task, links=_links(here, task)), 201)
    )
    answer.headers["Location"] = f"{here.base}{PATH}/{task.id}"
    if wait:
        answer.headers["Preference-Applied"] = wait.applied
    return answer


def _submitted(service: Services, asked: Asked) -> Task:
    """The job. Raises what accept raises, faults told in the words of the request."""
    key = idempotency_key.read(request, asked.order, key_id=g.caller.key_id)
    try:
        return accept(service, g.caller, asked.order, key=key, request_id=g.request_id).task
    except InvalidOrderError as error:
        raise asked.in_its_words(error) from None


def _waited(service: Services, task: Task, here: Here, wait: Wait) -> Response:
    """The prediction once it has ended, or when the wait has; after a silence at first, the answer has begun."""
    hold, limit_s = held.hold_here(), math.inf if wait.limit_s is None else wait.limit_s
    quiet_s = min(limit_s, hold.quiet_s)
    watching = Watching(service, task)
    if watching.end(quiet_s) or limit_s <= quiet_s:
        return json_answer(unfinished(watching.task, None, _links(here, task)), 201)
    over = watching.end_within(limit_s - quiet_s)

    def ended(timeout_s: float) -> Task | None:
        return over(timeout_s) or (watching.task if watching.stopping else None)

    def say(found: Task) -> bytes:
        return json_text(unfinished(found, None, _links(here, found))).encode()

    answer = held.held(ended, say, beat_s=hold.beat_s, content_type="application/json")
    answer.status_code = 201
    return answer


@bp.get(f"{PATH}/<job_id>")
@describe(
    Endpoint(
        "Read a prediction",
        TAG,
        (Answer(200, "The prediction, also of a task that was made elsewhere.", PredictionOut),),
        pace="read",
        errors=("not_found", "host_not_allowed"),
    )
)
def read(job_id: str) -> Response:
    read_query(Empty, request.args)
    task = services().task_reads.task(g.caller.account_id, _checked_id(job_id))
    return json_answer(_shown(task, links.here()))


@bp.post(f"{PATH}/<job_id>/cancel")
@describe(
    Endpoint(
        "Cancel a prediction",
        TAG,
        (Answer(200, "The prediction; still `processing` where its upstream has not stopped yet.", PredictionOut),),
        scope="jobs:write",
        errors=("not_found", "host_not_allowed"),
    )
)
def cancel(job_id: str) -> Response:
    read_query(Empty, request.args)
    parts, account_id, here = services(), g.caller.account_id, links.here()
    here.absolute(PATH)
    cancel_job(parts, account_id, _checked_id(job_id))
    task = ended_or_latest(parts, parts.task_reads.task(account_id, job_id), CANCEL_WAIT_S)
    return json_answer(_shown(task, here))


@bp.get(PATH)
@describe(
    Endpoint(
        "List predictions, newest first",
        TAG,
        (Answer(200, "One page of at most 100, with absolute links to its neighbours.", PredictionPage),),
        errors=("invalid_request", "host_not_allowed"),
        query=PredictionsQuery,
    )
)
def list_predictions() -> Response:
    query, here = read_query(PredictionsQuery, request.args), links.here()
    here.absolute(PATH)
    if query.source == "web":
        return json_answer({"next": None, "previous": None, "results": []})
    lend, account_id = services().connections.autocommit, g.caller.account_id
    since = query.created_after - timedelta(microseconds=1) if query.created_after else None
    filters = Filters(created_after=since, created_before=query.created_before, cursor=query.cursor, limit=PAGE + 1)
    found = lend(tasks.list_tasks, account_id, filters)
    page = found[:PAGE]
    newer = lend(tasks.newest_before, account_id, page[0].id, PAGE) if query.cursor and page else None

    def link(cursor: str | None) -> str | None:
        kept = {name: value for name, value in request.args.items() if name != "cursor"}
        return f"{here.base}{PATH}?{urlencode({**kept, 'cursor': cursor})}" if cursor else None

    return json_answer(
        {
            "next": link(page[-1].id if len(found) > PAGE else None),
            "previous": link(f"{newer}{AFTER}" if newer else None),
            "results": [_shown(task, here) for task in page],
        }
    )


@bp.get(f"{PATH}/<job_id>/stream")
@describe(
    Endpoint(
        "Follow a prediction",
        TAG,
        (
            Answer(
                200,
                "Events `logs`, `output`, `error` and `done`; comments meanwhile.",
                media_types=(event_stream.MEDIA_TYPE,),
            ),
        ),
        pace="read",
        signed=True,
        errors=("not_found", "host_not_allowed", "signature_invalid", "signature_expired", "invalid_request"),
        query=StreamQuery,
        request_headers=("Last-Event-ID",),
        description="Takes your key, or the expiring signature of `urls.stream` instead of it.",
    )
)
def follow(job_id: str) -> Response:
    query, here = read_query(StreamQuery, request.args), links.here()
    here.absolute(PATH)
    parts, account_id = services(), g.caller.account_id
    task = parts.task_reads.task(account_id, _checked_id(job_id))
    parts.waits.places.check(account_id)
    place = stream.Place.of(request.headers.get("Last-Event-ID") or query.last_event_id)
    return event_stream.answer(stream.chunks(Watching(parts, task), _named(task), _links(here, task).image, place))


def _shown(task: Task, here: Here) -> dict[str, object]:
    here.absolute(PATH)
    return prediction(task, _named(task), _links(here, task))


def _links(here: Here, task: Task) -> Links:
    path = f"{PATH}/{task.id}/stream"
    signed = here.signer.link(path, account_id=task.account_id, index=0)
    image: Callable[[int], str] = lambda index: here.image_link(task, index)  # noqa: E731
    return Links(here.base, image, f"{here.base}{path}?{signed}")


def _named(task: Task) -> Named | None:
    """The names of a job's model, where the catalogue still has it."""
    catalog = services().catalog
    try:
        return names_of(catalog).of(catalog.entry(task.model))
    except UnknownModelError:
        return None


def _checked_id(job_id: str) -> str:
    """The id itself. Raises JobNotFoundError for what cannot be one of ours, asking no database."""
    if not is_job_id(job_id):
        raise JobNotFoundError("there is no such prediction")
    return job_id
