"""The requests and answers of the native API; ``/openapi.json`` is made of them.

Requests are validated by these models. Answers are plain dicts built by app/shapes/render.py, because the status route
is hot; tests validate every rendered answer by its model here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from core.ids import is_id
from jobs.failures import SENTENCES, CancelOutcome

MAX_METADATA_BYTES = 2048
MAX_PAGE = 100
PRICE_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"

Text = Annotated[str, StringConstraints(max_length=200)]
OperationName = Annotated[str, StringConstraints(max_length=40)]
Microcredits = Annotated[int, Field(description="whole micro-credits; 1,000,000 are one credit")]
Credits = Annotated[str, Field(description="the same in credits, as a decimal", examples=["5.3"])]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


# ---------------------------------------------------------------- orders


class OrderFields(BaseModel):
    """An order of images. A setting left out is left to the upstream.

    Only the types are described here: ``GET /api/models/{id}`` has the fields a model takes, their limits, and
    its further settings. A field it does not take is refused, unless ``lenient`` is true.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str | None = Field(None, max_length=32_000, description="what to make or change")
    model: Text | None = Field(None, description="id or alias; `auto`, `auto:budget`, `auto:quality`")
    n: int | None = Field(None, ge=1, le=10, description="how many images; each settles on its own")
    size: Text | None = Field(None, examples=["1024x1024"], description="WxH; the nearest the model allows is used")
    width: int | None = Field(None, description="pixels")
    height: int | None = Field(None, description="pixels")
    aspect_ratio: Text | None = Field(None, examples=["16:9"])
    resolution: Text | None = Field(None, examples=["2k"])
    quality: Text | None = None
    style: Text | None = None
    background: Text | None = None
    output_format: Text | None = Field(None, examples=["png"])
    output_compression: int | None = None
    negative_prompt: str | None = Field(None, max_length=32_000)
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: Text | None = None
    strength: float | None = None
    extra: dict[str, Any] | None = Field(None, description="passed to the upstream as it is")
    fallback_models: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] | None = Field(
        None,
        max_length=5,
        description="models that take the order's turn, one after the other, when one surely did not run or surely made"
        " nothing; never after a refusal or an uncertain call. The order is held at the dearest of them; [] switches"
        " off the operator's own chain",
    )
    store: bool | None = Field(
        None, description="false: the images go soon after the end, and the task carries them as `data_url`"
    )
    priority: Literal["normal", "low"] | None = None
    deadline_s: int | None = Field(None, ge=1, le=30 * 86_400, description="latest start, in seconds from now")
    metadata: dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], str] | None = Field(
        None, description=f"yours to fill, at most {MAX_METADATA_BYTES} bytes"
    )
    lenient: bool | None = Field(None, description="drop fields the model does not take, with a warning")


IMAGE_HELP = "`data:` URL, base64, https URL, or `job_id#index` of your own task"


class OrderBody(OrderFields):
    """An order with its reference images."""

    images: list[str] | None = Field(None, description=f"reference images: {IMAGE_HELP}")
    mask: str | None = Field(
        None, description="transparent (or, without transparency, white) pixels mark what to change"
    )
    face: str | None = None


class EstimateBody(OrderBody):
    """An order, to be priced and not run."""

    operation: OperationName | None = Field(None, description="left out: edit when there are images, else generate")


class Empty(Request):
    """No parameters."""


# ---------------------------------------------------------------- tasks


class TaskQuery(Request):
    wait: int | None = Field(None, ge=0, le=60, description="seconds to wait for a change or the end")


class ListQuery(BaseModel):
    """``metadata.<key>=<value>`` narrows to tasks that carry this metadata."""

    model_config = ConfigDict(extra="allow")

    status: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None
    operation: OperationName | None = None
    model: Text | None = None
    created_after: AwareDatetime | None = Field(None, description="RFC 3339, with its zone")
    cursor: Annotated[str, StringConstraints(pattern=r"^job_[0-9A-HJKMNP-TV-Z]{26}$")] | None = None
    limit: int = Field(20, ge=1, le=MAX_PAGE)


class ImageQuery(BaseModel):
    """``expires``, ``account``, ``kid`` and ``signature`` are part of a signed link; they cannot be made up."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(0, ge=0, le=1000)
    width: int | None = Field(None, ge=1, le=16_384, description="fit inside, in pixels; never enlarges")
    height: int | None = Field(None, ge=1, le=16_384)
    format: Literal["png", "jpeg", "webp", "avif"] | None = None
    download: Literal["0", "1"] = "0"
    expires: int | None = None
    account: Text | None = None
    kid: Text | None = None
    signature: Text | None = None


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
    signed_url: str | None = Field(description="needs no key, expires within two hours; null once deleted")
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


class TaskError(Shape):
    """Why a task failed. A fault of an image that the upstream made has the code of such a fault."""

    code: str = Field(examples=sorted(SENTENCES), description="stable; see docs/errors.md, Failed jobs")
    message: str


class Cancel(Shape):
    requested_at: datetime
    outcome: CancelOutcome | None = Field(description="null until it is known")


class Chosen(Shape):
    """Why this model, where the order left the choice open."""

    asked: str | None = Field(description="as ordered: `auto`, `auto:budget`, `auto:quality`; null: no model was named")
    model: str
    reason: str


class TaskUrls(Shape):
    self: str
    image: str
    timeline: str
    cancel: str


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
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None = Field(description="latest start")
    price: Price
    request: dict[str, Any] = Field(description="what is really asked, with `normalised` next to it")
    images: list[ImageOut]
    chosen: Chosen | None = Field(description="null where the order named its model")
    error: TaskError | None
    cancel: Cancel | None
    warnings: list[str]
    metadata: dict[str, str]
    urls: TaskUrls


class TaskList(Shape):
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


class EstimatePrice(Shape):
    unit_microcredits: Microcredits
    unit: Credits
    total_microcredits: Microcredits
    total: Credits


class Estimate(Shape):
    object: Literal["image.estimate"]
    operation: str
    model: str
    provider: str
    n: int
    price: EstimatePrice
    chosen: Chosen | None = Field(description="null where the order named its model")
    normalised: dict[str, Any]
    warnings: list[str]


# ---------------------------------------------------------------- models, quota


class ModelsQuery(Request):
    operation: OperationName | None = None
    provider: Text | None = None
    capability: Text | None = None
    max_price: Annotated[str, StringConstraints(pattern=PRICE_PATTERN)] | None = Field(
        None, description="credits for one image"
    )
    configured: Literal["true", "false"] | None = Field(None, description="only models that can run here, or cannot")
    status: Literal["live", "retiring", "redirected", "shutdown", "unknown", "all"] | None = Field(
        None, description="left out: models that still answer"
    )


class RecommendQuery(Request):
    operation: OperationName
    provider: Text | None = None
    capability: Text | None = None
    max_price: Annotated[str, StringConstraints(pattern=PRICE_PATTERN)] | None = Field(
        None, description="credits for one image"
    )
    images: int = Field(0, ge=0, le=16, description="reference images that will come along")
    mask: Literal["true", "false"] = Field("false", description="whether a mask will come along")


class UnitPrice(Shape):
    unit_microcredits: Microcredits
    unit: Credits


class ModelOut(Shape):
    id: str
    name: str
    provider: str
    operations: list[str]
    capabilities: list[str]
    status: str
    replaced_by: str | None = Field(description="who answers instead, once it is gone")
    configured: bool = Field(description="whether its provider is set up here")
    quality: int = Field(description="3: its vendor's best, 1: small or fast; for `auto:quality`")
    price: UnitPrice = Field(description="one image with default settings")


class ModelList(Shape):
    object: Literal["list"]
    catalog_version: str
    data: list[ModelOut]


class ReasonOut(Shape):
    code: Literal[
        "default", "best_quality", "cheapest", "fastest", "takes_mask", "most_pictures", "transparent", "lettering"
    ]
    message: str


class Recommended(Shape):
    model: ModelOut
    reasons: list[ReasonOut]


class Recommendations(Shape):
    object: Literal["list"]
    catalog_version: str
    operation: str
    data: list[Recommended]


class PriceTier(Shape):
    when: dict[str, Any]
    unit_microcredits: int | None
    add_microcredits: int | None


class ModelDetail(ModelOut):
    output: str
    inputs: dict[str, Any]
    size: Any
    limits: dict[str, Any]
    tiers: list[PriceTier]
    orders: dict[str, dict[str, Any]] = Field(description="JSON Schema of the order, by operation")
    retires_on: str | None
    warnings: list[str] = Field(description="what an order for it is told: what stands in for it, when it ends")
    note: str | None


class Circuit(Shape):
    """``open``: nothing is sent after failures in a row; ``half_open``: one call goes out as a probe."""

    state: Literal["closed", "open", "half_open"]
    opened_at: datetime | None
    next_probe_at: datetime | None


class ProviderLimits(Shape):
    """Summed over its credentials; null: not limited, not counted."""

    max_active: int | None
    max_per_minute: int | None
    submitted_last_minute: int | None


class Capabilities(Shape):
    kind: Literal["sync", "async"] = Field(description="async: images are made upstream while no one here waits")
    cancel: bool = Field(description="whether work that has begun can be stopped")
    text: bool = Field(description="whether it enhances prompts")
    operations: list[str]
    models: int


class ProviderOut(Shape):
    name: str
    object: Literal["provider"]
    title: str
    configured: bool = Field(description="whether it is set up here")
    healthy: bool = Field(description="set up, and its circuit closed")
    paused: bool = Field(description="by an operator: its tasks wait")
    paused_at: datetime | None
    circuit: Circuit
    not_before: datetime | None = Field(description="the upstream asked for no calls until then")
    active: int = Field(description="calls in flight, of all accounts")
    limits: ProviderLimits
    capabilities: Capabilities


class ProviderList(Shape):
    object: Literal["list"]
    data: list[ProviderOut]


class Limit(Shape):
    name: str
    requests: int
    window_s: int


class QuotaOut(Shape):
    object: Literal["quota"]
    available_microcredits: Microcredits
    available: Credits
    queued_microcredits: int = Field(description="the part of available that queued work will need")
    queued: str
    held_microcredits: int = Field(description="held for work under way")
    held: str
    spendable_microcredits: int = Field(description="what may still be ordered: available less queued")
    spendable: str
    window: int = Field(description="most of your tasks in a provider's queue at once")
    limits: list[Limit]


class LedgerQuery(Request):
    cursor: int | None = Field(None, ge=1, le=2**63 - 1)
    limit: int = Field(50, ge=1, le=MAX_PAGE)


class LedgerEntry(Shape):
    id: int
    kind: Literal["grant", "hold", "capture", "release", "adjust"]
    source: str
    target: str
    amount_microcredits: Microcredits
    amount: Credits
    task_id: str | None
    note: str
    created_at: datetime


class LedgerOut(Shape):
    object: Literal["list"]
    data: list[LedgerEntry]
    next_cursor: int | None


# ---------------------------------------------------------------- administration


class FindingOut(Shape):
    invariant: str = Field(description="the rule that does not hold")
    subject: str = Field(description="what it is about: an account, a task, a credential")
    detail: str = Field(description="the figures")


class AuditOut(Shape):
    clean: bool
    findings: list[FindingOut]


# ---------------------------------------------------------------- prompts, health


class EnhanceIn(Request):
    prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]
    mode: Literal["detail", "creative"] = "detail"
    model: Text | None = Field(None, description="the provider that enhances; left out, the first configured")
    language: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z \-]{1,39}$")] | None = Field(
        None, description="language of the answer, as a name or tag", examples=["German", "pt-BR"]
    )


class Health(Shape):
    status: Literal["ok"]


class CheckOut(Shape):
    ok: bool
    detail: str | None = None


class Ready(Shape):
    """``degraded``: orders are accepted and kept, but a part that only makes them quicker is away."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, CheckOut]


# ---------------------------------------------------------------- errors


class FieldError(Shape):
    field: str
    code: str
    message: str


class CompatError(Shape):
    message: str
    type: str
    param: str | None
    code: str


class ProblemOut(BaseModel):
    """RFC 9457, with the members that clients of other services read. Some codes add members of their own."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldError] | None = Field(None, description="every bad field at once")
    error: CompatError
    error_type: str
    message: str


def is_job_id(text: str) -> bool:
    return is_id(text, "job")
