"""fal's form of a callback: its body, and its signature by the key of this installation. Pure, and without Flask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.dialects.fal import result
from app.dialects.fal.request_ids import request_id_of
from jobs.errors import ImageGoneError
from jobs.reads.tasks import Task
from webhooks.forms import Links, Message

NAME = "fal"


def body(task: Task, event: str, links: Links) -> bytes:  # noqa: ARG001 (fal tells of the end alone)
    """The end of a request: ``OK`` with its output, else ``ERROR`` with the answer that its result has."""
    request_id = request_id_of(task.id)
    told: dict[str, Any] = {"request_id": request_id, "gateway_request_id": request_id}
    failed = result.failure(task)
    if failed is not None:
        told |= {"status": "ERROR", "error": failed.body["message"], "payload": dict(failed.body)}
    else:
        try:
            told |= {"status": "OK", "payload": result.payload(task, links)}
        except ImageGoneError as error:
            told |= {"status": "OK", "payload": None, "payload_error": error.detail}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def headers(message: Message) -> Mapping[str, str]:
    """The headers of an attempt: a receiver checks them against the keys at /fal/.well-known/jwks.json."""
    request_id, sent_at = request_id_of(message.job_id), str(message.sent_at)
    signed = signed_text(request_id, message.account_id, sent_at, message.body)
    signature = Ed25519PrivateKey.from_private_bytes(message.ed25519_seed).sign(signed)
    return {
        "Content-Type": "application/json",
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": message.account_id,
        "X-Fal-Webhook-Timestamp": sent_at,
        "X-Fal-Webhook-Signature": signature.hex(),
    }


def signed_text(request_id: str, user_id: str, sent_at: str, body: bytes) -> bytes:
    """What is signed: three headers and the body's SHA-256 in hex, a line each."""
    return "\n".join((request_id, user_id, sent_at, hashlib.sha256(body).hexdigest())).encode()
