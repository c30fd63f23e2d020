"""Orders that are collected later: the task as an object of its own, with OpenAI's answer inside once it is there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Response

from app.accepting import note_answer
from app.dialects.openai import answers, failures
from app.dialects.openai.calls import Call, OpenAiOptions
from app.dialects.openai.orders import ResponseFormat
from app.dialects.openai.waiting import JSON, with_headers
from app.http.responses import json_answer
from app.services import Services
from core.wire import json_text
from jobs.reads.tasks import Task

POLL_AFTER_S = 2
TASKS = "/v1/images/tasks"
_STATUSES = {
    "queued": "queued",
    "running": "in_progress",
    "waiting": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}


def accepted(call: Call, task: Task, options: OpenAiOptions, applied: str = "") -> Response:
    """202 with the task's object. ``applied``: the preferences that were honoured."""
    url = f"{call.base}{TASKS}/{task.id}"
    headers = {"Location": url, "Retry-After": str(POLL_AFTER_S), "Cache-Control": "no-store"}
    if applied:
        headers["Preference-Applied"] = applied
    response = json_answer(document(task, call.base, options), 202, headers)
    with_headers(response, call, task)
    note_answer(call.service, response, call.key, task.id)
    return response


def found(service: Services, task: Task, wanted: ResponseFormat, base: str, options: OpenAiOptions) -> Response:
    """The task's object, with the images once they are made. Raises what answers.answer raises."""
    about = document(task, base, options)
    if task.status != "succeeded":
        headers = {} if task.ended else {"Retry-After": str(POLL_AFTER_S)}
        return json_answer(about, headers=headers)
    inside = answers.answer(service, task, wanted, base)
    body = inside.within(f'{json_text(about)[:-1]},"result":'.encode(), b"}")
    response = Response(body.pieces(), 200, content_type=JSON)
    response.headers["Content-Length"] = str(body.size_bytes)
    response.headers["Cache-Control"] = "no-store"
    response.call_on_close(body.close)
    return response


def document(task: Task, base: str, options: OpenAiOptions) -> dict[str, Any]:
    """app.shapes.schemas.openai.ImageTaskOut, without the images."""
    progress = 100 if task.status == "succeeded" else None if task.progress is None else round(task.progress * 100)
    return {
        "id": task.id,
        "task_id": task.id,
        "object": "image.generation.task",
        "status": _STATUSES[task.status],
        "model": task.model,
        "progress": progress,
        "created_at": int(task.created_at.timestamp()),
        "completed_at": int(task.finished_at.timestamp()) if task.finished_at else None,
        "expires_at": _expires_at(task, options.keep_images_days),
        "poll_url": f"{base}{TASKS}/{task.id}",
        "error": failures.error(task) if task.ended and task.status != "succeeded" else None,
    }


def _expires_at(task: Task, keep_images_days: float) -> int | None:
    """When the images are deleted, in Unix seconds, counted from the order while there are none; None: never."""
    begins_at = task.finished_at or task.created_at
    if task.keep_s is not None:
        return int((begins_at + timedelta(seconds=task.keep_s)).timestamp())
    return int((begins_at + timedelta(days=keep_images_days)).timestamp()) if keep_images_days else None
