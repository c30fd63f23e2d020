"""What Black Forest Labs answers, as our classes: the state of a task, and the errors of a submit.

A task's state is read from the body before the HTTP status is looked at: a failed task may come as 503 with a
normal body, and refused content always comes as 200 (CONTRACT.md, sections 2 and 7).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from providers.base import Finished, Missing, ResultImage, Running
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    ProviderError,
    Uncertain,
    UnknownModel,
)
from providers.http.client import HttpResponse
from providers.reported_cost import ReportedCost
from providers.shared import usage
from providers.shared.looks import as_not_run
from providers.shared.reading import detail_text, json_object
from providers.shared.redaction import redact
from providers.shared.retry_after import retry_after_s
from providers.shared.statuses import by_status

# 24 tasks at a time are accepted, fewer of some models; one ends every few seconds (section 7).
RATE_LIMIT_WAIT_S = 5.0
CREDITS_PER_USD = 100


def read_task(answer: HttpResponse, task_id: str) -> Finished | Running | Missing:
    """The state of the task (section 3). Raises: ProviderError for one that failed.

    ``Missing`` is the upstream's "Task not found", which has several meanings (section 3). An answer
    that is not about the task is a failed look (NotRun, Uncertain), whatever its status.
    """
    task = json_object(answer.body) or {}
    status = _status(task)
    if status is None:
        return _stateless(answer)
    if not _is_about(task, task_id, answer.status):
        raise Uncertain("upstream_broken_answer", "not the task that was asked for")
    return _state(task, status)


def _status(task: Mapping[str, Any]) -> str | None:
    found = task.get("status") or task.get("state")
    return found.strip() if isinstance(found, str) and found.strip() else None


def _is_about(task: Mapping[str, Any], task_id: str, http_status: int) -> bool:
    """Whether the answer is about the task: a proxy may send ``{"status": "error"}`` too, with another status."""
    found = task.get("id")
    if found is not None:
        return bool(found == task_id)
    return http_status == 200 or "result" in task or "details" in task


def _state(task: Mapping[str, Any], status: str) -> Finished | Running | Missing:
    """The state by its word; an unknown word is pending until the call's own deadline."""
    match status.casefold():
        case "ready":
            return _finished(task)
        case "request moderated":
            raise ContentRefused(detail=_details(task), stage="input", charged=_is_charged(task), cost=cost_in(task))
        case "content moderated":
            raise ContentRefused(detail=_details(task), stage="output", charged=_is_charged(task), cost=cost_in(task))
        case "error" | "failed":
            charged = _is_charged(task)
            detail, cost = _details(task), cost_in(task)
            raise Failed("upstream_failed", detail, retryable=not charged, billed=charged, cost=cost)
        case "task not found":
            return Missing()
        case _:
            return Running(progress=usage.number(task.get("progress")), step=status[:100])


def _finished(task: Mapping[str, Any]) -> Finished:
    """Always one image, as a link that is valid for ten minutes."""
    result = task.get("result")
    found = result if isinstance(result, dict) else {}
    url, seed, prompt = found.get("sample"), found.get("seed"), found.get("prompt")
    if not isinstance(url, str) or not url.strip():
        # The task is done, so the image was made and billed: a new order would buy it twice.
        detail = "Ready without a link"
        raise Failed("upstream_empty_result", detail, retryable=False, billed=True, cost=cost_in(task))
    image = ResultImage(
        url=url.strip(),
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        revised_prompt=prompt if isinstance(prompt, str) else None,
    )
    return Finished([image], cost_in(task))


def cost_in(document: Mapping[str, Any]) -> ReportedCost | None:
    """The price in a submit's answer or a result, in credits of one US cent (sections 1 and 2)."""
    told = usage.counts({name: document.get(name) for name in ("cost", "input_mp", "output_mp")})
    usd = usage.amount_usd(told.get("cost"), units_per_usd=CREDITS_PER_USD)
    return usage.reported(told, usd=usd) if "cost" in told else None


def _is_charged(task: Mapping[str, Any]) -> bool:
    """Whether the task says that it cost something; whether refused work is billed is not documented."""
    cost = task.get("cost")
    return isinstance(cost, int | float) and not isinstance(cost, bool) and cost > 0


def _details(task: Mapping[str, Any]) -> str:
    """All of ``details``, redacted: a text, or an object with unknown keys."""
    found = task.get("details")
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False) if found else ""
    return redact(f"{_status(task)}: {text}")


def _stateless(answer: HttpResponse) -> Running:
    """An answer without a state says nothing about the task. Raises: NotRun, Uncertain."""
    if answer.status == 202:
        return Running()  # how old nodes of the vendor say "pending" (section 3)
    if 200 <= answer.status < 300:
        raise Uncertain("upstream_broken_answer", "no status in the answer")
    raise as_not_run(classify(answer))


def classify(answer: HttpResponse) -> ProviderError:
    """What an answer other than 2xx to a submit means (section 7)."""
    document = json_object(answer.body)
    text = detail_text(document, "detail", "message", "error")
    detail = redact(f"HTTP {answer.status} {text}")
    wait_s = retry_after_s(answer.headers, text)
    is_text = isinstance((document or {}).get("detail"), str)
    if answer.status == 403 or (answer.status == 422 and is_text and "api key" in text.lower()):
        return BadCredentials("upstream_bad_credentials", detail)
    if answer.status == 404 and document is not None:  # each model has its own path
        return UnknownModel("upstream_model_unknown", detail)
    if answer.status == 429:
        return NotRun("upstream_rate_limited", detail, retry_after_s=wait_s or RATE_LIMIT_WAIT_S)
    return by_status(answer.status, detail, wait_s=wait_s)
