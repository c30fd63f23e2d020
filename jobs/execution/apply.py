"""Doing what was decided: the bridge from ``decide.next_step`` to the verbs of ``lifecycle``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import structlog
import tenacity
from sqlalchemy import Connection

from core import failpoints
from core.db import Hot, Statement
from core.errors import DatabaseAwayError
from jobs import lifecycle, states
from jobs.dispatch import health, put_off
from jobs.errors import JobFailedError, StaleJobError
from jobs.execution import decide, outcomes
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import Answer
from jobs.reads import worker
from jobs.reads.worker import LiveJob
from jobs.states import JobStatus, Outcome, Signal
from providers.base import CallRef, CancelOutcome
from providers.errors import NotRun, ProviderError
from providers.registry import UnknownCredentialError

log = structlog.get_logger(__name__)

FIRST_CHECK_S = 1.0
LOOK_AGAIN_S = 10.0
GIVEN_UP = (Outcome.LOST, Outcome.TIMED_OUT, Outcome.CANCELLED)
# How long an answer is held in memory for a database that is away: within the step's own margin.
REMEMBER_S = 45.0
# How often a job that changes under our hands is read again before it is left to the next look.
READ_AGAIN_AT_MOST = 5

LOCK = Statement("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE")


class CrashedStep(Protocol):
    """What an accident left behind (``runner.CrashedStepError``)."""

    job_id: str
    fence: int
    unsent: LiveJob | None


_UNTIL_WRITTEN = tenacity.retry(
    retry=tenacity.retry_if_exception_type(DatabaseAwayError),
    stop=tenacity.stop_after_delay(REMEMBER_S),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
    reraise=True,
)


@_UNTIL_WRITTEN
def finish(
    context: WorkerContext,
    job: LiveJob,
    news: Sequence[Answer],
    *,
    in_task: bool = False,
    collected_s: float | None = None,
) -> list[Signal]:
    """Record what a step learned and move the job on, in one statement where it can be.

    A job that is not as it was seen is read again and decided upon again, as long as it is still ours:
    RUNNING under our fence, or WAITING, which is no one's. When it has moved on (cancelled, lapsed, ended)
    the answers are recorded on their own, and adopted where the job can still use them. While the database
    is away it is tried again, for an answer may be a paid image: a COMMIT that happened although its answer
    was lost makes the second try stale, which changes nothing.

    ``collected_s``: since when images were being fetched. Raises JobFailedError where ``in_task`` and the
    job has failed: its end is the failure hook's.
    """
    failpoints.hit("step.unrecorded")
    for _ in range(READ_AGAIN_AT_MOST):
        step = decide.next_step(replace(context.facts(job), calls=_merged(job, news)))
        if in_task and isinstance(step, decide.Fail):
            raise JobFailedError(job.id, step.code, job=job, news=news)
        try:
            signals = _apply(context, job, news, step, collected_s=collected_s)
        except StaleJobError:
            seen = _read_again(context, job)
            if seen is None:
                return _adopt(context, job, news)
            job, news = seen, _still_news(context, seen, news)
            continue
        failpoints.hit("step.recorded")
        return signals
    # Whoever keeps changing the job, what was bought for it is written down; the next look moves it on.
    return _adopt(context, job, news)


def end_failed(context: WorkerContext, failed: JobFailedError) -> list[Signal]:
    """The failure hook: end the job and return its credits, if what made it fail still holds."""
    job, news = failed.job, failed.news
    if not isinstance(job, LiveJob):
        return []
    return finish(context, job, [answer for answer in news if isinstance(answer, Answer)])


def crashed(context: WorkerContext, crash: CrashedStep) -> list[Signal]:
    """A step ended in an accident inside a live worker.

    Surely nothing sent: tried again, or failed at the last attempt (JobFailedError). Else what was sent is
    uncertain. Raises StaleJobError when someone else has the job, DatabaseAwayError: the sweep finds it.
    """
    if crash.unsent is not None:
        job = crash.unsent
        mine = [call for call in job.calls if call.outcome is None]
        why = NotRun("internal_error")
        news = [outcomes.from_error(call.facts, why, may_look_up=False) for call in mine]
        return finish(context, job, news, in_task=True)
    with context.database.transaction() as connection:
        nudges = lifecycle.lapse(
            connection, crash.job_id, crash.fence, code="step_crashed", give_up_s=context.give_up_s
        )
    return [*nudges]


def abandon(context: WorkerContext, job_id: str) -> list[Signal]:
    """Give up the open calls of a WAITING job that no one can ask about any more, and end it if that was all.

    For the sweep: its provider has gone from the configuration, or the job is past its own deadline.
    """
    with context.database.hot() as hot:
        job = worker.load(hot, job_id)
    if job is None or job.status is not JobStatus.WAITING:
        return []
    unkept = (*decide.OPEN, Outcome.FINISHED)
    news = [outcomes.lost(call.facts) for call in job.calls if call.overdue and call.outcome in unkept]
    step = decide.next_step(replace(context.facts(job), calls=_merged(job, news)))
    return [] if isinstance(step, decide.Keep | decide.Wait) else finish(context, job, news)


def expire(context: WorkerContext, job_id: str, version: int) -> list[Signal]:
    """End a QUEUED job that is past its deadline: not begun in time, or not tried again in time.

    Images that earlier calls have made are delivered and paid for; without any, every credit goes back. A job
    that is not as it was seen (``version``) is left alone: it may have been tried, and have a new deadline.
    """
    with context.database.hot() as hot:
        job = worker.load(hot, job_id)
        if job is None or job.status is not JobStatus.QUEUED or job.version != version:
            return []
        kept = sum(call.facts.kept for call in job.calls)
        how = lifecycle.succeed(notes=decide.missing(context.facts(job), kept)) if kept else lifecycle.expired()
        return [*lifecycle.end(hot, job.id, job.version, how).signals]


def _apply(
    context: WorkerContext, job: LiveJob, news: Sequence[Answer], step: decide.Step, *, collected_s: float | None
) -> list[Signal]:
    """Run the verb a decision asks for, with all that was learned. Raises StaleJobError."""
    match step:
        case decide.Wait():
            after_s = min(FIRST_CHECK_S, context.spec(job.provider).check_interval_max_s)
            signals = _park(context, job, news, after_s=after_s)
        case decide.Keep():
            signals = _park(context, job, news, after_s=LOOK_AGAIN_S)
        case decide.Retry() | decide.FailOver():
            signals = _back_to_the_queue(context, job, news, step)
        case _:
            signals = _end(context, job, news, step, collected_s=collected_s)
    return signals


def _park(context: WorkerContext, job: LiveJob, news: Sequence[Answer], *, after_s: float) -> list[Signal]:
    if job.status is JobStatus.WAITING and not news:
        if after_s > FIRST_CHECK_S:  # links that cannot be fetched now: not at once again
            with context.database.hot() as hot:
                worker.lease(hot, [job.id], lease_s=after_s)
        return []
    with context.database.hot() as hot:
        troubled = lifecycle.park(hot, job.id, job.version, check_after_s=after_s, **_written(news))
    _tell_circuit(context, job, news, troubled=troubled)
    return []


def _end(
    context: WorkerContext,
    job: LiveJob,
    news: Sequence[Answer],
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
            **_written(news),
        )
    _tell_circuit(context, job, news, troubled=done.troubled)
    return [*done.signals]


def _how(step: decide.Succeed | decide.Fail | decide.Cancel) -> lifecycle.End:
    match step:
        case decide.Succeed(_, notes):
            return lifecycle.succeed(notes=notes)
        case decide.Fail(code):
            return lifecycle.fail(code)
        case decide.Cancel(outcome, charged):
            return lifecycle.cancelled(outcome, charged=bool(charged))


def _back_to_the_queue(
    context: WorkerContext, job: LiveJob, news: Sequence[Answer], step: decide.Retry | decide.FailOver
) -> list[Signal]:
    with context.database.transaction() as connection:
        if isinstance(step, decide.Retry):
            deadline_s = context.deadline_s(job.provider)
            signals = lifecycle.retry(
                connection, job.id, job.version, code=step.code, after_s=step.after_s, deadline_s=deadline_s
            )
        else:
            signals = lifecycle.fail_over(
                connection, job.id, job.version, code=step.code, deadline_s=context.move_within_s
            )
        for answer in news:
            outcomes.record(connection, answer)
    _tell_circuit(context, job, news, troubled=True)
    return signals


def _written(news: Sequence[Answer]) -> dict[str, Any]:
    """The answers as ``lifecycle.park`` and ``lifecycle.end`` take them."""
    return {
        "calls": [outcomes.row_of(answer) for answer in news],
        "images": [(answer.call.id, image) for answer in news for image in answer.images],
    }


def _tell_circuit(context: WorkerContext, job: LiveJob, news: Sequence[Answer], *, troubled: bool) -> None:
    """The first word on a call may be news of its provider's health; an upstream may ask us to stay away.

    After the job's own statement: what is counted here is no part of it, and may be missed.
    """
    first = [answer for answer in news if answer.call.outcome is None and (troubled or answer.call.code)]
    if not first:
        return
    credential = {call.id: call.credential_id for call in job.calls}
    with suppress(DatabaseAwayError), context.database.transaction() as connection:
        for answer in first:
            call = answer.call
            away_s = put_off.stay_away_s(answer.outcome, call.code, call.retry_after_s)
            if away_s is not None and call.id in credential:
                put_off.stay_away(connection, credential[call.id], away_s)
            health.note(
                connection,
                job.provider,
                call_id=call.id,
                job_id=job.id,
                outcome=answer.outcome,
                code=call.code,
                retryable=call.retryable,
            )


def _merged(job: LiveJob, news: Sequence[Answer]) -> list[decide.Call]:
    fresh = {answer.call.id: answer.facts for answer in news}
    return [fresh.get(call.id, call) for call in job.facts]


def _read_again(context: WorkerContext, job: LiveJob) -> LiveJob | None:
    """The job as it is now, if it is still ours to move; None if not."""
    with context.database.hot() as hot:
        now = worker.load(hot, job.id)
    if now is None or now.status in states.TERMINAL or now.status is not job.status:
        return None
    return now if now.status is JobStatus.WAITING or now.fence == job.fence else None


def _still_news(context: WorkerContext, now: LiveJob, news: Sequence[Answer]) -> list[Answer]:
    """Answers that say more than what is on record by now; what the others kept and no row names goes."""
    before = {call.id: call.outcome for call in now.calls}
    fresh = [answer for answer in news if outcomes.may_replace(answer, before.get(answer.call.id))]
    if late := [answer for answer in news if answer not in fresh]:
        with context.database.hot() as hot:
            in_use = worker.image_keys(hot, now.id)
        _undo(context, now, late, in_use)
    return fresh


def _adopt(context: WorkerContext, job: LiveJob, news: Sequence[Answer]) -> list[Signal]:
    """The call's own writer: record what was bought although the job is no longer in our hands."""
    signals: list[Signal] = []
    with context.database.transaction() as connection:
        # Nothing may move the job between the look at it and what follows from that.
        Hot.of(connection).run(LOCK, {"id": job.id})
        now = worker.load(connection, job.id)
        if now is None:
            return []
        if now.status in states.TERMINAL:
            _write_off(connection, news)
        else:
            for answer in news:
                outcomes.record(connection, answer)
            if now.status is JobStatus.WAITING:
                lifecycle.due_now(connection, now.id)
                signals = [states.poll(now.provider)]
        in_use = worker.image_keys(connection, job.id)
    useless = _useless(now, news)
    if useless:
        log.warning("late_answer_of_no_use", job_id=job.id, calls=[answer.call.id for answer in useless])
        _undo(context, job, useless, in_use)
    return signals


def _useless(now: LiveJob, news: Sequence[Answer]) -> list[Answer]:
    """Answers to calls that the job, as it stands, has ended without or given up."""
    ended = now.status in states.TERMINAL
    before = {call.id: call.outcome for call in now.calls}
    return [
        answer
        for answer in news
        if (ended and before[answer.call.id] is not Outcome.KEPT) or before[answer.call.id] in GIVEN_UP
    ]


def _write_off(connection: Connection, news: Sequence[Answer]) -> None:
    for answer in news:
        bought = answer.outcome in (Outcome.ACCEPTED, Outcome.FINISHED, Outcome.KEPT, Outcome.UNCERTAIN)
        outcome = Outcome.LOST if bought else answer.outcome
        outcomes.record(
            connection, replace(answer, outcome=outcome, images=(), written_off=bought or answer.written_off)
        )


def _undo(context: WorkerContext, job: LiveJob, news: Sequence[Answer], in_use: Collection[str]) -> None:
    """Stop what still runs upstream, and drop images that nobody will fetch.

    Who collected the same call before us kept the same bytes under the same keys (``in_use``).
    """
    by_id = {call.id: call for call in job.calls}
    for answer in news:
        for image in answer.images:
            if image.key not in in_use:
                context.store.delete(image.key)
        if answer.outcome is Outcome.ACCEPTED and answer.call.id in by_id:
            known = by_id[answer.call.id]
            cancel_upstream(
                context, replace(known, upstream_id=answer.upstream_id, poll_url=answer.poll_url), job.model
            )


def cancel_upstream(context: WorkerContext, call: worker.OpenCall, model: str) -> bool:
    """Ask the upstream to stop; whether it confirmed. A failed asking is not worth more than a line."""
    try:
        provider = context.registry.by_credential(call.credential_id)
        return provider.cancel(call_ref(call, model)) is CancelOutcome.STOPPED
    except (ProviderError, UnknownCredentialError) as error:
        log.info("cancel_not_answered", id=call.id, error=str(error))
        return False


def call_ref(call: worker.OpenCall, model: str) -> CallRef:
    """A call as its adapter knows it."""
    return CallRef(
        id=call.id,
        dedupe_key=call.dedupe_key,
        model=call.facts.model or model,
        upstream_id=call.upstream_id,
        poll_url=call.poll_url,
        intended_at=call.intended_at,  # a moment before it: the intent is written, then the request goes out
        age_s=call.age_s,
    )
