"""Celery's own task events in batches: under gevent, Celery sends one message per event, 0.23 ms each.

Celery buffers events only with an event loop, not under gevent. So this dispatcher buffers task events, and a thread
sends them, 24 at a time or after 0.2 s, never inside a step. Events that are buffered when the process is killed
never reach Flower, which is acceptable because rows are the truth.
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
# How many events wait for a broker that is away; Flower would not keep more either.
MOST_WAITING = 10_000


_living: WeakSet[BatchingDispatcher] = WeakSet()


def send_all_now() -> None:
    """Send all buffered events, before the connection is closed or the process ends. Never raises."""
    for dispatcher in list(_living):
        dispatcher.send_now()


class BatchingDispatcher(EventDispatcher):  # type: ignore[misc]
    """The dispatcher that the consumer's bootstep makes. With a ``buffer_group`` it works like Celery's."""

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
        """Send the buffered events and stop."""
        if self._batches and not self._over:
            self._over = True
            self._some.set()
            self._many.set()
            self.send_now()
        super().close()

    def send_now(self) -> None:
        """Send the buffered events at once. Never raises."""
        try:
            self.flush(errors=False)
        except Exception as error:  # noqa: BLE001 - each kind of broker has its own errors; Flower can wait
            log.debug("task_events_not_sent", error=type(error).__name__)

    def _buffered(self) -> None:
        """Wake the sending thread; called in the step that had the event, which must not wait."""
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
