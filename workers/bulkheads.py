"""Bulkheads: one hanging provider must not fill the pool, for a full pool blocks the consumer.

Tasks are counted from the moment they are received, by queue. At its cap a provider's queue is no
longer consumed; below it, it is again. Control and polls always keep slots of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery.signals import task_postrun, task_received, task_revoked

from jobs.states import CONTROL_QUEUE, POLL_QUEUE

# Queues that are never paused: what waits in them makes no paid call.
FREE_QUEUES = (CONTROL_QUEUE, POLL_QUEUE)

log = structlog.get_logger(__name__)

# Some slots free before a paused queue is opened again, so that it does not flap.
REOPEN_BELOW = 0.9


def paid_slots(pool: int, control_slots: int) -> int:
    """Slots of a pool for paid calls: all but the control queue's, and half of a small pool."""
    return max(1, pool - min(control_slots, pool // 2))


@dataclass
class Bulkheads:
    """``consumer`` is Celery's; its queues are opened and closed from its own loop only."""

    provider_slots: int
    paid_slots: int
    consumer: Any = None
    # A job's messages share its id, and may come twice or by another provider's queue: each counts.
    _held: Counter[tuple[str, str]] = field(default_factory=Counter)  # by task id and queue
    _load: Counter[str] = field(default_factory=Counter)  # by queue
    _paused: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def received(self, task_id: str, queue: str) -> None:
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
        """Paid calls received and not yet ended."""
        return self._load.total()

    def _full(self, queue: str) -> bool:
        return self._load[queue] >= self.provider_slots or self.busy() >= self.paid_slots

    def _roomy(self, queue: str) -> bool:
        return self._load[queue] < self.provider_slots * REOPEN_BELOW and self.busy() < self.paid_slots * REOPEN_BELOW


def install(bulkheads: Bulkheads) -> None:
    """Connect to the worker's signals, for the life of the process."""

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
