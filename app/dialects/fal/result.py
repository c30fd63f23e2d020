"""What a finished job answers in fal's words: images, one image, a mesh or a text. Pure: callbacks use it, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from app.dialects.fal.client import kept
from app.dialects.fal.failures import Failed, failed
from app.shapes.inline_images import all_data_urls
from jobs.errors import ImageGoneError
from jobs.reads.tasks import Image, Task
from storage import models3d, sniff
from storage.base import Store
from webhooks.forms import Links

# Operations whose models answer with one ``image`` at fal.
SINGLE = frozenset({"upscale", "remove_background", "erase", "remove_text", "face_swap"})
_EXTENSIONS = {**sniff.EXTENSIONS, **models3d.EXTENSIONS}
NONE_INLINE: Mapping[int, str] = MappingProxyType({})


def failure(task: Task) -> Failed | None:
    """The answer for a task that has ended without an image; None for one that has some."""
    if task.status == "succeeded" or task.images:
        return None
    return failed(task.failure_code, task.failure_detail, own_timeout=kept(task).get("start_timeout", False))


def payload(task: Task, links: Links, inline: Mapping[int, str] = NONE_INLINE) -> dict[str, Any]:
    """The output of a task that has images. ``inline`` has those that go along as data: URLs, by index.

    Raises ImageGoneError where none is left.
    """
    left = [image for image in task.images if image.deleted_at is None]
    if not left:
        raise ImageGoneError("the images of this request have been deleted")
    texts = [image.text for image in left if image.text is not None]
    if texts:
        return {"output": texts[0], "results": texts[0], **_common(task)}
    files = [
        _file(task, image, inline.get(image.index) or links.image(task.account_id, task.id, image.index))
        for image in left
    ]
    if left[0].width_px is None:
        return {"model_mesh": files[0], **_common(task, left)}
    if task.operation in SINGLE:
        return {"image": files[0], **_common(task, left)}
    return {"images": files, **_common(task, left), "has_nsfw_concepts": [False] * len(files)}


def data_urls(task: Task, store: Store) -> dict[int, str]:
    """The images of a task as data: URLs by index, where its client asked for that. Raises StorageUnavailableError."""
    return all_data_urls(task, store) if kept(task).get("data_urls") else {}


def _file(task: Task, image: Image, url: str) -> dict[str, Any]:
    about = {
        "url": url,
        "content_type": image.mime,
        "file_name": f"{task.id}-{image.index}.{_EXTENSIONS.get(image.mime, 'bin')}",
        "file_size": image.size_bytes,
    }
    return about if image.width_px is None else {**about, "width": image.width_px, "height": image.height_px}


def _common(task: Task, images: Sequence[Image] = ()) -> dict[str, Any]:
    """What goes with every output; unknown facts are left out, for clients that take no null."""
    common: dict[str, Any] = {"prompt": task.request.get("prompt") or "", "timings": {}}
    seed = next((image.seed for image in images if image.seed is not None), task.request["params"].get("seed"))
    if seed is not None:
        common["seed"] = seed
    if task.started_at and task.finished_at:
        common["timings"]["inference"] = round((task.finished_at - task.started_at).total_seconds(), 3)
    return common
