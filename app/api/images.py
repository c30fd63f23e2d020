"""Serving images: whole or in part, as they are or as a variant, never anything that could run."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs

from flask import Blueprint, Response, g, request

from app.api.tasks import checked_id, renderer
from app.http.accept import check_accepts
from app.http.bodies import read_query
from app.http.endpoint import Answer, Endpoint, describe
from app.http.errors import answer
from app.http.responses import json_answer, not_modified, unchanged
from app.http.signing import TASKS, image_path
from app.image_bytes import EXTENSIONS, content_type, guarded, send, served_as, span_of
from app.services import Services, services
from app.shapes.schemas.tasks import ImageLink, ImageQuery, LinkQuery
from core.wire import rfc3339
from jobs.reads.tasks import Image, find_image
from storage.base import MediaError, StoredImage
from storage.variants import step_of

bp = Blueprint("images", __name__, url_prefix=TASKS)

NO_VARIANTS = "a 3D file or a text has no other sizes and formats"


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
    mime = served_as(found.mime)
    check_accepts(request, mime)
    headers = _headers(job_id, query, found, mime)
    if unchanged(headers["ETag"]):
        return not_modified(headers)
    if request.method == "GET" and (elsewhere := _elsewhere(parts, image, found, mime, headers)):
        return elsewhere
    span = span_of(found.size_bytes, headers["ETag"]) if request.method == "GET" else None
    if span == ():
        return answer("range_not_satisfiable", headers={"Content-Range": f"bytes */{found.size_bytes}"})
    return send(parts, found, mime, headers, span)


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
    path = image_path(job_id)
    life_s = query.expires_s
    signed = parts.signer.link(path, account_id=account_id, index=query.index, variant=asked, life_s=life_s)
    expires_at = datetime.fromtimestamp(int(parse_qs(signed)["expires"][0]), UTC)
    url = f"{renderer().base}{path}?{signed}"
    return json_answer({"object": "image.link", "url": url, "expires_at": rfc3339(expires_at)})


def _elsewhere(
    parts: Services, image: Image, found: StoredImage, mime: str, headers: dict[str, str]
) -> Response | None:
    """A redirect to the stored image, where the store serves clients; None for variants and other stores."""
    if found.key != image.key:
        return None
    link = parts.store.link(found.key, content_type=content_type(mime), disposition=headers["Content-Disposition"])
    if link is None:
        return None
    # The link ends within minutes, and so must every cached copy of this answer.
    return Response(status=302, headers={**headers, "Location": link, "Cache-Control": "no-store"})


def _headers(job_id: str, query: ImageQuery, found: StoredImage, mime: str) -> dict[str, str]:
    name = f"{job_id}-{query.index}"
    return guarded(found.sha256, mime, name=name, expires=g.get("link_expires"), download=query.download == "1")
