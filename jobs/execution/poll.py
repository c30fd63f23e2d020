"""Following images in progress: due jobs in batches, one status request for many calls.

Two workers may check the same job at once: a result is written only if the job is still as it was read. A call that
is still running writes nothing.

Finished images are fetched at once, by a small pool that serves accounts in turns. A batch is never larger than the
free room of that pool; other due jobs stay due for any worker that has room.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from core.errors import DatabaseAwayError
from jobs import states
from jobs.call import Call
from jobs.dispatch import due
from jobs.errors import StaleJobError
from jobs.execution import collect, log_fields, outcomes, recovery, spans, upstream_time
from jobs.execution.cancelling import cancel_calls
from jobs.execution.collect import Made
from jobs.execution.context import WorkerContext
from jobs.execution.finish import finish
from jobs.execution.look import Look, can_be_asked, look
from jobs.execution.outcomes import CallOutcome
from jobs.lifecycle import calls
from jobs.reads.worker import LiveJob
from jobs.states import OPEN_OUTCOMES, Outcome, Signal
from providers.base import Accepted, Finished, Missing, Running
from providers.errors import Failed, Misconfigured, ProviderError, Refused

log = structlog.get_logger(__name__)

BATCH = 200
# A lease keeps other workers from checking a job while its images are being fetched. It is renewed in time; if the
# worker dies, its jobs are delayed by one lease at most.
LEASE_S = 10.0
RENEW_S = 1.0


@dataclass(slots=True)
class Seen:
    """What one batch has found out about a job: outcomes of calls, and images to fetch."""

    job: LiveJob
    looks: list[Look] = field(default_factory=list)
    learned: list[CallOutcome] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    began_ns: int = field(default_factory=time.time_ns)
    looked_ns: int = 0  # when the upstream had answered; like ``began_ns`` by the clock of this machine
    looked_at: float | None = None  # time.monotonic(): when its upstream had answered

    @property
    def idle(self) -> bool:
        """Whether its calls are still running and nothing is new."""
        return bool(self.looks) and not self.learned and not self.made


def poll_provider(context: WorkerContext, provider: str) -> list[Signal]:
    """Check one batch of a provider's due jobs. Returns the signals to publish. Raises DatabaseAwayError."""
    spec = context.spec(provider)
    limit = min(BATCH, context.collecting.room())
    if not limit:
        return []  # the next tick asks again, here or at another worker
    with context.database.hot() as hot:
        jobs = due.take_due(
            hot,
            provider,
            limit=limit,
            interval_s=spec.check_interval_s,
            interval_max_s=spec.check_interval_max_s,
            turns=context.turns,
        )
    if len(jobs) == limit:
        context.publish([states.poll(provider)])  # another worker can take the next batch at once
    return _follow(context, jobs) if jobs else []


def _follow(context: WorkerContext, jobs: Sequence[LiveJob]) -> list[Signal]:
    seen = {job.id: Seen(job, made=collect.on_record(job), learned=cancel_calls(context, job)) for job in jobs}
    for found in look(context, [(each.job, call) for each in seen.values() for call in _to_ask(each)]):
        seen[found.job.id].looked_ns = seen[found.job.id].looked_ns or time.time_ns()
        with log_fields.of(found.job):
            _sort(context, seen[found.job.id], found)
    signals = _note_progress(context, seen)
    for each in seen.values():
        if not each.made and not each.idle:
            with _step(each):
                signals += _move_on(context, each)
    return signals + _collect(context, [each for each in seen.values() if each.made])


@contextmanager
def _step(seen: Seen) -> Iterator[None]:
    """The log fields and the span of what a batch does for one job, beginning with the status check."""
    with log_fields.of(seen.job), spans.poll(seen.job, began_ns=seen.began_ns):
        if seen.looked_ns:
            spans.looked(seen.job, (seen.began_ns, seen.looked_ns))
        yield


def _to_ask(seen: Seen) -> list[Call]:
    stopped = {each.call.id for each in seen.learned}
    return [call for call in seen.job.calls if call.outcome in OPEN_OUTCOMES and call.id not in stopped]


def _collect(context: WorkerContext, ready: Sequence[Seen]) -> list[Signal]:
    """Fetch finished images, account by account in turns, and end those jobs."""
    signals: list[Signal] = []

    def keep(each: Seen) -> None:
        with _step(each):
            fetch(each)

    def fetch(each: Seen) -> None:
        began = time.monotonic()
        try:
            each.learned += collect.collect(context, each.job, each.made)
        except DatabaseAwayError as error:
            log.warning("collecting_waits_for_database", job_id=each.job.id, detail=error.detail)
            return
        except Exception:
            log.exception("collecting_crashed", job_id=each.job.id)
            return
        moved = _move_on(context, each, collected_s=time.monotonic() - began)
        upstream_time.note_own_delay(each.job.provider, moved, answered_at=each.looked_at)
        signals.extend(moved)

    def renew(left: Sequence[Seen]) -> None:
        try:
            with context.database.hot() as hot:
                due.lease(hot, [each.job.id for each in left], lease_s=LEASE_S)
        except DatabaseAwayError as error:
            log.info("lease_waits_for_database", detail=error.detail)

    lanes = [((each.job.provider, each.job.account_id), each) for each in ready]
    context.collecting.each(lanes, keep, meanwhile=renew, every_s=RENEW_S)
    return signals


def _move_on(context: WorkerContext, seen: Seen, *, collected_s: float | None = None) -> list[Signal]:
    """Record the outcomes of one job's calls and move the job on. Never raises; a stale job is left alone."""
    try:
        return finish(context, seen.job, seen.learned, collected_s=collected_s)
    except StaleJobError:
        log.debug("job_moved_on", job_id=seen.job.id)
    except DatabaseAwayError as error:
        log.warning("look_not_recorded", job_id=seen.job.id, error=str(error))
    except Exception:
        log.exception("look_crashed", job_id=seen.job.id)  # the other jobs of the batch go on
    return []


# ------------------------------------------------------------------ what a status check says


def _sort(context: WorkerContext, seen: Seen, found: Look) -> None:
    """Sort a result into images to fetch and outcomes to record. Never raises, so the rest of the batch goes on."""
    seen.looks.append(found)
    seen.looked_at = time.monotonic()
    if isinstance(found.answer, Finished):
        seen.made.append(Made(found.call, found.answer.images, found.answer))
        return
    try:
        if learned := _outcome(context, found):
            seen.learned.append(learned)
    except DatabaseAwayError as error:
        log.warning("look_not_recorded", job_id=found.job.id, error=str(error))
    except Exception:
        log.exception("look_crashed", job_id=found.job.id)


def _outcome(context: WorkerContext, found: Look) -> CallOutcome | None:
    """Return the outcome that a status check shows; None while the call goes on."""
    job, call = found.job, found.call
    match found.answer:
        case Accepted() as answer:
            return outcomes.accepted(call, answer)
        case Failed() | Refused() | Misconfigured() as error:
            return outcomes.from_error(call, error, may_look_up=False)
        case Missing():
            return recovery.given_up(context, call) or recovery.missing(context, job, call)
        case ProviderError() as error:
            log.info("look_failed", call_id=call.id, code=error.code)  # the status check failed, not the call
            return recovery.given_up(context, call)
        case Running():
            if call.missing:  # only misses in a row count
                with context.database.hot() as hot:
                    calls.note_found(hot, call.id)
            known = recovery.arrived(call) if can_be_asked(context, job, call) else None
            return known or recovery.given_up(context, call)
        case Finished():
            return None  # collected


def _note_progress(context: WorkerContext, seen: dict[str, Seen]) -> list[Signal]:
    """Store the progress that upstreams report, and wake the requests that wait for those jobs."""
    reported = {job_id: value for job_id, each in seen.items() if (value := _progress(each)) is not None}
    if not reported:
        return []
    try:
        with context.database.hot() as hot:
            changed = calls.note_progress(hot, reported)
    except DatabaseAwayError as error:
        log.info("progress_waits_for_database", detail=error.detail)
        return []
    for job_id in changed:
        seen[job_id].job = replace(seen[job_id].job, version=seen[job_id].job.version + 1)
    return [states.wake(job_id) for job_id in changed]


def _progress(seen: Seen) -> float | None:
    """Return the mean progress of a job's calls, 0 to 1; None if no upstream reports any."""
    reported = [each.answer.progress for each in seen.looks if isinstance(each.answer, Running)]
    if all(value is None for value in reported):
        return None
    kept = sum(1 for call in seen.job.calls if call.outcome is Outcome.KEPT)
    return (kept + sum(value or 0.0 for value in reported)) / max(1, kept + len(seen.looks))
