"""Orders and estimates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from app.shapes.schemas.base import Credits, Microcredits, OperationName, Shape, Text
from jobs.documents import SelectionRule
from providers.orders.aliases import aliases_of
from webhooks.forms import EVENTS

MAX_METADATA_BYTES = 2048


def _word(value: object) -> object:
    """4 as "4": what is a word for most models is a number for some, and the check of the model takes both."""
    return str(value) if type(value) is int else value


def _also(name: str, text: str = "") -> str:
    """The description of a field, with the names by which other services' APIs call it."""
    aliases = aliases_of(name)
    named = f"also understood as {', '.join(f'`{alias}`' for alias in aliases)}" if aliases else ""
    return "; ".join(filter(None, (text, named)))


class OrderFields(BaseModel):
    """An order of images. A setting left out is left to the upstream.

    Only the types are described here: ``GET /api/models/{id}`` has the fields a model takes, their limits, and
    its further settings. A field it does not take is refused, unless ``lenient`` is true. A field may also have the
    name that other services' APIs give it, in snake case or camel case; said twice with different values, it is
    refused.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str | None = Field(None, max_length=32_000, description="what to make or change")
    model: Text | None = Field(
        None,
        description="id or alias; `auto`, `auto:budget`, `auto:quality`; else the default model, or the cheapest",
    )
    n: int | None = Field(None, ge=1, le=10, description=_also("n", "how many images; each settles on its own"))
    size: Text | None = Field(None, examples=["1024x1024"], description="WxH; the nearest the model allows is used")
    width: int | None = Field(None, description="pixels")
    height: int | None = Field(None, description="pixels")
    aspect_ratio: Text | None = Field(None, examples=["16:9"])
    resolution: Text | None = Field(None, examples=["2k"])
    quality: Annotated[Text | None, BeforeValidator(_word)] = None
    style: Text | None = Field(None, description=_also("style"))
    background: Text | None = None
    output_format: Text | None = Field(None, examples=["png"])
    output_compression: int | None = None
    negative_prompt: str | None = Field(None, max_length=32_000)
    seed: int | None = None
    steps: int | None = Field(None, description=_also("steps"))
    guidance: float | None = Field(None, description=_also("guidance"))
    sampler: Text | None = Field(None, description=_also("sampler"))
    strength: float | None = Field(None, description=_also("strength"))
    extra: dict[str, Any] | None = Field(
        None,
        description="passed to the upstream as it is, but for other names of this order's own fields; at most"
        " 64 kB, 8 levels and 500 members",
    )
    fallback_models: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] | None = Field(
        None,
        max_length=5,
        description="models that take the order's turn, one after the other, when one certainly did not run or made"
        " nothing; never after a refusal or an uncertain call. The order is held at the dearest of them; [] switches"
        " off the operator's own chain",
    )
    store: bool | None = Field(
        None, description="false: the images are deleted soon after the end, and the task carries them as `data_url`"
    )
    safe_prompt: bool | None = Field(
        None,
        description="true: if the content of the prompt is refused at no cost, a language model rewrites it once to"
        " keep to the policy, and the order is tried once more at the same price; the task shows both wordings",
    )
    priority: Literal["normal", "low"] | None = None
    deadline_s: int | None = Field(None, ge=1, le=30 * 86_400, description="latest start, in seconds from now")
    metadata: dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], str] | None = Field(
        None, description=f"yours to fill, at most {MAX_METADATA_BYTES} bytes"
    )
    webhook_url: str | None = Field(
        None,
        min_length=1,
        max_length=2048,
        description="https; told of this job's events, next to the account's webhooks. See docs/webhooks.md",
    )
    webhook_events: list[Literal[EVENTS]] | None = Field(  # type: ignore[valid-type]
        None, min_length=1, description="of which events; its end, where it is left out"
    )
    use_cache: bool | None = Field(
        None,
        description="false: an earlier task does not answer this order, where the operator's result cache is on; as"
        " `Cache-Control: no-cache` says it",
    )
    lenient: bool | None = Field(None, description="drop fields the model does not take, with a warning")


IMAGE_HELP = "`data:` URL, base64, https URL, the id of an upload, or `job_id#index` of your own task"


class UploadRef(BaseModel):
    """An image by the id of its upload."""

    model_config = ConfigDict(extra="forbid")

    upload_id: str = Field(examples=["upl_01J9ZK5TQ2M8C4V7X1B3N6D0EF"])


class OrderBody(OrderFields):
    """An order with its reference images."""

    images: list[str | UploadRef] | None = Field(None, description=_also("images", f"reference images: {IMAGE_HELP}"))
    mask: str | UploadRef | None = Field(
        None, description=_also("mask", "transparent (or, without transparency, white) pixels mark what to change")
    )
    face: str | UploadRef | None = Field(None, description=_also("face"))
    upload_id: str | list[str] | None = Field(None, description="images by the ids of their uploads alone")


class EstimateBody(OrderBody):
    """An order, to be priced and not run."""

    operation: OperationName | None = Field(None, description="left out: edit when there are images, else generate")


class RerunBody(OrderBody):
    """What is to be otherwise than in the order that is placed again."""

    operation: OperationName | None = Field(None, description="left out: that of the task")


class Chosen(Shape):
    """Why this model, where the order left the choice open."""

    asked: str | None = Field(description="as ordered: `auto`, `auto:budget`, `auto:quality`; null: no model was named")
    model: str
    rule: SelectionRule | None = Field(
        None,
        description="what chose it: `operator_default` (`default_model` of catalog.local.yaml or"
        " `DARKROOM_DEFAULT_MODEL`), `catalog_default` (the catalogue's own), `cheapest`, `best`; absent in tasks of"
        " older versions",
    )
    reason: str


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
    cached_price: EstimatePrice | None = Field(
        description="the price if an earlier equal task answers; null where none does: the order has no seed of its own"
        " or wants no such answer, or the operator's result cache is off"
    )
    chosen: Chosen | None = Field(description="null where the order named its model")
    normalised: dict[str, Any]
    warnings: list[str]
