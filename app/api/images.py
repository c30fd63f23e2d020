"""Serving images: whole or in part, as they are or as a variant, never anything that could run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO

from flask import Blueprint, Response, g, request

from app.api.tasks import checked_id, renderer
from app.http.accept import check_accepts
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import answer
from app.http.responses import json_answer, not_modified, unchanged
from app.services import Services, services
from app.shapes.render import TASKS
from app.shapes.schemas.tasks import ImageLink, ImageQuery, LinkQuery
from core.wire import rfc3339
from jobs.reads.tasks import Image, find_image
from storage import models3d
from storage.base import TEXT, MediaError, StoredImage
from storage.variants import step_of

bp = Blueprint("images", __name__, url_prefix=TASKS)

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
NO_VARIANTS = "a 3D file or a text has no other sizes and formats"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@bp.get("/<job_id>/image")
@describe(
    Endpoint(
        "Fetch an image",
        "images",
        (
            Answer(
                200,
                "The image.",
                media_types=tuple(EXTENSIONS),
                headers=("ETag", "Accept-Ranges", "Content-Disposition", "Cache-Control"),
            ),
            Answer(206, "The part asked for.", media_types=tuple(EXTENSIONS), headers=("ETag", "Content-Range")),
            Answer(
                302,
                "Where the image is, for minutes; only with `DARKROOM_S3_SERVE=redirect`.",
                headers=("Location",),
            ),
            Answer(304, "Unchanged since the ETag in If-None-Match.", headers=("ETag",)),
        ),
        pace="read",
        signed=True,
        errors=(
            "not_found",
            "image_not_found",
            "image_not_ready",
            "image_gone",
            "range_not_satisfiable",
            "signature_invalid",
            "signature_expired",
            "invalid_request",
            "not_an_image",
            "too_many_variants",
            "storage_unavailable",
        ),
        query=ImageQuery,
        request_headers=("If-None-Match", "Range", "If-Range"),
        description="Takes your key, or the expiring signature of `signed_url` instead of it. A signed link opens the"
        " size and format that it was made for, and no other: see `image/link`.",
    )
)
def stored(job_id: str) -> Response:
    query = read_query(ImageQuery, request.args)
    parts = services()
    image = parts.connections.autocommit(find_image, g.caller.account_id, checked_id(job_id), query.index)
    found = _wanted(parts, image, query)
    mime = found.mime if found.mime in EXTENSIONS else "application/octet-stream"
    check_accepts(request, mime)
    headers = _headers(job_id, query, found, mime)
    if unchanged(headers["ETag"]):
        return not_modified(headers)
    if request.method == "GET" and (elsewhere := _elsewhere(parts, image, found, mime, headers)):
        return elsewhere
    span = _span(found.size_bytes, headers["ETag"]) if request.method == "GET" else None
    if span == ():
        return answer("range_not_satisfiable", headers={"Content-Range": f"bytes */{found.size_bytes}"})
    return _send(parts, found, mime, headers, span)


def _wanted(parts: Services, image: Image, query: ImageQuery) -> StoredImage:
    """The image as kept, or a variant of it when one is asked for."""
    if query.width is None and query.height is None and query.format is None:
        size = image.width_px or 0, image.height_px or 0
        return StoredImage(image.key, image.mime, *size, image.size_bytes, image.sha256)
    if image.width_px is None:
        raise MediaError("not_an_image", NO_VARIANTS)
    width, height = step_of(query.width), step_of(query.height)
    return parts.variant(image.key, image.mime, width=width, height=height, format=query.format)


@bp.get("/<job_id>/image/link")
@describe(
    Endpoint(
        "Sign a link to an image",
        "tasks",
        (Answer(200, "A link that needs no key.", ImageLink),),
        pace="read",
        errors=("not_found", "image_not_found", "image_not_ready", "image_gone", "invalid_request", "not_an_image"),
        query=LinkQuery,
        description="As `signed_url` of the task, but for the size and format asked for.",
    )
)
def link(job_id: str) -> Response:
    query = read_query(LinkQuery, request.args)
    account_id, parts = g.caller.account_id, services()
    image = parts.connections.autocommit(find_image, account_id, checked_id(job_id), query.index)
    asked = {"width": step_of(query.width), "height": step_of(query.height), "format": query.format}
    if image.width_px is None and any(asked.values()):
        raise MediaError("not_an_image", NO_VARIANTS)
    path = f"{TASKS}/{job_id}/image"
    signed = parts.signer.link(path, account_id=account_id, index=query.index, variant=asked)
    expires_at = datetime.fromtimestamp(parts.signer.expiry_s(), UTC)
    url = f"{renderer().base}{path}?{signed}"
    return json_answer({"object": "image.link", "url": url, "expires_at": rfc3339(expires_at)})


def _elsewhere(
    parts: Services, image: Image, found: StoredImage, mime: str, headers: dict[str, str]
) -> Response | None:
    """A redirect to the stored image, where the store serves clients; None for variants and other stores."""
    if found.key != image.key:
        return None
    link = parts.store.link(found.key, content_type=_content_type(mime), disposition=headers["Content-Disposition"])
    if link is None:
        return None
    # The link ends within minutes, and so must every cached copy of this answer.
    return Response(status=302, headers={**headers, "Location": link, "Cache-Control": "no-store"})


def _content_type(mime: str) -> str:
    return f"{mime}; charset=utf-8" if mime == TEXT else mime


def _headers(job_id: str, query: ImageQuery, found: StoredImage, mime: str) -> dict[str, str]:
    expires = g.get("link_expires")
    max_age_s = MAX_AGE_S if expires is None else max(0, min(MAX_AGE_S, expires - int(time.time())))
    kind = "attachment" if query.download == "1" else "inline"
    return {
        "ETag": f'"{found.sha256}"',
        "Cache-Control": f"private, max-age={max_age_s}, immutable",
        "Vary": "Authorization",
        "Accept-Ranges": "bytes",
        # The name is made of our own id: no text of a caller gets into a header.
        "Content-Disposition": f'{kind}; filename="{job_id}-{query.index}.{EXTENSIONS.get(mime, "bin")}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
        # A signed link may be embedded by other sites; an address that needs a key may not.
        "Cross-Origin-Resource-Policy": "same-origin" if expires is None else "cross-origin",
        "Referrer-Policy": "no-referrer",
    }


def _span(size_bytes: int, etag: str) -> tuple[int, int] | tuple[()] | None:
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


def _send(
    parts: Services,
    found: StoredImage,
    mime: str,
    headers: dict[str, str],
    span: tuple[int, int] | tuple[()] | None,
) -> Response:
    file = parts.store.open(found.key)
    first, last = span or (0, found.size_bytes - 1)
    response = Response(
        _chunks(file, first, last - first + 1) if request.method == "GET" else b"",
        status=206 if span else 200,
        content_type=_content_type(mime),
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
