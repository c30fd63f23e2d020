"""Tasks of every account as operators see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.shapes.schemas.base import MAX_PAGE, OperationName, Shape, Text
from app.shapes.schemas.tasks import Cancel, Price, StepOut, TaskError, WaitingFor

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class AdminTaskQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    contents: bool = Field(False, description="show the prompt, the settings, the texts and the metadata, too")


class AdminListQuery(AdminTaskQuery):
    """All that is given must hold."""

    account: Text | None = Field(None, description="id or name")
    key_id: Text | None = Field(None, description="the API key that ordered it, or `jwt`")
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None
    operation: OperationName | None = None
    model: Text | None = None
    provider: Text | None = None
    code: Text | None = Field(None, description="why the task failed")
    request_id: Text | None = Field(None, description="X-Request-Id of the submit")
    upstream_id: Text | None = Field(None, description="the upstream's own id of one of its calls")
    prompt_sha256: Sha256 | None = Field(None, description="SHA-256 of the prompt's UTF-8, in lower-case hex")
    created_after: AwareDatetime | None = Field(None, description="RFC 3339, with its zone")
    created_before: AwareDatetime | None = Field(None, description="RFC 3339, with its zone")
    cursor: Annotated[str, StringConstraints(pattern=r"^job_[0-9A-HJKMNP-TV-Z]{26}$")] | None = None
    limit: int = Field(20, ge=1, le=MAX_PAGE)


class AccountRef(Shape):
    id: str
    name: str


class CallOut(Shape):
    id: str
    slot: int = Field(description="the first image that it makes, from 0")
    attempt: int = Field(description="of that slot, from 1")
    provider: str
    model: str
    credential: str
    outcome: str | None = Field(description="null while it is not answered")
    upstream_id: str | None
    error_code: str | None
    error_detail: str | None = Field(description="the upstream's words, shortened and without keys")
    intended_at: datetime
    answered_at: datetime | None
    resends: int
    written_off: bool = Field(description="perhaps billed, and nothing kept")
    expected_cost_microusd: int | None
    reported_cost_microusd: int | None


class AdminImageOut(Shape):
    """An image without a link to it."""

    index: int
    mime: str
    width: int | None
    height: int | None
    size_bytes: int
    sha256: str
    deleted: bool


class ContentsOut(Shape):
    """What the account wrote and was answered in words."""

    request: dict[str, Any]
    metadata: dict[str, str]
    texts: list[str]


class AdminTaskOut(Shape):
    id: str
    object: Literal["admin.task"]
    account: AccountRef
    key_id: str | None = Field(description="the API key that ordered it, or `jwt`; null where it is not known")
    request_id: str = Field(description="X-Request-Id of the submit; empty where it is not known")
    operation: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    model: str
    provider: str
    n: int
    priority: Literal["normal", "low"]
    attempts: int
    waiting_for: WaitingFor | None = Field(description="null while only its turn is waited for")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None = Field(description="latest start")
    price: Price
    error: TaskError | None
    cancel: Cancel | None
    warnings: list[str]
    prompt_sha256: str | None
    prompt_chars: int | None
    images: list[AdminImageOut]
    calls: list[CallOut]
    contents: ContentsOut | None = Field(description="null unless `contents` was asked for")


class AdminTaskDetail(AdminTaskOut):
    timeline: list[StepOut]


class AdminTaskList(Shape):
    object: Literal["list"]
    data: list[AdminTaskOut]
    next_cursor: str | None = Field(description="pass as `cursor` for the next page; null on the last")
