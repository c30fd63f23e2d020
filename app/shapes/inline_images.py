"""Images inside a JSON answer as ``data:`` URLs: of orders with ``store: false``, and where a dialect wants them."""

from __future__ import annotations

import base64

from jobs.reads.tasks import Task
from storage.base import BlobNotFoundError, Store

# The base64 of all of them is in one answer, in memory.
MAX_BYTES = 32 * 1024 * 1024


def data_urls(task: Task, store: Store) -> dict[int, str]:
    """``data:`` URLs by index, of a task with ``store: false`` that has ended. Raises StorageUnavailableError."""
    return all_data_urls(task, store) if task.keep_s is not None and task.ended else {}


def all_data_urls(task: Task, store: Store) -> dict[int, str]:
    """``data:`` URLs by index; images beyond 32 MiB in all have only their links. Raises StorageUnavailableError."""
    found: dict[int, str] = {}
    left = MAX_BYTES
    for image in task.images:
        if image.deleted_at is not None or image.size_bytes > left:
            continue
        try:
            data = store.read(image.key)
        except BlobNotFoundError:
            continue  # deleted since the task was read
        left -= len(data)
        found[image.index] = f"data:{image.mime};base64,{base64.b64encode(data).decode('ascii')}"
    return found
