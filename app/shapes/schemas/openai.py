"""Images in OpenAI's own shapes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.shapes.schemas.base import Credits, Microcredits, Shape
from app.shapes.schemas.orders import OrderFields

FORMAT_HELP = "how images are answered; left out: as base64, or as `DARKROOM_OPENAI_RESPONSE_FORMAT` says"


class ImageRef(BaseModel):
    """An image by its address, or by the id of an uploaded file."""

    model_config = ConfigDict(extra="ignore")

    image_url: str | None = Field(None, description="https URL or `data:` URL")
    file_id: str | None = None


class ImagesBody(OrderFields):
    """A request for images with OpenAI's fields, and any field of an order besides.

    What the model does not take is left out and named in `X-Darkroom-Ignored-Fields`.
    """

    images: list[ImageRef | str] | None = Field(None, description="what to edit; in a form the parts `image`")
    mask: ImageRef | str | None = Field(None, description="transparent pixels mark what to change")
    response_format: Literal["url", "b64_json"] | None = Field(None, description=FORMAT_HELP)
    stream: bool | None = Field(None, description="answer as server-sent events")
    partial_images: int | None = Field(None, ge=0, le=3, description="understood; no upstream sends partial images")
    moderation: str | None = None
    input_fidelity: str | None = None
    user: str | None = Field(None, max_length=512, description="kept as `user` in the task's metadata")


class TokenDetails(Shape):
    image_tokens: int
    text_tokens: int


class TokensUsed(Shape):
    """As the upstream counted them."""

    input_tokens: int
    input_tokens_details: TokenDetails | None
    output_tokens: int
    output_tokens_details: TokenDetails | None
    total_tokens: int


class ImageData(Shape):
    b64_json: str | None = None
    url: str | None = Field(None, description="whole, and good without a key until it expires")
    revised_prompt: str | None = None


class Cost(Shape):
    microcredits: Microcredits
    credits: Credits


class ImagesOut(Shape):
    created: int = Field(description="Unix seconds")
    data: list[ImageData]
    background: str | None = None
    output_format: str | None = None
    quality: str | None = None
    size: str | None = None
    usage: TokensUsed | None = Field(description="null where the upstream counts no tokens")
    id: str = Field(description="the task's id")
    task: str = Field(description="the task's address")
    cost: Cost | None


class ImageTaskError(Shape):
    message: str
    type: str
    param: str | None
    code: str | None


class ImageTaskOut(Shape):
    """A task whose images are collected later."""

    id: str
    task_id: str
    object: Literal["image.generation.task"]
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    model: str
    progress: int | None = Field(description="0 to 100, if the upstream reports it")
    created_at: int
    completed_at: int | None
    expires_at: int | None = Field(description="when the images are deleted; null: never")
    poll_url: str
    error: ImageTaskError | None
    result: ImagesOut | None = Field(None, description="once completed")


class ImageTaskQuery(BaseModel):
    model_config = ConfigDict(extra="ignore")

    response_format: Literal["url", "b64_json"] | None = Field(None, description="left out: as it was ordered")
