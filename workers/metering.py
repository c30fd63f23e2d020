"""What a worker counts of itself: its Celery tasks under Flower's own names, its loops, its paid calls.

The series that Flower has too keep its names and its meaning, so that a dashboard may ask either.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable
from typing import Any

from celery.signals import task_postrun, task_prerun, task_received, task_revoked
from celery.worker.state import active_requests, reserved_requests

from core.metrics.families import LONG, Counter, Gauge, Histogram

ONLINE = Gauge("flower_worker_online", "Worker online status", ("worker",), mode="max")
EXECUTING = Gauge(
    "flower_worker_number_of_currently_executing_tasks",
    "Number of tasks currently executing at a worker",
    ("worker",),
)
PREFETCHED = Gauge(
    "flower_worker_prefetched_tasks", "Number of tasks of given type prefetched at a worker", ("worker", "task")
)
PREFETCH_SECONDS = Gauge(
    "flower_task_prefetch_time_seconds",
    "The time the task spent waiting at the celery worker to be executed.",
    ("worker", "task"),
)
RUNTIME = Histogram("flower_task_runtime_seconds", "Task runtime.", ("worker", "task"), buckets=LONG)

PAID_CALLS = Gauge("darkroom_worker_paid_calls", "Paid calls that a worker has received and not ended.", ("worker",))
PAUSED_QUEUES = Gauge("darkroom_worker_paused_queues", "Queues that a worker at its cap does not read.", ("worker",))
COLLECTING_ROOM = Gauge(
    "darkroom_worker_collecting_room", "How many more finished images the worker takes to fetch.", ("worker",)
)
CLOCK_SECONDS = Histogram("darkroom_clock_step_duration_seconds", "Rounds of the worker's loops.", ("loop",))
CLOCK_FAILURES = Counter(
    "darkroom_clock_failures_total",
    "Rounds that failed: the database was away, or a fault of ours.",
    ("loop", "reason"),
)

TASKS = ("jobs.run", "jobs.poll", "webhooks.deliver")


class TaskMeter:
    """Follows the worker's tasks by Celery's signals."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._received: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def connect(self) -> None:
        """Follow them for the life of the process."""
        task_received.connect(self._on_received, weak=False)
        task_prerun.connect(self._on_prerun, weak=False)
        task_postrun.connect(self._on_postrun, weak=False)
        task_revoked.connect(self._on_revoked, weak=False)

    def _on_received(self, request: Any, **_: object) -> None:
        self._received[request.id] = time.monotonic()

    def _on_prerun(self, task_id: str, task: Any, **_: object) -> None:
        self._began[task_id] = now = time.monotonic()
        received = self._received.pop(task_id, None)
        if received is not None:
            PREFETCH_SECONDS.of(self._worker, task.name).set(now - received)

    def _on_postrun(self, task_id: str, task: Any, **_: object) -> None:
        began = self._began.pop(task_id, None)
        if began is not None:
            RUNTIME.of(self._worker, task.name).observe(time.monotonic() - began)

    def _on_revoked(self, request: Any, **_: object) -> None:
        self._received.pop(request.id, None)

    def note(self) -> None:
        """Note that the worker is there, and what it has."""
        ONLINE.of(self._worker).set(1)
        EXECUTING.of(self._worker).set(len(active_requests))
        waiting = Tally(request.name for request in list(reserved_requests) if request not in active_requests)
        for name in TASKS:
            PREFETCHED.of(self._worker, name).set(waiting[name])


def note_load(
    worker: str, busy: Callable[[], int], paused: Callable[[], int], room: Callable[[], int]
) -> Callable[[], None]:
    """What notes a worker's paid calls, its paused queues, and its room for finished images."""

    def note() -> None:
        PAID_CALLS.of(worker).set(busy())
        PAUSED_QUEUES.of(worker).set(paused())
        COLLECTING_ROOM.of(worker).set(room())

    return note
