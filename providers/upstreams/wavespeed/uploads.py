"""Uploading images that are too large for a request, or that a model takes only as links (CONTRACT.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from core.outbound.untrusted import Policy, put
from core.outbound.urls import UnsafeUrlError
from providers.base import InputImage
from providers.errors import Misconfigured, NotRun, ProviderError, RequestRefused, Uncertain, UnknownModel
from providers.http.client import UpstreamSession, WireRequest
from providers.shared.wavespeed_tasks import read_data
from providers.upstreams.wavespeed.requests import API, file_name

UPLOADS_TOTAL_S = 120.0  # for all images of one call
TICKET_TOTAL_S = 30.0
MAX_TICKET_BYTES = 4 * 1024 * 1024
MAX_UPLOAD_BYTES = 20 * 1024 * 1024  # section 2: the caps disagree, this is the lowest for images


def build_ticket(image: InputImage) -> WireRequest:
    """Ask where to upload (section 2, two-step upload). Raises: RequestRefused for an image above the cap."""
    if len(image.data) > MAX_UPLOAD_BYTES:
        raise RequestRefused("upstream_too_large", f"an image of {len(image.data)} bytes")
    asked = {"filename": file_name(image), "size": len(image.data), "content_type": image.mime}
    return WireRequest("POST", f"{API}/media/uploads", json=asked)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where to put an image, with which headers, and the link at which models read it."""

    put_url: str
    headers: Mapping[str, str]
    download_url: str


def read_ticket(data: object) -> Ticket:
    """The upload ticket in an answer. Raises: Uncertain if it cannot be used; the SDKs too refuse any method but PUT
    (section 2).
    """
    match data:
        case {"download_url": str(link), "upload": {"method": "PUT" | "put", "url": str(url), **rest}} if link:
            return Ticket(url, _texts(rest.get("headers") or {}), link)
    raise Uncertain("upstream_broken_answer", "no upload ticket")


def _texts(headers: object) -> dict[str, str]:
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise Uncertain("upstream_broken_answer", "an upload ticket with strange headers")
    return dict(headers)


def _upload_failed(error: UnsafeUrlError) -> ProviderError:
    detail = f"upload: {error.code} {error.detail}"
    if error.status == 413:
        return RequestRefused("upstream_too_large", detail)
    if error.code == "url_not_allowed":
        return Misconfigured("upstream_misconfigured", detail)
    return NotRun("upstream_unreachable", detail)


def upload(session: UpstreamSession, rules: Policy, images: Sequence[InputImage]) -> dict[bytes, str]:
    """Upload every image, each content once; the links by the images' bytes. Buys nothing.

    ``session`` asks for the place, ``rules`` say where that may be.
    Raises: RequestRefused, Misconfigured; NotRun for all that may succeed later.
    """
    ends_at = monotonic() + UPLOADS_TOTAL_S
    links: dict[bytes, str] = {}
    for image in images:
        if image.data not in links:
            links[image.data] = _upload_one(session, rules, image, ends_at)
    return links


def _upload_one(session: UpstreamSession, rules: Policy, image: InputImage, ends_at: float) -> str:
    left_s = ends_at - monotonic()
    if left_s <= 0:
        raise NotRun("upstream_unreachable", "the uploads take too long")
    try:
        answer = session.send(build_ticket(image), total_s=min(left_s, TICKET_TOTAL_S), max_bytes=MAX_TICKET_BYTES)
        ticket = read_ticket(read_data(answer))
        policy = replace(rules, total_s=max(ends_at - monotonic(), 1.0))
        put(ticket.put_url, image.data, policy, headers=ticket.headers)
    except Uncertain as error:
        raise NotRun(error.code, error.detail) from error
    except UnknownModel as error:  # no model was named
        raise Misconfigured("upstream_not_found", error.detail) from error
    except UnsafeUrlError as error:
        raise _upload_failed(error) from error
    return ticket.download_url
