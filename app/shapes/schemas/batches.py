"""Batches: many orders at once."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.shapes.schemas.base import MAX_PAGE, Request, Shape
from app.shapes.schemas.tasks import TaskOut
from jobs.reads.batches import Status

MAX_INLINE = 1_000
HOUR_S = 3600
DAY_S = 86_400

BatchId = Annotated[str, StringConstraints(pattern=r"^batch_[0-9A-HJKMNP-TV-Z]{26}$")]
FileId = Annotated[str, StringConstraints(pattern=r"^file_[0-9A-HJKMNP-TV-Z]{26}$")]
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]


class BatchBody(Request):
    """One of ``orders`` and ``input_file_id``.

    An order has the fields of any order, ``operation`` (as in the routes; left out: ``edit`` with images, else
    ``generate``) and ``custom_id``, the caller's own name for it.
    """

    orders: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=MAX_INLINE)
    input_file_id: FileId | None = Field(None, description="a file of lines, one order each: `POST /v1/files`")
    input_upload_id: FileId | None = Field(None, description="the same")
    metadata: Metadata | None = None
    completion_window_s: int | None = Field(
        None, ge=HOUR_S, le=7 * DAY_S, description="what has not ended by then is cancelled; left out: a day"
    )


class BatchesQuery(Request):
    cursor: BatchId | None = None
    limit: int = Field(20, ge=1, le=MAX_PAGE)


class BatchQuery(Request):
    first_line: int = Field(0, ge=0, description="number of the first line to show")
    lines: int = Field(0, ge=0, le=MAX_INLINE, description="how many lines to show, with their tasks")


class ResultsQuery(Request):
    format: Literal["jsonl", "zip"] = "jsonl"
    first_line: int = Field(0, ge=0, description="number of the first line; a ZIP has 5,000 lines at most")


class BatchCounts(Shape):
    """``total`` is the sum of all others."""

    total: int
    waiting: int = Field(description="not submitted yet")
    live: int = Field(description="tasks that have not ended")
    succeeded: int
    failed: int
    cancelled: int
    refused: int = Field(description="never became tasks, and cost nothing")


class BatchLineOut(Shape):
    line: int = Field(description="from 0")
    custom_id: str | None
    task_id: str | None
    error: dict[str, Any] | None = Field(description="a problem, as if the order had been sent by itself")


class BatchFaultOut(Shape):
    code: str
    message: str
    line: int | None = Field(description="of the file, from 1")
    param: str | None


class BatchUrls(Shape):
    self: str
    cancel: str
    results: str


class BatchOut(Shape):
    id: str
    object: Literal["image.batch"]
    status: Status
    counts: BatchCounts
    input_file_id: str
    errors: list[BatchFaultOut] = Field(description="why a whole file was refused")
    metadata: dict[str, str]
    created_at: datetime
    in_progress_at: datetime | None
    cancelling_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime
    lines: list[BatchLineOut] | None = Field(description="where they were asked for, or sent with this request")
    urls: BatchUrls


class BatchList(Shape):
    object: Literal["list"]
    data: list[BatchOut]
    next_cursor: str | None


class BatchResult(Shape):
    """One line of the results."""

    line: int
    custom_id: str | None
    task: TaskOut | None
    error: dict[str, Any] | None
