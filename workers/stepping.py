"""Running a step of a job, and handling its failures. Shared by the tasks and the ticker."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import tenacity
from celery.exceptions import Ignore

from core.errors import DatabaseAwayError, DatabaseChangedError
from jobs.errors import JobFailedError, StaleJobError
from jobs.execution import give_up
from jobs.execution.context import WorkerContext
from jobs.execution.run import CrashedStepError
from jobs.states import Signal
from workers import wiring

log = structlog.get_logger(__name__)

Step = Callable[[WorkerContext, str], list[Signal]]

# Errors that say nothing about the job: its rows are unchanged, and the sweep finds it.
SAYS_NOTHING = (DatabaseAwayError, DatabaseChangedError, StaleJobError)

# A step interrupted by a migration runs again; what it had done already changes nothing the second time.
_ONCE_MORE = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type(DatabaseChangedError), stop=tenacity.stop_after_attempt(2), reraise=True
)


def perform(step: Step, argument: str) -> list[Signal]:
    """Run a step, also after a crash of it, and return the signals to publish.

    Raises JobFailedError for the failure hook, and Ignore if nothing can be said about the job. It raises nothing
    else, because Celery would then report a live job to Flower as failed.
    """
    context = wiring.worker_context()
    try:
        try:
            return _ONCE_MORE(step, context, argument)
        except CrashedStepError as crash:
            log.exception("step_crashed", job_id=crash.job_id)
            return give_up.after_crash(context, crash)
    except JobFailedError:
        raise
    except SAYS_NOTHING as error:
        log.warning("left_to_the_sweep", step=step.__name__, about=argument, error=type(error).__name__)
        raise Ignore from None
    except Exception:
        log.exception("step_broke", step=step.__name__, about=argument)
        raise Ignore from None


def perform_to_the_end(step: Step, argument: str) -> list[Signal]:
    """Run a step for which there is no Celery task, and end the job if it has failed. Never raises.

    Returns the signals to publish.
    """
    try:
        return perform(step, argument)
    except JobFailedError as error:
        return end(error)
    except Ignore:
        return []


def end(error: JobFailedError) -> list[Signal]:
    """End a job that a step found failed, and return its credits. Never raises.

    Returns the signals to publish; empty if the sweep must end the job.
    """
    try:
        return give_up.end_failed(wiring.worker_context(), error)
    except SAYS_NOTHING as reason:
        log.info("left_to_the_sweep", job_id=error.job_id, error=type(reason).__name__)
    except Exception:
        log.exception("failure_not_ended", job_id=error.job_id)
    return []
