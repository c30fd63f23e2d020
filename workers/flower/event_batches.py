"""Celery's own task events, in batches: under gevent its dispatcher sends one message an event, 0.23 ms each.

With an event loop Celery buffers them; for gevent its source only says that it should. So the consumer's
dispatcher puts task events aside, and a thread of its own sends them, 24 at a time or after 0.2 s, never
inside a step. What is buffered when the process is killed was never seen in Flower; rows are the truth.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakSet

import structlog
from celery.events import EventDispatcher

log = structlog.get_logger(__name__)

BATCH = 24
WAIT_S = 0.2
# Until the broker is back; more than that Flower would not keep either.
MOST_WAITING = 10_000


_living: WeakSet[BatchingDispatcher] = WeakSet()


def send_all_now() -> None:
    """Before the connection is closed, or the process ends: what waits is about the last jobs. Never raises."""
    for dispatcher in list(_living):
        dispatcher.send_now()


class BatchingDispatcher(EventDispatcher):  # type: ignore[misc]
    """What the consumer's bootstep makes; one that was made with a ``buffer_group`` of its own works as ever."""

    def __init__(self, *args: Any, buffer_group: Any = None, **kwargs: Any) -> None:
        self._batches = buffer_group is None
        self._some, self._many = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._over = False
        super().__init__(*args, buffer_group=buffer_group or {"task"}, **kwargs)
        if self._batches:
            self.buffer_limit = MOST_WAITING
            self.on_send_buffered = self._buffered
            _living.add(self)

    def close(self) -> None:
        """Send what waits, and no more."""
        if self._batches and not self._over:
            self._over = True
            self._some.set()
            self._many.set()
            self.send_now()
        super().close()

    def send_now(self) -> None:
        """Send what waits, without waiting for more. Never raises."""
        try:
            self.flush(errors=False)
        except Exception as error:  # noqa: BLE001 - of each kind of broker its own; Flower can wait
            log.info("task_events_not_sent", error=type(error).__name__)

    def _buffered(self) -> None:
        """In the step that had the event: only says that there is one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_batches, name="event-batches", daemon=True)
            self._thread.start()
        self._some.set()
        if len(self._group_buffer["task"]) >= BATCH:
            self._many.set()

    def _send_batches(self) -> None:
        while not self._over:
            self._some.wait()
            self._many.wait(WAIT_S)
            self._some.clear()
            self._many.clear()
            self.send_now()
