"""The bytes of a stored image as an answer: whole or in part, and never anything that could run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import BinaryIO

from flask import Response, request

from app.http.cors import resource_policy, vary
from app.services import Services
from storage import models3d
from storage.base import TEXT, StoredImage

CHUNK_BYTES = 64 * 1024
MAX_AGE_S = 7 * 86_400
# No other type is served, whatever a row says.
EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    **models3d.EXTENSIONS,
    TEXT: "txt",
}
# Nothing of a stored file runs, wherever it is opened.
SAFE_HEADERS = {"Content-Security-Policy": "default-src 'none'; sandbox", "Referrer-Policy": "no-referrer"}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def guarded(sha256: str, mime: str, *, name: str, expires: int | None, download: bool) -> dict[str, str]:
    """The headers of an image. ``name`` is made of our own ids: no text of a caller gets into a header. ``expires``:
    when the signed link ends that was used, None for a key."""
    kind = "attachment" if download else "inline"
    return {
        "ETag": f'"{sha256}"',
        "Cache-Control": f"private, max-age={cacheable_s(expires)}, immutable",
        "Vary": vary(),
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(name, mime, kind),
        "Cross-Origin-Resource-Policy": resource_policy(signed=expires is not None),
        **SAFE_HEADERS,
    }


def disposition(name: str, mime: str, kind: str = "inline") -> str:
    """Content-Disposition of an image. ``name`` is made of our own ids: no text of a caller gets into a header."""
    return f'{kind}; filename="{name}.{EXTENSIONS.get(mime, "bin")}"'


def served_as(mime: str) -> str:
    """The media type under which a stored file is sent."""
    return mime if mime in EXTENSIONS else "application/octet-stream"


def content_type(mime: str) -> str:
    return f"{mime}; charset=utf-8" if mime == TEXT else mime


def cacheable_s(expires: int | None) -> int:
    """How long an image may be cached; by a link, which ends at ``expires``, no longer than that."""
    return MAX_AGE_S if expires is None else max(0, min(MAX_AGE_S, expires - int(time.time())))


def span_of(size_bytes: int, etag: str) -> tuple[int, int] | tuple[()] | None:
    """First and last byte asked for; None for the whole, an empty tuple when there are no such bytes.

    One range of bytes and nothing else is understood; any other Range is ignored, as RFC 9110 allows.
    """
    asked = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if asked is None or asked[0] == "bytes=-":
        return None
    if (condition := request.headers.get("If-Range")) is not None and condition.strip() != etag:
        return None
    if not asked[1]:
        first, last = max(0, size_bytes - int(asked[2])), size_bytes - 1
    else:
        first, last = int(asked[1]), min(int(asked[2] or size_bytes), size_bytes - 1)
        if asked[2] and int(asked[2]) < first:
            return None  # not a range at all
    return (first, last) if first <= last else ()


def send(
    parts: Services,
    found: StoredImage,
    mime: str,
    headers: dict[str, str],
    span: tuple[int, int] | tuple[()] | None = None,
) -> Response:
    """The bytes of an image, or the ``span`` of them that was asked for."""
    file = parts.store.open(found.key)
    first, last = span or (0, found.size_bytes - 1)
    response = Response(
        _chunks(file, first, last - first + 1) if request.method != "HEAD" else b"",
        status=206 if span else 200,
        content_type=content_type(mime),
    )
    response.call_on_close(file.close)
    response.headers.update(headers)
    response.headers["Content-Length"] = str(last - first + 1)
    if span:
        response.headers["Content-Range"] = f"bytes {first}-{last}/{found.size_bytes}"
    return response


def _chunks(file: BinaryIO, first: int, length: int) -> Iterator[bytes]:
    file.seek(first)
    while length > 0 and (chunk := file.read(min(CHUNK_BYTES, length))):
        length -= len(chunk)
        yield chunk
