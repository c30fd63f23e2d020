"""What an upstream does not offer, as base classes of its adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from providers.base import Accepted, CallRef, CheckResult, Finished, Missing, Running, UpstreamCancel, UpstreamOrder
from providers.errors import Misconfigured, Uncertain


class Unsearchable:
    """For an upstream that can neither stop a call nor search for one."""

    def cancel(self, call: CallRef) -> UpstreamCancel:  # noqa: ARG002
        """Always ``UNSUPPORTED``."""
        return UpstreamCancel.UNSUPPORTED

    def lookup(self, call: CallRef, since: datetime, order: UpstreamOrder) -> list[Accepted]:  # noqa: ARG002
        """Always empty."""
        return []


class OneAnswer(Unsearchable):
    """For a synchronous upstream: one call is one answer, and a lost answer cannot be looked up."""

    def check(self, call: CallRef) -> Finished | Running | Missing:  # noqa: ARG002
        """Raises: Uncertain, always. Never ``Missing``: an image may have been made that cannot be looked up."""
        raise _nothing_to_look_at()

    def check_many(self, calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        """Uncertain for each call, by the calls' ids."""
        return {call.id: _nothing_to_look_at() for call in calls}


def _nothing_to_look_at() -> Uncertain:
    return Uncertain("upstream_cannot_look", "a synchronous call leaves nothing to look at")


class WithoutText:
    """For an upstream without a text model for prompt enhancement."""

    name: str

    def stream_text(
        self,
        messages: Sequence[Mapping[str, str]],  # noqa: ARG002
        *,
        temperature: float | None,  # noqa: ARG002
        max_tokens: int | None = None,  # noqa: ARG002
    ) -> Iterator[str]:
        """Raises: Misconfigured, always."""
        raise Misconfigured("upstream_has_no_text", f"{self.name} has no text model here")
