"""The requests to Replicate, built from an order. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from providers.base import InputImage, UpstreamOrder
from providers.http.client import FilePart, WireRequest
from providers.shared.encoding import data_uri
from providers.shared.extra import refuse_extra
from providers.shared.order_fields import path_of, placed_images, reference_fields, wire_fields

INLINE_MAX_BYTES = 192 * 1024  # 256 KB as data URLs; above that files are uploaded (section 8)

# Fields that decide price or answer, besides the catalogue's (section 9).
_DECIDING = frozenset({"height", "megapixels", "num_outputs", "output_megapixels", "resolution", "version", "width"})


def build_submit(order: UpstreamOrder, links: Mapping[InputImage, str] = MappingProxyType({})) -> WireRequest:
    """The one request that makes a prediction (section 2). ``links``: those of uploaded images.

    A path ``owner/name`` is an official model with its own route; of ``owner/name:<version>`` the version
    is sent, as the vendor's clients do. Raises: RequestRefused.
    """
    model, _, version = path_of(order).partition(":")
    body: dict[str, Any] = {"version": version} if version else {}
    body["input"] = plain_fields(order) | reference_fields(order, lambda image: links.get(image) or data_uri(image))
    if order.callback_url is not None:
        body |= {"webhook": order.callback_url, "webhook_events_filter": ["completed"]}
    return WireRequest("POST", "/predictions" if version else f"/models/{model}/predictions", json=body)


def plain_fields(order: UpstreamOrder) -> dict[str, Any]:
    """The input without its images. Raises: RequestRefused."""
    refuse_extra(order.extra, _DECIDING)
    return wire_fields(order)


def inputs_to_upload(order: UpstreamOrder) -> list[InputImage]:
    """All images of the order, each once, if together they are too large for data URLs; else none.

    Together, because every look, list and webhook repeats the whole input.
    """
    images = list(dict.fromkeys(image for placed in placed_images(order) for image in placed.images))
    return images if sum(len(image.data) for image in images) > INLINE_MAX_BYTES else []


def build_upload(image: InputImage) -> WireRequest:
    """The upload of a file, which is kept for a day and has its link in ``urls.get`` (section 8)."""
    name = f"input.{image.mime.partition('/')[2]}"
    return WireRequest("POST", "/files", files=[FilePart("content", name, image.mime, image.data)])


def build_check(upstream_id: str) -> WireRequest:
    """One look at a prediction (section 2)."""
    return WireRequest("GET", f"/predictions/{quote(upstream_id, safe='')}")


def build_cancel(upstream_id: str) -> WireRequest:
    """The request to stop a prediction (section 5)."""
    return WireRequest("POST", f"/predictions/{quote(upstream_id, safe='')}/cancel")


def build_list(since: datetime) -> WireRequest:
    """The first page of the predictions made since then, newest first (section 4)."""
    moment = since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return WireRequest("GET", f"/predictions?created_after={quote(moment)}")
