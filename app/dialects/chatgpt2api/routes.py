"""The image tasks of chatgpt2api, so that its clients can point at this service
(providers/upstreams/chatgpt2api/CONTRACT.md, section 2).

A client's own id is the key under which a repeat is free: the same id always answers the same task, whatever comes with
it, for a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from flask import Blueprint, Response, g, request

from app.accepting import accept
from app.dialects.chatgpt2api.requests import read_edit, read_generation
from app.dialects.chatgpt2api.words import PREFIX, ImageTasks, error_text
from app.http import links
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError
from app.http.responses import json_answer
from app.services import Services, services
from app.shapes.schemas.replaced import (
    ClientTaskOut,
    ImageTaskBody,
    ImageTaskEditBody,
    ImageTasksOut,
    ImageTasksQuery,
)
from app.shapes.schemas.tasks import is_job_id
from jobs.errors import FieldFault
from jobs.reads import tasks
from jobs.reads.tasks import Filters, Task
from jobs.submission import idempotency
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import Order

bp = Blueprint("chatgpt2api", __name__)

LATEST = 100
MAX_IDS = 200
_ACCEPTED = Answer(200, "The task; for an id that is known already, as it stands.", ClientTaskOut)
_ERRORS = (
    *("malformed_json", "insufficient_credits", "spending_limit", "model_not_allowed", "invalid_order"),
    *("unknown_model", "host_not_allowed", "content_refused", "screening_unavailable"),
)


@bp.post(f"{PREFIX}/generations")
@describe(
    Endpoint(
        "Start an image task",
        "replaced",
        (_ACCEPTED,),
        scope="jobs:write",
        pace="submit",
        errors=_ERRORS,
        body=ImageTaskBody,
    )
)
def generate() -> Response:
    return _submit(read_generation(request, services()))


@bp.post(f"{PREFIX}/edits")
@describe(
    Endpoint(
        "Start an image task that edits",
        "replaced",
        (_ACCEPTED,),
        scope="jobs:write",
        pace="submit",
        errors=(*_ERRORS, "malformed_form", "not_an_image", "image_too_large_bytes"),
        body=ImageTaskEditBody,
        multipart=True,
    )
)
def edit() -> Response:
    return _submit(read_edit(request, services()))


@bp.get(PREFIX)
@describe(
    Endpoint(
        "Look at image tasks",
        "replaced",
        (Answer(200, "The tasks in the order of the ids, and the ids that are not known.", ImageTasksOut),),
        pace="read",
        errors=("invalid_request", "host_not_allowed"),
        query=ImageTasksQuery,
    )
)
def look() -> Response:
    rendered, now, service, account_id = _rendered(), datetime.now(UTC), services(), g.caller.account_id
    text = read_query(ImageTasksQuery, request.args).ids
    ids = [each.strip() for each in text.split(",") if each.strip()]
    if len(ids) > MAX_IDS:
        raise InvalidRequestError([FieldFault("ids", "too_many", f"at most {MAX_IDS} ids in one look")])
    if not ids:
        latest = service.connections.autocommit(tasks.list_tasks, account_id, Filters(limit=LATEST))
        return json_answer({"items": [rendered.of(task, now) for task in latest], "missing_ids": []})
    found = _find(service, account_id, ids)
    items = [{**rendered.of(found[each], now), "id": each} for each in ids if each in found]
    return json_answer({"items": items, "missing_ids": [each for each in ids if each not in found]})


@bp.post(f"{PREFIX}/<path:task_id>/resume-poll")
@describe(
    Endpoint(
        "Resume a task that timed out",
        "replaced",
        (Answer(200, "Never: a task here has no conversation to resume, and the answer says so.", ClientTaskOut),),
        scope="jobs:write",
        errors=("invalid_request",),
    )
)
def resume(task_id: str) -> Response:
    task = _find(services(), g.caller.account_id, [task_id]).get(task_id)
    if task is None:
        words = "task not found"
    elif task.status not in ("failed", "cancelled"):
        words = "task is not in error state"
    elif "超时" not in error_text(task):
        words = "task error is not a timeout error"
    else:
        words = "task has no conversation_id"
    return json_answer({"detail": {"error": words}}, 400)


def _submit(order: Order) -> Response:
    rendered, service = _rendered(), services()
    assert order.client is not None  # noqa: S101 (made by the reading)
    task = accept(service, g.caller, order, key=_key(order.client["id"]), request_id=g.request_id).task
    return json_answer(rendered.of(task, datetime.now(UTC)), 200, {"X-Task-Id": task.id})


def _rendered() -> ImageTasks:
    """Raises HostNotAllowedError, before anything is accepted."""
    here = links.here()
    here.absolute("/")
    return ImageTasks(here)


def _key(task_id: str) -> IdempotencyKey:
    """No caller's own Idempotency-Key begins like it. Its fingerprint is that of the id: what else comes with a known
    id is ignored."""
    return IdempotencyKey(_stored(task_id), hashlib.sha256(task_id.encode()).digest())


def _stored(task_id: str) -> str:
    return f"\x01chatgpt2api {task_id}"


def _find(service: Services, account_id: str, ids: Sequence[str]) -> dict[str, Task]:
    """The caller's tasks by the ids that were asked for: their own, or ours."""
    keys = {_stored(each): each for each in ids if not is_job_id(each)}
    job_ids = {each: each for each in ids if is_job_id(each)}
    if keys:
        known = service.connections.autocommit(idempotency.jobs_of, account_id, list(keys))
        job_ids |= {keys[key]: job_id for key, job_id in known.items()}
    if not job_ids:
        return {}
    wanted = [(account_id, job_id) for job_id in job_ids.values()]
    found = service.connections.autocommit(tasks.find_tasks, wanted)
    return {each: found[account_id, job_id] for each, job_id in job_ids.items() if (account_id, job_id) in found}
