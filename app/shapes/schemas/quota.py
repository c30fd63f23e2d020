"""Credits, limits and transfers of an account."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.shapes.schemas.base import MAX_PAGE, Credits, Microcredits, Request, Shape


class Limit(Shape):
    """One limit that holds for the caller, by the name that headers and errors have for it."""

    name: str
    unit: Literal["requests", "concurrent-requests", "images", "microcredits"]
    limit: int
    window_s: int | None = Field(description="null: of what is under way at once, or of a day or month (UTC)")
    requests: int | None = Field(description="`limit`, where it is one of requests")


class ResultCacheTerms(Shape):
    max_age_s: float = Field(description="seconds after its end in which a task answers equal orders with a seed")
    price_percent: float = Field(description="what such an answer costs, of the full price")


class QuotaOut(Shape):
    object: Literal["quota"]
    available_microcredits: Microcredits
    available: Credits
    queued_microcredits: int = Field(description="the part of available that queued work will need")
    queued: str
    held_microcredits: int = Field(description="held for work under way")
    held: str
    spendable_microcredits: int = Field(description="what may still be ordered: available less queued")
    spendable: str
    window: int = Field(description="most of your tasks in a provider's queue at once")
    limits: list[Limit]
    result_cache: ResultCacheTerms | None = Field(
        description="the terms on which an earlier task answers an equal order; null: every order is made"
    )


class LedgerQuery(Request):
    cursor: int | None = Field(None, ge=1, le=2**63 - 1)
    limit: int = Field(50, ge=1, le=MAX_PAGE)


class LedgerEntry(Shape):
    id: int
    kind: Literal["grant", "hold", "capture", "release", "adjust"]
    source: str
    target: str
    amount_microcredits: Microcredits
    amount: Credits
    task_id: str | None
    note: str
    created_at: datetime


class LedgerOut(Shape):
    object: Literal["list"]
    data: list[LedgerEntry]
    next_cursor: int | None
