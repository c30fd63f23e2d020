"""Batches in OpenAI's own shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.shapes.schemas.base import MAX_PAGE, Shape
from app.shapes.schemas.batches import BatchId, Metadata
from jobs.reads.batches import Status

Endpoint = Literal["/v1/images/generations", "/v1/images/edits"]


class OpenAiBatchBody(BaseModel):
    """A batch as OpenAI's clients order it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input_file_id: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="a file with the purpose `batch`"
    )
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: dict[str, Any] | None = Field(
        None, description="understood; the files of results are kept as long as images"
    )


class OpenAiBatchesQuery(BaseModel):
    model_config = ConfigDict(extra="ignore")

    after: BatchId | None = Field(None, description="the last batch of the page before")
    limit: int = Field(20, ge=1, le=MAX_PAGE)


class OpenAiBatchFault(Shape):
    code: str
    message: str
    line: int | None
    param: str | None


class OpenAiBatchFaults(Shape):
    object: Literal["list"]
    data: list[OpenAiBatchFault]


class OpenAiRequestCounts(Shape):
    """``failed`` counts what was refused and what was cancelled, too."""

    total: int
    completed: int
    failed: int


class OpenAiBatch(Shape):
    id: str
    object: Literal["batch"]
    endpoint: str
    errors: OpenAiBatchFaults | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: OpenAiRequestCounts
    metadata: dict[str, str] | None


class OpenAiBatches(Shape):
    object: Literal["list"]
    data: list[OpenAiBatch]
    first_id: str | None
    last_id: str | None
    has_more: bool
