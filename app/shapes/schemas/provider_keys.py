"""Accounts' own keys of providers: what is sent once, and what is told of them afterwards."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints, model_validator

from app.shapes.schemas.base import Request, Shape, Text

MOST_LIMIT = 1000  # as app.provider_keys has it

Limit = Annotated[int, Field(ge=1, le=MOST_LIMIT)]
Reason = Annotated[str, StringConstraints(max_length=200)]


class ProviderKeyLimitsIn(Request):
    """null: no limit. What is left out stays as it is."""

    max_active: Limit | None = Field(None, description="calls that may be open at a time with the key")
    max_per_minute: Limit | None = Field(None, description="calls that may begin in a minute with the key")


class ProviderKeyIn(Request):
    key: SecretStr = Field(description="the key as the provider gave it; it is never shown again")
    limits: ProviderKeyLimitsIn | None = Field(None, description="left out: those of the key before, else none")
    check: bool = Field(
        False,
        description="ask the provider whether it takes the key, which buys nothing; one that it refuses is not kept",
    )


class ProviderKeyChange(Request):
    """Members that are left out stay as they are."""

    limits: ProviderKeyLimitsIn | None = None
    paused: bool | None = Field(None, description="false also lifts a pause that a refusal of the provider has set")
    reason: Reason = Field("", description="of a pause")

    @model_validator(mode="after")
    def _not_null(self) -> ProviderKeyChange:
        if nulls := [name for name in ("limits", "paused") if name in self.model_fields_set and not self._given(name)]:
            raise ValueError(f"{', '.join(nulls)}: may be left out, but not null")
        return self

    def _given(self, name: str) -> bool:
        return getattr(self, name) is not None


class ProviderKeysQuery(Request):
    account: Text | None = Field(None, description="id or name; left out: the keys of all")


class ProviderKeyLimitsOut(Shape):
    max_active: int | None
    max_per_minute: int | None


class ProviderKeyOut(Shape):
    """``last_four`` is empty for a short key. ``checked_at``: when the provider took it, where that was asked."""

    id: str
    object: Literal["provider_key"]
    account_id: str
    provider: str
    last_four: str
    created_at: datetime
    checked_at: datetime | None
    last_used_at: datetime | None = Field(description="at most a minute old")
    limits: ProviderKeyLimitsOut
    paused_at: datetime | None
    pause_reason: str | None = Field(
        description="the code of a refusal such as upstream_bad_credentials, or a person's"
    )


class ProviderKeyList(Shape):
    object: Literal["list"]
    data: list[ProviderKeyOut]


class ProviderKeysRotated(Shape):
    object: Literal["provider_keys.rotation"]
    sealed: int = Field(description="keys that another secret had sealed before")
    broken: list[str] = Field(description="keys that no secret here opens: their owners must store them again")
