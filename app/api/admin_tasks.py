"""For administrators: tasks of every account. Each read is logged with the key that made it."""

from __future__ import annotations

import structlog
from flask import Blueprint, Response, g, request

from app.api.tasks import checked_id, renderer
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.responses import json_answer
from app.orders.operations import OPERATIONS
from app.services import services
from app.shapes import render
from app.shapes.render_admin import admin_task
from app.shapes.schemas.admin import AdminListQuery, AdminTaskDetail, AdminTaskList, AdminTaskQuery
from jobs.reads import search
from jobs.reads.search import Search

log = structlog.get_logger(__name__)

bp = Blueprint("admin_tasks", __name__, url_prefix="/api/admin/tasks")

_PRIVACY = (
    "Prompts, settings, texts and metadata are left out unless `contents` is asked for, and links to images always."
    " Every read is logged with the key."
)


@bp.get("")
@describe(
    Endpoint(
        "Search the tasks of every account",
        "admin",
        (Answer(200, "One page, newest first.", AdminTaskList),),
        scope="admin",
        errors=("invalid_request",),
        query=AdminListQuery,
        description=_PRIVACY,
    )
)
def list_tasks() -> Response:
    query = read_query(AdminListQuery, request.args)
    asked = query.model_dump(exclude={"contents", "limit"}, exclude_none=True)
    if query.operation:
        asked["operation"] = OPERATIONS.get(query.operation, query.operation)
    # One more than asked for shows whether there is a next page.
    found = services().connections.transaction(search.find_jobs, Search(**asked, limit=query.limit + 1))
    page = found[: query.limit]
    _log(contents=query.contents, tasks=[each.task.id for each in page], asked=sorted(asked))
    return json_answer({
        "object": "list",
        "data": [admin_task(renderer(), each, contents=query.contents) for each in page],
        "next_cursor": page[-1].task.id if len(found) > len(page) else None,
    })  # fmt: skip


@bp.get("/<job_id>")
@describe(
    Endpoint(
        "Read a task of any account",
        "admin",
        (Answer(200, "The task, its calls and its timeline.", AdminTaskDetail),),
        scope="admin",
        errors=("not_found", "invalid_request"),
        query=AdminTaskQuery,
        description=_PRIVACY,
    )
)
def read(job_id: str) -> Response:
    query = read_query(AdminTaskQuery, request.args)
    connections = services().connections
    found = connections.transaction(search.find_job, checked_id(job_id))
    steps = connections.transaction(search.steps_of, job_id)
    _log(contents=query.contents, tasks=[job_id], asked=["id"])
    timeline = [render.step(step) for step in steps]
    return json_answer({**admin_task(renderer(), found, contents=query.contents), "timeline": timeline})


def _log(*, contents: bool, tasks: list[str], asked: list[str]) -> None:
    caller = g.caller
    log.info(
        "admin_read", key_id=caller.key_id, account_id=caller.account_id, contents=contents, tasks=tasks, asked=asked
    )
