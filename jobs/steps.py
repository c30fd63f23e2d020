"""Doing what was decided: the bridge from ``decide.next_step`` to the verbs of ``lifecycle``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import structlog
import tenacity
from sqlalchemy import Connection, text

from core import failpoints
from core.errors import DatabaseAwayError
from jobs import answers, decide, lifecycle, loading, states
from jobs.answers import Answer
from jobs.errors import StaleJobError
from jobs.loading import LiveJob
from jobs.states import JobStatus, Nudge, Outcome
from jobs.workbench import Workbench
from providers.base import CallRef, CancelOutcome
from providers.errors import ProviderError
from providers.registry import UnknownCredentialError

log = structlog.get_logger(__name__)

FIRST_CHECK_S = 1.0
LOOK_AGAIN_S = 10.0
GIVEN_UP = (Outcome.LOST, Outcome.TIMED_OUT, Outcome.CANCELLED)
# How long an answer is held in memory for a database that is away: within the step's own margin.
REMEMBER_S = 45.0

_UNTIL_WRITTEN = tenacity.retry(
    retry=tenacity.retry_if_exception_type(DatabaseAwayError),
    stop=tenacity.stop_after_delay(REMEMBER_S),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
    reraise=True,
)


@_UNTIL_WRITTEN
def finish(bench: Workbench, job: LiveJob, news: Sequence[Answer]) -> list[Nudge]:
    """Record what a step learned and move the job on, in one transaction.

    When the job has moved on meanwhile (cancelled, lapsed, ended) nothing of that transaction
    stands; the answers are recorded on their own, and adopted where the job can still use them.
    While the database is away it is tried again, for an answer may be a paid picture: a COMMIT that
    happened although its answer was lost makes the second try stale, which changes nothing.
    """
    step = decide.next_step(replace(bench.facts(job), calls=_merged(job, news)))
    failpoints.hit("step.unrecorded")
    try:
        with bench.database.transaction() as connection:
            written = [answers.record(connection, answer) for answer in news]
            nudges = apply(connection, bench, job, step) if all(written) else _by_rows(connection, bench, job)
    except StaleJobError:
        return _adopt(bench, job, news)
    failpoints.hit("step.recorded")
    return nudges


def _by_rows(connection: Connection, bench: Workbench, job: LiveJob) -> list[Nudge]:
    """Somebody wrote one of our outcomes before us, perhaps with fewer pictures: what is charged is what has a row."""
    now = loading.load(connection, job.id)
    if now is None or now.fence != job.fence:
        raise StaleJobError(job.id)
    return apply(connection, bench, now, decide.next_step(bench.facts(now)))


def conclude(bench: Workbench, job_id: str) -> list[Nudge]:
    """Decide from the rows alone how a WAITING job goes on; StaleJobError means somebody was first."""
    with bench.database.transaction() as connection:
        job = loading.load(connection, job_id)
        if job is None or job.status is not JobStatus.WAITING:
            return []
        return apply(connection, bench, job, decide.next_step(bench.facts(job)))


def abandon(connection: Connection, bench: Workbench, job_id: str) -> list[Nudge]:
    """Give up the overdue calls of a job that nobody can ask about any more, and end it if that was all."""
    job = loading.load(connection, job_id)
    if job is None or job.status is not JobStatus.WAITING:
        return []
    unkept = (*decide.OPEN, Outcome.FINISHED)
    news = [answers.lost(call.facts) for call in job.calls if call.overdue and call.outcome in unkept]
    for answer in news:
        answers.record(connection, answer)
    step = decide.next_step(replace(bench.facts(job), calls=_merged(job, news)))
    return [] if isinstance(step, decide.Keep | decide.Wait) else apply(connection, bench, job, step)


def apply(connection: Connection, bench: Workbench, job: LiveJob, step: decide.Step) -> list[Nudge]:
    """Run the verb a decision asks for. Raises StaleJobError."""
    match step:
        case decide.Wait():
            return _park(connection, bench, job, after_s=FIRST_CHECK_S)
        case decide.Keep():
            return _leave_to_collect(connection, bench, job)
        case decide.Retry(code, after_s):
            return lifecycle.retry(connection, job.id, job.fence, code=code, after_s=after_s)
        case decide.FailOver(code):
            return lifecycle.fail_over(connection, job.id, job.fence, code=code)
        case _:
            return _end(connection, job, step)


def _end(connection: Connection, job: LiveJob, step: decide.Succeed | decide.Fail | decide.Cancel) -> list[Nudge]:
    match step:
        case decide.Succeed(kept, notes):
            return lifecycle.succeed(connection, job.id, job.fence, kept=kept, notes=notes)
        case decide.Fail(code):
            return lifecycle.fail(connection, job.id, job.fence, code=code)
        case decide.Cancel(outcome, charged):
            return lifecycle.cancelled(connection, job.id, job.fence, outcome=outcome, kept=charged)


def _park(connection: Connection, bench: Workbench, job: LiveJob, *, after_s: float) -> list[Nudge]:
    if job.status is JobStatus.WAITING:
        return []
    after_s = min(after_s, bench.spec(job.provider).check_interval_max_s)
    return lifecycle.park(connection, job.id, job.fence, check_after_s=after_s)


def _leave_to_collect(connection: Connection, bench: Workbench, job: LiveJob) -> list[Nudge]:
    """Finished calls are not kept yet: at once where they are news, else when the job is due again."""
    _park(connection, bench, job, after_s=LOOK_AGAIN_S)
    known_before = any(call.outcome is Outcome.FINISHED for call in job.calls)
    return [] if known_before else [states.collect(job.id)]


def _merged(job: LiveJob, news: Sequence[Answer]) -> list[decide.Call]:
    fresh = {answer.call.id: answer.facts for answer in news}
    return [fresh.get(call.id, call) for call in job.facts]


def _adopt(bench: Workbench, job: LiveJob, news: Sequence[Answer]) -> list[Nudge]:
    """The call's own writer: record what was bought although the job is no longer in our hands."""
    nudges: list[Nudge] = []
    with bench.database.transaction() as connection:
        # Nothing may move the job between the look at it and what follows from that.
        connection.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": job.id})
        now = loading.load(connection, job.id)
        if now is None:
            return []
        if now.status in states.TERMINAL:
            _write_off(connection, news)
        else:
            for answer in news:
                answers.record(connection, answer)
            nudges = _rejoin(connection, bench, now, mine=now.fence == job.fence)
        in_use = loading.image_keys(connection, job.id)
    useless = _useless(now, news)
    if useless:
        log.warning("late_answer_of_no_use", job_id=job.id, calls=[answer.call.id for answer in useless])
        _undo(bench, job, useless, in_use)
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
        answers.record(
            connection, replace(answer, outcome=outcome, images=(), written_off=bought or answer.written_off)
        )


def _undo(bench: Workbench, job: LiveJob, news: Sequence[Answer], in_use: Collection[str]) -> None:
    """Stop what still runs upstream, and drop pictures that nobody will fetch.

    Who collected the same call before us kept the same bytes under the same keys (``in_use``).
    """
    by_id = {call.id: call for call in job.calls}
    for answer in news:
        for image in answer.images:
            if image.key not in in_use:
                bench.store.delete(image.key)
        if answer.outcome is Outcome.ACCEPTED and answer.call.id in by_id:
            known = by_id[answer.call.id]
            cancel_upstream(bench, replace(known, upstream_id=answer.upstream_id, poll_url=answer.poll_url), job.model)


def cancel_upstream(bench: Workbench, call: loading.OpenCall, model: str) -> bool:
    """Ask the upstream to stop; whether it confirmed. A failed asking is not worth more than a line."""
    try:
        provider = bench.registry.by_credential(call.credential_id)
        return provider.cancel(call_ref(call, model)) is CancelOutcome.STOPPED
    except (ProviderError, UnknownCredentialError) as error:
        log.info("cancel_not_answered", call_id=call.id, error=str(error))
        return False


def call_ref(call: loading.OpenCall, model: str) -> CallRef:
    """A call as its adapter knows it."""
    return CallRef(
        call_id=call.id,
        dedupe_key=call.dedupe_key,
        model=call.facts.model or model,
        upstream_id=call.upstream_id,
        poll_url=call.poll_url,
        sent_at=call.intended_at,  # a moment before it: the intent is written, then the request goes out
    )
