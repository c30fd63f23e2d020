"""The standard form of a callback: ``{type, timestamp, data}``, with the task as the HTTP API shows it.

Workers import this module and no other of ``app`` but the dialects' forms (docs/decisions/0074-forms-of-callbacks.md):
it loads no Flask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.http.signing import Signer
from app.shapes.render import Renderer
from core.wire import json_text, rfc3339
from jobs.reads.tasks import Task
from webhooks import forms, standard
from webhooks.forms import Links, Message

MAX_BODY_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class SignedLinks:
    """webhooks.forms.Links by the keys of signed links, without a request."""

    base: str
    signer: Signer

    def image(self, account_id: str, job_id: str, index: int) -> str:
        """The address of an image, signed: it needs no key, and expires."""
        return f"{self.base}{self.signer.image_link(account_id, job_id, index)}"


def signed_links(base: str, keys: Mapping[str, bytes]) -> SignedLinks:
    """Return the links of callbacks; ``base`` is the public address before our paths."""
    return SignedLinks(base, Signer(keys))


def standard_form(base: str, keys: Mapping[str, bytes], *, max_wait_s: float) -> Standard:
    """Return the standard form. ``max_wait_s``: as of app.shapes.render.Renderer."""
    return Standard(Renderer(Signer(keys), base, max_wait_s=max_wait_s))


@dataclass(frozen=True, slots=True)
class Standard:
    """webhooks.forms.Form of our own API. ``renderer`` writes absolute links."""

    renderer: Renderer

    def body(self, task: Task, event: str, links: Links) -> bytes:  # noqa: ARG002 (the renderer makes them)
        """The event and the task as it is now, in less than 20 kB: what is too long for that is left out."""
        # The order's URL is left out, because its query may be a secret and other receivers of the account read this.
        data = {**self.renderer.task(task), "webhook": None}
        for cut in (_as_it_is, _without_texts, _without_request, _without_notes):
            data = cut(data)
            message = {"type": event, "timestamp": rfc3339(_happened(task, event)), "data": data}
            text = json_text(message).encode()
            if len(text) < MAX_BODY_BYTES:
                break
        return text

    def headers(self, message: Message) -> Mapping[str, str]:
        return standard.headers(message)


def _happened(task: Task, event: str) -> datetime:
    """When the event was; a progress is told as of now."""
    match event:
        case forms.QUEUED:
            return task.created_at
        case forms.STARTED:
            return task.started_at or task.created_at
        case forms.PROGRESS:
            return datetime.now(UTC)
        case _:
            return task.finished_at or datetime.now(UTC)


def _as_it_is(data: dict[str, Any]) -> dict[str, Any]:
    return data


def _without_texts(data: dict[str, Any]) -> dict[str, Any]:
    """Without what callers and models write at length."""
    request = {name: value for name, value in data["request"].items() if name not in ("prompt", "extra")}
    return {**data, "request": request, "images": [{**image, "text": None} for image in data["images"]]}


def _without_request(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "request": {}}


def _without_notes(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "metadata": {}, "warnings": [], "fallback_models": []}
