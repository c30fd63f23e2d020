"""What has happened to a task, as the records of a stream say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.shapes.render import Renderer
from core.wire import rfc3339
from jobs.reads.events import Event, Progress
from jobs.reads.tasks import Task

# From the type of a row of ``job_events`` to the name of its record and the task's status by then. The other types are
# internal: a caller sees no difference.
SHOWN: Mapping[str, tuple[str, str]] = {
    "queued": ("task.queued", "queued"),
    "retry": ("task.queued", "queued"),
    "failover": ("task.queued", "queued"),
    "started": ("task.started", "running"),
    "image": ("task.image", "running"),
    "succeeded": ("task.succeeded", "succeeded"),
    "failed": ("task.failed", "failed"),
    "cancelled": ("task.cancelled", "cancelled"),
}
ENDS = frozenset({"succeeded", "failed", "cancelled"})
PROGRESS = "task.progress"
SNAPSHOT = "snapshot"


def shown(event: Event) -> bool:
    """Whether callers are told of the event."""
    return event.type in SHOWN


def event_out(event: Event, renderer: Renderer, task: Task | None = None) -> dict[str, Any]:
    """app.shapes.schemas.events.TaskEvent. ``task`` goes along with the end."""
    name, status = SHOWN[event.type]
    image = event.image
    return _record(
        name,
        event.job_id,
        event.at,
        status,
        provider=event.data.get("provider"),
        code=event.data.get("code"),
        image=None if image is None else renderer.image(event.account_id, event.job_id, image),
        task=None if task is None else renderer.task(task),
    )


def progress_out(progress: Progress) -> dict[str, Any]:
    """app.shapes.schemas.events.TaskEvent, of ``task.progress``."""
    return _record(PROGRESS, progress.job_id, progress.at, "running", progress=progress.progress)


def snapshot_out(task: Task, renderer: Renderer) -> dict[str, Any]:
    """app.shapes.schemas.events.TaskEvent: the task as it is now, for a client whose events are not kept."""
    whole = renderer.task(task)
    at = task.finished_at or task.started_at or task.created_at
    return _record(SNAPSHOT, task.id, at, whole["status"], progress=task.progress, task=whole)


def end_out(task: Task, renderer: Renderer) -> dict[str, Any]:
    """The end of a task whose events are not kept."""
    return _record(f"task.{task.status}", task.id, task.finished_at, task.status, task=renderer.task(task))


def tasks_out(live: Sequence[Task], *, more: bool) -> dict[str, Any]:
    """app.shapes.schemas.events.TasksSnapshot."""
    tasks = [{"id": task.id, "status": task.status, "progress": task.progress} for task in live]
    return {"object": "image.tasks.snapshot", "type": SNAPSHOT, "tasks": tasks, "more": more}


def _record(name: str, job_id: str, at: datetime | None, status: str, **facts: Any) -> dict[str, Any]:
    return {
        "object": "image.task.event",
        "type": name,
        "id": job_id,
        "at": rfc3339(at),
        "status": status,
        "progress": None,
        "provider": None,
        "code": None,
        "image": None,
        "task": None,
        **facts,
    }
