"""Looking at calls: at many of them one by one, and what a look that failed means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from providers.base import CallRef, CheckResult, Finished, Missing, Running
from providers.errors import NotRun, ProviderError, Uncertain
from providers.http import answers
from providers.shared import raw_answers

LOOKS_AT_ONCE = 16


def failed_look(error: ProviderError) -> NotRun | Uncertain:
    """An error of a look as one that does not end the call: a look buys nothing and says nothing about the call."""
    if isinstance(error, NotRun | Uncertain):
        return error
    return as_not_run(error)


def as_not_run(error: ProviderError) -> NotRun:
    """The error as NotRun: that of a request that bought nothing, such as a look or an upload."""
    return NotRun(error.code, error.detail, retry_after_s=error.retry_after_s)


def check_each(
    check: Callable[[CallRef], Finished | Running | Missing], calls: Sequence[CallRef]
) -> dict[str, CheckResult]:
    """Look at each call by itself, a few at once, for upstreams that cannot look at many; results by the calls' ids.

    Once a look cannot reach the upstream, those that have not begun get the same error: they would wait
    for the same dead upstream, one time-out after the other.
    """
    away: list[ProviderError] = []
    heard_here = answers.is_heard()

    def look(call: CallRef) -> CheckResult:
        if away:
            return away[0]
        try:
            return with_raw(check, call, on=heard_here)
        except (NotRun, Uncertain) as error:
            if error.code in _AWAY:
                away.append(error)
            return error
        except ProviderError as error:
            return error

    if len(calls) == 1:
        return {calls[0].id: look(calls[0])}
    with ThreadPoolExecutor(max_workers=LOOKS_AT_ONCE) as pool:  # greenlets in a worker
        return dict(zip((call.id for call in calls), pool.map(look, calls), strict=True))


def with_raw(
    check: Callable[[CallRef], Finished | Running | Missing], call: CallRef, *, on: bool
) -> Finished | Running | Missing:
    """What a look says, with the upstream's own answer on what ends the call. Raises what ``check`` raises."""
    with answers.listening(on=on) as heard:
        try:
            found = check(call)
        except ProviderError as error:
            error.raw = raw_answers.document(heard)
            raise
        return replace(found, raw=raw_answers.document(heard)) if isinstance(found, Finished) else found


def with_part(found: CheckResult, part: object, *, status: int) -> CheckResult:
    """A state with its own part of an answer about many calls, where it ends the call and someone listens."""
    if not answers.is_heard() or part is None or not isinstance(found, Finished | ProviderError):
        return found
    raw = raw_answers.of_json(part, status=status, secrets=answers.secrets())
    if isinstance(found, Finished):
        return replace(found, raw=raw)
    found.raw = raw
    return found


# The upstream is away or slow, or asks all callers to wait: the next look would end the same way.
_AWAY = frozenset({"upstream_unreachable", "upstream_no_answer", "upstream_rate_limited"})
