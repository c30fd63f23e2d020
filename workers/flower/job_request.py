"""Celery's ``Request`` for messages of ``jobs.run``, whose task id is the job's id.

Flower's row of the task shows the job, so what Celery reports about a message must be true of the job.
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

# Failures that are not recorded yet. Celery must not report them; the step that ends the job does.
unended: WeakSet[JobFailedError] = WeakSet()


class JobRetry(Retry):  # type: ignore[misc]
    """The job is in the queue again. ``signals`` are published after Flower was sent the retry."""

    def __init__(self, code: str, signals: Sequence[Signal] = ()) -> None:
        super().__init__(message=f"again: {code}", exc=Exception(code))
        self.code = code
        self.signals = signals

    def __repr__(self) -> str:
        """Return the code, which Flower shows as the exception."""
        return self.code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code,)


# The result of a step that leaves its job alive. Raising Celery's Ignore would have the same effect, but makes Celery
# copy the whole stack each time: a seventh of a worker's processor time.
LIVES_ON = "lives on"
_SHOWN = repr(LIVES_ON)


class JobRequest(Request):  # type: ignore[misc]
    """The request of a job's message. All messages of a job share its id, so a revoke would discard later ones, too."""

    def revoked(self) -> bool:
        """Never revoked: a job is stopped by its caller's cancel, which handles paid calls and credits."""
        return False

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Do nothing, because terminating would cut off a paid call."""
        del pool, signal
        log.warning("terminate_refused", job_id=self.id)

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name for it
        """Send Celery's event, except the success of a step whose job is still alive."""
        if type == "task-succeeded" and fields.get("result") == _SHOWN:
            return
        super().send_event(type, **fields)

    def on_retry(self, exc_info: Any) -> None:
        super().on_retry(exc_info)
        if isinstance(self.eventer, BatchingDispatcher):
            # The next worker may end the job before our batch is sent; a retry reported after the end would undo it.
            self.eventer.send_now()
        again = exc_info.exception.exc
        if isinstance(again, JobRetry) and again.signals:
            wiring.worker_context().publish(again.signals)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # Celery may wrap it
        if isinstance(error, JobFailedError) and error in unended:
            send_failed_event = False
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
