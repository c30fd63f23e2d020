"""Submitting and estimating orders."""

from __future__ import annotations

from typing import cast

from flask import Blueprint, Response, g, request
from werkzeug.routing import BaseConverter

from app.accepting import accept, ended_or_latest, note_answer
from app.api import image_answers
from app.api.tasks import renderer
from app.http import task_headers
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer, preferred_wait_s
from app.http.signing import TASKS
from app.http.strict_request import StrictRequest
from app.orders import forms, idempotency_key, request_body
from app.orders.operations import operation_of
from app.services import services
from app.shapes import render
from app.shapes.inline_images import data_urls
from app.shapes.schemas.base import Empty
from app.shapes.schemas.orders import Estimate, EstimateBody, OrderBody
from app.shapes.schemas.tasks import TaskOut
from jobs.errors import FieldFault
from jobs.lifecycle import Submitted
from jobs.reads.tasks import Task


class OperationName(BaseConverter):
    """Any name but that of the list of tasks, which takes no orders."""

    regex = r"(?!tasks\Z)[^/]+"


bp = Blueprint("submit", __name__)
bp.record(lambda state: state.app.url_map.converters.update(operation=OperationName))

RETRY_AFTER_S = 1
ORDER_ERRORS = (
    "malformed_json",
    "malformed_form",
    "insufficient_credits",
    "spending_limit",
    "model_not_allowed",
    "content_refused",
    "screening_unavailable",
    "unknown_operation",
    "request_too_large",
    "unsupported_media_type",
    "image_too_large_bytes",
    "url_too_large",
    "not_an_image",
    "unsupported_image_type",
    "invalid_order",
    "unknown_model",
    "storage_unavailable",
)
TASK_HEADERS = (
    "Location",
    *task_headers.NAMES,
    "Idempotent-Replayed",
    "Preference-Applied",
)


@bp.post("/api/images/<operation:operation>")
@describe(
    Endpoint(
        "Submit an order",
        "orders",
        (
            Answer(
                202,
                "Accepted, and kept whatever happens next.",
                TaskOut,
                headers=("Retry-After", *TASK_HEADERS),
            ),
            Answer(
                200,
                "Ended within the wait asked for, or earlier under this key: the task, or with `Accept: image/*` the"
                " first image itself, and the others as `Link`.",
                TaskOut,
                media_types=("application/json", *image_answers.MEDIA_TYPES),
                headers=(*TASK_HEADERS, "Content-Location", "Link"),
            ),
        ),
        scope="jobs:write",
        pace="submit",
        errors=(
            *(*ORDER_ERRORS, "idempotency_key_invalid", "idempotency_mismatch"),
            *("task_refused", "task_failed", "task_timed_out", "task_unavailable", "task_cancelled", "image_gone"),
        ),
        body=OrderBody,
        multipart=True,
        request_headers=("Idempotency-Key", "Prefer", "Cache-Control"),
        description="Every operation has this route. `GET /api/models?operation=...` lists the models for one, "
        "`GET /api/models/{id}` has the fields that a model takes. With `Accept: image/*` and `Prefer: wait=n` the"
        " answer is the image, or a `task_...` error if the task has ended without one; a task that has not ended"
        " in time is a 202 as JSON.",
    )
)
def submit(operation: str) -> Response:
    wanted = operation_of(operation)
    read_query(Empty, request.args)
    service = services()
    order = request_body.read(request, forms.kinds_of(service.catalog)).order(wanted)
    key = idempotency_key.read(request, order, key_id=g.caller.key_id)
    submitted = accept(service, g.caller, order, key=key, request_id=g.request_id)
    del order
    cast("StrictRequest", request._get_current_object()).let_go()  # type: ignore[attr-defined]
    wait_s = preferred_wait_s()
    task = ended_or_latest(service, submitted.task, wait_s)
    response = accepted(task, submitted, wait_s=wait_s)
    note_answer(service, response, key, task.id)
    return response


@bp.post("/api/images/estimate")
@describe(
    Endpoint(
        "Price an order without running it",
        "orders",
        (Answer(200, "What the order would cost and really ask.", Estimate),),
        errors=ORDER_ERRORS,
        body=EstimateBody,
        multipart=True,
    )
)
def estimate() -> Response:
    read_query(Empty, request.args)
    service = services()
    body = request_body.read(request, forms.kinds_of(service.catalog))
    named = body.fields.pop("operation", "edit" if body.images else "generate")
    wanted = operation_of(named) if isinstance(named, str) else "generate"
    if not isinstance(named, str):
        body.faults.append(FieldFault("operation", "wrong_type", "must be a text"))
    quote = service.submission.estimate(g.caller, body.order(wanted))
    return json_answer(render.estimate(quote, body.fields.get("n", 1)))


def accepted(task: Task, submitted: Submitted, *, wait_s: int) -> Response:
    """The answer to an accepted order."""
    shown = renderer()
    # 200 for an ended task only if the caller waited for it or submitted it earlier; a new one is 202.
    status = 200 if task.ended and (submitted.replayed or wait_s) else 202
    headers = {
        "Location": f"{shown.base}{TASKS}/{task.id}",
        **task_headers.task_headers(task, spendable_microcredits=submitted.spendable_microcredits),
    }
    if status == 202:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    if wait_s:
        headers["Preference-Applied"] = f"wait={wait_s}"
    if status == 200 and image_answers.wanted():
        return image_answers.of(services(), task, headers)
    return json_answer(shown.task(task, data_urls(task, services().store)), status, headers)
