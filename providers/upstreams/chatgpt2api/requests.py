"""The requests to chatgpt2api's task API. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

from providers.base import CallRef, UpstreamOrder
from providers.http.client import WireRequest
from providers.shared.encoding import form_fields, image_parts
from providers.shared.extra import extra_fields
from providers.shared.order_fields import own_params, size_text

DEFAULT_IMAGE_MODEL: Final = "gpt-image-2"
MAX_IDS_PER_CHECK = 100
MAX_IDS_CHARS = 3500  # keeps the whole query below 4 kB

_PIXELS = re.compile(r"\d+x\d+")


def build_submit(order: UpstreamOrder, *, dedupe_key: str, image_model: str | None = None) -> WireRequest:
    """The one request that makes an image (sections 2.1 and 2.2). A task is one image.

    Raises: RequestRefused for a field in ``extra`` that Darkroom sets itself.
    """
    model = _wire_model(order.model.path, image_model)
    body: dict[str, Any] = {
        **extra_fields(order),
        **own_params(order),
        "client_task_id": _checked_id(dedupe_key),
        "prompt": order.prompt or "",
        "model": model,
    }
    size = _size_hint(order, model)
    if size is not None:
        body["size"] = size
    if not order.images:
        return WireRequest("POST", "/api/image-tasks/generations", json=body)
    files = image_parts(order.images, order.mask)
    return WireRequest("POST", "/api/image-tasks/edits", form=form_fields(body), files=files)


def _wire_model(path: str, image_model: str | None) -> str:
    return image_model if image_model and path == DEFAULT_IMAGE_MODEL else path


def _size_hint(order: UpstreamOrder, model: str) -> str | None:
    """Ratio or WxH, which the gateway writes into the prompt; codex models take only WxH (section 6)."""
    size = size_text(order.size)
    if size in {None, "auto"} or ("codex" in model and not _PIXELS.fullmatch(size or "")):
        return None
    return size


def _checked_id(task_id: str) -> str:
    """The id, checked because ids are joined by commas in a query. Raises: ValueError."""
    if not re.fullmatch(r"[\w.:-]{1,128}", task_id):
        raise ValueError("a dedupe key has only letters, digits and _ . : -")
    return task_id


def build_check(task_ids: Sequence[str]) -> WireRequest:
    """One look at many tasks (section 2.3). Raises: ValueError without ids, which would list every task."""
    if not task_ids:
        raise ValueError("no ids")
    return WireRequest("GET", f"/api/image-tasks?ids={_joined(task_ids)}")


def _joined(task_ids: Iterable[str]) -> str:
    return ",".join(quote(task_id, safe=":") for task_id in task_ids)


def batches(calls: Sequence[CallRef]) -> Iterator[list[CallRef]]:
    """The calls in groups whose ids fit into one query."""
    batch: list[CallRef] = []
    chars = 0
    for call in calls:
        more = len(_joined([task_id(call)])) + 1  # and its comma
        if batch and (len(batch) == MAX_IDS_PER_CHECK or chars + more - 1 > MAX_IDS_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(call)
        chars += more
    if batch:
        yield batch


def task_id(call: CallRef) -> str:
    """The id of the call's task, which is its dedupe key."""
    return call.upstream_id or call.dedupe_key
