"""What became of a call: from an upstream's answer, or its absence, to what is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from jobs.call import Call, KeptImage, ResultLink
from jobs.lifecycle import calls
from jobs.lifecycle.calls import CallRow
from jobs.states import OPEN_OUTCOMES, Outcome
from providers.base import Accepted, Finished, ResultImage
from providers.errors import ContentRefused, Failed, Misconfigured, NotRun, ProviderError, Refused, Uncertain
from providers.reported_cost import ReportedCost


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What a step has learned of a call, ready to be recorded. ``call`` is the call as it was before."""

    call: Call
    outcome: Outcome
    upstream_id: str | None = None
    poll_url: str | None = None
    result: Sequence[ResultLink] | None = None
    images: Sequence[KeptImage] = field(default=())
    detail: str | None = None
    written_off: bool = False  # the upstream may bill it, and no one here pays for it
    deadline_s: float | None = None  # from the intent on, for a call that can be followed after all
    cost: ReportedCost | None = None  # as the upstream reports it

    @property
    def call_after(self) -> Call:
        """The call as decisions will see it once this is recorded."""
        return replace(self.call, outcome=self.outcome, kept=len(self.images))


# What an outcome may replace, in addition to none: a call only goes forward, however late an answer comes.
_REPLACES: Mapping[Outcome, tuple[Outcome, ...]] = {
    Outcome.UNCERTAIN: (),
    Outcome.ACCEPTED: (Outcome.UNCERTAIN,),
    Outcome.FINISHED: tuple(OPEN_OUTCOMES),
}
_ENDS_REPLACE = (*OPEN_OUTCOMES, Outcome.FINISHED)


def may_replace(learned: CallOutcome, before: Outcome | None) -> bool:
    """Whether an outcome is news where ``before`` is on record."""
    return before is None or before in _REPLACES.get(learned.outcome, _ENDS_REPLACE)


def row_of(learned: CallOutcome) -> CallRow:
    """The outcome as the statements of ``jobs.lifecycle`` take it."""
    return calls.call_row(
        learned.call.id,
        learned.outcome,
        upstream_id=learned.upstream_id,
        poll_url=learned.poll_url,
        result=learned.result,
        error_code=learned.call.code,
        error_detail=learned.detail,
        retryable=learned.call.retryable,
        retry_after_s=learned.call.retry_after_s,
        kept=len(learned.images),
        written_off=learned.written_off,
        deadline_s=learned.deadline_s,
        reported_cost_microusd=learned.cost.microusd if learned.cost else None,
        usage=dict(learned.cost.usage) if learned.cost else None,
    )


def record(connection: Connection, learned: CallOutcome) -> bool:
    """Write an outcome, whatever has become of its job; False when it is no news."""
    replaces = _REPLACES.get(learned.outcome, _ENDS_REPLACE)
    return calls.record(connection, row_of(learned), replaces=replaces, images=learned.images)


def accepted(call: Call, answer: Accepted, *, deadline_s: float | None = None) -> CallOutcome:
    """The upstream works on it.

    ``deadline_s``: the provider's own, which holds again where an unanswered call had been given less.
    """
    return CallOutcome(
        call,
        Outcome.ACCEPTED,
        upstream_id=answer.upstream_id,
        poll_url=answer.poll_url,
        deadline_s=deadline_s,
        cost=answer.cost,
    )


def finished(call: Call, answer: Finished) -> CallOutcome:
    """Made, but not kept yet: the links, for the step that fetches the images. Only links fit in a row."""
    return CallOutcome(call, Outcome.FINISHED, result=[_link(image) for image in answer.images], cost=answer.cost)


def _link(image: ResultImage) -> ResultLink:
    return {"url": image.url, "seed": image.seed, "revised_prompt": image.revised_prompt}


def from_error(call: Call, error: ProviderError, *, may_look_up: bool) -> CallOutcome:
    """By the class of an error (providers/errors.py). ``may_look_up``: the upstream can be asked later."""
    outcome, retryable, written_off = _by_class(error, may_look_up=may_look_up)
    told = replace(call, code=error.code, retryable=retryable, retry_after_s=error.retry_after_s)
    cost = error.cost if isinstance(error, Failed | ContentRefused) else None
    return CallOutcome(told, outcome, detail=error.detail, written_off=written_off, cost=cost)


def _by_class(error: ProviderError, *, may_look_up: bool) -> tuple[Outcome, bool, bool]:
    """(outcome, retryable, written off)."""
    match error:
        case NotRun():
            return Outcome.NOT_RUN, True, False
        case Failed():
            return Outcome.FAILED, error.retryable, error.billed
        case ContentRefused():
            return Outcome.REFUSED, False, error.charged
        case Refused() | Misconfigured():
            return Outcome.REFUSED if isinstance(error, Refused) else Outcome.MISCONFIGURED, False, False
        case Uncertain() if may_look_up:
            return Outcome.UNCERTAIN, False, False
        case _:
            # It cannot be known, and nothing is ever sent again: the caller's credits go back, and the
            # upstream's bill, if there is one, is ours.
            return Outcome.LOST, False, True


def lost(call: Call, *, code: str = "upstream_uncertain", outcome: Outcome = Outcome.LOST) -> CallOutcome:
    """A call given up without an image, which the upstream may yet have made."""
    return CallOutcome(replace(call, code=code, retryable=False), outcome, written_off=True)
