"""Rules on abuse and what tripped, as administrators see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from app.shapes.schemas.base import MAX_PAGE, Request, Shape, Text

ActionName = Literal["log", "notify", "pause_key"]
Amount = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


class RulesQuery(Request):
    account: Text | None = Field(None, description="id or name; left out: the rules of the installation")


class RuleResetQuery(Request):
    account: Text = Field(description="id or name")


class RuleChange(Request):
    """What holds for one account. Members that are left out stay as they are; null: as in the installation again."""

    account: Text = Field(description="id or name")
    enabled: bool | None = None
    action: ActionName | None = None
    at_least: Amount | None = Field(None, description="credits, or a count")
    budget: Amount | None = Field(None, description="credits; null: the account's own limit of that day or month")
    percent: Annotated[float, Field(gt=0, le=1000)] | None = Field(None, description="of the budget")
    times_usual: Annotated[float, Field(gt=1, le=1e6)] | None = None

    @model_validator(mode="after")
    def _something(self) -> RuleChange:
        if not self.model_fields_set - {"account"}:
            raise ValueError("say what to change")
        return self


class RuleOut(Shape):
    name: str
    object: Literal["abuse.rule"]
    kind: Literal["spend", "refusals", "bad_keys", "load"]
    window: str = Field(description="`day` or `month` (UTC) so far, or so long back from now: `90s`, `10m`, `1h`")
    per: Literal["account", "key", "address"]
    unit: str = Field(description="of `at_least` and `budget`")
    at_least: float | None
    budget: float | None
    percent: float | None
    times_usual: float | None
    action: ActionName
    enabled: bool
    own: dict[str, Any] | None = Field(description="what the account has in place of the installation's members")


class RuleList(Shape):
    object: Literal["list"]
    data: list[RuleOut]


class AbuseEventsQuery(Request):
    """All that is given must hold."""

    account: Text | None = Field(None, description="id or name")
    rule: Text | None = None
    acknowledged: bool | None = None
    cursor: Text | None = Field(None, description="`next_cursor` of the page before")
    limit: int = Field(50, ge=1, le=MAX_PAGE)


class AcknowledgeIn(Request):
    note: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")] = ""


class OperatorTestOut(Shape):
    object: Literal["operator.test"]
    messages: int = Field(description="one for each URL of the settings")


class AbuseEventOut(Shape):
    """A rule that tripped. Once a window for its account, key or address."""

    id: str
    object: Literal["abuse.event"]
    at: datetime
    rule: str
    kind: str
    action: ActionName = Field(description="of the rule, as it was")
    account_id: str | None
    key_id: str | None = Field(description="null: the account as a whole, or an address; `jwt`: tokens")
    address: str | None
    figures: dict[str, Any] = Field(
        description="`value` and `threshold` in `unit`, `window`, `since`, and `usual` or `budget` where there is one"
    )
    paused_keys: list[str]
    spared_keys: dict[str, str] = Field(
        description="keys that it did not pause, and why: `last_admin_key`, `not_a_key`, `key_ended`"
    )
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    note: str


class AbuseEventList(Shape):
    object: Literal["list"]
    data: list[AbuseEventOut]
    next_cursor: str | None
