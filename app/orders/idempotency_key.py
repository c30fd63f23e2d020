"""What makes a request a repeat: its Idempotency-Key, or an SDK's count of its own attempts, each with a fingerprint of
what it stands for (docs/api-conventions.md section 7).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

from flask import Request

from app.http.errors import IdempotencyKeyError
from jobs.submission.idempotency import IdempotencyKey
from jobs.submission.order import Order
from jobs.submission.sdk_attempts import SdkAttempt

SDK_HEADERS = "x-stainless-"
COUNT_HEADER = "x-stainless-retry-count"
_RETRY_COUNT = re.compile(r"[0-9]{1,2}")
_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
_BARE = re.compile(r"[\x21\x23-\x7e]{1,255}")
_PIECE_BYTES = 64 * 1024


def read(request: Request, order: Order, *, key_id: str) -> IdempotencyKey | SdkAttempt | None:
    """The caller's own key, or the attempt of an SDK that counts its retries; None for a request with neither.

    ``key_id`` is that of the API key. Raises IdempotencyKeyError for a malformed header.
    """
    header = request.headers.get("Idempotency-Key")
    if header is None:
        count = request.headers.get(COUNT_HEADER, "")
        if not _RETRY_COUNT.fullmatch(count):
            return None
        return SdkAttempt(_sdk_fingerprint(request, key_id), int(count))
    return IdempotencyKey(_key_of(header), _fingerprint(request, order))


def header_key(request: Request) -> str | None:
    """The Idempotency-Key of a request that is no order; None without one. Raises IdempotencyKeyError."""
    header = request.headers.get("Idempotency-Key")
    return None if header is None else _key_of(header)


def read_for(request: Request, body: bytes) -> IdempotencyKey | None:
    """The caller's own key for a request that is no single order; ``body`` is a digest of its body. Raises
    IdempotencyKeyError."""
    key = header_key(request)
    if key is None:
        return None
    return IdempotencyKey(key, hashlib.sha256(f"{request.method}\n{request.path}\n".encode() + body).digest())


def _key_of(header: str) -> str:
    """The key in the header, quoted or bare. Raises IdempotencyKeyError."""
    header = header.strip()
    if quoted := _QUOTED.fullmatch(header):
        return re.sub(r'\\(["\\])', r"\1", quoted[1])
    if _BARE.fullmatch(header):
        return header
    raise IdempotencyKeyError


def _fingerprint(request: Request, order: Order) -> bytes:
    """A hash over method, route and parsed parts: a form's boundary and the order of keys do not change it."""
    digest = hashlib.sha256(f"{request.method}\n{request.path}\n".encode())
    digest.update(json.dumps(order.fields, sort_keys=True, separators=(",", ":")).encode())
    if order.client:
        digest.update(json.dumps(order.client, sort_keys=True, separators=(",", ":")).encode())
    for image in order.images:
        content = image.data if image.data is not None else image.text.encode()
        digest.update(f"\n{image.role} {image.data is None} {hashlib.sha256(content).hexdigest()}".encode())
    return digest.digest()


def _sdk_fingerprint(request: Request, key_id: str) -> bytes:
    """A hash over who asks from where by which client, and what: the same for every attempt of one call.

    An SDK sends a JSON body again byte for byte; of a form, the boundary changes.
    """
    asker = (key_id, request.method, request.full_path, request.remote_addr or "", request.user_agent.string)
    digest = hashlib.sha256(json.dumps([*asker, *_sdk_headers(request)]).encode())
    if request.mimetype == "multipart/form-data":
        for part in _parts(request):
            digest.update(f"\n{part}".encode())
    else:
        digest.update(request.get_data(cache=True))
    return digest.digest()


def _sdk_headers(request: Request) -> list[str]:
    """What the SDK says of itself, but for what differs between attempts."""
    named = ((name.lower(), value) for name, value in request.headers.items())
    return sorted(
        f"{name}: {value}"
        for name, value in named
        if name.startswith(SDK_HEADERS) and name != COUNT_HEADER and not name.endswith("timeout")
    )


def _parts(request: Request) -> Iterator[str]:
    """Each part of a form: its name, and its text or the type and hash of its content."""
    for name, values in request.form.lists():
        yield json.dumps([name, *values])
    for name, file in request.files.items(multi=True):
        file.seek(0)
        digest = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        yield json.dumps([name, file.content_type, digest.hexdigest()])
