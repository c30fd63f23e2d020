"""Looking at images in progress: due jobs in batches, one question to the upstream for many calls.

A look changes nothing by itself, so two workers looking at once is harmless: what is found is written only
if the job is still as it was seen. No one waits here, and a call still running writes nothing at all.

What is finished is fetched here and now, by a small pool that serves accounts in turns. A batch is never
larger than what that pool has room for: what is due beyond it stays due, for any worker that has room.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import structlog

from core import failpoints
from core.errors import DatabaseAwayError
from jobs import states
from jobs.dispatch import permits
from jobs.errors import StaleJobError
from jobs.execution import apply, collect, decide, outcomes, recovery, run
from jobs.execution.collect import Made
from jobs.execution.context import WorkerContext, side_by_side
from jobs.execution.outcomes import Answer
from jobs.lifecycle import calls
from jobs.reads import worker
from jobs.reads.worker import LiveJob, OpenCall
from jobs.states import Outcome, Signal
from providers.base import Accepted, CheckResult, Finished, Missing, Provider, Running
from providers.catalog.entries import Recovery
from providers.errors import Failed, Misconfigured, NotRun, ProviderError, Refused
from providers.registry import UnknownCredentialError
from storage.base import BlobNotFoundError, StorageUnavailableError

log = structlog.get_logger(__name__)

BATCH = 200
MISSING_FOR_S = 5.0
RESENDS_AT_MOST = 2
# A call whose answer was lost is not searched for longer: what so many searches over so long a time do not
# find was not made, or cannot be told apart.
SEARCHES_AT_LEAST = 3
SEARCH_FOR_S = 120.0
# Jobs whose images take longer to fetch than until their next look are kept from others by a lease, renewed
# in time; a worker that dies holds up its jobs for no longer than that.
LEASE_S = 10.0
RENEW_S = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """One open call of one job, and what the upstream says of it."""

    job: LiveJob
    call: OpenCall
    said: CheckResult | Accepted  # Accepted: an uncertain call was found by a search


@dataclass(slots=True)
class Seen:
    """All that one batch has found out about a job: answers of calls, and images to fetch."""

    job: LiveJob
    looks: list[Look] = field(default_factory=list)
    news: list[Answer] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Nothing new, and calls that go on."""
        return bool(self.looks) and not self.news and not self.made


def poll(context: WorkerContext, provider: str) -> list[Signal]:
    """Look at one batch of a provider's due jobs. Returns what to publish."""
    spec = context.spec(provider)
    limit = min(BATCH, context.collecting.room())
    if not limit:
        return []  # the next tick asks again, here or at another worker
    with context.database.hot() as hot:
        jobs = worker.take_due(
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
    seen = {job.id: Seen(job, made=collect.on_record(job)) for job in jobs}
    for each in seen.values():
        each.news += _pass_on_the_wish(context, each.job)
    for look in _look(context, list(seen.values())):
        _sort(context, seen[look.job.id], look)
    signals = _tell_progress(context, seen)
    for each in seen.values():
        if not each.made and not each.idle:
            signals += _move_on(context, each)
    return signals + _collect(context, [each for each in seen.values() if each.made])


def _collect(context: WorkerContext, ready: Sequence[Seen]) -> list[Signal]:
    """Fetch what is finished, accounts in turns, and end those jobs."""
    signals: list[Signal] = []

    def keep(each: Seen) -> None:
        began = time.monotonic()
        try:
            each.news += collect.keep(context, each.job, each.made)
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
                worker.lease(hot, [each.job.id for each in left], lease_s=LEASE_S)
        except DatabaseAwayError as error:
            log.info("lease_waits_for_database", detail=error.detail)

    lanes = [((each.job.provider, each.job.account_id), each) for each in ready]
    context.collecting.each(lanes, keep, meanwhile=renew, every_s=RENEW_S)
    return signals


def _move_on(context: WorkerContext, seen: Seen, *, collected_s: float | None = None) -> list[Signal]:
    """Write what was seen of one job's calls, and let the job follow. Stale means someone was first."""
    try:
        return apply.finish(context, seen.job, seen.news, collected_s=collected_s)
    except StaleJobError:
        log.debug("job_moved_on", job_id=seen.job.id)
    except DatabaseAwayError as error:
        log.warning("look_not_recorded", job_id=seen.job.id, error=str(error))
    except Exception:
        log.exception("look_crashed", job_id=seen.job.id)  # one job's trouble is not the whole batch's
    return []


# ------------------------------------------------------------------ asking


def _pass_on_the_wish(context: WorkerContext, job: LiveJob) -> list[Answer]:
    """Pass a caller's wish to cancel on to the upstream, once per call; the calls it has stopped."""
    if not job.cancel_requested:
        return []
    return [stopped for call in job.calls if (stopped := _cancel(context, job, call))]


def _cancel(context: WorkerContext, job: LiveJob, call: OpenCall) -> Answer | None:
    if call.outcome is not Outcome.ACCEPTED or call.cancel_asked:
        return None
    if apply.cancel_upstream(context, call, job.model):
        return Answer(call.facts, Outcome.CANCELLED)
    with context.database.hot() as hot:
        calls.note_cancel_asked(hot, call.id)
    return None


def _look(context: WorkerContext, seen: Sequence[Seen]) -> list[Look]:
    """Ask each credential's upstream about all its open calls."""
    groups: dict[str, list[tuple[LiveJob, OpenCall]]] = defaultdict(list)
    for each in seen:
        answered = {answer.call.id for answer in each.news}
        for call in _open_calls(each.job):
            if call.id not in answered:
                groups[call.credential_id].append((each.job, call))
    return [look for group in side_by_side(lambda item: _ask(context, *item), list(groups.items())) for look in group]


def _ask(context: WorkerContext, credential_id: str, pairs: Sequence[tuple[LiveJob, OpenCall]]) -> list[Look]:
    asked = [pair for pair in pairs if _can_be_asked(context, *pair)]
    mute = [Look(job, call, Running()) for job, call in pairs if not _can_be_asked(context, job, call)]
    return mute + (_ask_upstream(context, credential_id, asked) if asked else [])


def _can_be_asked(context: WorkerContext, job: LiveJob, call: OpenCall) -> bool:
    """Whether the upstream can tell of the call; of the others only time will tell.

    A provider that answers with the image itself may do some models asynchronously: those calls have
    its id. Where all are asynchronous, the adapter knows what else a call can be found by.
    """
    return call.upstream_id is not None or context.spec(job.provider).kind == "async"


def _ask_upstream(context: WorkerContext, credential_id: str, pairs: Sequence[tuple[LiveJob, OpenCall]]) -> list[Look]:
    try:
        provider = context.registry.by_credential(credential_id)
    except UnknownCredentialError:
        away = NotRun("credential_unknown", credential_id)
        return [Look(job, call, away) for job, call in pairs]  # until their own deadline
    searched = context.spec(provider.name).recovery is Recovery.SEARCH
    lost = [(job, call) for job, call in pairs if searched and _is_lost(call)]
    known = [(job, call) for job, call in pairs if not (searched and _is_lost(call))]
    said = provider.check_many([apply.call_ref(call, job.model) for job, call in known]) if known else {}
    failpoints.hit("look.answered")
    looks = [Look(job, call, said.get(call.id, NotRun("not_answered"))) for job, call in known]
    return looks + side_by_side(lambda pair: _search(context, provider, *pair), lost)


def _is_lost(call: OpenCall) -> bool:
    """A call whose answer never came, so that there is no id to ask by."""
    return call.outcome is Outcome.UNCERTAIN and call.upstream_id is None


def _search(context: WorkerContext, provider: Provider, job: LiveJob, call: OpenCall) -> Look:
    try:
        found = recovery.find(context, provider, job, call)
    except ProviderError as error:
        return Look(job, call, error)
    except (StorageUnavailableError, BlobNotFoundError) as error:
        return Look(job, call, NotRun("storage_unavailable", type(error).__name__))
    if found is None:
        with context.database.hot() as hot:
            over = calls.note_search(hot, call.id, searches=SEARCHES_AT_LEAST, over_s=SEARCH_FOR_S)
        return Look(job, replace(call, overdue=call.overdue or over), NotRun("search_found_nothing"))
    return Look(job, call, found)


def _open_calls(job: LiveJob) -> Iterator[OpenCall]:
    return (call for call in job.calls if call.outcome in (Outcome.ACCEPTED, Outcome.UNCERTAIN))


# ------------------------------------------------------------------ understanding


def _sort(context: WorkerContext, seen: Seen, look: Look) -> None:
    """Put a look where it belongs; one job's trouble is not the whole batch's."""
    seen.looks.append(look)
    if isinstance(look.said, Finished):
        seen.made.append(Made(look.call, look.said.images, look.said))
        return
    try:
        if answer := _answer(context, look):
            seen.news.append(answer)
    except DatabaseAwayError as error:
        log.warning("look_not_recorded", job_id=look.job.id, error=str(error))
    except Exception:
        log.exception("look_crashed", job_id=look.job.id)


def _answer(context: WorkerContext, look: Look) -> Answer | None:
    """What a look says about its call; None while the call goes on."""
    match look.said:
        case Accepted() as found:
            return outcomes.accepted(look.call.facts, found)
        case Failed() | Refused() | Misconfigured() as error:
            return outcomes.from_error(look.call.facts, error, may_look_up=False)
        case Missing():
            return _given_up(context, look) or _missing(context, look)
        case ProviderError() as error:
            log.info("look_failed", call_id=look.call.id, code=error.code)  # the look, not the call
            return _given_up(context, look)
        case Running():
            _note_found(context, look)
            return _arrived(context, look) or _given_up(context, look)
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
    told = [look.said.progress for look in seen.looks if isinstance(look.said, Running)]
    if all(value is None for value in told):
        return None
    kept = sum(1 for call in seen.job.calls if call.outcome is Outcome.KEPT)
    return (kept + sum(value or 0.0 for value in told)) / max(1, kept + len(seen.looks))


def _arrived(context: WorkerContext, look: Look) -> Answer | None:
    """The upstream knows an uncertain call after all: it did run."""
    if look.call.outcome is not Outcome.UNCERTAIN or not _can_be_asked(context, look.job, look.call):
        return None
    return Answer(look.call.facts, Outcome.ACCEPTED, upstream_id=look.call.upstream_id or look.call.dedupe_key)


def _note_found(context: WorkerContext, look: Look) -> None:
    """Two misses an hour apart, with looks between that found it, are no proof of anything."""
    if look.call.missing:
        with context.database.hot() as hot:
            calls.note_found(hot, look.call.id)


def _missing(context: WorkerContext, look: Look) -> Answer | None:
    """The upstream does not know the call: only believed when it stays so for some seconds."""
    with context.database.hot() as hot:
        sure = calls.note_missing(hot, look.call.id, after_s=MISSING_FOR_S)
    if not sure:
        return None
    way = context.spec(look.job.provider).recovery
    if look.call.outcome is Outcome.ACCEPTED:
        # What such an upstream took on may have been made and billed all the same; another call would buy it twice.
        bought = way is Recovery.NEVER
        gone = Failed("upstream_lost", "the upstream no longer knows the call", retryable=not bought, billed=bought)
        return outcomes.from_error(look.call.facts, gone, may_look_up=False)
    if way is not Recovery.RESEND:
        return None
    if look.job.cancel_requested:
        # It never left, and no one wants it any more: nothing is sent and nothing was bought.
        return replace(outcomes.lost(look.call.facts), written_off=False)
    return _resend(context, look)


def _resend(context: WorkerContext, look: Look) -> Answer | None:
    """Send an uncertain call's own bytes again under its own key: the upstream runs a key once.

    An error proves nothing until the next look.
    """
    parts = _right_to_resend(context, look)
    if isinstance(parts, Answer | None):
        return parts
    provider = context.registry.by_credential(look.call.credential_id)
    try:
        answer = provider.submit(run.build_order(context, look.job, parts, look.call), dedupe_key=look.call.dedupe_key)
    except ProviderError as error:
        log.info("resend_failed", call_id=look.call.id, code=error.code)
        return None
    failpoints.hit("resend.answered")
    if isinstance(answer, Accepted):
        return outcomes.accepted(look.call.facts, answer)
    return outcomes.finished(look.call.facts, answer)


class _NotNowError(Exception):
    """A limit keeps a call from being sent again: the next look tries once more."""


def _right_to_resend(context: WorkerContext, look: Look) -> worker.OrderParts | Answer | None:
    """What to send; None: not now; an answer: never again."""
    try:
        with context.database.transaction() as connection:
            right = calls.note_resend(
                connection,
                look.call.id,
                most=RESENDS_AT_MOST,
                deadline_s=context.spec(look.job.provider).deadline_s,
                backoff_s=decide.RETRY_AFTER_MAX_S,
            )
            if right.version is None:
                return outcomes.lost(look.call.facts) if right.used_up else None
            if not permits.take_submit(connection, look.call.credential_id):
                raise _NotNowError
            parts = worker.order_parts(connection, look.job.id)
    except _NotNowError:
        return None
    return parts


def _given_up(context: WorkerContext, look: Look) -> Answer | None:
    """Past the provider's own deadline, after this last look: stop it upstream and write it off."""
    if not look.call.overdue:
        return None
    if look.call.outcome is Outcome.UNCERTAIN:
        return outcomes.lost(look.call.facts)
    apply.cancel_upstream(context, look.call, look.job.model)
    return outcomes.lost(look.call.facts, code="upstream_timeout", outcome=Outcome.TIMED_OUT)
