"""Ending jobs outside a step: by the failure hook, after a crash, and past a deadline."""

from __future__ import annotations

from dataclasses import replace

from jobs import lifecycle
from jobs.errors import JobFailedError
from jobs.execution import decide, outcomes
from jobs.execution.context import WorkerContext
from jobs.execution.finish import calls_after, finish
from jobs.execution.outcomes import CallOutcome
from jobs.execution.run import CrashedStepError
from jobs.reads import worker
from jobs.reads.worker import LiveJob
from jobs.states import JobStatus, Outcome, Signal
from providers.errors import NotRun


def end_failed(context: WorkerContext, failed: JobFailedError) -> list[Signal]:
    """End a failed job and return its credits, if it has still failed when it is decided again.

    Returns the signals to publish. Raises DatabaseAwayError; the sweep then ends the job.
    """
    if not isinstance(failed.job, LiveJob):
        return []
    return finish(context, failed.job, [each for each in failed.learned if isinstance(each, CallOutcome)])


def after_crash(context: WorkerContext, crash: CrashedStepError) -> list[Signal]:
    """Move on a job whose step crashed in a live worker. Returns the signals to publish.

    If certainly nothing was sent, the job is retried, or fails at its last attempt (JobFailedError). Otherwise its
    calls become uncertain. Raises StaleJobError when another worker has the job, and DatabaseAwayError; the sweep
    then finds it.
    """
    if crash.unsent is not None:
        job = crash.unsent
        mine = [call for call in job.calls if call.outcome is None]
        learned = [outcomes.from_error(call, NotRun("internal_error"), may_look_up=False) for call in mine]
        return finish(context, job, learned, in_task=True)
    with context.database.transaction() as connection:
        nudges = lifecycle.lapse(
            connection, crash.job_id, crash.fence, code="step_crashed", give_up_s=context.give_up_s
        )
    return [*nudges]


def abandon(context: WorkerContext, job_id: str) -> list[Signal]:
    """Give up the overdue calls of a WAITING job and move the job on, unless other calls are still open.

    The sweep uses it when the provider is no longer configured or the job is past its deadline. Returns the signals
    to publish. Raises StaleJobError, DatabaseAwayError.
    """
    with context.database.hot() as hot:
        job = worker.load(hot, job_id)
    if job is None or job.status is not JobStatus.WAITING:
        return []
    unkept = [call for call in job.calls if call.is_open or call.outcome is Outcome.FINISHED]
    learned = [outcomes.lost(call) for call in unkept if call.overdue]
    step = decide.next_step(replace(context.facts(job), calls=calls_after(job, learned)))
    return [] if isinstance(step, decide.Keep | decide.Wait) else finish(context, job, learned)


def expire(context: WorkerContext, job_id: str, version: int) -> list[Signal]:
    """End a QUEUED job that was not started, or not retried, before its deadline. Returns the signals to publish.

    Images of earlier calls are delivered and charged; without any, all credits are returned. A job whose version is
    no longer ``version`` is left alone, because it may have been retried and have a new deadline.
    """
    with context.database.hot() as hot:
        job = worker.load(hot, job_id)
        if job is None or job.status is not JobStatus.QUEUED or job.version != version:
            return []
        kept = sum(call.kept for call in job.calls)
        how = lifecycle.succeed(notes=decide.missing(context.facts(job), kept)) if kept else lifecycle.expired()
        return [*lifecycle.end(hot, job.id, job.version, how, traceparent=job.traceparent).signals]
