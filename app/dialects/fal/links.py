"""Absolute addresses in fal's answers: its clients follow them, and open those of images without a key."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from flask import current_app, request

from app.http.signing import Signer
from app.shapes.render import TASKS, Renderer

QUEUE = "/fal/queue"
HTTPS_ONLY = "fal-client/"


@dataclass(frozen=True, slots=True)
class Here:
    """webhooks.forms.Links of one request; a generator takes it before its request is gone."""

    base: str
    signer: Signer

    def image(self, account_id: str, job_id: str, index: int) -> str:
        """The address of an image, signed: it needs no key, and expires."""
        path = f"{TASKS}/{job_id}/image"
        return f"{self.base}{path}?{self.signer.link(path, account_id=account_id, index=index)}"


def here() -> Here:
    """The links of this request."""
    shown: Renderer = current_app.extensions["darkroom_renderer"]
    return Here(shown.base or f"{_scheme()}://{request.host}", shown.signer)


def _scheme() -> str:
    """That of the request, but https for fal's Python client, which speaks nothing else: what ends its TLS before us
    need not say so."""
    return "https" if request.headers.get("User-Agent", "").startswith(HTTPS_ONLY) else request.scheme


def of_request(base: str, prefix: str, request_id: str) -> dict[str, str]:
    """The addresses of a request: its result, its status, and where it is cancelled. ``prefix``: owner and alias."""
    root = f"{base}{QUEUE}/{quote(prefix)}/requests/{request_id}"
    return {"response_url": root, "status_url": f"{root}/status", "cancel_url": f"{root}/cancel"}
