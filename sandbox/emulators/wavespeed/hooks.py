"""Webhooks of the WaveSpeed twin: a signed POST when a task ends (section 5 of the contract sheet)."""

import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import Callable
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

TRIES = 4  # once, and three repeats
FIRST_PAUSE_S = 0.5
ANSWER_S = 20.0
LOOK_S = 0.02


def secret_of(owner: str) -> str:
    """The signing secret of a key: one for each."""
    return "whsec_" + hashlib.sha256(f"webhook {owner}".encode()).hexdigest()


def takes(url: str) -> bool:
    """Whether a webhook may go there: https, or plain http to this very machine, where tests listen."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1"))


def signed(body: bytes, *, secret: str, number: str, at_s: int) -> dict[str, str]:
    """The headers of a delivery. The secret is used as text, without its prefix and not decoded."""
    message = f"{number}.{at_s}.".encode() + body
    digest = hmac.new(secret.removeprefix("whsec_").encode(), message, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "webhook-id": number,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v3,{digest}",
    }


def deliver_when(due: Callable[[], bool], body_of: Callable[[], bytes], *, url: str, secret: str) -> None:
    """Wait in a thread of its own until ``due``, then deliver, with repeats after growing pauses."""

    def run() -> None:
        while not due():
            time.sleep(LOOK_S)
        body, number = body_of(), f"msg_{uuid.uuid4().hex}"
        for attempt in range(TRIES):
            if _post(url, body, signed(body, secret=secret, number=number, at_s=int(time.time()))):
                return
            time.sleep(FIRST_PAUSE_S * 2**attempt)

    threading.Thread(target=run, daemon=True, name="wavespeed-webhook").start()


def _post(url: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        with urlopen(Request(url, data=body, headers=headers, method="POST"), timeout=ANSWER_S) as answer:  # noqa: S310
            return bool(200 <= answer.status < 300)
    except (HTTPError, HTTPException, OSError):
        return False


def body_of(prediction: dict[str, object]) -> bytes:
    """A bare prediction, without the envelope."""
    return json.dumps(prediction, ensure_ascii=False).encode()
