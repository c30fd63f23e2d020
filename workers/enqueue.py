"""The one way onto the queues: nudges become messages, after the commit, best effort.

A message is a hint and its row is the truth, so a broker that is away costs the caller at most a
second, once every few seconds, and loses nothing: the sweep publishes what was not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import structlog
from kombu import Connection
from kombu.exceptions import KombuError
from kombu.pools import ProducerPool

from core.redis import RedisError, make_client
from jobs.states import WAKE, Nudge
from workers.broker import address, transport_options
from workers.celery_app import app

log = structlog.get_logger(__name__)

WAKE_CHANNEL = "darkroom:wake"
TIMEOUT_S = 1.0
SKIP_AFTER_FAILURE_S = 5.0
PRODUCERS = 50


class Publisher:
    """Sends nudges; never raises and never waits long. One per process."""

    def __init__(self, broker_url: str, redis_url: str) -> None:
        options = transport_options(broker_url, timeout_s=TIMEOUT_S)
        connection = Connection(address(broker_url), transport_options=options, connect_timeout=TIMEOUT_S)
        self._producers = ProducerPool(connection.Pool(PRODUCERS), limit=PRODUCERS)
        self._redis = make_client(redis_url, timeout_s=TIMEOUT_S)
        self._lock = threading.Lock()
        self._skip_until = 0.0

    @property
    def skipping(self) -> bool:
        """Whether the broker failed a moment ago, so that nothing is sent for now."""
        return time.monotonic() < self._skip_until

    def publish(self, nudges: Sequence[Nudge]) -> bool:
        """Send; whether all were handed over. False is no loss, only a delay until the next sweep."""
        if not nudges:
            return True
        if self.skipping:
            return False
        try:
            self._wake([nudge.argument for nudge in nudges if nudge.task == WAKE])
            self._send([nudge for nudge in nudges if nudge.task != WAKE])
        except (KombuError, RedisError, OSError) as error:
            self._pause(error, len(nudges))
            return False
        return True

    def send_canary(self, queue: str) -> bool:
        """Put an empty message on a queue by name, without leaving a binding behind."""
        if self.skipping:
            return False
        try:
            with self._producers.acquire(block=True, timeout=TIMEOUT_S) as producer:
                producer.publish({}, exchange="", routing_key=queue, serializer="json", retry=False)
        except (KombuError, RedisError, OSError) as error:
            self._pause(error, 1)
            return False
        return True

    def _wake(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            self._redis.publish(WAKE_CHANNEL, job_id)

    def _send(self, nudges: Sequence[Nudge]) -> None:
        if not nudges:
            return
        with self._producers.acquire(block=True, timeout=TIMEOUT_S) as producer:
            for nudge in nudges:
                app.send_task(
                    nudge.task,
                    args=(nudge.argument,),
                    queue=nudge.queue,
                    producer=producer,
                    retry=False,
                    ignore_result=True,
                    argsrepr=f"('{nudge.argument}',)",  # what Flower shows: ids alone
                )

    def _pause(self, error: Exception, lost: int) -> None:
        with self._lock:
            first = not self.skipping
            self._skip_until = time.monotonic() + SKIP_AFTER_FAILURE_S
        if first:
            log.warning("broker_away", error=type(error).__name__, nudges=lost)
