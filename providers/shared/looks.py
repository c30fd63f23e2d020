"""Looking at calls: at many of them one by one, and what a look that failed means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from providers.base import CallRef, CheckResult, Finished, Missing, Running
from providers.errors import NotRun, ProviderError, Uncertain

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

    def look(call: CallRef) -> CheckResult:
        if away:
            return away[0]
        try:
            return check(call)
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


# The upstream is away or slow, or asks all callers to wait: the next look would end the same way.
_AWAY = frozenset({"upstream_unreachable", "upstream_no_answer", "upstream_rate_limited"})
