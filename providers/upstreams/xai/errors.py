"""The error answers of xAI as our classes: OpenAI's statuses, but flat bodies, with meanings in their texts.

Source: providers/upstreams/xai/CONTRACT.md, section 7, read 2026-11-20.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    UnknownModel,
)
from providers.reported_cost import ReportedCost
from providers.shared import usage as reports
from providers.shared.openai_errors import Fault, describe, read_fault
from providers.shared.reading import json_object
from providers.shared.retry_after import retry_after_s
from providers.shared.statuses import by_status

TICKS_PER_USD: Final = 10_000_000_000

_MODERATED = re.compile(r"content[- ]moderat|\brejected\b")
_NO_MONEY = re.compile(
    r"spending[- ]limit|out of credits|used all available credits|does(n['\u2019]?t| not) have any credits"
)


class _Bill(NamedTuple):
    """Whether a failed call is billed, and its price."""

    due: bool
    cost: ReportedCost | None


def classify(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What an answer other than 2xx means for the one call it answers.

    The text decides before the status: a bad key and a refused image both come as 400, an empty account as 403
    or 429. The text is in an object, in ``error`` itself, or bare.
    """
    document = json_object(body)
    fault = read_fault(document) or Fault(message=body[:1000].decode(errors="replace"))
    detail, bill = describe(status, fault), _Bill(was_billed(document), cost_of(document))
    wait_s = retry_after_s(headers, fault.message)
    decided = _by_words(status, f"{fault.code} {fault.message}".lower(), detail, bill)
    # A proxy may answer with JSON too, but not with a code of xAI.
    if decided is None and any(fault.words):
        decided = _server_fault(status, detail, wait_s, bill)
    return decided or by_status(status, detail, wait_s=wait_s)


def _by_words(status: int, text: str, detail: str, bill: _Bill) -> ProviderError | None:
    if status == 400 and "api key" in text:
        return BadCredentials("upstream_bad_credentials", detail)
    if status == 400 and _MODERATED.search(text):
        return ContentRefused(detail=detail, stage="output", charged=bill.due, cost=bill.cost)
    if status in {403, 429} and _NO_MONEY.search(text):
        return OutOfCredit("upstream_out_of_credit", detail)
    if status == 404 and "model" in text:
        return UnknownModel("upstream_model_unknown", detail)
    return None


def _server_fault(status: int, detail: str, wait_s: float | None, bill: _Bill) -> ProviderError | None:
    if status == 500:
        return Failed("upstream_failed", detail, retryable=not bill.due, billed=bill.due, cost=bill.cost)
    if status == 503:  # the only error after which xAI's own client sends again (section 5)
        return NotRun("upstream_overloaded", detail, retry_after_s=wait_s)
    return None


def was_billed(answer: Mapping[str, Any] | None) -> bool:
    """Whether the answer names a price above zero, however large."""
    usage = (answer or {}).get("usage")
    ticks = usage.get("cost_in_usd_ticks") if isinstance(usage, dict) else None
    return isinstance(ticks, int) and ticks > 0


def cost_of(answer: Mapping[str, Any] | None) -> ReportedCost | None:
    """The cost in an answer, of success or error, with its token counts (section 3)."""
    told = reports.counts((answer or {}).get("usage"))
    return reports.reported(told, usd=reports.amount_usd(told.get("cost_in_usd_ticks"), units_per_usd=TICKS_PER_USD))
