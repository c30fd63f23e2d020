"""A message of ``jobs.run`` inside its worker: Celery's ``Request``, whose id is the job's.

The row in Flower is the job's, so what Celery says of the message must hold for the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import structlog
from celery.exceptions import Retry
from celery.worker.request import Request

from jobs.errors import JobFailedError
from jobs.states import Signal
from workers import wiring
from workers.flower.event_batches import BatchingDispatcher

log = structlog.get_logger(__name__)

# Failures that are not on record yet: Celery must not report them. The step that ends their jobs does.
unended: WeakSet[JobFailedError] = WeakSet()


class JobRetry(Retry):  # type: ignore[misc]
    """The job is in the queue again. ``signals`` are published when Flower knows: its next start comes after."""

    def __init__(self, code: str, signals: Sequence[Signal] = ()) -> None:
        super().__init__(message=f"again: {code}", exc=Exception(code))
        self.code = code
        self.signals = signals

    def __repr__(self) -> str:
        """What Flower shows as the exception."""
        return self.code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code,)


# What a step returns that leaves its job alive. To raise Celery's Ignore says the same, and makes Celery copy
# the whole stack each time: a seventh of a worker's processor time.
LIVES_ON = "lives on"
_SHOWN = repr(LIVES_ON)


class JobRequest(Request):  # type: ignore[misc]
    """Every message of a job has one id, so revoking one would discard all that ever follow."""

    def revoked(self) -> bool:
        """Never: a job is stopped by its caller's cancel, which knows of its paid calls and its credits."""
        return False

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Never: it would cut off a paid call."""
        del pool, signal
        log.warning("terminate_refused", job_id=self.id)

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name for it
        """Of a job that lives on no success is reported."""
        if type == "task-succeeded" and fields.get("result") == _SHOWN:
            return
        super().send_event(type, **fields)

    def on_retry(self, exc_info: Any) -> None:
        super().on_retry(exc_info)
        if isinstance(self.eventer, BatchingDispatcher):
            # The next to run the job may end it before our batch is due, and a retry reported after the end undoes it.
            self.eventer.send_now()
        again = exc_info.exception.exc
        if isinstance(again, JobRetry) and again.signals:
            wiring.worker_context().publish(again.signals)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # Celery may wrap it
        if isinstance(error, JobFailedError) and error in unended:
            send_failed_event = False
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
