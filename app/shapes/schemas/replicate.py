"""Predictions and models as Replicate's clients send and read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from app.shapes.schemas.base import Request, Shape
from app.shapes.schemas.tasks import written_time

MAX_URL_CHARS = 2000
WebhookUrl = Annotated[str, StringConstraints(max_length=MAX_URL_CHARS, pattern=r"^https?://[^\s/]+")]
WebhookEvent = Literal["start", "output", "logs", "completed"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class PredictionBody(Request):
    """A prediction to make. ``version`` and ``model`` name the model; without either it is the default model."""

    input: dict[str, Any] = Field(description="the model's own fields; images as https or `data:` URLs")
    version: Name | None = Field(
        None, description="the id of a version, `owner/name`, `owner/name:version`, or an id or alias of ours"
    )
    model: Name | None = Field(None, description="`owner/name`, or an id or alias of ours")
    webhook: WebhookUrl | None = Field(None, description="told of the events in `webhook_events_filter`")
    webhook_completed: WebhookUrl | None = Field(None, description="as `webhook` with the filter `completed`")
    webhook_events_filter: list[WebhookEvent] | None = Field(None, description="left out: output and completed")
    stream: bool | None = Field(None, description="every prediction has `urls.stream`")


class PredictionUrls(Shape):
    get: str
    cancel: str
    web: str
    stream: str | None = Field(None, description="server-sent events; signed, it needs no key")


class PredictionOut(Shape):
    id: str
    model: str
    version: str
    input: dict[str, Any] = Field(description="as it was sent; images and long texts are cut")
    output: list[str] | str | None = Field(description="signed links, or texts; one for a model that makes one")
    error: str | None
    logs: str = Field(description="what was left out or changed, and how far it is")
    metrics: dict[str, float]
    status: Literal["starting", "processing", "succeeded", "failed", "canceled", "aborted"]
    created_at: str
    started_at: str | None
    completed_at: str | None
    deadline: str | None = Field(None, description="when Cancel-After cancels it")
    data_removed: bool
    source: Literal["api"]
    urls: PredictionUrls
    webhook: str | None = None
    webhook_events_filter: list[str] | None = None


class PredictionPage(Shape):
    next: str | None
    previous: str | None
    results: list[PredictionOut]


class PredictionsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[str, StringConstraints(pattern=r"^job_[0-9A-HJKMNP-TV-Z]{26}~?$")] | None = None
    created_after: Annotated[AwareDatetime, BeforeValidator(written_time)] | None = Field(
        None, description="RFC 3339, with its zone; inclusive"
    )
    created_before: Annotated[AwareDatetime, BeforeValidator(written_time)] | None = Field(
        None, description="RFC 3339, with its zone; exclusive"
    )
    source: Literal["web"] | None = Field(None, description="none is made on a page: the list is empty")


class ModelsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cursor: int = Field(0, ge=0, le=100_000)


class StreamQuery(BaseModel):
    """The signature of ``urls.stream``, and where to go on."""

    model_config = ConfigDict(extra="allow")

    last_event_id: Annotated[str, StringConstraints(max_length=40)] | None = None


class VersionOut(Shape):
    id: str
    created_at: str
    cog_version: str
    openapi_schema: dict[str, Any] = Field(description="`components.schemas` has Input and Output")


class OpenAIModelOut(Shape):
    """A model as OpenAI's clients read it."""

    id: str = Field(description="our id of the model")
    object: Literal["model"]
    created: int
    owned_by: str


class ReplicateModelOut(OpenAIModelOut):
    """A model; with the members that OpenAI's clients read next to them."""

    url: str
    owner: str
    name: str
    description: str | None
    visibility: Literal["public"]
    github_url: str | None
    paper_url: str | None
    license_url: str | None
    run_count: int
    cover_image_url: str | None
    default_example: None
    latest_version: VersionOut | None


class ReplicateModelPage(Shape):
    next: str | None
    previous: str | None
    results: list[ReplicateModelOut]
    object: Literal["list"]
    data: list[OpenAIModelOut]


class VersionPage(Shape):
    next: str | None
    previous: str | None
    results: list[VersionOut]


class ReplicateAccount(Shape):
    type: Literal["organization"]
    username: str
    name: str
    github_url: str | None


class ReplicateSecret(Shape):
    key: str = Field(description="`whsec_` and base64")
