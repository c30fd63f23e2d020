"""Orders in: submit and estimate."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from flask import Blueprint, Response, current_app, g, request

from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer, preferred_wait_s
from app.orders import forms, request_body
from app.services import Services, services
from app.shapes import render
from app.shapes.inline_images import data_urls
from app.shapes.render import TASKS
from app.shapes.schemas import Empty, Estimate, EstimateBody, OrderBody, TaskOut
from core.errors import UnavailableError
from jobs.errors import FieldFault, UnknownOperationError
from jobs.reads.tasks import Task
from jobs.submission.service import Customer
from quota.prices import credits_text

bp = Blueprint("submit", __name__)

RETRY_AFTER_S = 1
# As in URLs; the catalogue writes some of them otherwise.
OPERATIONS: Mapping[str, str] = {
    "generate": "generate",
    "edit": "edit",
    "upscale": "upscale",
    "variations": "variations",
    "inpaint": "inpaint",
    "outpaint": "outpaint",
    "erase": "erase",
    "remove-background": "remove_background",
    "replace-background": "replace_background",
    "remove-text": "remove_text",
    "face-swap": "face_swap",
    "translate": "translate",
    "style-transfer": "style_transfer",
    "character": "character",
    "caption": "caption",
    "to-3d": "image_to_3d",
    "text-to-3d": "text_to_3d",
    "sketch-to-3d": "sketch_to_3d",
}
_ORDER_ERRORS = (
    "malformed_json",
    "malformed_form",
    "insufficient_credits",
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
_TASK_HEADERS = (
    "Location",
    "X-Task-Id",
    "X-Cost-Quoted",
    "Idempotent-Replayed",
    "Preference-Applied",
)


@bp.post("/api/images/<operation>")
@describe(
    Endpoint(
        "Submit an order",
        "orders",
        (
            Answer(
                202,
                "Accepted, and kept whatever happens next.",
                TaskOut,
                headers=("Retry-After", *_TASK_HEADERS),
            ),
            Answer(
                200,
                "Ended within the wait asked for, or earlier under this key.",
                TaskOut,
                headers=_TASK_HEADERS,
            ),
        ),
        scope="jobs:write",
        pace="submit",
        errors=(*_ORDER_ERRORS, "idempotency_key_invalid", "idempotency_mismatch"),
        body=OrderBody,
        multipart=True,
        request_headers=("Idempotency-Key", "Prefer"),
        description=f"`operation` is one of {', '.join(OPERATIONS)}.",
    )
)
def submit(operation: str) -> Response:
    wanted = operation_of(operation)
    read_query(Empty, request.args)
    parts = services()
    incoming = request_body.read(request, forms.kinds_of(parts.catalog))
    submitted = request_body.place(
        parts,
        Customer(g.caller.account_id, g.caller.weight),
        wanted,
        incoming,
        key=request_body.idempotency_key(g.caller.key_id, request, incoming),
        max_image_bytes=current_app.config["MAX_IMAGE_BYTES"],
        request_id=g.request_id,
    )
    if not parts.publish(submitted.nudges):
        parts.records.unpublished(submitted.task.id)
    wait_s = preferred_wait_s()
    task = _ended_or_latest(parts, submitted.task, wait_s)
    return _accepted(task, replayed=submitted.replayed, wait_s=wait_s)


@bp.post("/api/images/estimate")
@describe(
    Endpoint(
        "Price an order without running it",
        "orders",
        (Answer(200, "What the order would cost and really ask.", Estimate),),
        errors=_ORDER_ERRORS,
        body=EstimateBody,
        multipart=True,
    )
)
def estimate() -> Response:
    read_query(Empty, request.args)
    incoming = request_body.read(request, forms.kinds_of(services().catalog))
    named = incoming.fields.pop("operation", "edit" if incoming.given else "generate")
    wanted = operation_of(named) if isinstance(named, str) else "generate"
    if not isinstance(named, str):
        incoming.faults.append(FieldFault("operation", "wrong_type", "must be a text"))
    quote = request_body.quote(services(), wanted, incoming)
    return json_answer(render.estimate(quote, incoming.fields.get("n", 1)))


def operation_of(name: str) -> str:
    """The catalogue's word for an operation. Raises UnknownOperationError."""
    if name not in OPERATIONS:
        raise UnknownOperationError(f"there is no operation {name[:40]!r}{_hint(name)}", available=list(OPERATIONS))
    return OPERATIONS[name]


def _hint(name: str) -> str:
    """The operation that was probably meant: by the catalogue's own word for it, or by its spelling."""
    asked = name[:40].lower().replace("-", "_")
    own = [url for url, word in OPERATIONS.items() if word == asked]
    near = own or difflib.get_close_matches(asked.replace("_", "-"), OPERATIONS, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _ended_or_latest(parts: Services, task: Task, wait_s: int) -> Task:
    if wait_s == 0 or task.ended:
        return task
    account_id = task.account_id
    try:
        return parts.waits.until(
            lambda: parts.records.task(account_id, task.id),
            lambda found: found.ended,
            account_id=account_id,
            timeout_s=wait_s,
        )
    except UnavailableError:
        return task  # accepted is accepted, even if we cannot look at it just now


def _accepted(task: Task, *, replayed: bool, wait_s: int) -> Response:
    renderer: render.Renderer = current_app.extensions["darkroom_renderer"]
    # A finished task is 200 only to those who waited for it or had it before: a fresh one is 202.
    status = 200 if task.ended and (replayed or wait_s) else 202
    headers = {
        "Location": f"{TASKS}/{task.id}",
        "X-Task-Id": task.id,
        "X-Cost-Quoted": credits_text(task.quoted),
    }
    if status == 202:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if wait_s:
        headers["Preference-Applied"] = f"wait={wait_s}"
    return json_answer(renderer.task(task, data_urls(task, services().store)), status, headers)
