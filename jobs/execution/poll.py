"""Following images in progress: due jobs in batches, one question to the upstream for many calls.

A look changes nothing by itself, so two workers looking at once is harmless: what is found is written only
if the job is still as it was seen. No one waits here, and a call still running writes nothing at all.

What is finished is fetched here and now, by a small pool that serves accounts in turns. A batch is never
larger than what that pool has room for: what is due beyond it stays due, for any worker that has room.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from core.errors import DatabaseAwayError
from jobs import states
from jobs.call import Call
from jobs.dispatch import due
from jobs.errors import StaleJobError
from jobs.execution import collect, outcomes, recovery
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
# Jobs whose images take longer to fetch than until their next look are kept from others by a lease, renewed
# in time; a worker that dies holds up its jobs for no longer than that.
LEASE_S = 10.0
RENEW_S = 1.0


@dataclass(slots=True)
class Seen:
    """All that one batch has found out about a job: outcomes of calls, and images to fetch."""

    job: LiveJob
    looks: list[Look] = field(default_factory=list)
    learned: list[CallOutcome] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Nothing new, and calls that go on."""
        return bool(self.looks) and not self.learned and not self.made


def poll_provider(context: WorkerContext, provider: str) -> list[Signal]:
    """Look at one batch of a provider's due jobs. Returns what to publish. Raises DatabaseAwayError."""
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
        context.publish([states.poll(provider)])  # the rest of the backlog does not wait for this batch
    return _follow(context, jobs) if jobs else []


def _follow(context: WorkerContext, jobs: Sequence[LiveJob]) -> list[Signal]:
    seen = {job.id: Seen(job, made=collect.on_record(job), learned=cancel_calls(context, job)) for job in jobs}
    for found in look(context, [(each.job, call) for each in seen.values() for call in _to_ask(each)]):
        _sort(context, seen[found.job.id], found)
    signals = _tell_progress(context, seen)
    for each in seen.values():
        if not each.made and not each.idle:
            signals += _move_on(context, each)
    return signals + _collect(context, [each for each in seen.values() if each.made])


def _to_ask(seen: Seen) -> list[Call]:
    stopped = {each.call.id for each in seen.learned}
    return [call for call in seen.job.calls if call.outcome in OPEN_OUTCOMES and call.id not in stopped]


def _collect(context: WorkerContext, ready: Sequence[Seen]) -> list[Signal]:
    """Fetch what is finished, accounts in turns, and end those jobs."""
    signals: list[Signal] = []

    def keep(each: Seen) -> None:
        began = time.monotonic()
        try:
            each.learned += collect.collect(context, each.job, each.made)
        except DatabaseAwayError as error:
            log.warning("collecting_waits_for_database", job_id=each.job.id, detail=error.detail)
            return
        except Exception:
            log.exception("collecting_crashed", job_id=each.job.id)
            return
        signals.extend(_move_on(context, each, collected_s=time.monotonic() - began))

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
    """Write what was seen of one job's calls, and let the job follow. Stale means someone was first."""
    try:
        return finish(context, seen.job, seen.learned, collected_s=collected_s)
    except StaleJobError:
        log.debug("job_moved_on", job_id=seen.job.id)
    except DatabaseAwayError as error:
        log.warning("look_not_recorded", job_id=seen.job.id, error=str(error))
    except Exception:
        log.exception("look_crashed", job_id=seen.job.id)  # one job's trouble is not the whole batch's
    return []


# ------------------------------------------------------------------ what a look says


def _sort(context: WorkerContext, seen: Seen, found: Look) -> None:
    """Put a look where it belongs; one job's trouble is not the whole batch's."""
    seen.looks.append(found)
    if isinstance(found.said, Finished):
        seen.made.append(Made(found.call, found.said.images, found.said))
        return
    try:
        if learned := _outcome(context, found):
            seen.learned.append(learned)
    except DatabaseAwayError as error:
        log.warning("look_not_recorded", job_id=found.job.id, error=str(error))
    except Exception:
        log.exception("look_crashed", job_id=found.job.id)


def _outcome(context: WorkerContext, found: Look) -> CallOutcome | None:
    """What a look says about its call; None while the call goes on."""
    job, call = found.job, found.call
    match found.said:
        case Accepted() as answer:
            return outcomes.accepted(call, answer)
        case Failed() | Refused() | Misconfigured() as error:
            return outcomes.from_error(call, error, may_look_up=False)
        case Missing():
            return recovery.given_up(context, call) or recovery.missing(context, job, call)
        case ProviderError() as error:
            log.info("look_failed", call_id=call.id, code=error.code)  # the look, not the call
            return recovery.given_up(context, call)
        case Running():
            if call.missing:  # two misses an hour apart, with looks between that found it, prove nothing
                with context.database.hot() as hot:
                    calls.note_found(hot, call.id)
            known = recovery.arrived(call) if can_be_asked(context, job, call) else None
            return known or recovery.given_up(context, call)
        case Finished():
            return None  # collected


def _tell_progress(context: WorkerContext, seen: dict[str, Seen]) -> list[Signal]:
    """Write down how far the images are, where their upstream tells."""
    told = {job_id: value for job_id, each in seen.items() if (value := _progress(each)) is not None}
    if not told:
        return []
    try:
        with context.database.hot() as hot:
            changed = calls.note_progress(hot, told)
    except DatabaseAwayError as error:
        log.info("progress_waits_for_database", detail=error.detail)
        return []
    for job_id in changed:
        seen[job_id].job = replace(seen[job_id].job, version=seen[job_id].job.version + 1)
    return [states.wake(job_id) for job_id in changed]


def _progress(seen: Seen) -> float | None:
    """The mean over a job's calls, 0 to 1; None where no upstream tells."""
    told = [each.said.progress for each in seen.looks if isinstance(each.said, Running)]
    if all(value is None for value in told):
        return None
    kept = sum(1 for call in seen.job.calls if call.outcome is Outcome.KEPT)
    return (kept + sum(value or 0.0 for value in told)) / max(1, kept + len(seen.looks))
