"""Following tasks: read, list, timeline, cancel, delete."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, g, request

from app.accepting import cancel_job
from app.http import links
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import InvalidRequestError
from app.http.responses import json_answer, not_modified, text_answer, unchanged
from app.http.signing import TASKS
from app.http.task_headers import NAMES as TASK_HEADERS
from app.http.task_headers import task_headers
from app.orders.operations import OPERATIONS
from app.services import services
from app.shapes import render
from app.shapes.inline_images import data_urls
from app.shapes.schemas.base import Empty
from app.shapes.schemas.tasks import CancelOut, ListQuery, TaskList, TaskOut, TaskQuery, Timeline, is_job_id
from app.shapes.status_json import StatusJson
from core.wire import json_text
from jobs.errors import FieldFault, JobNotFoundError
from jobs.reads import tasks
from jobs.reads.tasks import Filters, Task
from providers.orders.near import did_you_mean

bp = Blueprint("tasks", __name__, url_prefix=TASKS)

RETRY_AFTER_S = 1
METADATA = "metadata."


def renderer(link_life_s: int | None = None) -> render.Renderer:
    """The renderer of this request: its links have the base that it may have. It may be used after the request."""
    found: render.Renderer = current_app.extensions["darkroom_renderer"]
    return found.at(links.base(), link_life_s)


def checked_id(job_id: str) -> str:
    """The id itself. Raises JobNotFoundError for what cannot be one of ours, asking no database."""
    if not is_job_id(job_id):
        raise JobNotFoundError("there is no such task")
    return job_id


@bp.get("/<job_id>")
@describe(
    Endpoint(
        "Read a task",
        "tasks",
        (
            Answer(200, "The task.", TaskOut, headers=("ETag", "Retry-After", *TASK_HEADERS)),
            Answer(304, "Unchanged since the ETag in If-None-Match.", headers=("ETag",)),
        ),
        pace="read",
        errors=("not_found", "invalid_request"),
        query=TaskQuery,
        request_headers=("If-None-Match",),
        description="With `wait`, answers when the task changes (since If-None-Match, or now) or ends. With"
        " `include=raw` the answer has no ETag.",
    )
)
def read(job_id: str) -> Response:
    account_id = g.caller.account_id
    checked_id(job_id)
    query = read_query(TaskQuery, request.args) if request.query_string else TaskQuery()
    shown = renderer(query.expires_s)
    if query.include:
        return _with_raw(shown, account_id, job_id, query.wait or 0)
    if query.wait:
        return _waited(shown, account_id, job_id, query.wait)
    task = services().task_reads.status_json(account_id, job_id)
    if task.ended and task.keep_s is not None:  # its images go along
        return _answer(shown, services().task_reads.task(account_id, job_id))
    return _answer(shown, task)


def _with_raw(shown: render.Renderer, account_id: str, job_id: str, wait_s: int) -> Response:
    """The task with the upstreams' own answers; without an ETag, because an answer has no version."""
    task = services().task_reads.task(account_id, job_id)
    if wait_s and not task.ended:
        task = _changed(account_id, task, wait_s)
    found = services().connections.autocommit(tasks.raw_answers, account_id, job_id)
    body = shown.task(task, data_urls(task, services().store))
    return json_answer({**body, "raw": [render.raw_call(each) for each in found]}, headers=task_headers(task))


def _waited(shown: render.Renderer, account_id: str, job_id: str, wait_s: int) -> Response:
    task = services().task_reads.task(account_id, job_id)
    return _answer(shown, task if task.ended else _changed(account_id, task, wait_s))


def _answer(shown: render.Renderer, task: Task | StatusJson) -> Response:
    etag = shown.etag(task)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if not task.ended:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if unchanged(etag):
        return not_modified(headers)
    if isinstance(task, StatusJson):  # what costs nothing of the headers that every other answer has
        return text_answer(shown.text(task), headers={**headers, "X-Task-Id": task.id, "X-Provider": task.provider})
    body = json_text(shown.task(task, data_urls(task, services().store)))
    return text_answer(body, headers={**headers, **task_headers(task)})


def _changed(account_id: str, task: Task, wait_s: int) -> Task:
    """The task once it differs from what the caller knows, or at the end of the wait."""
    knows_other = "If-None-Match" in request.headers and not unchanged(renderer().etag(task))
    if knows_other:
        return task
    return services().waits.until(
        lambda: services().task_reads.task(account_id, task.id),
        lambda found: found.ended or found.version != task.version,
        account_id=account_id,
        timeout_s=wait_s,
    )


@bp.get("")
@describe(
    Endpoint(
        "List tasks, newest first",
        "tasks",
        (Answer(200, "One page.", TaskList),),
        errors=("invalid_request",),
        query=ListQuery,
    )
)
def list_tasks() -> Response:
    filters = _filters()
    # One more than asked for shows whether there is a next page.
    found = services().connections.autocommit(tasks.list_tasks, g.caller.account_id, filters)
    page, shown = found[: filters.limit - 1], renderer()
    return json_answer(
        {
            "object": "list",
            "data": [shown.task(task) for task in page],
            "next_cursor": page[-1].id if len(found) > len(page) else None,
        }
    )


def _filters() -> Filters:
    query = read_query(ListQuery, request.args)
    metadata, faults = {}, []
    for name, value in (query.model_extra or {}).items():
        if name.startswith(METADATA) and len(name) > len(METADATA):
            metadata[name.removeprefix(METADATA)] = str(value)
        else:
            near = did_you_mean(name, ListQuery.model_fields)
            faults.append(FieldFault(name[:100], "not_supported", f"is not a parameter of this route{near}"))
    if faults:
        raise InvalidRequestError(faults)
    return Filters(
        status=query.status,
        operation=OPERATIONS.get(query.operation, query.operation) if query.operation else None,
        model=query.model,
        created_after=query.created_after,
        metadata=metadata,
        parent_id=query.parent_id,
        cursor=query.cursor,
        limit=query.limit + 1,
    )


@bp.get("/<job_id>/timeline")
@describe(
    Endpoint(
        "Every transition of a task",
        "tasks",
        (Answer(200, "Oldest first.", Timeline),),
        errors=("not_found",),
    )
)
def timeline(job_id: str) -> Response:
    read_query(Empty, request.args)
    steps = services().connections.autocommit(tasks.timeline, g.caller.account_id, checked_id(job_id))
    return json_answer({"object": "image.timeline", "id": job_id, "data": [render.step(step) for step in steps]})


@bp.post("/<job_id>/cancel")
@describe(
    Endpoint(
        "Cancel a task",
        "tasks",
        (
            Answer(200, "`freed_in_queue`: free and final. `too_late`: it had ended.", CancelOut),
            Answer(
                202,
                "`stop_requested`: the task will show the outcome and its money.",
                CancelOut,
                headers=("Retry-After",),
            ),
        ),
        scope="jobs:write",
        errors=("not_found",),
    )
)
def cancel(job_id: str) -> Response:
    read_query(Empty, request.args)
    parts, account_id = services(), g.caller.account_id
    done = cancel_job(parts, account_id, checked_id(job_id))
    shown = renderer()
    body = {
        "object": "image.cancellation",
        "id": job_id,
        "outcome": done.outcome,
        "task": shown.task(parts.task_reads.task(account_id, job_id)),
    }
    if done.outcome == "stop_requested":
        return json_answer(body, 202, {"Location": f"{shown.base}{TASKS}/{job_id}", "Retry-After": str(RETRY_AFTER_S)})
    return json_answer(body)


@bp.delete("/<job_id>")
@describe(
    Endpoint(
        "Delete the images of an ended task",
        "tasks",
        (Answer(200, "The task, its images deleted.", TaskOut, headers=("ETag",)),),
        scope="jobs:write",
        errors=("not_found", "task_not_ended", "invalid_request"),
        description="The images are deleted for good, those that came with the order too; the task, its timeline and"
        " its money stay. Deleting again changes nothing.",
    )
)
def delete(job_id: str) -> Response:
    read_query(Empty, request.args)
    parts, account_id = services(), g.caller.account_id
    parts.delete_images(account_id, checked_id(job_id))
    task = parts.task_reads.task(account_id, job_id)
    return json_answer(renderer().task(task), headers={"ETag": renderer().etag(task)})
