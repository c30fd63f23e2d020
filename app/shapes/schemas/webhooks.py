"""Webhooks of an account: endpoints, their secrets, and what was delivered to them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.shapes.schemas.base import MAX_PAGE, Request, Shape
from webhooks.forms import ENDPOINT_EVENTS
from webhooks.secrets import MAX_OVERLAP_S, OVERLAP_S

EventName = Literal[ENDPOINT_EVENTS]  # type: ignore[valid-type]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Description = Annotated[str, StringConstraints(max_length=200)]
Reason = Literal["owner", "gone", "failing"]
State = Literal["pending", "delivered", "failed", "dropped"]


class WebhookIn(Request):
    url: Url = Field(description="https, on port 443, at a public address")
    events: list[EventName] | None = Field(None, min_length=1, description="the ends of jobs, where it is left out")
    description: Description = ""


class WebhookChange(Request):
    """What is left out stays."""

    url: Url | None = None
    events: list[EventName] | None = Field(None, min_length=1)
    description: Description | None = None
    enabled: bool | None = Field(None, description="true also clears why it was disabled")


class WebhookOut(Shape):
    object: Literal["webhook"]
    id: str
    url: str
    events: list[str]
    description: str
    created_at: datetime
    updated_at: datetime
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: Reason | None = Field(
        description="`owner`; `gone`: it answered 410; `failing`: the last attempt of a message failed, and nothing had"
        " succeeded for two days"
    )
    failing_since: datetime | None = Field(description="the first failed attempt since one that succeeded")
    old_secret_until: datetime | None = Field(description="until then the secret before signs, too")


class WebhookMade(WebhookOut):
    secret: str = Field(description="`whsec_...`; shown this once")


class WebhookList(Shape):
    object: Literal["list"]
    data: list[WebhookOut]


class RotateQuery(Request):
    overlap_s: int = Field(
        OVERLAP_S, ge=0, le=MAX_OVERLAP_S, description="for how many seconds the old secret signs, too"
    )


class SecretOut(Shape):
    object: Literal["webhook.secret"]
    secret: str = Field(description="`whsec_...`")
    old_secret_until: datetime | None


class DeliveriesQuery(Request):
    state: State | None = None
    event: Literal[(*ENDPOINT_EVENTS, "webhook.test")] | None = None  # type: ignore[valid-type]
    webhook_id: Annotated[str, StringConstraints(max_length=40)] | None = None
    task_id: Annotated[str, StringConstraints(max_length=40)] | None = None
    cursor: Annotated[str, StringConstraints(pattern=r"^msg_[0-9A-HJKMNP-TV-Z]{26}$")] | None = None
    limit: int = Field(20, ge=1, le=MAX_PAGE)


class AttemptOut(Shape):
    at: datetime = Field(description="when it ended")
    status: int | None = Field(description="of the receiver's answer; null without one")
    error: str | None = Field(description="a code of docs/webhooks.md; null when it was delivered")
    duration_ms: int


class DeliveryOut(Shape):
    """A message to one receiver; its id is the header `webhook-id`."""

    object: Literal["webhook.delivery"]
    id: str
    event: str
    created_at: datetime
    task_id: str | None = Field(description="of an event of a batch: the batch; null: a test")
    webhook_id: str | None = Field(description="null: it went to the `webhook_url` of its task")
    state: State
    attempts: int = Field(description="of this series; a replay begins a new one")
    next_attempt_at: datetime | None
    status: int | None = Field(description="of the last answer")
    error: str | None = Field(description="of the last attempt; a code of docs/webhooks.md")
    log: list[AttemptOut] = Field(description="the newest 30 attempts, oldest first")
    finished_at: datetime | None


class DeliveryList(Shape):
    object: Literal["list"]
    data: list[DeliveryOut]
    next_cursor: str | None = Field(description="pass as `cursor` for the next page; null on the last")
