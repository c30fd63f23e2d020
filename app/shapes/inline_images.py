"""Images inside a task's own JSON, for orders with ``store: false``."""

from __future__ import annotations

import base64

from jobs.reads.tasks import Task
from storage.base import BlobNotFoundError, Store

# The base64 of all of them is in one answer, in memory.
MAX_BYTES = 32 * 1024 * 1024


def data_urls(task: Task, store: Store) -> dict[int, str]:
    """``data:`` URLs by index; images beyond 32 MiB in all have only their links.

    Raises StorageUnavailableError.
    """
    if task.keep_s is None or not task.ended:
        return {}
    found: dict[int, str] = {}
    left = MAX_BYTES
    for image in task.images:
        if image.deleted_at is not None or image.size_bytes > left:
            continue
        try:
            data = store.read(image.key)
        except BlobNotFoundError:
            continue  # its short life has just ended
        left -= len(data)
        found[image.index] = f"data:{image.mime};base64,{base64.b64encode(data).decode('ascii')}"
    return found
