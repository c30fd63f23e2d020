"""The only way onto the queues: nudges are sent as messages after the commit, best effort.

A message is a hint and its row is the truth. A broker that is away costs a caller at most a second, once every few
seconds, and nothing is lost, because the sweep publishes what was not sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import structlog
from kombu.exceptions import KombuError
from kombu.pools import ProducerPool

from core import outages, tracing
from core.redis import RedisError, make_client
from core.tracing import Span
from jobs.states import WAKE, Ended, Nudge, Signal
from workers.broker.envelope import redis_message
from workers.broker.options import answers, connect, hang_up, is_redis
from workers.celery_app import app
from workers.flower.task_events import RUN, TaskEvents

log = structlog.get_logger(__name__)

WAKE_CHANNEL = "darkroom:wake"
TIMEOUT_S = 1.0
SKIP_AFTER_FAILURE_S = 5.0
PRODUCERS = 50


@dataclass
class _Server:
    """A server that may be away: after a failure it is not tried for a while. ``name`` is that of its outage."""

    expected: tuple[type[Exception], ...]
    name: str = "broker"
    _skip_until: float = 0.0

    @property
    def skipping(self) -> bool:
        return time.monotonic() < self._skip_until

    def attempt(self, act: Callable[[], object], *, nudges: int) -> bool:
        """Run ``act`` unless the server failed a moment ago; return whether it succeeded. Never raises."""
        if self.skipping:
            return False
        try:
            act()
        except self.expected as error:
            self._pause()
            outages.of(self.name).away(error=type(error).__name__)
            return False
        except Exception:
            # The job is committed already and the sweep will send its message. An exception from here would make an
            # accepted job look refused to its caller.
            self._pause()
            log.exception("publishing_crashed", nudges=nudges)
            return False
        outages.of(self.name).back()
        return True

    def _pause(self) -> None:
        """Skip the server for a while."""
        self._skip_until = time.monotonic() + SKIP_AFTER_FAILURE_S


class Publisher:
    """Publishes signals; never raises and never waits long. One per process.

    ``node``: the name of this process's Celery worker; None in a web process. Without ``task_events`` Flower is not
    sent the ends of jobs.
    """

    def __init__(self, broker_url: str, redis_url: str, *, node: str | None = None, task_events: bool = True) -> None:
        connection = connect(broker_url, timeout_s=TIMEOUT_S)
        self._broker_url = broker_url
        self._producers = ProducerPool(connection.Pool(PRODUCERS), limit=PRODUCERS)
        self._redis = make_client(redis_url, timeout_s=TIMEOUT_S)
        self._collects = not is_redis(broker_url)
        transport = (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors)
        self._broker = _Server((KombuError, RedisError, OSError, *transport))
        # Waiting web requests are woken through REDIS_URL, which may be another server than the broker.
        self._wakes = self._broker if broker_url == redis_url else _Server((RedisError, OSError), "redis")
        if broker_url == redis_url:
            outages.are_one("broker", "redis")
        self.events = TaskEvents(lambda: connect(broker_url, timeout_s=TIMEOUT_S), node=node, enabled=task_events)

    @property
    def skipping(self) -> bool:
        """Whether the broker failed a moment ago, so that nothing is sent at present."""
        return self._broker.skipping

    def broker_answers(self) -> bool:
        """Return whether the broker answers on a new connection, within ``TIMEOUT_S``. Never raises."""
        return answers(self._broker_url, timeout_s=TIMEOUT_S)

    def publish(self, signals: Sequence[Signal]) -> bool:
        """Send signals; return whether all nudges were sent. False only means a delay until the next sweep."""
        # Before the messages: Flower must see the retry of a job before its next start.
        self.events.report([each for each in signals if isinstance(each, Ended)])
        nudges = [each for each in signals if isinstance(each, Nudge)]
        wakes = [nudge.argument for nudge in nudges if nudge.task == WAKE]
        tasks = [nudge for nudge in nudges if nudge.task != WAKE]
        woken = not wakes or self._wakes.attempt(lambda: self._wake(wakes), nudges=len(wakes))
        sent = not tasks or self._broker.attempt(lambda: self._send(tasks), nudges=len(tasks))
        return woken and sent

    def send_canary(self, queue: str) -> bool:
        """Send an empty message to a queue by name, which leaves no binding; return whether the broker took it."""
        return self._broker.attempt(lambda: self._send_canary(queue), nudges=1)

    def _wake(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            self._redis.publish(WAKE_CHANNEL, job_id)

    def _send(self, nudges: Sequence[Nudge]) -> None:
        with self._producers.acquire(block=True, timeout=TIMEOUT_S) as producer, self._forgetting(producer):
            for nudge in nudges:
                # The task id is the job's id, under which Flower shows the job.
                task_id = nudge.argument if nudge.task == RUN else str(uuid4())
                with self._span(nudge, task_id) as span:
                    headers = {"traceparent": span.traceparent} if span.traceparent else {}
                    self._send_one(producer, nudge, task_id, headers)

    def _span(self, nudge: Nudge, task_id: str) -> AbstractContextManager[Span]:
        """The span of sending a message, of a job whose trace is known here."""
        if nudge.traceparent is None:
            return tracing.NOTHING
        told = {
            "messaging.system": "rabbitmq" if self._collects else "redis",
            "messaging.destination.name": nudge.queue,
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.message.id": task_id,
        }
        return tracing.span(f"publish {nudge.queue}", "producer", of=nudge.traceparent, attributes=told)

    def _send_one(self, producer: Any, nudge: Nudge, task_id: str, headers: Mapping[str, str]) -> None:
        if self._collects:
            self._send_by_celery(producer, nudge, task_id, headers)
        else:
            message = redis_message(nudge.task, nudge.argument, task_id=task_id, queue=nudge.queue, headers=headers)
            producer.channel.client.lpush(nudge.queue, message)

    def _send_by_celery(self, producer: Any, nudge: Nudge, task_id: str, headers: Mapping[str, str]) -> None:
        app.send_task(
            nudge.task,
            args=(nudge.argument,),
            task_id=task_id,
            queue=nudge.queue,
            producer=producer,
            retry=False,
            confirm_timeout=TIMEOUT_S,
            ignore_result=True,
            headers=dict(headers),
            argsrepr=f"('{nudge.argument}',)",  # what Flower shows: only ids
        )

    @contextmanager
    def _forgetting(self, producer: Any) -> Iterator[None]:
        """Drop a connection to RabbitMQ that failed, because it may next return the answer to an earlier request."""
        try:
            yield
        except Exception:
            if self._collects:
                hang_up(producer.connection)
            raise

    def _send_canary(self, queue: str) -> None:
        with self._producers.acquire(block=True, timeout=TIMEOUT_S) as producer, self._forgetting(producer):
            producer.publish(
                {}, exchange="", routing_key=queue, serializer="json", retry=False, confirm_timeout=TIMEOUT_S
            )
