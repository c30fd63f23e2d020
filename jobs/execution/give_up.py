"""Ends that no step brings about: the failure hook's, those after an accident, and those past a deadline."""

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
    """The failure hook: end the job and return its credits, if what made it fail still holds.

    Raises DatabaseAwayError: the sweep finds the job.
    """
    if not isinstance(failed.job, LiveJob):
        return []
    return finish(context, failed.job, [each for each in failed.learned if isinstance(each, CallOutcome)])


def after_crash(context: WorkerContext, crash: CrashedStepError) -> list[Signal]:
    """A step ended in an accident inside a live worker.

    Surely nothing sent: tried again, or failed at the last attempt (JobFailedError). Else what was sent is
    uncertain. Raises StaleJobError when someone else has the job, DatabaseAwayError: the sweep finds it.
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
    """Give up the open calls of a WAITING job that cannot be asked about any more, and end it if that was all.

    For the sweep: its provider has gone from the configuration, or the job is past its own deadline.
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
    """End a QUEUED job that is past its deadline: not begun in time, or not tried again in time.

    Images that earlier calls have made are delivered and paid for; without any, every credit goes back. A job
    that is not as it was seen (``version``) is left alone: it may have been tried, and have a new deadline.
    """
    with context.database.hot() as hot:
        job = worker.load(hot, job_id)
        if job is None or job.status is not JobStatus.QUEUED or job.version != version:
            return []
        kept = sum(call.kept for call in job.calls)
        how = lifecycle.succeed(notes=decide.missing(context.facts(job), kept)) if kept else lifecycle.expired()
        return [*lifecycle.end(hot, job.id, job.version, how).signals]
