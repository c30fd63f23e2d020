"""What the routes of the services that this one replaces take and answer (docs/clients-replaced.md)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Loose(BaseModel):
    """A body whose further members are ignored, as they were."""

    model_config = ConfigDict(extra="ignore")


class ImageSettings(Loose):
    model: str | None = Field(None, description="id or alias; left out: chosen as on the native routes")
    width: int | None = Field(None, description="pixels; the nearest size that the model makes is used")
    height: int | None = None
    quality: str | None = Field(None, description="left out where the model has none")


class GenerateSettings(Loose):
    image: ImageSettings | None = None


class ImageGenerateBody(Loose):
    prompt: str
    settings: GenerateSettings | None = None
    customer_id: int = Field(ge=1, description="the caller's own; a text of digits is taken too")
    save_to_db: bool = Field(True, description="false: the answer holds the image, which is not kept")


class ImageGenerateData(BaseModel):
    image_url: str = Field(description="a signed link, or a `data:` URL where `save_to_db` is false")
    provider: str
    model: str
    settings: dict[str, Any] = Field(description="`image` with what was really asked for")


class ImageGenerateOut(BaseModel):
    success: bool
    code: int = Field(description="200, or the status of the error")
    data: ImageGenerateData | None
    message: str | None = None
    task_id: str | None = None


class GenerationBody(BaseModel):
    """Fields of a native order are taken next to these; what the model does not take is left out, with a warning."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    width: int | None = None
    height: int | None = None
    numOutputs: int | None = Field(None, ge=1, le=10)  # noqa: N815 - the wire's name
    negativePrompt: str | None = None  # noqa: N815
    seed: int | None = None
    steps: int | None = None
    provider: str | None = Field(None, description="one of `GET /api/providers`; its cheapest model is used")
    model: str | None = None


class GenerationOut(BaseModel):
    id: str | None
    status: Literal["starting", "processing", "succeeded", "failed", "canceled"]
    output: list[str] | None = Field(description="links to the images, signed")
    error: str | None
    progress: int | None = Field(description="percent, where the upstream tells it")
    metadata: dict[str, Any]


class SessionQuery(BaseModel):
    model_config = ConfigDict(extra="ignore")

    sessionId: str = Field(max_length=200, description="the `id` of a generation")  # noqa: N815
    providerId: str | None = Field(None, max_length=200, description="read and not needed")  # noqa: N815


class StreamQuery(BaseModel):
    """``signature`` and what comes with it are part of ``metadata.streamUrl``."""

    model_config = ConfigDict(extra="ignore")


class ImageTaskBody(Loose):
    client_task_id: str = Field(min_length=1, description="the task's id, and the key under which a repeat is free")
    prompt: str = Field(min_length=1)
    model: str = "gpt-image-2"
    size: str | None = Field(None, description="WxH or a ratio; anything else is ignored")
    quality: str = "auto"


class ImageTaskEditBody(ImageTaskBody):
    images: Any = Field(None, description="also `image`, `image_url`: texts, lists, `{image_url}`, `{b64_json}`")
    mask: Any = None


class ClientTaskOut(BaseModel):
    id: str
    status: Literal["queued", "running", "success", "error"]
    mode: Literal["generate", "edit"]
    model: str
    size: str
    quality: str
    created_at: str
    updated_at: str
    data: list[dict[str, Any]] | None = None
    error: str | None = None
    progress: str | None = None
    duration_ms: int | None = None
    elapsed_secs: float | None = None


class ImageTasksOut(BaseModel):
    items: list[ClientTaskOut]
    missing_ids: list[str]


class ImageTasksQuery(BaseModel):
    model_config = ConfigDict(extra="ignore")

    ids: str = Field("", description="client task ids with commas between them; without any the latest tasks")
