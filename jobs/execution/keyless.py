"""Jobs that go by an account's own key which is gone: deleted, and not replaced."""

from __future__ import annotations

from jobs import lifecycle
from jobs.errors import StaleJobError
from jobs.execution import decide
from jobs.execution.context import WorkerContext
from jobs.reads import worker
from jobs.states import JobStatus, Signal

CODE = "own_key_deleted"


def without_key(context: WorkerContext, job_id: str) -> list[Signal]:
    """Take a QUEUED job to its next model, or end it if there is none. Returns the signals to publish.

    Images of earlier calls are delivered and charged; without any, all credits are returned. A job that has changed
    meanwhile is left alone. Raises DatabaseAwayError.
    """
    try:
        with context.database.hot() as hot:
            job = worker.load(hot, job_id)
        if job is None or job.status is not JobStatus.QUEUED:
            return []
        if job.fallbacks and not job.cancel_requested:
            with context.database.transaction() as connection:
                return lifecycle.fail_over(connection, job_id, job.version, code=CODE, deadline_s=context.move_within_s)
        kept = sum(call.kept for call in job.calls)
        how = lifecycle.succeed(notes=decide.missing(context.facts(job), kept)) if kept else lifecycle.fail(CODE)
        with context.database.hot() as hot:
            return [*lifecycle.end(hot, job_id, job.version, how, traceparent=job.traceparent).signals]
    except StaleJobError:
        return []
