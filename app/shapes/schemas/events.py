"""The records of the streams of events: what stands behind ``data:``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, RootModel, StringConstraints

from app.shapes.schemas.base import Request, Shape
from app.shapes.schemas.tasks import ImageOut, TaskOut

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class EventsQuery(Request):
    last_event_id: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,25}$")] | None = Field(
        None, description="go on after the record with this `id`; the header Last-Event-ID goes first"
    )


class TaskEvent(Shape):
    """The record's `event:` is `type`; its `id:` grows within a task, and is where a client goes on."""

    object: Literal["image.task.event"]
    type: Literal[
        "task.queued",
        "task.started",
        "task.progress",
        "task.image",
        "task.succeeded",
        "task.failed",
        "task.cancelled",
        "snapshot",
    ] = Field(description="`snapshot`: earlier events are not kept; `task` is the task as it is now")
    id: str = Field(description="the task's")
    at: datetime
    status: Status = Field(description="the task's after this event")
    progress: float | None = Field(description="0 to 1, of `task.progress`")
    provider: str | None
    code: str | None = Field(description="why: of a failure, and of `task.queued` where a try made nothing")
    image: ImageOut | None = Field(description="of `task.image`: it can be fetched before the task has ended")
    task: TaskOut | None = Field(description="the whole task, with its end and in a snapshot")


class LiveTask(Shape):
    id: str
    status: Status
    progress: float | None


class TasksSnapshot(Shape):
    """`event: snapshot` of all tasks: what came before is not kept or too long ago; read ended tasks by their list."""

    object: Literal["image.tasks.snapshot"]
    type: Literal["snapshot"]
    tasks: list[LiveTask] = Field(description="queued and running, newest first, at most 100")
    more: bool = Field(description="whether there are more of them")


class AccountEvent(RootModel[TaskEvent | TasksSnapshot]):
    """A record of the stream over all tasks of an account."""
