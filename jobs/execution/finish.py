"""Finishing a step: its call outcomes are recorded and the job moves on, in one statement where possible.

It runs the verb of ``jobs.lifecycle`` that ``decide.next_step`` asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
import tenacity

from core import failpoints
from core.errors import DatabaseAwayError
from jobs import lifecycle, states
from jobs.call import Call
from jobs.dispatch import due, health, own_keys, put_off
from jobs.errors import JobFailedError, StaleJobError
from jobs.execution import decide, late_answers, outcomes, spans
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import CallOutcome
from jobs.reads import worker
from jobs.reads.worker import LiveJob
from jobs.states import JobStatus, Signal

log = structlog.get_logger(__name__)

FIRST_CHECK_S = 1.0
LOOK_AGAIN_S = 10.0
# How long an answer is held in memory while the database is away; less than the step's margin.
REMEMBER_S = 45.0
TRIES_AT_LEAST = 3
# How often a job that keeps changing is read again before it is left to the next status check.
READ_AGAIN_AT_MOST = 5


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(DatabaseAwayError),
    # A single try can take all of that time, on a connection that is dead and does not say so.
    stop=tenacity.stop_all(tenacity.stop_after_delay(REMEMBER_S), tenacity.stop_after_attempt(TRIES_AT_LEAST)),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
    reraise=True,
)
def finish(
    context: WorkerContext,
    job: LiveJob,
    learned: Sequence[CallOutcome],
    *,
    in_task: bool = False,
    collected_s: float | None = None,
) -> list[Signal]:
    """Record what a step learned and move the job on. Returns the signals to publish.

    If the job has changed since it was read, it is read and decided again, as long as this step may move it: it is
    RUNNING under the same fence, or WAITING, where anyone may move it. Otherwise (cancelled, lapsed, ended) only the
    outcomes are recorded, and a live job uses them if it can. While the database is away this is retried, because an
    answer may be a paid image. If a COMMIT succeeded and its answer was lost, the retry finds the job changed and
    changes nothing.

    ``collected_s``: for how many seconds images were being fetched. Raises JobFailedError if ``in_task`` and the job
    has failed, so that the failure hook ends it. Raises DatabaseAwayError after ``REMEMBER_S`` seconds
    and ``TRIES_AT_LEAST`` tries.
    """
    failpoints.hit("step.unrecorded")
    for _ in range(READ_AGAIN_AT_MOST):
        step = decide.next_step(replace(context.facts(job), calls=calls_after(job, learned)))
        if in_task and isinstance(step, decide.Fail):
            raise JobFailedError(job.id, step.code, job=job, learned=learned)
        try:
            with spans.finish(job, type(step).__name__.lower()):
                signals = _move(context, job, learned, step, collected_s=collected_s)
        except StaleJobError:
            now = _read_again(context, job)
            if now is None:
                return late_answers.adopt(context, job, learned)
            job, learned = now, late_answers.still_news(context, now, learned)
            continue
        failpoints.hit("step.recorded")
        return signals
    # The job keeps changing: its outcomes are recorded now, and the next status check moves it on.
    return late_answers.adopt(context, job, learned)


def calls_after(job: LiveJob, learned: Sequence[CallOutcome]) -> list[Call]:
    """Return the job's calls as they will be once the outcomes are recorded."""
    after = {each.call.id: each.call_after for each in learned}
    return [after.get(call.id, call) for call in job.calls]


def _read_again(context: WorkerContext, job: LiveJob) -> LiveJob | None:
    """Return the job as it is now, or None if this step may no longer move it."""
    with context.database.hot() as hot:
        now = worker.load(hot, job.id)
    if now is None or now.status in states.TERMINAL or now.status is not job.status:
        return None
    return now if now.status is JobStatus.WAITING or now.fence == job.fence else None


# ------------------------------------------------------------------ one verb per decision


def _move(
    context: WorkerContext,
    job: LiveJob,
    learned: Sequence[CallOutcome],
    step: decide.Step,
    *,
    collected_s: float | None,
) -> list[Signal]:
    """Run the verb that the decision asks for and record all outcomes with it. Raises StaleJobError."""
    match step:
        case decide.Wait():
            after_s = min(FIRST_CHECK_S, context.spec(job.provider).check_interval_max_s)
            signals = _park(context, job, learned, after_s=after_s)
        case decide.Keep():
            signals = _park(context, job, learned, after_s=LOOK_AGAIN_S)
        case decide.Retry() | decide.FailOver() | decide.Adjust():
            signals = _back_to_the_queue(context, job, learned, step)
        case _:
            signals = _end(context, job, learned, step, collected_s=collected_s)
    return signals


def _park(context: WorkerContext, job: LiveJob, learned: Sequence[CallOutcome], *, after_s: float) -> list[Signal]:
    if job.status is JobStatus.WAITING and not learned:
        if after_s > FIRST_CHECK_S:  # the images cannot be fetched now: do not try again at once
            with context.database.hot() as hot:
                due.lease(hot, [job.id], lease_s=after_s)
        return []
    with context.database.hot() as hot:
        troubled = lifecycle.park(hot, job.id, job.version, check_after_s=after_s, **_rows(learned))
    _note_health(context, job, learned, troubled=troubled)
    return [states.wake(job.id)] if any(each.images for each in learned) else []


def _end(
    context: WorkerContext,
    job: LiveJob,
    learned: Sequence[CallOutcome],
    step: decide.Succeed | decide.Fail | decide.Cancel,
    *,
    collected_s: float | None,
) -> list[Signal]:
    with context.database.hot() as hot:
        done = lifecycle.end(
            hot,
            job.id,
            job.version,
            _how(step),
            collected_s=collected_s,
            owner=context.owner,
            traceparent=job.traceparent,
            **_rows(learned),
        )
    _note_health(context, job, learned, troubled=done.troubled)
    return [*done.signals]


def _how(step: decide.Succeed | decide.Fail | decide.Cancel) -> lifecycle.End:
    match step:
        case decide.Succeed(_, notes):
            return lifecycle.succeed(notes=notes)
        case decide.Fail(code, notes):
            return lifecycle.fail(code, notes=notes)
        case decide.Cancel(outcome, charged):
            return lifecycle.cancelled(outcome, charged=bool(charged))


def _back_to_the_queue(
    context: WorkerContext,
    job: LiveJob,
    learned: Sequence[CallOutcome],
    step: decide.Retry | decide.FailOver | decide.Adjust,
) -> list[Signal]:
    with context.database.transaction() as connection:
        if isinstance(step, decide.Retry):
            deadline_s = context.deadline_s(job.provider)
            signals = lifecycle.retry(
                connection, job.id, job.version, code=step.code, after_s=step.after_s, deadline_s=deadline_s
            )
        elif isinstance(step, decide.Adjust):
            signals = lifecycle.adjust(
                connection, job.id, job.version, code=step.code, deadline_s=context.move_within_s
            )
        else:
            signals = lifecycle.fail_over(
                connection, job.id, job.version, code=step.code, deadline_s=context.move_within_s
            )
        for each in learned:
            outcomes.record(connection, each)
    _note_health(context, job, learned, troubled=True)
    return signals


def _rows(learned: Sequence[CallOutcome]) -> dict[str, Any]:
    """Return the outcomes as arguments of ``lifecycle.park`` and ``lifecycle.end``."""
    return {
        "calls": [outcomes.row_of(each) for each in learned],
        "images": [(each.call.id, image) for each in learned for image in each.images],
    }


def _note_health(context: WorkerContext, job: LiveJob, learned: Sequence[CallOutcome], *, troubled: bool) -> None:
    """Update the provider's circuit from first outcomes, and pause credentials whose upstream asks for it.

    An account's own key that is refused is paused, and changes nothing for anyone else. This happens after the job's
    own statement and outside its transaction, so it may be lost.
    """
    _pause_own_keys(context, learned)
    first = [each for each in learned if each.call.outcome is None and (troubled or each.call.code)]
    if not first:
        return
    with suppress(DatabaseAwayError), context.database.transaction() as connection:
        for each in first:
            call = each.call
            away_s = put_off.stay_away_s(each.outcome, call.code, call.retry_after_s)
            if away_s is not None and call.credential_id:
                put_off.stay_away(connection, call.credential_id, away_s)
            health.note(
                connection,
                job.provider,
                call_id=call.id,
                job_id=job.id,
                outcome=each.outcome,
                code=call.code,
                retryable=call.retryable,
                probes_only=own_keys.is_own(call.credential_id),
            )


def _pause_own_keys(context: WorkerContext, learned: Sequence[CallOutcome]) -> None:
    """Pause the own keys by which nothing more can be bought. A later call says the same, so it may be lost."""
    refused = {
        each.call.credential_id: each.call.code or ""
        for each in learned
        if own_keys.is_own(each.call.credential_id) and own_keys.pauses(each.outcome, each.call.code)
    }
    if not refused:
        return
    with suppress(DatabaseAwayError), context.database.transaction() as connection:
        for credential_id, code in refused.items():
            if own_keys.pause(connection, credential_id, code):
                log.warning("own_key_paused", credential=credential_id, code=code)
