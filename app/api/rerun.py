"""Placing the order of a task again, as it was or edited."""

from __future__ import annotations

from typing import Any, cast

from flask import Blueprint, Response, g, request

from app.accepting import accept, ended_or_latest
from app.api.submit import ORDER_ERRORS, TASK_HEADERS, accepted
from app.api.tasks import checked_id
from app.http.bodies import read_json_object, read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import preferred_wait_s
from app.http.signing import TASKS
from app.http.strict_request import StrictRequest
from app.orders import forms, idempotency_key, repeating
from app.services import services
from app.shapes.schemas.base import Empty
from app.shapes.schemas.orders import RerunBody
from app.shapes.schemas.tasks import TaskOut
from jobs.reads.repeats import find_order

bp = Blueprint("rerun", __name__, url_prefix=TASKS)


@bp.post("/<job_id>/rerun")
@describe(
    Endpoint(
        "Place the order of a task again",
        "tasks",
        (
            Answer(202, "Accepted as a new task.", TaskOut, headers=("Retry-After", *TASK_HEADERS)),
            Answer(200, "Ended within the wait asked for, or earlier under this key.", TaskOut, headers=TASK_HEADERS),
        ),
        scope="jobs:write",
        pace="submit",
        errors=(*ORDER_ERRORS, "not_found", "inputs_gone", "idempotency_key_invalid", "idempotency_mismatch"),
        body=RerunBody,
        request_headers=("Idempotency-Key", "Prefer"),
        description="With the prompt, settings, model and images of the task, priced again. A body is not needed:"
        " its members replace fields of the order, null removes one. `parent_id` of the new task names this one.",
    )
)
def rerun(job_id: str) -> Response:
    read_query(Empty, request.args)
    service = services()
    found = service.connections.autocommit(find_order, g.caller.account_id, checked_id(job_id))
    order = repeating.order_of(found, job_id, _edits(), forms.kinds_of(service.catalog))
    key = idempotency_key.read(request, order, key_id=g.caller.key_id)
    submitted = accept(service, g.caller, order, key=key, request_id=g.request_id)
    del order, found
    cast("StrictRequest", request).let_go()  # what waits on holds no image
    wait_s = preferred_wait_s()
    task = ended_or_latest(service, submitted.task, wait_s)
    return accepted(task, submitted, wait_s=wait_s)


def _edits() -> dict[str, Any]:
    return read_json_object(request) if request.get_data(cache=True) else {}
