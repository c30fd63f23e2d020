"""The requests to WaveSpeed, built from an order. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from providers.base import InputImage, UpstreamOrder
from providers.http.client import WireRequest
from providers.shared.encoding import data_uri
from providers.shared.extra import refuse_extra
from providers.shared.order_fields import path_of, placed_images, reference_fields, wire_fields

API: Final = "/api/v3"
# Above this the images of a call are uploaded: no source says how large a body may be.
MAX_INLINE_BYTES = 1024 * 1024
# Fields that decide how many images are bought, or how they are returned. Sync mode is not used (section 3).
_OURS: Final = frozenset({"enable_sync_mode", "enable_base64_output", "max_images", "num_images", "mask_image"})
_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}

Spelled = Callable[[InputImage], str]  # how an image is written into a body


def build_submit(order: UpstreamOrder, spelled: Spelled = data_uri) -> WireRequest:
    """The one paid request: the model's input, flat, and the webhook as a query parameter (section 2).

    Raises: RequestRefused for a field in ``extra`` that Darkroom sets itself.
    """
    webhook = f"?webhook={quote(order.callback_url, safe='')}" if order.callback_url else ""
    return WireRequest("POST", f"{API}/{path_of(order)}{webhook}", json=build_input(order, spelled))


def build_input(order: UpstreamOrder, spelled: Spelled) -> dict[str, Any]:
    """The model's input, images included. Raises: RequestRefused."""
    refuse_extra(order.extra, _OURS)
    return {**wire_fields(order), **reference_fields(order, spelled)}


def images_of(order: UpstreamOrder) -> list[InputImage]:
    """Every image of the order, in the order of the fields."""
    return [image for placed in placed_images(order) for image in placed.images]


def must_upload(order: UpstreamOrder) -> bool:
    """Whether the images are uploaded: the model takes no data URI, or they are too large for a body."""
    images = images_of(order)
    inline_bytes = sum(len(image.data) for image in images)
    takes_inline = "data_uri" in order.model.inputs.image_encoding and inline_bytes <= MAX_INLINE_BYTES
    return bool(images) and not takes_inline


def file_name(image: InputImage) -> str:
    """The name of an upload: from the content alone, so that it is recognised in the history and reveals nothing."""
    return f"{hashlib.sha256(image.data).hexdigest()[:32]}.{_EXTENSIONS.get(image.mime, 'bin')}"


def build_check(task_id: str) -> WireRequest:
    """One look at a task, by its id as in the SDK: a link in an answer is never followed with the key (section 2)."""
    return WireRequest("GET", f"{API}/predictions/{quote(task_id, safe='')}/result")
