"""What a tool answers about a job: the wrapper of ``POST /image/generate``, and the task next to it.

The members ``success``, ``code``, ``message``, ``data``, ``task_id``, ``error`` and ``errors`` are those of that route
(docs/clients-replaced.md), so that an agent written for it reads the same answer here.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from app.cli.client.answers import Document, Task
from app.cli.output import CommandError

STILL_MADE = "the image is still being made; its task has it when it is done"
# These keep their status; what is wrong with an order is 400.
_KEPT = frozenset({401, 402, 403, 404, 405, 406, 408, 409, 429, 502, 503})
# A failed job whose order was at fault, by what the provider said of it.
_REFUSED = frozenset(
    {"content_refused", "upstream_rejected", "upstream_too_large", "mask_not_png", "extra_not_allowed"}
)


class ImageSettings(BaseModel):
    """What was used."""

    model: str
    width: int | None = None
    height: int | None = None
    quality: str | None = None


class UsedSettings(BaseModel):
    """By kind."""

    image: ImageSettings


class Data(BaseModel):
    """The first image."""

    image_url: str = Field(description="a link that needs no key and expires")
    provider: str
    model: str
    settings: UsedSettings


class ImageFacts(BaseModel):
    """One result."""

    index: int
    url: str | None = Field(description="a link that needs no key and expires; null: the image was deleted")
    reference: str = Field(description="names the image in the `images` of another order")
    mime: str
    width: int | None = None
    height: int | None = None
    size_bytes: int
    seed: int | None = None
    text: str | None = None


class TaskFacts(BaseModel):
    """The job as the service has it."""

    id: str
    status: str = Field(description="queued, running, succeeded, failed or cancelled")
    operation: str
    model: str
    provider: str
    progress: float | None = None
    queue_position: int | None = None
    quoted_credits: str | None = None
    captured_credits: str | None = None
    images: list[ImageFacts]
    warnings: list[str]
    idempotency_key: str | None = Field(None, description="the same call under this key is never bought twice")
    replayed: bool = Field(False, description="true: this job was ordered by an earlier call")


class Fault(BaseModel):
    """One bad field."""

    field: str
    code: str
    message: str


class JobAnswer(BaseModel):
    """What became of an order."""

    success: bool
    code: int = Field(description="200; 504 while the job goes on; 400 and others as in HTTP")
    message: str | None = None
    data: Data | None = None
    task_id: str | None = None
    error: str | None = None
    errors: list[Fault] | None = None
    task: TaskFacts | None = None


def of_task(task: Task, *, key: str | None = None) -> Document:
    """The answer for a task, ended or not, as members of :class:`JobAnswer`."""
    return {**_wrapper(task), "task_id": task.id, "task": _facts(task, key)}


def _wrapper(task: Task) -> Document:
    if not task.ended:
        return {**_failure(504, STILL_MADE), "error": "request_timeout"}
    if task.status == "succeeded":
        return _success(task)
    code = task.error_code or "cancelled"
    words = task.error_detail or ("the task was cancelled" if code == "cancelled" else code)
    return {**_failure(_status_of_failure(code), words), "error": code}


def _success(task: Task) -> Document:
    image = next((each for each in _documents(task) if not each.get("deleted")), None)
    if image is None:
        return {**_failure(502, "the images of this task were deleted"), "error": "image_gone"}
    request = task.document.get("request") or {}
    used = {"width": image.get("width"), "height": image.get("height"), "quality": request.get("quality")}
    data = {
        "image_url": _link(image),
        "provider": task.provider,
        "model": task.model,
        "settings": {"image": {"model": task.model, **used}},
    }
    return {"success": True, "code": 200, "message": None, "data": data}


def _failure(status: int, message: str) -> Document:
    return {"success": False, "code": status, "message": message, "data": None}


def _status_of_failure(code: str) -> int:
    if code in _REFUSED:
        return 400
    if code == "insufficient_credits":
        return 402
    return 500 if code in ("internal_error", "cancelled") else 502


def _facts(task: Task, key: str | None) -> Document:
    price = task.document.get("price") or {}
    return {
        "id": task.id,
        "status": task.status,
        "operation": task.operation,
        "model": task.model,
        "provider": task.provider,
        "progress": task.progress,
        "queue_position": task.queue_position,
        "quoted_credits": price.get("quoted"),
        "captured_credits": price.get("captured"),
        "images": [_image(task, each) for each in _documents(task)],
        "warnings": list(task.warnings),
        "idempotency_key": key,
        "replayed": task.replayed,
    }


def _image(task: Task, image: Document) -> Document:
    kept = ("index", "mime", "width", "height", "size_bytes", "seed", "text")
    facts = {name: image.get(name) for name in kept}
    link = None if image.get("deleted") else _link(image)
    return {**facts, "url": link, "reference": f"{task.id}#{image['index']}"}


def _link(image: Document) -> Any:
    return image.get("signed_url") or image.get("url")


def _documents(task: Task) -> list[Document]:
    return list(task.document.get("images") or ())


def of_error(error: CommandError) -> Document:
    """The answer for what was refused, or for a server that is away, as members of :class:`JobAnswer`."""
    faults = [{"field": each.field, "code": each.code, "message": each.message} for each in error.faults]
    words = "; ".join(f"{each.field}: {each.message}" for each in error.faults) or error.detail
    return {**_failure(_status(error), words), "error": error.code, **({"errors": faults} if faults else {})}


def _status(error: CommandError) -> int:
    status = error.facts.get("status")
    if not isinstance(status, int):
        return 503 if error.code.startswith("server_") else 400
    if status in _KEPT:
        return status
    return 400 if status < 500 else 500
