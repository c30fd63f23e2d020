"""Usage as JSON (app.shapes.schemas.usage) and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from jobs.reads.usage import Amounts, Usage
from providers.catalog.entries import spoken
from quota.prices import CREDITS_PER_USD, credits_text

# Micro-credits in a micro-USD.
RATE = CREDITS_PER_USD
MEMBERS = {"account": "account_id", "key": "key_id"}


def group(usage: Usage, *, costs: bool) -> dict[str, Any]:
    """app.shapes.schemas.usage.UsageGroup."""
    return {
        "day": usage.day,
        "account_id": usage.account,
        "key_id": usage.key or None,
        "operation": spoken(usage.operation) if usage.operation else usage.operation,
        "model": usage.model,
        "provider": usage.provider,
        "outcome": usage.outcome,
        **totals(usage.amounts, costs=costs),
    }


def totals(amounts: Amounts, *, costs: bool) -> dict[str, Any]:
    """app.shapes.schemas.usage.UsageTotals."""
    return {**_sold(amounts), "cost": _cost(amounts) if costs else None}


def csv_text(found: Sequence[Usage], by: Sequence[str], *, costs: bool) -> str:
    """A line for each group below a line of names: what it is grouped by, what was sold, and what that cost."""
    names = [MEMBERS.get(name, name) for name in by]
    file = io.StringIO()
    sums = [*_sold(Amounts()), *(_cost(Amounts()) if costs else ())]
    writer = csv.DictWriter(file, [*names, *sums], extrasaction="ignore")
    writer.writeheader()
    for each in found:
        line = group(each, costs=costs)
        writer.writerow({**line, **(line["cost"] or {})})
    return file.getvalue()


def _sold(amounts: Amounts) -> dict[str, Any]:
    return {
        "jobs": amounts.jobs,
        "images": amounts.images,
        "captured_microcredits": amounts.captured,
        "captured": credits_text(amounts.captured),
        "released_microcredits": amounts.released,
        "released": credits_text(amounts.released),
    }


def _cost(amounts: Amounts) -> dict[str, Any]:
    margin = amounts.captured - amounts.cost * RATE
    return {
        "calls": amounts.calls,
        "uncosted_calls": amounts.uncosted_calls,
        "reported_microusd": amounts.reported_cost,
        "computed_microusd": amounts.computed_cost,
        "cost_microusd": amounts.cost,
        "margin_microcredits": margin,
        "margin": credits_text(margin),
    }
