"""Behaviour several adapters share: what follows when the answer is all there is, and how looks go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from providers.base import Accepted, CallRef, CancelOutcome, CheckResult, Finished, Missing, Running, UpstreamOrder
from providers.errors import Misconfigured, NotRun, ProviderError, Uncertain

LOOKS_AT_ONCE = 16


class Unsearchable:
    """An upstream that can neither stop a call nor search for one."""

    def cancel(self, call: CallRef) -> CancelOutcome:  # noqa: ARG002
        return CancelOutcome.UNSUPPORTED

    def lookup(self, call: CallRef, since: datetime, order: UpstreamOrder) -> list[Accepted]:  # noqa: ARG002
        return []


class OneAnswer(Unsearchable):
    """A synchronous upstream: one call is one answer, and a lost answer cannot be looked for."""

    def check(self, call: CallRef) -> Finished | Running | Missing:  # noqa: ARG002
        """Never ``Missing``: that nothing can be found here does not mean that nothing was made."""
        raise _nothing_to_look_at()

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        return {call.id: _nothing_to_look_at() for call in calls}


def _nothing_to_look_at() -> Uncertain:
    return Uncertain("upstream_cannot_look", "a synchronous call leaves nothing to look at")


class Wordless:
    """An upstream that offers no text model for prompt enhancement."""

    name: str

    def stream_text(self, messages: Sequence[Mapping[str, str]], *, temperature: float) -> Iterator[str]:  # noqa: ARG002
        raise Misconfigured("upstream_has_no_text", f"{self.name} has no text model here")


def failed_look(error: ProviderError) -> NotRun | Uncertain:
    """An error met while looking. It bought nothing and says nothing about the call, whose end it must not be."""
    if isinstance(error, NotRun | Uncertain):
        return error
    return NotRun(error.code, error.detail, retry_after_s=error.retry_after_s)


def check_each(
    check: Callable[[CallRef], Finished | Running | Missing], calls: Sequence[CallRef]
) -> dict[str, CheckResult]:
    """Look at each call by itself, a few at once, for upstreams without a look at many.

    Once a look cannot reach the upstream, those not yet begun are answered with the same error: the
    rest would wait for the same dead upstream, one time-out after the other.
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


# The upstream is away or slow, or asks everybody to wait: no use in asking about the next call.
_AWAY = frozenset({"upstream_unreachable", "upstream_no_answer", "upstream_rate_limited"})
