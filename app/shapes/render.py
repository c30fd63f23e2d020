"""Records as the shapes of app/shapes/schemas/: plain dicts built by hand, because status reads are hot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from app.http.signing import TASKS, Signer, image_path
from app.shapes.status_json import StatusJson
from core.wire import json_text, rfc3339
from jobs.failures import sentence
from jobs.reads.funds import Funds
from jobs.reads.tasks import Image, RawAnswer, Step, Task
from jobs.reads.waiting import Queued, WaitingFor
from jobs.states import JobStatus
from jobs.submission.estimates import InQueue
from jobs.submission.quoting import Quote
from jobs.submission.wait_model import Wait
from providers.catalog.entries import spoken
from quota.ledger import Entry
from quota.prices import credits_text


@dataclass(frozen=True, slots=True)
class Renderer:
    """``base`` is the public address before our paths, empty for links relative to this host.

    ``wait`` estimates the wait of a queued task, ``waiting`` tells the pause that it waits behind. ``max_wait_s``: how
    long a task waits for an upstream that only asks to come back later. ``link_life_s``: how long signed links live,
    None: as long as they do here.
    """

    signer: Signer
    base: str = ""
    wait: Callable[[InQueue], Wait | None] = lambda _task: None
    waiting: Callable[[Queued], WaitingFor | None] = lambda _task: None
    max_wait_s: float = 3600.0
    link_life_s: int | None = None

    def at(self, base: str, link_life_s: int | None = None) -> Renderer:
        """The same for another base, and for links that live as long as their reader asks."""
        if base == self.base and link_life_s == self.link_life_s:
            return self
        return Renderer(self.signer, base, self.wait, self.waiting, self.max_wait_s, link_life_s)

    def task(self, task: Task, inline: Mapping[int, str] = MappingProxyType({})) -> dict[str, Any]:
        """app.shapes.schemas.tasks.TaskOut. ``inline`` has the images that go along as data: URLs, by index."""
        url = f"{self.base}{TASKS}/{task.id}"
        return {
            "id": task.id,
            "object": "image.task",
            "operation": spoken(task.operation),
            # WAITING is internal: to a caller the task runs.
            "status": "running" if task.status == JobStatus.WAITING else str(task.status),
            "model": task.model,
            "provider": task.provider,
            "n": task.n,
            "priority": task.priority,
            "fallback_models": list(task.fallback_models),
            "attempts": task.attempt,
            "progress": task.progress,
            "queue_position": task.queue_position,
            "wait_estimate_s": _wait(self.wait(task)) if task.status == "queued" else None,
            "waiting_for": self._waiting_for(task),
            "created_at": rfc3339(task.created_at),
            "started_at": rfc3339(task.started_at),
            "finished_at": rfc3339(task.finished_at),
            "deadline_at": rfc3339(task.start_deadline_at),
            "price": _price(task),
            "request": _request(task.request),
            "images": [self.image(task.account_id, task.id, each, inline.get(each.index)) for each in task.images],
            "chosen": task.request.get("chosen"),
            "error": _error(task),
            "cancel": _cancel(task),
            "warnings": list(task.warnings),
            "metadata": dict(task.metadata),
            "webhook": _webhook(task),
            "cached_from": task.cached_from,
            "parent_id": task.parent_id,
            "urls": {
                "self": url,
                "image": f"{url}/image",
                "events": f"{url}/events",
                "timeline": f"{url}/timeline",
                "cancel": f"{url}/cancel",
                "rerun": f"{url}/rerun",
            },
        }

    def text(self, task: StatusJson) -> str:
        """The JSON of :meth:`task` without inline images: what the database wrote, and what only this process knows."""
        wait = json_text(_wait(self.wait(task))) if task.status == JobStatus.QUEUED else "null"
        waiting = json_text(self._waiting_for(task))
        position = "null" if task.queue_position is None else task.queue_position
        images = (
            json_text([self.image(task.account_id, task.id, each) for each in task.images]) if task.images else "[]"
        )
        url = f"{self.base}{TASKS}/{task.id}"
        return (
            f'{task.head[:-1]},"queue_position":{position},"wait_estimate_s":{wait},"waiting_for":{waiting},'
            f'{task.body[1:-1]},"images":{images},'
            f'{task.tail[1:-1]},"urls":{{"self":"{url}","image":"{url}/image","events":"{url}/events",'
            f'"timeline":"{url}/timeline","cancel":"{url}/cancel","rerun":"{url}/rerun"}}}}'
        )

    def etag(self, task: Task | StatusJson) -> str:
        """Weak, by version; with images also by the expiry of their links, or a 304 would outlive them."""
        if not task.images:
            return f'W/"{task.version}"'
        return f'W/"{task.version}-{self.signer.expiry_s(life_s=self.link_life_s)}"'

    def _waiting_for(self, task: Task | StatusJson) -> dict[str, Any] | None:
        """app.shapes.schemas.tasks.WaitingFor. A pause goes first: until it ends, nothing is tried again."""
        if pause := self.waiting(task):
            message = "an operator has paused the provider"
            return {"reason": pause.reason, "message": message, "retry_at": None, "until": rfc3339(pause.until)}
        if task.waiting is None:
            return None
        return {
            "reason": task.waiting.code,
            "message": sentence(task.waiting.code),
            "retry_at": rfc3339(task.waiting.retry_at),
            "until": rfc3339(task.waiting.until(self.max_wait_s)),
        }

    def image(self, account_id: str, job_id: str, image: Image, data_url: str | None = None) -> dict[str, Any]:
        """app.shapes.schemas.tasks.ImageOut."""
        path = image_path(job_id)
        deleted = image.deleted_at is not None
        link = None if deleted else self._signed(path, account_id, image.index)
        return {
            "index": image.index,
            "url": f"{self.base}{path}?index={image.index}",
            "signed_url": f"{self.base}{path}?{link}" if link else None,
            "mime": image.mime,
            "width": image.width_px,
            "height": image.height_px,
            "size_bytes": image.size_bytes,
            "sha256": image.sha256,
            "text": image.text,
            "seed": image.seed,
            "data_url": data_url,
            "deleted": deleted,
        }

    def _signed(self, path: str, account_id: str, index: int) -> str:
        return self.signer.link(path, account_id=account_id, index=index, life_s=self.link_life_s)


def _request(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What will really be asked, as one flat order, and what of it was normalised."""
    nested = {"size", "params", "normalised", "chosen"}
    plain = {name: value for name, value in stored.items() if name not in nested}
    return {**plain, **stored["size"], **stored["params"], "normalised": stored["normalised"]}


def _wait(wait: Wait | None) -> dict[str, float] | None:
    return {"p50": wait.p50_s, "p90": wait.p90_s} if wait else None


def _price(task: Task) -> dict[str, Any]:
    return {
        "quoted_microcredits": task.quoted_microcredits,
        "quoted": credits_text(task.quoted_microcredits),
        "captured_microcredits": task.captured_microcredits,
        "captured": None if task.captured_microcredits is None else credits_text(task.captured_microcredits),
        "released_microcredits": task.released_microcredits,
        "released": None if task.released_microcredits is None else credits_text(task.released_microcredits),
    }


def _error(task: Task) -> dict[str, str | None] | None:
    """app.shapes.schemas.tasks.TaskError. The upstream's own words are not part of it."""
    if task.failure_code is None:
        return None
    return {
        "code": task.failure_code,
        "message": task.failure_detail or task.failure_code,
        "stage": task.failure_stage,
        "provider": task.provider,
    }


def _webhook(task: Task) -> dict[str, Any] | None:
    """app.shapes.schemas.tasks.TaskWebhook."""
    if task.webhook is None:
        return None
    return {"url": task.webhook["url"], "events": list(task.webhook["events"])}


def _cancel(task: Task) -> dict[str, str | None] | None:
    if task.cancel_requested_at is None:
        return None
    return {"requested_at": rfc3339(task.cancel_requested_at), "outcome": task.cancel_outcome}


def raw_call(call: RawAnswer) -> dict[str, Any]:
    """app.shapes.schemas.tasks.RawCall."""
    return {
        "call": call.call_id,
        "first_image": call.first_image,
        "attempt": call.attempt,
        "provider": call.provider,
        "model": call.model,
        "outcome": call.outcome,
        "answered_at": rfc3339(call.answered_at),
        "answer": None if call.answer is None else dict(call.answer),
    }


def step(step: Step) -> dict[str, Any]:
    return {"seq": step.seq, "at": rfc3339(step.at), "type": step.type, "data": dict(step.data)}


def estimate(quote: Quote, n: int) -> dict[str, Any]:
    """app.shapes.schemas.orders.Estimate."""
    cached = quote.cached_unit_price_microcredits
    return {
        "object": "image.estimate",
        "operation": spoken(quote.operation),
        "model": quote.model.id,
        "provider": quote.model.provider,
        "n": n,
        "price": _estimated(quote.unit_price_microcredits, quote.total_microcredits),
        "cached_price": None if cached is None else _estimated(cached, cached * quote.checked.n),
        "chosen": None if quote.chosen is None else dict(quote.chosen),
        "normalised": dict(quote.checked.normalised),
        "warnings": list(quote.warnings),
    }


def _estimated(unit: int, total: int) -> dict[str, Any]:
    """app.shapes.schemas.orders.EstimatePrice."""
    return {
        "unit_microcredits": unit,
        "unit": credits_text(unit),
        "total_microcredits": total,
        "total": credits_text(total),
    }


def amounts(funds: Funds) -> dict[str, Any]:
    """Each part of an account's funds, in micro-credits and as text."""
    parts = {
        "available": funds.available,
        "queued": funds.queued,
        "held": funds.held,
        "spendable": funds.spendable,
    }
    whole = {f"{name}_microcredits": amount for name, amount in parts.items()}
    return {**whole, **{name: credits_text(amount) for name, amount in parts.items()}}


def entry(entry: Entry) -> dict[str, Any]:
    """app.shapes.schemas.quota.LedgerEntry."""
    return {
        "id": entry.id,
        "kind": entry.kind,
        "source": entry.source,
        "target": entry.target,
        "amount_microcredits": entry.amount_microcredits,
        "amount": credits_text(entry.amount_microcredits),
        "task_id": entry.job_id,
        "note": entry.note,
        "created_at": rfc3339(entry.created_at),
    }
