"""OpenAI's image routes: made, edited, varied; now, as a stream, or later."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from app.dialects.openai import later, streams, waiting
from app.dialects.openai.calls import CANCEL_HEADER, Call, accept_call, options, public_base
from app.dialects.openai.orders import NAME, ResponseFormat, Route
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import preferred_wait_s, prefers_async
from app.services import services
from app.shapes.schemas.openai import ImagesBody, ImagesOut, ImageTaskOut, ImageTaskQuery
from app.shapes.schemas.tasks import is_job_id
from jobs.errors import JobNotFoundError

bp = Blueprint("openai_images", __name__, url_prefix="/v1/images")

_TASK_HEADERS = ("X-Task-Id", "X-Cost-Quoted", "X-Darkroom-Ignored-Fields", "Idempotent-Replayed")
_ERRORS = (
    "malformed_json",
    "malformed_form",
    "insufficient_credits",
    "spending_limit",
    "model_not_allowed",
    "content_refused",
    "screening_unavailable",
    "request_too_large",
    "unsupported_media_type",
    "image_too_large_bytes",
    "url_too_large",
    "not_an_image",
    "unsupported_image_type",
    "invalid_order",
    "unknown_model",
    "storage_unavailable",
    "idempotency_key_invalid",
    "idempotency_mismatch",
)
_LATER = Answer(
    202,
    "Accepted: collect the images later.",
    ImageTaskOut,
    headers=("Location", "Retry-After", "Preference-Applied", *_TASK_HEADERS),
)


def _endpoint(summary: str, *answers: Answer, description: str = "") -> Endpoint:
    return Endpoint(
        summary,
        "openai",
        answers,
        scope="jobs:write",
        pace="submit",
        errors=_ERRORS,
        body=ImagesBody,
        multipart=True,
        request_headers=("Idempotency-Key", "Prefer", "Cache-Control", CANCEL_HEADER),
        description=description,
    )


def _images(summary: str) -> Endpoint:
    return _endpoint(
        summary,
        Answer(
            200,
            "The images. With `stream: true` server-sent events; after the first seconds white space keeps the "
            "connection alive, and a failure that comes later is told in the body.",
            ImagesOut,
            media_types=("application/json", "text/event-stream"),
            headers=("X-Cost-Captured", *_TASK_HEADERS),
        ),
        _LATER,
        description="As OpenAI's route of this address. `Prefer: respond-async` and `Prefer: wait=n` answer 202 with a "
        "task that is collected at `/v1/images/tasks/{task_id}`.",
    )


@bp.post("/generations")
@describe(_images("Make images"))
def generations() -> Response:
    return _made("generations")


@bp.post("/edits")
@describe(_images("Edit images"))
def edits() -> Response:
    return _made("edits")


@bp.post("/variations")
@describe(_images("Vary an image"))
def variations() -> Response:
    return _made("variations")


@bp.post("/generations/async")
@describe(_endpoint("Make images, to be collected later", _LATER))
def generations_later() -> Response:
    call = accept_call("generations")
    return later.accepted(call, call.task, options())


@bp.post("/edits/async")
@describe(_endpoint("Edit images, to be collected later", _LATER))
def edits_later() -> Response:
    call = accept_call("edits")
    return later.accepted(call, call.task, options())


@bp.get("/tasks/<task_id>")
@describe(
    Endpoint(
        "Collect images",
        "openai",
        (Answer(200, "The task, and its images once they are made.", ImageTaskOut, headers=("Retry-After",)),),
        pace="read",
        errors=("not_found", "image_gone", "invalid_request", "storage_unavailable"),
        query=ImageTaskQuery,
        description="Reads any task of images of yours, by whichever route it was ordered.",
    )
)
def task(task_id: str) -> Response:
    query = read_query(ImageTaskQuery, request.args)
    service = services()
    if not is_job_id(task_id):
        raise JobNotFoundError("there is no such task")
    found = service.task_reads.task(g.caller.account_id, task_id)
    ordered: ResponseFormat | None = (
        found.client.get("response_format") if found.client.get("dialect") == NAME else None
    )
    wanted = query.response_format or ordered or options().response_format
    return later.found(service, found, wanted, public_base(), options())


def _made(route: Route) -> Response:
    at_once, wait_s = prefers_async(), preferred_wait_s()
    if not (at_once or wait_s):
        services().waits.places.check(g.caller.account_id)  # refused before anything is accepted
    call = accept_call(route)
    if at_once or wait_s:
        return _preferred(call, at_once=at_once, wait_s=wait_s)
    if call.stream:
        return streams.answer(call)
    return waiting.answer(call, call.hold.quiet_s)


def _preferred(call: Call, *, at_once: bool, wait_s: int) -> Response:
    """What the caller waits for instead of the end; an end within that time is answered as such."""
    applied = ", ".join([*(["respond-async"] if at_once else []), *([f"wait={wait_s}"] if wait_s else [])])
    ended = call.until_end(wait_s)
    if not ended.ended or (at_once and not wait_s):
        return later.accepted(call, ended, options(), applied)
    response = waiting.answer(call, 0)
    response.headers["Preference-Applied"] = applied
    return response
