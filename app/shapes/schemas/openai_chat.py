"""OpenAI's models and chat completions, as far as they are served here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.shapes.schemas.base import Shape, Text

MAX_MESSAGES = 100
MAX_CHARS = 32_000


class OpenAIModel(Shape):
    id: str
    object: Literal["model"]
    created: int = Field(description="Unix time at which the catalogue was last checked")
    owned_by: str = Field(description="the provider")


class OpenAIModelList(Shape):
    object: Literal["list"]
    data: list[OpenAIModel]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "input_text"]
    text: str = Field(max_length=MAX_CHARS)


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = Field(None, description="a text, or text parts")


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False


class ChatBody(BaseModel):
    """A chat with the language model that enhances prompts. Fields that it has no use for are ignored, and named in a
    header; those that would change the form of the answer are refused."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Text | None = Field(None, description="as `GET /v1/models` names it; left out, the first configured")
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, le=100_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=100_000, description="goes before `max_tokens`")


class ChatChoice(Shape):
    index: int
    message: dict[str, Any]
    logprobs: None
    finish_reason: Literal["stop", "content_filter"]


class ChatCompletion(Shape):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: None = Field(description="not known: the upstreams' text is passed on as it comes")
