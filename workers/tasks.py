"""The Celery tasks: each takes an id, runs a step and publishes its signals. Decisions and queries are in ``jobs``.

Flower's row of ``jobs.run`` shows the whole job. A step that leaves the job alive returns ``LIVES_ON``, which is not
reported, so that the row stays STARTED; if the job is in the queue again, the task ends with ``Retry``. Job ends
outside these tasks are reported by ``workers/flower/task_events.py``. A poll is about many jobs and sends no events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from celery import Task

from core import tracing
from core.errors import DatabaseAwayError
from jobs.dispatch import publishing
from jobs.errors import JobFailedError
from jobs.execution.context import WorkerContext
from jobs.execution.poll import poll_provider
from jobs.execution.run import run_job
from jobs.states import Ended, Signal
from workers import drain, stepping, wiring
from workers.celery_app import app
from workers.flower import job_request
from workers.flower.job_request import LIVES_ON, JobRequest, JobRetry
from workers.flower.task_events import RUN
from workers.ticker import poll_key

log = structlog.get_logger(__name__)


class JobTask(Task):  # type: ignore[misc]
    """Ends a job that a step found failed and returns its credits at once; the sweep does it if this fails."""

    throws = (JobFailedError,)
    send_events = False

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """The failure hook. It never raises, because Celery would call it a second time."""
        del task_id, args, kwargs
        if not isinstance(exc, JobFailedError):
            return
        einfo.traceback = ""  # Flower would store it for every failure, and the code is enough
        signals = stepping.end(exc)
        if self.send_events:
            signals = self._but_its_own(signals, exc)
        wiring.worker_context().publish(signals)

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        del exc, task_id, args, kwargs
        einfo.traceback = ""

    def _but_its_own(self, signals: Sequence[Signal], error: JobFailedError) -> list[Signal]:
        """Return what to publish in addition to Celery's ``task-failed``, which is sent only for a recorded failure."""
        own, others = _split(signals, error.job_id)
        if own is None or own.status != "failed":
            job_request.unended.add(error)
            return list(signals)
        wiring.publisher().events.reported_by_celery(error.job_id)
        return others


class RunTask(JobTask):
    """The task that Flower shows as the job."""

    Request = JobRequest
    send_events = wiring.settings().task_events


@app.task(base=RunTask, name=RUN)  # type: ignore[untyped-decorator]
def run(job_id: str) -> str | None:
    """Claim a queued job and make its paid call."""
    step = _hand_back if drain.draining() else run_job
    with tracing.arrived(run.request.get("traceparent")):
        signals = stepping.perform(step, job_id)
    return _publish(job_id, signals)


@app.task(base=JobTask, name="jobs.poll")  # type: ignore[untyped-decorator]
def poll(provider: str) -> None:
    """Check a batch of a provider's images in progress."""
    wiring.quietly(lambda: wiring.redis_client().delete(poll_key(provider)))
    wiring.worker_context().publish(stepping.perform(poll_provider, provider))


@app.task(base=JobTask, name="webhooks.deliver")  # type: ignore[untyped-decorator]
def deliver(job_id: str) -> None:
    """Begin to send a job's callbacks."""
    try:
        wiring.sender().send_of_job(job_id)
    except DatabaseAwayError as error:
        log.debug("webhook_waits_for_database", job_id=job_id, detail=error.detail)


def _hand_back(context: WorkerContext, job_id: str) -> list[Signal]:
    """Leave the job in the queue and mark it unpublished, so that another worker gets it."""
    with context.database.autocommit() as connection:
        publishing.mark_unpublished(connection, [job_id])
    return []


def _publish(job_id: str, signals: Sequence[Signal]) -> str | None:
    """Publish the signals of a step. Returns LIVES_ON unless the job has succeeded. Raises JobRetry."""
    own, others = _split(signals, job_id)
    events = wiring.publisher().events
    if own is not None and own.status == "retried" and not events.has_ended(job_id):
        raise JobRetry(own.code or "retried", others)
    if own is not None and own.status == "succeeded":
        events.reported_by_celery(job_id)
        wiring.worker_context().publish(others)
        return None
    wiring.worker_context().publish(signals)
    return LIVES_ON


def _split(signals: Sequence[Signal], job_id: str) -> tuple[Ended | None, list[Signal]]:
    """Return the end of the step's own job, if any, and the other signals."""
    own = [each for each in signals if isinstance(each, Ended) and each.job_id == job_id]
    others = [each for each in signals if not (isinstance(each, Ended) and each.job_id == job_id)]
    return (own[-1] if own else None), others
