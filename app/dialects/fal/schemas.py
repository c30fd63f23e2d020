"""What goes over the wire under /fal, for the OpenAPI document; names and values are fal's."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class FalShape(BaseModel):
    model_config = ConfigDict(extra="allow")


class Input(FalShape):
    """The input of an application. Members that nothing here takes are ignored; a known one of the wrong type is
    refused."""

    prompt: str | None = None
    image_size: str | dict[str, int] | None = Field(
        None,
        description="`square_hd`, `square`, `portrait_4_3`, `portrait_16_9`, `landscape_4_3`, `landscape_16_9`, WxH, or"
        " `{width, height}`",
    )
    aspect_ratio: str | None = None
    num_images: int | None = Field(None, ge=1, le=10)
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    strength: float | None = None
    output_format: str | None = None
    image_url: str | None = Field(None, description="`data:` URL, https URL, or a link of this service")
    image_urls: list[str] | None = None
    mask_url: str | None = None
    sync_mode: bool | None = Field(None, description="the output has `data:` URLs instead of links")
    enable_safety_checker: bool | None = Field(None, description="without effect: the upstream's rules hold")


class SubmitQuery(BaseModel):
    fal_webhook: str | None = Field(None, description="told of the end; http or https")


class LogsQuery(BaseModel):
    logs: Literal["0", "1", "false", "true"] | None = None


class Submitted(FalShape):
    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    request_id: str = Field(description="the task's id as a UUID")
    gateway_request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int


class Log(FalShape):
    timestamp: str
    level: str
    source: str
    message: str


class Status(FalShape):
    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int | None = Field(None, description="of IN_QUEUE: requests ahead, at most 1,000")
    logs: list[Log] | None = None
    metrics: dict[str, float] | None = Field(None, description="of COMPLETED: `inference_time` in seconds")
    error: str | None = None
    error_type: str | None = None


class File(FalShape):
    url: str = Field(description="needs no key, expires; or a `data:` URL")
    content_type: str
    file_name: str
    file_size: int
    width: int | None = None
    height: int | None = None


class Output(FalShape):
    """Which members there are depends on the application."""

    images: list[File] | None = None
    image: File | None = None
    model_mesh: File | None = None
    output: str | None = None
    seed: int | None = None
    prompt: str | None = None
    has_nsfw_concepts: list[bool] | None = None
    timings: dict[str, Any] | None = None


class Cancelled(FalShape):
    status: Literal["CANCELLATION_REQUESTED"]


class Key(FalShape):
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    kid: str
    x: str


class Keys(FalShape):
    keys: list[Key]
