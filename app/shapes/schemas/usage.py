"""Usage: what was sold, and for administrators what it cost."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, WithJsonSchema

from app.shapes.schemas.base import Credits, Microcredits, Request, Shape, Text
from jobs.reads.usage import DIMENSIONS

FIRST_YEAR, LAST_YEAR = 1970, 9998


def _from_its_midnight(value: Any) -> Any:
    """A date alone is its first moment in UTC. Numbers are no times: ``2026`` is not meant as seconds."""
    if not re.match(r"\d{4}-\d{2}-\d{2}", str(value)):
        raise ValueError("must be a day like 2026-11-20, or a time like 2026-11-20T12:00:00Z with its zone")
    return f"{value}T00:00:00Z" if len(str(value)) == 10 else value


def _of_our_times(value: datetime) -> datetime:
    """Moments that have another in every zone, as the first and the last year of the calendar do not."""
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"must be between the years {FIRST_YEAR} and {LAST_YEAR}")
    return value


Moment = Annotated[
    AwareDatetime,
    Field(strict=False),  # what comes in a query is text
    BeforeValidator(_from_its_midnight),
    AfterValidator(_of_our_times),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}),
]


def _known_dimensions(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    unknown = [name for name in names if name not in DIMENSIONS]
    twice = sorted({name for name in names if names.count(name) > 1} - set(unknown))
    faults = [f"{name[:40]!r} is not one of {', '.join(DIMENSIONS)}" for name in dict.fromkeys(unknown)]
    faults += [f"{name!r} is named more than once" for name in twice]
    if faults:
        raise ValueError("; ".join(faults))
    return ",".join(names)


class UsageQuery(Request):
    from_: Moment | None = Field(
        None, alias="from", description="from this moment on, or this day in UTC; left out: the first of this month"
    )
    to: Moment | None = Field(None, description="before this moment, or before this day in UTC; left out: now")
    group_by: Annotated[Text, AfterValidator(_known_dimensions)] | None = Field(
        None,
        description=f"any of {', '.join(DIMENSIONS)}, with commas between; left out: one sum",
        examples=["day,model"],
    )
    account: Text | None = Field(
        None, description="for administrators: the id or name of an account, or `all`; left out: the caller's own"
    )
    format: Literal["json", "csv"] | None = Field(None, description="left out: as Accept asks, JSON by default")

    @property
    def by(self) -> tuple[str, ...]:
        return tuple(self.group_by.split(",")) if self.group_by else ()


class UsageAmounts(Shape):
    jobs: int = Field(description="that ended, each at the time of its settlement")
    images: int = Field(description="that were sold")
    captured_microcredits: Microcredits
    captured: Credits
    released_microcredits: int = Field(description="held, and given back at the end")
    released: Credits


class UsageCost(Shape):
    """What these jobs cost us. A cost is under the model and provider of its call."""

    calls: int = Field(description="calls to upstreams that may have been billed")
    uncosted_calls: int = Field(description="those of them whose cost neither the upstream nor the catalogue tells")
    reported_microusd: int = Field(description="as upstreams reported it")
    computed_microusd: int = Field(description="of calls without a report, as the catalogue expects it")
    cost_microusd: int = Field(description="both together")
    margin_microcredits: int = Field(description="captured less cost")
    margin: Credits


class UsageGroup(UsageAmounts):
    day: str | None = Field(
        description="in UTC; like the next six null unless it is grouped by", examples=["2026-11-20"]
    )
    account_id: str | None
    key_id: str | None = Field(description="the API key that ordered, or `jwt`; null also where that is not known")
    operation: str | None
    model: str | None
    provider: str | None
    outcome: str | None = Field(description="succeeded, failed or cancelled")
    cost: UsageCost | None = Field(description="null unless the key has the scope admin")


class UsageTotals(UsageAmounts):
    cost: UsageCost | None = Field(description="null unless the key has the scope admin")


class UsageOut(Shape):
    object: Literal["usage"]
    from_: datetime = Field(alias="from")
    to: datetime
    account: str = Field(description="the id of the account, or `all`")
    group_by: list[str]
    data: list[UsageGroup]
    totals: UsageTotals
