"""An order answered with what it made: the image itself, for a caller who accepts images and waits.

Which image it is follows from the order (``output_format``, ``size``): what was made is sent as it is, whatever kind
of image the caller names. A task that has not ended in time is sent as JSON.
"""

from __future__ import annotations

from flask import Response, request

from app import image_bytes
from app.http import task_problems
from app.http.errors import answer
from app.http.signing import image_path
from app.services import Services
from jobs.reads.tasks import Image, Task
from storage.base import StoredImage

MEDIA_TYPES = tuple(image_bytes.EXTENSIONS)
JSON = "application/json"
RETRY_AFTER_S = 10  # for another order of the same


def wanted() -> bool:
    """Whether the caller reads a result itself rather than JSON; JSON goes first for who takes both alike."""
    accepted = request.accept_mimetypes
    if not accepted:
        return False
    return max(accepted.quality(each) for each in MEDIA_TYPES) > accepted.quality(JSON)


def of(parts: Services, task: Task, headers: dict[str, str]) -> Response:
    """The first image of an ended task with ``headers``, or the problem it ended with. Raises BlobNotFoundError,
    StorageUnavailableError."""
    kept = [image for image in task.images if image.deleted_at is None]
    if task.images and not kept:
        return answer("image_gone", headers=headers, task_id=task.id)
    if not kept:
        code, detail, facts = task_problems.problem_of(task)
        if code == task_problems.UNAVAILABLE:
            headers = {**headers, "Retry-After": str(RETRY_AFTER_S)}
        return answer(code, detail, headers, **facts)
    first, *others = kept
    mime = image_bytes.served_as(first.mime)
    response = image_bytes.send(parts, _stored(first), mime, _headers(task, first, mime))
    response.headers.update(headers)
    for image in others:
        response.headers.add("Link", f'<{_path(task, image)}>; rel="item"')
    return response


def _headers(task: Task, image: Image, mime: str) -> dict[str, str]:
    return {
        "Content-Location": _path(task, image),
        "ETag": f'"{image.sha256}"',
        # An order is no address of its image: another POST would make another one.
        "Cache-Control": "no-store",
        "Content-Disposition": image_bytes.disposition(f"{task.id}-{image.index}", mime),
        **image_bytes.SAFE_HEADERS,
    }


def _stored(image: Image) -> StoredImage:
    size = image.width_px or 0, image.height_px or 0
    return StoredImage(image.key, image.mime, *size, image.size_bytes, image.sha256)


def _path(task: Task, image: Image) -> str:
    return f"{image_path(task.id)}?index={image.index}"
