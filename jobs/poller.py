"""Looking at pictures in progress: due jobs in batches, one question to the upstream for many calls.

A look changes nothing by itself, so two workers looking at once is harmless; what is found is
written under the job's fence. Nobody waits here: a call still running writes nothing at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from core import failpoints
from core.errors import DatabaseAwayError
from jobs import answers, calls, capacity, collector, lifecycle, loading, runner, search, states, steps
from jobs.answers import Answer
from jobs.errors import StaleJobError
from jobs.loading import LiveJob, OpenCall
from jobs.states import Nudge, Outcome
from jobs.workbench import Workbench, side_by_side
from providers.base import Accepted, CheckResult, Finished, Missing, Provider, Running
from providers.errors import Failed, Misconfigured, NotRun, ProviderError, Refused
from providers.registry import UnknownCredentialError
from storage.base import BlobNotFoundError, StorageUnavailableError

log = structlog.get_logger(__name__)

BATCH = 200
# What this process keeps itself of a batch; the rest is shared out by messages.
KEEP_HERE = 8
MISSING_FOR_S = 5.0
RESENDS_AT_MOST = 2


@dataclass(frozen=True, slots=True)
class Look:
    """One open call of one job, and what the upstream says of it."""

    job: LiveJob
    call: OpenCall
    said: CheckResult | Accepted  # Accepted: an uncertain call was found by a search


def poll(bench: Workbench, provider: str) -> list[Nudge]:
    """Look at one batch of a provider's due jobs. Returns nudges to publish."""
    spec = bench.spec(provider)
    with bench.database.autocommit() as connection:
        jobs = loading.take_due(
            connection,
            provider,
            limit=BATCH,
            interval_s=spec.check_interval_s,
            interval_max_s=spec.check_interval_max_s,
        )
    if len(jobs) == BATCH:
        bench.publish([states.poll(provider)])  # the rest of the backlog does not wait for this batch
    return _follow(bench, jobs) if jobs else []


def _follow(bench: Workbench, jobs: Sequence[LiveJob]) -> list[Nudge]:
    nudges: list[Nudge] = []
    ready: list[tuple[LiveJob, int]] = []
    waiting: list[LiveJob] = []
    for job in jobs:
        if any(call.outcome is Outcome.FINISHED for call in job.calls):
            nudges.append(states.collect(job.id))
        else:
            waiting.append(_with_wish(bench, job))
    looks = _look(bench, waiting)
    by_job: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        by_job[look.job.id].append(look)
    for job in waiting:
        try:
            found = _move_on(bench, job, by_job.get(job.id, []), may_keep=len(ready) < KEEP_HERE)
        except DatabaseAwayError as error:
            # The rest is due again soon. What is in our hands already would lie there until its step is overdue.
            log.warning("looks_not_recorded", error=str(error), jobs=len(waiting))
            break
        nudges += found.nudges
        ready += found.ready
    for more in side_by_side(lambda pair: collector.keep_found(bench, *pair), ready):
        nudges += more
    return nudges


def _with_wish(bench: Workbench, job: LiveJob) -> LiveJob:
    """Pass a caller's wish to cancel on to the upstream, once per call; the job as it stands after."""
    if not job.cancel_requested:
        return job
    return replace(job, calls=[_cancel(bench, job, call) for call in job.calls])


def _cancel(bench: Workbench, job: LiveJob, call: OpenCall) -> OpenCall:
    if call.outcome is not Outcome.ACCEPTED or call.cancel_asked:
        return call
    stopped = steps.cancel_upstream(bench, call, job.model)
    with bench.database.transaction() as connection:
        if not stopped:
            calls.note_cancel_asked(connection, call.id)
            return call
        calls.record(connection, call.id, Outcome.CANCELLED)
    return replace(call, facts=replace(call.facts, outcome=Outcome.CANCELLED))


def _look(bench: Workbench, jobs: Sequence[LiveJob]) -> list[Look]:
    """Ask each credential's upstream about all its open calls."""
    groups: dict[str, list[tuple[LiveJob, OpenCall]]] = defaultdict(list)
    for job in jobs:
        for call in _open_calls(job):
            groups[call.credential_id].append((job, call))
    return [look for group in side_by_side(lambda item: _ask(bench, *item), list(groups.items())) for look in group]


def _ask(bench: Workbench, credential_id: str, pairs: Sequence[tuple[LiveJob, OpenCall]]) -> list[Look]:
    asked = [pair for pair in pairs if _can_be_asked(bench, *pair)]
    mute = [Look(job, call, Running()) for job, call in pairs if not _can_be_asked(bench, job, call)]
    return mute + (_ask_upstream(bench, credential_id, asked) if asked else [])


def _can_be_asked(bench: Workbench, job: LiveJob, call: OpenCall) -> bool:
    """Whether the upstream can tell of the call; of the others only time will tell.

    A provider that answers with the picture itself may do some models asynchronously: those calls have
    its id. Where all are asynchronous, the adapter knows what else a call can be found by.
    """
    return call.upstream_id is not None or bench.spec(job.provider).kind == "async"


def _ask_upstream(bench: Workbench, credential_id: str, pairs: Sequence[tuple[LiveJob, OpenCall]]) -> list[Look]:
    try:
        provider = bench.registry.by_credential(credential_id)
    except UnknownCredentialError:
        away = NotRun("credential_unknown", credential_id)
        return [Look(job, call, away) for job, call in pairs]  # until their own deadline
    lost = [(job, call) for job, call in pairs if _is_lost(provider, call)]
    known = [(job, call) for job, call in pairs if not _is_lost(provider, call)]
    said = provider.check_many([steps.call_ref(call, job.model) for job, call in known]) if known else {}
    failpoints.hit("look.answered")
    looks = [Look(job, call, said.get(call.id, NotRun("not_answered"))) for job, call in known]
    return looks + side_by_side(lambda pair: _search(bench, provider, *pair), lost)


def _is_lost(provider: Provider, call: OpenCall) -> bool:
    """A call whose answer never came, at an upstream that can be searched but not asked by our own key."""
    return provider.recovery == "search" and call.outcome is Outcome.UNCERTAIN and call.upstream_id is None


def _search(bench: Workbench, provider: Provider, job: LiveJob, call: OpenCall) -> Look:
    if call.age_s > search.SEARCH_FOR_S and bench.callback_url(job.provider, call.id) is None:
        call = replace(call, overdue=True)  # nobody will tell us any more
    try:
        found = search.find(bench, provider, job, call)
    except ProviderError as error:
        return Look(job, call, error)
    except (StorageUnavailableError, BlobNotFoundError) as error:
        return Look(job, call, NotRun("storage_unavailable", type(error).__name__))
    return Look(job, call, found or NotRun("search_found_nothing"))


def _open_calls(job: LiveJob) -> Iterator[OpenCall]:
    return (call for call in job.calls if call.outcome in (Outcome.ACCEPTED, Outcome.UNCERTAIN))


@dataclass(frozen=True, slots=True)
class _Found:
    nudges: Sequence[Nudge] = ()
    ready: Sequence[tuple[LiveJob, int]] = ()  # jobs now in our hands, with their fence


def _move_on(bench: Workbench, job: LiveJob, looks: Sequence[Look], *, may_keep: bool) -> _Found:
    """Write what was seen of one job's calls, and let the job follow. Stale means somebody was first."""
    try:
        news = [answer for look in looks if (answer := _answer(bench, look))]
        if any(answer.outcome is Outcome.FINISHED for answer in news):
            return _found(bench, job, news, may_keep=may_keep)
        if news:
            _record(bench, news)
        if news or not looks:
            return _Found(nudges=steps.conclude(bench, job.id))
    except StaleJobError:
        log.debug("job_moved_on", job_id=job.id)
    except DatabaseAwayError:
        raise
    except Exception:
        log.exception("look_crashed", job_id=job.id)  # one job's trouble is not the whole batch's
    return _Found()


def _found(bench: Workbench, job: LiveJob, news: Sequence[Answer], *, may_keep: bool) -> _Found:
    """A finished call: keep its pictures here and now, or leave a row and a nudge for another worker."""
    with bench.database.transaction() as connection:
        fence = job.fence
        if may_keep:
            fence = lifecycle.found(connection, job.id, job.fence, owner=bench.owner, step_s=bench.step_s)
        for answer in news:
            answers.record(connection, answer)
    if not may_keep:
        return _Found(nudges=[states.collect(job.id)])
    return _Found(ready=[(_with_news(job, news), fence)])


def _with_news(job: LiveJob, news: Sequence[Answer]) -> LiveJob:
    fresh = {answer.call.id: answer for answer in news}
    return replace(
        job,
        calls=[
            replace(call, facts=fresh[call.id].facts, result=fresh[call.id].result or ()) if call.id in fresh else call
            for call in job.calls
        ],
    )


def _record(bench: Workbench, news: Sequence[Answer]) -> None:
    with bench.database.transaction() as connection:
        for answer in news:
            answers.record(connection, answer)


def _answer(bench: Workbench, look: Look) -> Answer | None:
    """What a look says about its call; None while the call goes on."""
    match look.said:
        case Accepted() as found:
            return answers.accepted(look.call.facts, found)
        case Finished() as done:
            return answers.finished(look.call.facts, done)
        case Failed() | Refused() | Misconfigured() as error:
            return answers.from_error(look.call.facts, error, may_look_up=False)
        case Missing():
            return _missing(bench, look) or _given_up(bench, look)
        case ProviderError() as error:
            log.info("look_failed", call_id=look.call.id, code=error.code)  # the look, not the call
            return _given_up(bench, look)
        case Running():
            _note_found(bench, look)
            return _arrived(bench, look) or _given_up(bench, look)


def _arrived(bench: Workbench, look: Look) -> Answer | None:
    """The upstream knows an uncertain call after all: it did run."""
    if look.call.outcome is not Outcome.UNCERTAIN or not _can_be_asked(bench, look.job, look.call):
        return None
    return Answer(look.call.facts, Outcome.ACCEPTED, upstream_id=look.call.upstream_id or look.call.dedupe_key)


def _note_found(bench: Workbench, look: Look) -> None:
    """Two misses an hour apart, with looks between that found it, are no proof of anything."""
    if look.call.missing:
        with bench.database.autocommit() as connection:
            calls.note_found(connection, look.call.id)


def _missing(bench: Workbench, look: Look) -> Answer | None:
    """The upstream does not know the call: only believed when it stays so for some seconds."""
    with bench.database.autocommit() as connection:
        sure = calls.note_missing(connection, look.call.id, after_s=MISSING_FOR_S)
    if not sure:
        return None
    if look.call.outcome is Outcome.ACCEPTED:
        # What class C took on may have been made and billed all the same; another call would buy it twice.
        bought = bench.spec(look.job.provider).uncertain_class == "C"
        gone = Failed("upstream_lost", "the upstream no longer knows the call", retryable=not bought, billed=bought)
        return answers.from_error(look.call.facts, gone, may_look_up=False)
    return _resend(bench, look) if bench.spec(look.job.provider).uncertain_class == "A" else None


def _resend(bench: Workbench, look: Look) -> Answer | None:
    """Send an uncertain call's own bytes again under its own key: the upstream runs a key once.

    An error proves nothing until the next look.
    """
    with bench.database.autocommit() as connection:
        if not capacity.take_submit(connection, look.call.credential_id):
            return None  # a limit; the next look tries again
        allowed = calls.note_resend(connection, look.call.id, most=RESENDS_AT_MOST)
        parts = loading.order_parts(connection, look.job.id) if allowed else None
    if parts is None:
        return answers.lost(look.call.facts)
    provider = bench.registry.by_credential(look.call.credential_id)
    try:
        answer = provider.submit(runner.build_order(bench, look.job, parts, look.call), dedupe_key=look.call.dedupe_key)
    except ProviderError as error:
        log.info("resend_failed", call_id=look.call.id, code=error.code)
        return None
    failpoints.hit("resend.answered")
    if isinstance(answer, Accepted):
        return answers.accepted(look.call.facts, answer)
    return answers.finished(look.call.facts, answer)


def _given_up(bench: Workbench, look: Look) -> Answer | None:
    """Past the provider's own deadline, after this last look: stop it upstream and write it off."""
    if not look.call.overdue:
        return None
    if look.call.outcome is Outcome.UNCERTAIN:
        return answers.lost(look.call.facts)
    steps.cancel_upstream(bench, look.call, look.job.model)
    return answers.lost(look.call.facts, code="upstream_timeout", outcome=Outcome.TIMED_OUT)
