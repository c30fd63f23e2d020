"""Taking a step with a job, and what follows when the step does not end well. Shared by tasks and ticker."""

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

# These say nothing of the job: its rows are as they were, and the sweep finds it.
SAYS_NOTHING = (DatabaseAwayError, DatabaseChangedError, StaleJobError)

# A step that met a migration begins again; a step done twice changes nothing the second time.
_ONCE_MORE = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type(DatabaseChangedError), stop=tenacity.stop_after_attempt(2), reraise=True
)


def perform(step: Step, argument: str) -> list[Signal]:
    """Take a step; what to publish of it, accidents included.

    Raises JobFailedError, for the failure hook; Ignore where nothing can be said. Nothing else is raised:
    Celery would report to Flower that the job failed, while it lives on.
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
    """The same where no Celery task stands for the job: its failure is ended here. Never raises."""
    try:
        return perform(step, argument)
    except JobFailedError as error:
        return end(error)
    except Ignore:
        return []


def end(error: JobFailedError) -> list[Signal]:
    """End a job that a step found failed, its credits back. Never raises; empty where the sweep must do it."""
    try:
        return give_up.end_failed(wiring.worker_context(), error)
    except SAYS_NOTHING as reason:
        log.info("left_to_the_sweep", job_id=error.job_id, error=type(reason).__name__)
    except Exception:
        log.exception("failure_not_ended", job_id=error.job_id)
    return []
