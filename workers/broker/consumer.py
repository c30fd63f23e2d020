"""Celery's consumer with shorter reconnect pauses, and safe against messages that are not ours.

Celery's own pauses between two tries to connect grow to half a minute, so a worker would sleep long after Redis is
back (measured: 18 s until the next image), and no setting changes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.consumer import CONNECTION_ERROR, CONNECTION_RETRY
from kombu import Connection

from core import outages
from workers.broker.poison import REJECTED, fault

FIRST_S = 0.5
STEP_S = 0.5
LONGEST_S = 3.0

log = structlog.get_logger(__name__)
celery_log = get_logger(__name__)  # the logger that kombu's errors go to


class _OneLine(logging.Filter):
    """Turns Celery's lines about a broker that is away, several for each try, into one outage."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == CONNECTION_ERROR or (record.args and CONNECTION_RETRY in record.args):
            error = next((each for each in record.args or () if isinstance(each, Exception)), None)
            outages.of("broker").away(error=type(error).__name__)
            return False
        return bool(record.msg != CONNECTION_RETRY)


logging.getLogger("celery.worker.consumer.consumer").addFilter(_OneLine())


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Tries to connect every half second at first, later every three. Counts and drops poison messages."""

    def ensure_connected(self, conn: Connection) -> Connection:
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_start=FIRST_S, interval_step=STEP_S, interval_max=LONGEST_S
        )
        connected = super().ensure_connected(conn)
        outages.of("broker").back()
        return connected

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            try:
                reason = fault(message, self.strategies)
            except Exception:  # noqa: BLE001 - a message that cannot be decoded is not ours
                reason = "unreadable"
            if reason:
                self._reject(message, reason)
                return
            try:
                handle(message)
            except Exception as error:
                if isinstance(error, self.connection_errors) and not isinstance(error, KeyError):
                    raise
                # A message without an answer would return to the queue at exit and fail in the next worker, too.
                log.exception("message_not_handled", task=message.headers["task"])
                self._reject(message, "not_handled")

        return on_task_received

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message that cannot be unpacked, without logging its content as Celery would."""
        del exc
        self._reject(message, "unreadable")

    def _reject(self, message: Any, reason: str) -> None:
        REJECTED.count(reason, queue=str(message.delivery_info.get("routing_key", "")))
        if not message.acknowledged:
            message.reject_log_error(celery_log, self.connection_errors)
