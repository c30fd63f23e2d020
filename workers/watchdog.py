"""The watchdog: finds a worker whose consumer no longer receives messages, by a canary message.

A half-open connection can leave Celery's consumer deaf forever (docs/reliability.md). So every worker sends itself a
small message and reads it in a consumer step that needs no pool slot. Silence counts only after a canary that the
broker took, and while the pool has free slots and the broker and PostgreSQL answer on new connections: an outage or
a worker full of long paid calls is not deafness.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from celery import bootsteps
from kombu import Consumer, Exchange, Queue

log = structlog.get_logger(__name__)

CANARY_EVERY_S = 10.0
DEAF_AFTER_S = 90.0


@dataclass
class Watchdog:
    """Decides when the consumer is deaf.

    ``could_hear``: the pool has free slots, and broker and PostgreSQL answer on new connections. ``send`` puts a
    canary on ``queue`` and returns whether the broker took it. ``leave`` is called once, by a deaf worker.
    """

    queue: str
    send: Callable[[str], bool]
    could_hear: Callable[[], bool]
    leave: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    _unheard_since: float | None = field(default=None, init=False)  # None: no canary is in flight

    def heard(self) -> None:
        """Note that the consumer has read a canary."""
        self._unheard_since = None

    def look(self) -> None:
        """Check the silence so far, then send the next canary. Called once a round."""
        if not self.could_hear():
            self._unheard_since = None  # silence with another cause proves nothing
            return
        if self._silent_s() >= DEAF_AFTER_S:
            log.error("worker_is_deaf", silent_s=round(self._silent_s()))
            self.leave()
            return
        first = self._unheard_since is None
        if first:
            self._unheard_since = self.clock()  # before it is sent, because it may be heard at once
        if not self.send(self.queue) and first:
            self._unheard_since = None

    def _silent_s(self) -> float:
        return 0.0 if self._unheard_since is None else self.clock() - self._unheard_since


class CanaryStep(bootsteps.ConsumerStep):  # type: ignore[misc]
    """Reads the canary on the consumer's own connection, which is the one that may be deaf."""

    watchdog: Watchdog | None = None

    def get_consumers(self, channel: Any) -> list[Any]:
        if self.watchdog is None:
            return []
        # The default exchange addresses a queue by its name and leaves no binding in Redis.
        queue = Queue(self.watchdog.queue, Exchange(""), routing_key=self.watchdog.queue, exclusive=True)
        return [Consumer(channel, queues=[queue], on_message=self._heard, on_decode_error=self._heard)]

    def _heard(self, message: Any, error: Exception | None = None) -> None:
        """Count any canary, readable or not, because it shows that the consumer receives messages."""
        del error
        message.ack()
        if self.watchdog is not None:
            self.watchdog.heard()
