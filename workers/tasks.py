"""The tasks: an id in, a verb called, nudges out. Decisions and queries live in ``jobs``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from celery import Task

from core.errors import DatabaseAwayError, DatabaseChangedError
from jobs import collector, lifecycle, poller, publishing, runner
from jobs.errors import StaleJobError
from jobs.states import Nudge
from jobs.workbench import Workbench
from workers import drain, wiring
from workers.celery_app import app
from workers.ticker import poll_key

log = structlog.get_logger(__name__)


class JobTask(Task):  # type: ignore[misc]
    """Returns a crashed job's credits on the fast path; the sweep's ``lapse`` is the guarantee.

    Only when the fence is known: an error of the database or the broker says nothing about the job.
    """

    throws = (DatabaseAwayError, StaleJobError)

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        del task_id, args, kwargs, einfo
        if isinstance(exc, DatabaseAwayError):  # Celery's own line about it is muted, like all it expects
            log.warning("database_away", task=self.name)
        if not isinstance(exc, runner.CrashedStepError):
            return
        bench = wiring.workbench()
        try:
            with bench.database.transaction() as connection:
                nudges = lifecycle.crashed(connection, exc.job_id, exc.fence, give_up_s=bench.give_up_s)
        except (DatabaseAwayError, StaleJobError) as error:
            log.info("left_to_the_sweep", job_id=exc.job_id, error=type(error).__name__)
            return
        bench.publish(nudges)


def _once_more(step: Callable[[Workbench, str], list[Nudge]], argument: str) -> list[Nudge]:
    """A step that met a migration begins anew; a step done twice changes nothing the second time."""
    try:
        return step(wiring.workbench(), argument)
    except DatabaseChangedError:
        return step(wiring.workbench(), argument)


@app.task(base=JobTask, name="jobs.run")  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    """Claim a queued job and make its paid call."""
    bench = wiring.workbench()
    if drain.draining():
        with bench.database.autocommit() as connection:
            publishing.forget(connection, [job_id])
        return
    bench.publish(_once_more(runner.run, job_id))


@app.task(base=JobTask, name="jobs.poll")  # type: ignore[untyped-decorator]
def poll(provider: str) -> None:
    """Look at a batch of a provider's pictures in progress."""
    bench = wiring.workbench()
    wiring.quietly(lambda: wiring.redis_client().delete(poll_key(provider)))
    bench.publish(_once_more(poller.poll, provider))


@app.task(base=JobTask, name="jobs.collect")  # type: ignore[untyped-decorator]
def collect(job_id: str) -> None:
    """Fetch and keep the pictures of a job's finished calls."""
    wiring.workbench().publish(_once_more(collector.collect, job_id))
