"""The headers that name a task, its price and how it was made, the same on native answers and on every dialect's."""

from __future__ import annotations

from decimal import Decimal

from flask import current_app

from jobs.reads.tasks import Task
from quota.prices import CREDITS_PER_USD, MICROCREDITS_PER_CREDIT, credits_text

LITELLM_COST = "LITELLM_COST_HEADER"  # in app.config: DARKROOM_LITELLM_COST_HEADER

# On the answers to orders of every API, and on a task's own, where an earlier job's images are the answer.
CACHE, CACHE_HIT = "X-Darkroom-Cache", "hit"

NAMES = (
    "X-Task-Id",
    "X-Provider",
    "X-Attempts",
    "X-Fallbacks",
    "X-Cost-Quoted",
    "X-Cost-Captured",
    "X-Balance-Remaining",
    CACHE,
)


def task_headers(task: Task, *, spendable_microcredits: int | None = None) -> dict[str, str]:
    """The headers of an answer about a task, with amounts in credits.

    ``spendable_microcredits``: the account's balance after the submit, where it is known (jobs.lifecycle.Submitted).
    ``X-Cost-Captured`` and ``x-litellm-response-cost`` (US dollars, with DARKROOM_LITELLM_COST_HEADER) come with the
    end. Needs an application context.
    """
    headers = {
        "X-Task-Id": task.id,
        "X-Provider": task.provider,
        "X-Attempts": str(task.attempt),
        "X-Fallbacks": str(fallbacks_used(task)),
        "X-Cost-Quoted": credits_text(task.quoted_microcredits),
    }
    if task.captured_microcredits is not None:
        headers["X-Cost-Captured"] = credits_text(task.captured_microcredits)
        if current_app.config.get(LITELLM_COST):
            headers["x-litellm-response-cost"] = usd_text(task.captured_microcredits)
    if task.cached_from is not None:
        headers[CACHE] = CACHE_HIT
    if spendable_microcredits is not None:
        headers["X-Balance-Remaining"] = credits_text(spendable_microcredits)
    return headers


def fallbacks_used(task: Task) -> int:
    """How many models the task has fallen over to; 0 while it is the first model's."""
    models = list(task.fallback_models)
    return models.index(task.model) + 1 if task.model in models else 0


def usd_text(microcredits: int) -> str:
    """Micro-credits as a plain decimal number of US dollars: 5300000 -> '0.053'."""
    dollars = Decimal(microcredits) / MICROCREDITS_PER_CREDIT / CREDITS_PER_USD
    return f"{dollars.normalize():f}"
