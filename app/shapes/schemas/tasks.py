"""Tasks, their images, their timeline and their cancelling."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from app.shapes.schemas.base import MAX_PAGE, Credits, Microcredits, OperationName, Request, Shape, Text
from app.shapes.schemas.orders import Chosen
from core.ids import is_id
from jobs.failures import SENTENCES, CancelOutcome, Stage
from storage.variants import MAX_EDGE_PX, STEPS_PX

STEPS = ", ".join(map(str, STEPS_PX))


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)


def written_time(value: object) -> object:
    """The text of a moment. Raises ValueError for a bare number, which pydantic takes for seconds since 1970."""
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise ValueError("must be a time like 2026-11-20T12:00:00Z, with its zone")
    return value


JobId = Annotated[str, StringConstraints(pattern=r"^job_[0-9A-HJKMNP-TV-Z]{26}$")]
ExpiresS = Annotated[
    int | None, Field(ge=1, le=604_800, description="seconds that signed links live; left out: an hour or two")
]


class TaskQuery(Request):
    include: Literal["raw"] | None = Field(
        None, description="`raw`: with what the upstream answered to each call, without keys and images"
    )
    wait: int | None = Field(None, ge=0, le=60, description="seconds to wait for a change or the end")
    expires_s: ExpiresS = None


class ListQuery(BaseModel):
    """``metadata.<key>=<value>`` narrows to tasks that carry this metadata."""

    model_config = ConfigDict(extra="allow")

    status: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None
    operation: OperationName | None = None
    model: Text | None = None
    created_after: Annotated[AwareDatetime, BeforeValidator(written_time)] | None = Field(
        None, description="RFC 3339, with its zone"
    )
    parent_id: JobId | None = Field(None, description="tasks that repeat this one")
    cursor: JobId | None = None
    limit: int = Field(20, ge=1, le=MAX_PAGE)


class VariantQuery(BaseModel):
    """Which image, and which variant of it."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(0, ge=0, le=1000)
    width: int | None = Field(
        None, ge=1, le=MAX_EDGE_PX, description=f"fit inside, in pixels, rounded down to one of {STEPS}; never enlarges"
    )
    height: int | None = Field(None, ge=1, le=MAX_EDGE_PX, description="as `width`")
    format: Literal["png", "jpeg", "webp", "avif"] | None = None


class LinkQuery(VariantQuery):
    """Which link."""

    expires_s: ExpiresS = None


class ImageQuery(VariantQuery):
    """``expires``, ``account``, ``kid`` and ``signature`` are part of a signed link; they cannot be made up."""

    download: Literal["0", "1"] = "0"
    expires: int | None = None
    account: Text | None = None
    kid: Text | None = None
    signature: Text | None = None


class ImageLink(Shape):
    object: Literal["image.link"]
    url: str = Field(description="needs no key; opens this size and format alone")
    expires_at: datetime


class Price(Shape):
    quoted_microcredits: Microcredits
    quoted: Credits
    captured_microcredits: int | None
    captured: str | None
    released_microcredits: int | None
    released: str | None


class ImageOut(Shape):
    index: int
    url: str = Field(description="needs your key")
    signed_url: str | None = Field(description="needs no key, and expires; null once deleted")
    mime: str
    width: int | None = Field(description="pixels; null where the result is no image")
    height: int | None
    size_bytes: int
    sha256: str
    text: str | None = Field(description="what a model of texts answered")
    seed: int | None
    data_url: str | None = Field(description="the image itself, of an order with store: false")
    deleted: bool


class WaitEstimate(Shape):
    """Seconds until the start: half of the tasks in such a place start sooner; nine of ten do."""

    p50: float
    p90: float


class WaitingFor(Shape):
    """What a queued task waits for that is not its turn. The price stays held or reserved."""

    reason: str = Field(
        examples=["paused", "upstream_pool_empty"],
        description="`paused`: an operator has paused its provider; else why its last try made nothing, a code as in"
        " `error` (docs/errors.md, Failed jobs)",
    )
    message: str
    retry_at: datetime | None = Field(
        description="the next try, or later where the provider has no room; null while paused"
    )
    until: datetime | None = Field(
        description="by then it has been tried again or has failed, and the price is given back; null while paused"
    )


class TaskError(Shape):
    """Why a task failed. A fault of an image that the upstream made has the code of such a fault."""

    code: str = Field(examples=sorted(SENTENCES), description="stable; see docs/errors.md, Failed jobs")
    message: str = Field(description="a sentence of ours; never the upstream's own words")
    stage: Stage = Field(
        description="how far it came: `queued` (never sent), `submit` (asking the upstream), `running` (the upstream"
        " had taken it on), `download` (fetching and checking the result), `store` (our own store)"
    )
    provider: str = Field(description="whose turn it was")


class Cancel(Shape):
    requested_at: datetime
    outcome: CancelOutcome | None = Field(description="null until it is known")


class TaskWebhook(Shape):
    """The order's own receiver; those of the account are at /api/webhooks."""

    url: str
    events: list[str]


class TaskUrls(Shape):
    self: str
    image: str
    events: str
    timeline: str
    cancel: str
    rerun: str


class UpstreamAnswer(Shape):
    """An upstream's own answer, without keys, images and what opens a link; what was left out stands in brackets."""

    status: int = Field(description="of HTTP")
    content_type: str | None
    body: Any = Field(description="as the upstream wrote it: JSON, else a text")


class RawCall(Shape):
    """A call to an upstream, and its own words about it."""

    call: str = Field(description="the call's id")
    first_image: int = Field(description="the index of the first image it is to make")
    attempt: int = Field(description="counted for each image, from 1")
    provider: str
    model: str
    outcome: str | None = Field(description="null until it is answered")
    answered_at: datetime | None
    answer: UpstreamAnswer | None = Field(
        description="null where none has arrived, the operator keeps none (`DARKROOM_KEEP_RAW`) or it is deleted"
    )


class TaskOut(Shape):
    """A task as its owner sees it."""

    id: str
    object: Literal["image.task"]
    operation: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    model: str
    provider: str
    n: int
    priority: Literal["normal", "low"]
    fallback_models: list[str] = Field(description="as ordered; warnings say when one took its turn")
    attempts: int = Field(description="calls sent upstream")
    progress: float | None = Field(description="0 to 1, where the upstream says")
    queue_position: int | None = Field(description="an estimate, at most 2 s old")
    wait_estimate_s: WaitEstimate | None = Field(
        description="seconds until the start, from how quickly jobs were started lately; null when unknown"
    )
    waiting_for: WaitingFor | None = Field(description="null while only its turn is waited for")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None = Field(description="latest start")
    price: Price
    request: dict[str, Any] = Field(
        description="what is really asked, with `normalised` next to it; after a prompt was adjusted (`safe_prompt`),"
        " `prompt` is the new wording and `original_prompt` the ordered one"
    )
    images: list[ImageOut]
    chosen: Chosen | None = Field(description="null where the order named its model")
    error: TaskError | None
    cancel: Cancel | None
    warnings: list[str]
    metadata: dict[str, str]
    webhook: TaskWebhook | None = Field(description="null without `webhook_url`, and in every callback")
    cached_from: str | None = Field(
        description="the earlier task of an equal order that answered this one, where the operator's result cache is"
        " on; null: it was made for this order"
    )
    parent_id: str | None = Field(description="the task that this one repeats")
    urls: TaskUrls
    raw: list[RawCall] | None = Field(None, description="only with `include=raw`: what each call was answered")


class TaskList(Shape):
    """``request`` of a task in a list has no ``extra``; the task by its id has it."""

    object: Literal["list"]
    data: list[TaskOut]
    next_cursor: str | None = Field(description="pass as `cursor` for the next page; null on the last")


class StepOut(Shape):
    seq: int
    at: datetime
    type: str
    data: dict[str, Any]


class Timeline(Shape):
    object: Literal["image.timeline"]
    id: str
    data: list[StepOut]


class CancelOut(Shape):
    object: Literal["image.cancellation"]
    id: str
    outcome: Literal["freed_in_queue", "too_late", "stop_requested"]
    task: TaskOut


def is_job_id(text: str) -> bool:
    return is_id(text, "job")
