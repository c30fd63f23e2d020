"""The upstreams."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.shapes.schemas.base import Request, Shape, Text


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
    text: bool = Field(description="whether it enhances prompts here: it is configured and has a prompt model")
    prompt_model: str | None = Field(description="the language model that enhances prompts; null where it does not")
    operations: list[str]
    models: int


class CredentialOut(Shape):
    """One account of ours at the provider; its key is shown nowhere."""

    id: str = Field(examples=["openai/default", "openai/2"])
    paused: bool = Field(description="by an operator: nothing new is sent with it")
    paused_at: datetime | None
    pause_reason: str | None


class PauseQuery(Request):
    reason: Text | None = Field(None, description="why, for the next operator; every caller can read it")


class ProviderOut(Shape):
    name: str
    object: Literal["provider"]
    title: str = Field(description="its name for people")
    description: str = Field(description="what it is good for, in a sentence")
    configured: bool = Field(description="whether it is set up here")
    healthy: bool = Field(description="set up, and its circuit closed")
    paused: bool = Field(description="by an operator: its tasks wait")
    paused_at: datetime | None
    pause_reason: str | None
    credentials: list[CredentialOut] = Field(description="those that workers have announced")
    circuit: Circuit
    not_before: datetime | None = Field(description="the upstream asked for no calls until then")
    active: int = Field(description="calls in flight, of all accounts")
    limits: ProviderLimits
    capabilities: Capabilities


class ProviderList(Shape):
    object: Literal["list"]
    data: list[ProviderOut]
