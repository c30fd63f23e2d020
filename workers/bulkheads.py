"""Bulkheads: one hanging provider must not fill the pool, because a full pool blocks the consumer.

Tasks are counted by queue from the time they are received. A provider's queue is not consumed while it is at its
cap. The queues ``control`` and ``polls`` always have slots of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery.signals import task_postrun, task_received, task_revoked

from jobs.states import CONTROL_QUEUE, POLL_QUEUE

# Queues that are never paused, because their tasks make no paid calls.
FREE_QUEUES = (CONTROL_QUEUE, POLL_QUEUE)

log = structlog.get_logger(__name__)

# How many slots must be free before a paused queue is opened again, so that it does not flap.
REOPEN_BELOW = 0.9


def paid_slots(pool: int, control_slots: int) -> int:
    """Return how many slots of a pool are for paid calls: all but ``control_slots``, or half of a small pool."""
    return max(1, pool - min(control_slots, pool // 2))


@dataclass
class Bulkheads:
    """Counts tasks by queue, and opens and closes queues of Celery's ``consumer``, only from its own loop."""

    provider_slots: int
    paid_slots: int
    consumer: Any = None
    # The messages of a job share its id and may come twice or by another provider's queue; each one counts.
    _held: Counter[tuple[str, str]] = field(default_factory=Counter)  # by task id and queue
    _load: Counter[str] = field(default_factory=Counter)  # by queue
    _paused: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def received(self, task_id: str, queue: str) -> None:
        """Count a task that was received from a queue, and pause the queue at its cap."""
        if queue in FREE_QUEUES:
            return
        with self._lock:
            self._held[task_id, queue] += 1
            self._load[queue] += 1
            full = self._full(queue) and queue not in self._paused
            if full:
                self._paused.add(queue)
        if full:
            log.warning("queue_paused", queue=queue)
            self.consumer.call_soon(self.consumer.cancel_task_queue, queue)

    def ended(self, task_id: str, queue: str) -> None:
        """Count the end of a task, and reopen queues that have room again. A second end does not count."""
        with self._lock:
            held = self._held.pop((task_id, queue), 0)
            if not held:
                return
            if held > 1:
                self._held[task_id, queue] = held - 1
            self._load[queue] -= 1
            open_again = [paused for paused in self._paused if self._roomy(paused)]
            self._paused.difference_update(open_again)
        for paused in open_again:
            log.info("queue_resumed", queue=paused)
            self.consumer.call_soon(self.consumer.add_task_queue, paused)

    def busy(self) -> int:
        """How many paid calls are received and not yet ended."""
        return self._load.total()

    def paused(self) -> int:
        """How many queues are not read at present."""
        return len(self._paused)

    def _full(self, queue: str) -> bool:
        return self._load[queue] >= self.provider_slots or self.busy() >= self.paid_slots

    def _roomy(self, queue: str) -> bool:
        return self._load[queue] < self.provider_slots * REOPEN_BELOW and self.busy() < self.paid_slots * REOPEN_BELOW


def install(bulkheads: Bulkheads) -> None:
    """Connect the bulkheads to Celery's signals, for the life of the process."""

    def on_received(request: Any, **_: object) -> None:
        bulkheads.received(request.id, _queue(request))

    def on_ended(task_id: str, task: Any, **_: object) -> None:
        bulkheads.ended(task_id, _queue(task.request))

    def on_revoked(request: Any, **_: object) -> None:
        bulkheads.ended(request.id, _queue(request))

    task_received.connect(on_received, weak=False)
    task_postrun.connect(on_ended, weak=False)
    task_revoked.connect(on_revoked, weak=False)


def _queue(request: Any) -> str:
    return str((request.delivery_info or {}).get("routing_key", ""))
