"""Doing what was decided: the bridge from ``decide.next_step`` to the verbs of ``lifecycle``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Connection

from jobs import answers, decide, lifecycle, loading, states
from jobs.answers import Answer
from jobs.errors import StaleJobError
from jobs.loading import LiveJob
from jobs.states import JobStatus, Nudge, Outcome
from jobs.workbench import Workbench
from providers.base import CallRef, CancelOutcome
from providers.errors import ProviderError

log = structlog.get_logger(__name__)

FIRST_CHECK_S = 1.0
LOOK_AGAIN_S = 10.0


def finish(bench: Workbench, job: LiveJob, news: Sequence[Answer]) -> list[Nudge]:
    """Record what a step learned and move the job on, in one transaction.

    When the job has moved on meanwhile (cancelled, lapsed, ended) nothing of that transaction
    stands; the answers are recorded on their own, and adopted where the job can still use them.
    """
    step = decide.next_step(replace(bench.facts(job), calls=_merged(job, news)))
    try:
        with bench.database.transaction() as connection:
            for answer in news:
                answers.record(connection, answer)
            return apply(connection, bench, job, step)
    except StaleJobError:
        return _adopt(bench, job, news)


def conclude(bench: Workbench, job_id: str) -> list[Nudge]:
    """Decide from the rows alone how a WAITING job goes on; StaleJobError means somebody was first."""
    with bench.database.transaction() as connection:
        job = loading.load(connection, job_id)
        if job is None or job.status is not JobStatus.WAITING:
            return []
        return apply(connection, bench, job, decide.next_step(bench.facts(job)))


def apply(connection: Connection, bench: Workbench, job: LiveJob, step: decide.Step) -> list[Nudge]:
    """Run the verb a decision asks for. Raises StaleJobError."""
    match step:
        case decide.Wait():
            return _park(connection, bench, job)
        case decide.Keep():
            _park(connection, bench, job)
            return [states.collect(job.id)]
        case decide.Retry(code, after_s):
            return lifecycle.retry(connection, job.id, job.fence, code=code, after_s=after_s)
        case decide.Succeed(kept, notes):
            return lifecycle.succeed(connection, job.id, job.fence, kept=kept, notes=notes)
        case decide.Fail(code):
            return lifecycle.fail(connection, job.id, job.fence, code=code)
        case decide.Cancel(outcome, charged):
            return lifecycle.cancelled(connection, job.id, job.fence, outcome=outcome, kept=charged)


def _park(connection: Connection, bench: Workbench, job: LiveJob) -> list[Nudge]:
    if job.status is JobStatus.WAITING:
        return []
    after_s = min(FIRST_CHECK_S, bench.spec(job.provider).check_interval_s)
    return lifecycle.park(connection, job.id, job.fence, check_after_s=after_s)


def _merged(job: LiveJob, news: Sequence[Answer]) -> list[decide.Call]:
    fresh = {answer.call.id: answer.facts for answer in news}
    return [fresh.get(call.id, call) for call in job.facts]


def _adopt(bench: Workbench, job: LiveJob, news: Sequence[Answer]) -> list[Nudge]:
    """The call's own writer: record what was bought although the job is no longer in our hands."""
    with bench.database.transaction() as connection:
        now = loading.load(connection, job.id)
        if now is None:
            return []
        if now.status in states.TERMINAL:
            _write_off(connection, news)
        else:
            for answer in news:
                answers.record(connection, answer)
            nudges = _rejoin(connection, bench, now, mine=now.fence == job.fence)
    if now.status in states.TERMINAL:
        log.warning("late_answer_written_off", job_id=job.id, calls=[answer.call.id for answer in news])
        _undo(bench, job, news)
        return []
    return nudges


def _rejoin(connection: Connection, bench: Workbench, before: LiveJob, *, mine: bool) -> list[Nudge]:
    if mine and before.status is JobStatus.RUNNING:
        # Only a wish to cancel came between: decide again, with it.
        job = loading.load(connection, before.id)
        if job is None:
            return []
        return apply(connection, bench, job, decide.next_step(bench.facts(job)))
    if before.status is JobStatus.WAITING:
        lifecycle.due_now(connection, before.id)
        return [states.poll(before.provider)]
    return []


def _write_off(connection: Connection, news: Sequence[Answer]) -> None:
    for answer in news:
        bought = answer.outcome in (Outcome.ACCEPTED, Outcome.FINISHED, Outcome.KEPT, Outcome.UNCERTAIN)
        outcome = Outcome.LOST if bought else answer.outcome
        answers.record(
            connection, replace(answer, outcome=outcome, images=(), written_off=bought or answer.written_off)
        )


def _undo(bench: Workbench, job: LiveJob, news: Sequence[Answer]) -> None:
    """Stop what still runs upstream, and drop pictures that nobody will fetch."""
    by_id = {call.id: call for call in job.calls}
    for answer in news:
        for image in answer.images:
            bench.store.delete(image.key)
        if answer.outcome is Outcome.ACCEPTED and answer.call.id in by_id:
            known = by_id[answer.call.id]
            cancel_upstream(bench, replace(known, upstream_id=answer.upstream_id, poll_url=answer.poll_url), job.model)


def cancel_upstream(bench: Workbench, call: loading.OpenCall, model: str) -> bool:
    """Ask the upstream to stop; whether it confirmed. A failed asking is not worth more than a line."""
    provider = bench.registry.by_credential(call.credential_id)
    try:
        return provider.cancel(call_ref(call, model)) is CancelOutcome.STOPPED
    except ProviderError as error:
        log.info("cancel_not_answered", call_id=call.id, code=error.code)
        return False


def call_ref(call: loading.OpenCall, model: str) -> CallRef:
    """A call as its adapter knows it."""
    return CallRef(
        call_id=call.id,
        dedupe_key=call.dedupe_key,
        model=model,
        upstream_id=call.upstream_id,
        poll_url=call.poll_url,
    )
