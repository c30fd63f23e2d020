"""Accounts, keys, grants and the trail of deeds, as administrators see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.shapes.schemas.base import MAX_PAGE, Credits, Microcredits, Request, Shape, Text

MAX_MICROCREDITS = 10**15  # of one grant or limit: a thousand million credits
MAX_COUNT = 10**9  # of a limit of load
MAX_LISTED = 200
MAX_OVERLAP_S = 30 * 86_400
MAX_EXPIRES_S = 100 * 365 * 86_400

ScopeName = Literal["jobs:write", "jobs:read", "usage:read", "webhooks", "admin"]
AccountName = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]
ExternalId = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Amount = Annotated[int, Field(ge=0, le=MAX_MICROCREDITS)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Names = Annotated[list[Text], Field(min_length=1, max_length=MAX_LISTED)]
Moment = Annotated[AwareDatetime, Field(strict=False, description="RFC 3339, with its zone")]
Note = Annotated[str, StringConstraints(max_length=500)]


class LimitsIn(Request):
    """What orders may cost in micro-credits, and how much load there may be. Null: no limit of its own."""

    day_microcredits: Amount | None = Field(None, description="the orders of one day, UTC")
    month_microcredits: Amount | None = Field(None, description="the orders of one month, UTC")
    requests_per_minute: Count | None = Field(
        None, description="of an account in place of the installation's limits, of a key next to its account's"
    )
    in_flight: Count | None = Field(None, description="jobs that have been accepted and have not ended")
    images_per_minute: Count | None = Field(None, description="images ordered in a minute")


class LimitsOut(Shape):
    day_microcredits: int | None
    month_microcredits: int | None
    requests_per_minute: int | None
    in_flight: int | None
    images_per_minute: int | None


class _Listed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=MAX_PAGE)


class AccountsQuery(_Listed):
    cursor: Text | None = Field(None, description="`next_cursor` of the page before")


class AccountIn(Request):
    name: AccountName
    weight: int = Field(1, ge=1, le=100, description="its share of a provider's queue")
    external_id: ExternalId | None = Field(None, description="the id that tokens (JWT) have for it")
    limits: LimitsIn = Field(default_factory=LimitsIn)


class AccountChange(Request):
    """Members that are left out stay as they are."""

    name: AccountName | None = None
    weight: int | None = Field(None, ge=1, le=100)
    external_id: ExternalId | None = Field(None, description="null: tokens do not know it any more")
    disabled: bool | None = Field(None, description="true: none of its keys opens any more")
    limits: LimitsIn | None = None

    @model_validator(mode="after")
    def _not_null(self) -> AccountChange:
        _check_nulls(self, ("name", "weight", "disabled", "limits"))
        return self


def _check_nulls(body: BaseModel, names: tuple[str, ...]) -> None:
    if nulls := [name for name in names if name in body.model_fields_set and getattr(body, name) is None]:
        raise ValueError(f"{', '.join(nulls)}: may be left out, but not null")


class BalanceOut(Shape):
    spendable_microcredits: Microcredits
    available_microcredits: Microcredits
    queued_microcredits: Microcredits
    held_microcredits: Microcredits


class AccountOut(Shape):
    id: str
    object: Literal["account"]
    name: str
    weight: int
    external_id: str | None
    created_at: datetime
    disabled_at: datetime | None
    limits: LimitsOut
    balance: BalanceOut


class AccountList(Shape):
    object: Literal["list"]
    data: list[AccountOut]
    next_cursor: str | None


class KeysQuery(_Listed):
    account: Text | None = Field(None, description="id or name; left out: the keys of all")
    cursor: Text | None = Field(None, description="`next_cursor` of the page before")


class KeyIn(Request):
    account: Text = Field(description="id or name")
    name: Annotated[str, StringConstraints(max_length=100)] = Field("", description="what it is for")
    scopes: list[ScopeName] = Field(default=["jobs:write", "jobs:read"], min_length=1, max_length=10)
    expires_at: Moment | None = None
    expires_in_s: int | None = Field(None, ge=1, le=MAX_EXPIRES_S, description="in place of `expires_at`")
    models: Names | None = Field(None, description="the models that it may order from, by id or alias; null: all")
    providers: Names | None = Field(None, description="the providers that it may order from; null: all")
    limits: LimitsIn = Field(default_factory=LimitsIn)

    @model_validator(mode="after")
    def _one_end(self) -> KeyIn:
        if self.expires_at is not None and self.expires_in_s is not None:
            raise ValueError("give one of expires_at and expires_in_s")
        return self


class KeyChange(Request):
    """Members that are left out stay as they are."""

    name: Annotated[str, StringConstraints(max_length=100)] | None = None
    scopes: list[ScopeName] | None = Field(None, min_length=1, max_length=10)
    expires_at: Moment | None = Field(None, description="null: never")
    expires_in_s: int | None = Field(None, ge=1, le=MAX_EXPIRES_S, description="in place of `expires_at`")
    models: Names | None = Field(None, description="null: all")
    providers: Names | None = Field(None, description="null: all")
    limits: LimitsIn | None = None

    @model_validator(mode="after")
    def _not_null(self) -> KeyChange:
        if {"expires_at", "expires_in_s"} <= self.model_fields_set:
            raise ValueError("give one of expires_at and expires_in_s")
        _check_nulls(self, ("name", "scopes", "limits", "expires_in_s"))
        return self


class RotateIn(Request):
    overlap_s: int = Field(
        86_400, ge=0, le=MAX_OVERLAP_S, description="so long the secret before opens as well; 0: it stops at once"
    )


class PauseIn(Request):
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")] = Field(
        "paused by an operator", description="for who asks later; callers do not see it"
    )


class KeyOut(Shape):
    """A key without its secret."""

    id: str
    object: Literal["key"]
    account_id: str
    name: str
    scopes: list[str]
    models: list[str] | None
    providers: list[str] | None
    limits: LimitsOut
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="at most a minute old")
    previous_until: datetime | None = Field(description="until then the secret before the rotation opens as well")
    paused_at: datetime | None = Field(description="since then its requests are refused, until it is let on")
    pause_reason: str | None


class KeyMade(KeyOut):
    token: str = Field(description="the key itself, shown this once")


class KeyList(Shape):
    object: Literal["list"]
    data: list[KeyOut]
    next_cursor: str | None


class GrantsQuery(_Listed):
    account: Text | None = Field(None, description="id or name; left out: those of all")
    cursor: int | None = Field(None, ge=1, le=2**63 - 1)


class GrantIn(Request):
    account: Text = Field(description="id or name")
    amount_microcredits: int = Field(
        ge=-MAX_MICROCREDITS, le=MAX_MICROCREDITS, description="negative: taken back, of what is free to spend"
    )
    note: Note = Field("", description="kept in the ledger, where the account sees it")

    @model_validator(mode="after")
    def _something(self) -> GrantIn:
        if not self.amount_microcredits:
            raise ValueError("amount_microcredits must not be zero")
        return self


class GrantOut(Shape):
    id: int
    object: Literal["grant"]
    account_id: str
    kind: Literal["grant", "adjust"]
    amount_microcredits: int = Field(description="negative: taken back")
    amount: Credits
    note: str
    created_at: datetime


class GrantMade(GrantOut):
    balance: BalanceOut


class GrantList(Shape):
    object: Literal["list"]
    data: list[GrantOut]
    next_cursor: int | None


class ActionsQuery(_Listed):
    """All that is given must hold."""

    action: Text | None = Field(None, description="such as `key.create`")
    target: Text | None = Field(None, description="the id of what it was done to")
    account: Text | None = Field(None, description="the account that it concerns, by id or name")
    key_id: Text | None = Field(None, description="the key that it was done with")
    since: AwareDatetime | None = Field(None, description="RFC 3339, with its zone")
    until: AwareDatetime | None = Field(None, description="RFC 3339, with its zone")
    cursor: int | None = Field(None, ge=1, le=2**63 - 1)


class ActorOut(Shape):
    name: str = Field(description="the account, or the user of the command line")
    account_id: str | None
    key_id: str | None = Field(description="null: by a command next to the database")
    address: str
    request_id: str


class ActionOut(Shape):
    id: int
    object: Literal["admin.action"]
    at: datetime
    action: str
    target: str
    account_id: str | None
    actor: ActorOut
    before: dict[str, Any] | None = Field(description="what changed, as it was")
    after: dict[str, Any] | None


class ActionList(Shape):
    object: Literal["list"]
    data: list[ActionOut]
    next_cursor: int | None
