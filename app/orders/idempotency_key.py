"""The Idempotency-Key of a request, with a fingerprint of what it stands for (docs/api-conventions.md section 7)."""

from __future__ import annotations

import hashlib
import json
import re

from flask import Request

from app.http.errors import IdempotencyKeyError
from jobs.submission.idempotency import IdempotencyKey, of_sdk_attempt
from jobs.submission.order import Order

_RETRY_COUNT = re.compile(r"[0-9]{1,2}")
_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
_BARE = re.compile(r"[\x21\x23-\x7e]{1,255}")


def read(request: Request, order: Order, *, key_id: str) -> IdempotencyKey | None:
    """The caller's own key, or one made for an SDK that counts its retries; None for a request with neither.

    ``key_id`` is that of the API key. Raises IdempotencyKeyError for a malformed header.
    """
    header = request.headers.get("Idempotency-Key")
    if header is None:
        count = request.headers.get("x-stainless-retry-count", "")
        if not _RETRY_COUNT.fullmatch(count):
            return None
        return of_sdk_attempt(key_id, _fingerprint(request, order), int(count))
    header = header.strip()
    if quoted := _QUOTED.fullmatch(header):
        key = re.sub(r'\\(["\\])', r"\1", quoted[1])
    elif _BARE.fullmatch(header):
        key = header
    else:
        raise IdempotencyKeyError
    return IdempotencyKey(key, _fingerprint(request, order))


def _fingerprint(request: Request, order: Order) -> bytes:
    """A hash over method, route and parsed parts: a form's boundary and the order of keys do not change it."""
    digest = hashlib.sha256(f"{request.method}\n{request.path}\n".encode())
    digest.update(json.dumps(order.fields, sort_keys=True, separators=(",", ":")).encode())
    for image in order.images:
        content = image.data if image.data is not None else image.text.encode()
        digest.update(f"\n{image.role} {image.data is None} {hashlib.sha256(content).hexdigest()}".encode())
    return digest.digest()
