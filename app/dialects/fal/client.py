"""What the fal dialect keeps with its jobs, to find again when one is read."""

from __future__ import annotations

from typing import TypedDict, cast

from jobs.reads.tasks import Task

DIALECT = "fal"


class Kept(TypedDict, total=False):
    """``app``: the name that was ordered. ``data_urls``: the result has its images inside (``sync_mode``).
    ``start_timeout``: the client has set a latest start of its own."""

    dialect: str
    app: str
    data_urls: bool
    start_timeout: bool


def kept(task: Task) -> Kept:
    """What was kept with a job; nothing for one that came another way."""
    return cast("Kept", task.client) if task.client.get("dialect") == DIALECT else Kept()
