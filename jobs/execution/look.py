"""Checking the status of calls at their upstreams, one request for many calls of a credential. Writes nothing.

A call whose answer was lost is searched for if its upstream can be searched (``recovery``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core import failpoints
from core.parallel import side_by_side
from jobs import counts
from jobs.call import Call
from jobs.execution import recovery, upstream_time
from jobs.execution.context import WorkerContext
from jobs.reads.worker import LiveJob
from jobs.states import Outcome
from providers.base import Accepted, CheckResult, Provider, Running
from providers.catalog.entries import Recovery
from providers.errors import NotRun, ProviderError, Uncertain, Unidentifiable
from providers.http import answers
from providers.registry import UnknownCredentialError
from storage.base import BlobNotFoundError, StorageUnavailableError

Pair = tuple[LiveJob, Call]


@dataclass(frozen=True, slots=True)
class Look:
    """One open call of one job, and what the upstream says about it."""

    job: LiveJob
    call: Call
    answer: CheckResult | Accepted  # Accepted: a search found the uncertain call


def look(context: WorkerContext, pairs: Sequence[Pair]) -> list[Look]:
    """Return the status of each call, asked once per credential. Never raises for a failed check: that is an answer."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for job, call in pairs:
        groups[call.credential_id].append((job, call))
    looks = side_by_side(lambda group: _ask(context, *group), list(groups.items()))
    return [each for group in looks for each in group]


def can_be_asked(context: WorkerContext, job: LiveJob, call: Call) -> bool:
    """Return whether the upstream can be asked about the call; any other call only waits for its deadline.

    A provider that answers with the image may run some models asynchronously: those calls have an upstream id. If
    all its models are asynchronous, the adapter knows other ways to find a call.
    """
    return call.upstream_id is not None or context.spec(job.provider).kind == "async"


def _ask(context: WorkerContext, credential_id: str, pairs: Sequence[Pair]) -> list[Look]:
    asked = [pair for pair in pairs if can_be_asked(context, *pair)]
    mute = [Look(job, call, Running()) for job, call in pairs if not can_be_asked(context, job, call)]
    return mute + (_ask_upstream(context, credential_id, asked) if asked else [])


def _ask_upstream(context: WorkerContext, credential_id: str, pairs: Sequence[Pair]) -> list[Look]:
    try:
        provider = context.registry.by_credential(credential_id)
    except UnknownCredentialError:
        away = NotRun("credential_unknown", credential_id)
        return [Look(job, call, away) for job, call in pairs]  # until their own deadline
    searched = context.spec(provider.name).recovery is Recovery.SEARCH
    lost = [(job, call) for job, call in pairs if searched and _is_lost(call)]
    known = [(job, call) for job, call in pairs if not (searched and _is_lost(call))]
    with answers.listening(on=context.keep_raw):
        found = _checked(provider, [call for _, call in known]) if known else {}
    failpoints.hit("look.answered")
    looks = [Look(job, call, found.get(call.id, NotRun("not_answered"))) for job, call in known]
    return looks + side_by_side(lambda pair: _search(context, provider, *pair), lost)


def _checked(provider: Provider, calls: list[Call]) -> Mapping[str, CheckResult]:
    """What the upstream says of each call; errors are counted where the request itself was in vain."""
    with upstream_time.measured(provider.name, "check"):
        found = provider.check_many(calls)
    for answer in found.values():
        if isinstance(answer, NotRun | Uncertain):
            counts.upstream_error(provider.name, "check", answer)
    return found


def _is_lost(call: Call) -> bool:
    """Return whether the call's answer was lost, so that it has no upstream id."""
    return call.outcome is Outcome.UNCERTAIN and call.upstream_id is None


def _search(context: WorkerContext, provider: Provider, job: LiveJob, call: Call) -> Look:
    try:
        found = recovery.search(context, provider, job, call)
    except Unidentifiable as error:
        return Look(job, replace(call, overdue=True), error)  # another search would show no more
    except ProviderError as error:
        return Look(job, call, error)
    except (StorageUnavailableError, BlobNotFoundError) as error:
        return Look(job, call, NotRun("storage_unavailable", type(error).__name__))
    if found is None:
        over = recovery.searched_in_vain(context, call)
        return Look(job, replace(call, overdue=call.overdue or over), NotRun("search_found_nothing"))
    return Look(job, call, found)
