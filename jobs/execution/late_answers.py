"""Recording late answers: the job has changed meanwhile, and every paid call still gets its outcome.

The worker that made a request may always record that call's outcome once. A live job uses the result if it can.
Otherwise the call is cancelled upstream and written off, and its images are deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection

from core.db import Hot, Statement
from jobs import lifecycle, states
from jobs.execution import outcomes
from jobs.execution.cancelling import cancel_upstream
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import CallOutcome
from jobs.reads import worker
from jobs.reads.worker import LiveJob
from jobs.states import JobStatus, Outcome, Signal

log = structlog.get_logger(__name__)

GIVEN_UP = (Outcome.LOST, Outcome.TIMED_OUT, Outcome.CANCELLED)

LOCK = Statement("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE")


def adopt(context: WorkerContext, job: LiveJob, learned: Sequence[CallOutcome]) -> list[Signal]:
    """Record the outcomes of calls whose job this step no longer owns.

    Returns the signals to publish after the commit. Raises DatabaseAwayError.
    """
    signals: list[Signal] = []
    with context.database.transaction() as connection:
        # The lock keeps the job as it is read here until the outcomes are written.
        Hot.of(connection).run(LOCK, {"id": job.id})
        now = worker.load(connection, job.id)
        if now is None:
            return []
        if now.status in states.TERMINAL:
            _write_off(connection, learned)
        else:
            for each in learned:
                outcomes.record(connection, each)
            if now.status is JobStatus.WAITING:
                lifecycle.due_now(connection, now.id)
                signals = [states.poll(now.provider)]
        in_use = worker.image_keys(connection, job.id)
    useless = _useless(now, learned)
    if useless:
        log.warning("late_answer_of_no_use", job_id=job.id, calls=[each.call.id for each in useless])
        _undo(context, useless, in_use)
    return signals


def still_news(context: WorkerContext, now: LiveJob, learned: Sequence[CallOutcome]) -> list[CallOutcome]:
    """Return the outcomes that may replace what is recorded by now.

    Images of the other outcomes are deleted unless a row refers to them. Raises DatabaseAwayError.
    """
    before = {call.id: call.outcome for call in now.calls}
    news = [each for each in learned if outcomes.may_replace(each, before.get(each.call.id))]
    if late := [each for each in learned if each not in news]:
        with context.database.hot() as hot:
            in_use = worker.image_keys(hot, now.id)
        _undo(context, late, in_use)
    return news


def _useless(now: LiveJob, learned: Sequence[CallOutcome]) -> list[CallOutcome]:
    """Return outcomes that came too late: the job ended without them, or had given the call up."""
    ended = now.status in states.TERMINAL
    before = {call.id: call.outcome for call in now.calls}
    return [
        each
        for each in learned
        if (ended and before[each.call.id] is not Outcome.KEPT) or before[each.call.id] in GIVEN_UP
    ]


def _write_off(connection: Connection, learned: Sequence[CallOutcome]) -> None:
    for each in learned:
        bought = each.outcome in (Outcome.ACCEPTED, Outcome.FINISHED, Outcome.KEPT, Outcome.UNCERTAIN)
        outcome = Outcome.LOST if bought else each.outcome
        outcomes.record(connection, replace(each, outcome=outcome, images=(), written_off=bought or each.written_off))


def _undo(context: WorkerContext, learned: Sequence[CallOutcome], in_use: Collection[str]) -> None:
    """Cancel what still runs upstream, and delete images that no row refers to.

    ``in_use``: keys not to delete, because another collector of the same call kept the same bytes under them.
    """
    for each in learned:
        for image in each.images:
            if image.key not in in_use:
                context.store.delete(image.key)
        if each.outcome is Outcome.ACCEPTED:
            cancel_upstream(context, replace(each.call, upstream_id=each.upstream_id, poll_url=each.poll_url))
