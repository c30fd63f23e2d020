"""The ways in: one order in the words of each API, and what its answers say of the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests

from chaos.orders import MixedOrder
from core.ids import as_uuid

# OpenAI's SDKs send these again without being told to.
_REPEATED = (408, 409, 429)


@dataclass(frozen=True)
class Asking:
    """One POST. ``params`` go into the query."""

    path: str
    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)


def asking(order: MixedOrder, attempt: int, *, hook: str | None, parent: str | None) -> Asking:
    """The request of an order. ``attempt`` counts from 0; ``hook`` is told of the job; ``parent`` is made again."""
    keyed = {"Idempotency-Key": order.key}
    body = dict(order.body)
    shape = {name: value for name, value in body.items() if name not in ("model", "priority", "metadata")}
    told = {"webhook_url": hook} if hook else {}
    if order.way == "openai":
        counted = {"x-stainless-retry-count": str(attempt), "User-Agent": f"OpenAI/Python chaos {order.key}"}
        return Asking("/v1/images/generations", {**shape, "model": body["model"], "response_format": "url"}, counted)
    if order.way == "replicate":
        cancel = {"Cancel-After": f"{order.given_up_after_s}s"} if order.given_up_after_s else {}
        named = {"model": body["model"], "input": shape}
        filtered = {"webhook": hook, "webhook_events_filter": ["completed"]} if hook else {}
        return Asking("/v1/predictions", named | filtered, keyed | cancel)
    if order.way == "fal":
        low = {"X-Fal-Queue-Priority": str(body["priority"])}
        return Asking(_fal(order), shape, keyed | low, {"fal_webhook": hook} if hook else {})
    if parent:
        return Asking(f"/api/images/tasks/{parent}/rerun", body | told, keyed)
    return Asking(f"/api/images/{order.operation}", body | told, keyed)


def task_id(order: MixedOrder, answer: requests.Response) -> str | None:
    """The task that an answer is about; None where it made none."""
    if named := answer.headers.get("X-Task-Id"):
        return named
    return str(answer.json()["id"]) if answer.ok and order.way != "openai" else None


def final(order: MixedOrder, answer: requests.Response) -> bool:
    """Whether a client of this way leaves it at this answer."""
    if (told := answer.headers.get("x-should-retry")) and order.way == "openai":
        return told == "false"
    if order.way == "openai":
        return answer.status_code < 500 and answer.status_code not in _REPEATED
    return answer.status_code < 500 and answer.status_code != 429


def status_path(order: MixedOrder, task: str) -> str:
    """Where a client of this way asks how far its task is."""
    if order.way == "replicate":
        return f"/v1/predictions/{task}"
    if order.way == "fal":
        return f"{_fal(order)}/requests/{as_uuid(task)}/status"
    return f"/api/images/tasks/{task}"


def says_ended(answer: Mapping[str, Any]) -> bool:
    """Whether an answer of a status path says that the task has ended."""
    return answer["status"] in ("succeeded", "failed", "cancelled", "canceled", "COMPLETED")


def _fal(order: MixedOrder) -> str:
    return f"/fal/queue/darkroom/{quote(str(order.body['model']))}"
