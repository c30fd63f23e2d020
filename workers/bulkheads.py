"""Bulkheads: one hanging provider must not fill the pool, for a full pool blocks the consumer.

Tasks are counted from the moment they are received, by queue. At its cap a provider's queue is no
longer consumed; below it, it is again. The control queue always keeps slots of its own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery.signals import task_postrun, task_received, task_revoked

from jobs.states import CONTROL_QUEUE

log = structlog.get_logger(__name__)

# A little room before a paused queue is opened again, so that it does not flap.
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
    _busy: dict[str, str] = field(default_factory=dict)  # task id -> queue
    _paused: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def received(self, task_id: str, queue: str) -> None:
        if queue == CONTROL_QUEUE:
            return
        with self._lock:
            self._busy[task_id] = queue
            full = self._full(queue) and queue not in self._paused
            if full:
                self._paused.add(queue)
        if full:
            log.warning("queue_paused", queue=queue)
            self.consumer.call_soon(self.consumer.cancel_task_queue, queue)

    def ended(self, task_id: str) -> None:
        with self._lock:
            if self._busy.pop(task_id, None) is None:
                return
            open_again = [queue for queue in self._paused if self._roomy(queue)]
            self._paused.difference_update(open_again)
        for queue in open_again:
            log.info("queue_resumed", queue=queue)
            self.consumer.call_soon(self.consumer.add_task_queue, queue)

    def busy(self) -> int:
        """Paid calls received and not yet ended."""
        return len(self._busy)

    def _full(self, queue: str) -> bool:
        return self._count(queue) >= self.provider_slots or len(self._busy) >= self.paid_slots

    def _roomy(self, queue: str) -> bool:
        return (
            self._count(queue) < self.provider_slots * REOPEN_BELOW and len(self._busy) < self.paid_slots * REOPEN_BELOW
        )

    def _count(self, queue: str) -> int:
        return sum(1 for busy in self._busy.values() if busy == queue)


def install(bulkheads: Bulkheads) -> None:
    """Connect to the worker's signals, for the life of the process."""

    def on_received(request: Any, **_: object) -> None:
        bulkheads.received(request.id, request.delivery_info.get("routing_key", ""))

    def on_ended(task_id: str | None = None, request: Any = None, **_: object) -> None:
        bulkheads.ended(task_id or request.id)

    task_received.connect(on_received, weak=False)
    task_postrun.connect(on_ended, weak=False)
    task_revoked.connect(on_ended, weak=False)
