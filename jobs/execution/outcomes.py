"""Call outcomes: what is recorded for an upstream's answer, or for none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from jobs.call import Call, KeptImage, ResultLink
from jobs.dispatch import own_keys
from jobs.lifecycle import calls
from jobs.lifecycle.calls import CallRow
from jobs.states import OPEN_OUTCOMES, Outcome
from providers.base import Accepted, Finished, ResultImage
from providers.errors import ContentRefused, Failed, Misconfigured, NotRun, ProviderError, Refused, Uncertain
from providers.reported_cost import ReportedCost


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What a step has learned about a call and not recorded yet.

    ``call`` has its previous outcome, with the code, ``retryable`` and ``retry_after_s`` of the new answer.
    """

    call: Call
    outcome: Outcome
    upstream_id: str | None = None
    poll_url: str | None = None
    result: Sequence[ResultLink] | None = None
    images: Sequence[KeptImage] = field(default=())
    detail: str | None = None
    written_off: bool = False  # the upstream may bill it, and no caller pays for it
    deadline_s: float | None = None  # counted from the call's start, for a call that has turned out to be running
    cost: ReportedCost | None = None  # as the upstream reports it
    raw: Mapping[str, Any] | None = None  # the upstream's own answer: jobs.documents.StoredAnswer

    @property
    def call_after(self) -> Call:
        """The call as it will be once this is recorded."""
        charged = self.call.charged or self.written_off
        return replace(self.call, outcome=self.outcome, kept=len(self.images), charged=charged)


# Outcomes that an outcome may replace, in addition to NULL: a late answer never moves a call backwards.
_REPLACES: Mapping[Outcome, tuple[Outcome, ...]] = {
    Outcome.UNCERTAIN: (),
    Outcome.ACCEPTED: (Outcome.UNCERTAIN,),
    Outcome.FINISHED: tuple(OPEN_OUTCOMES),
}
_ENDS_REPLACE = (*OPEN_OUTCOMES, Outcome.FINISHED)


def may_replace(learned: CallOutcome, before: Outcome | None) -> bool:
    """Return whether an outcome may be recorded over ``before``."""
    return before is None or before in _REPLACES.get(learned.outcome, _ENDS_REPLACE)


def row_of(learned: CallOutcome) -> CallRow:
    """Return the outcome as a parameter of the statements of ``jobs.lifecycle``."""
    credential_id = learned.call.credential_id
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
        # What an account's own key is billed costs us nothing; how much that is stays in ``usage`` and the kept answer.
        reported_cost_microusd=learned.cost.microusd if learned.cost and not own_keys.is_own(credential_id) else None,
        usage=dict(learned.cost.usage) if learned.cost else None,
        raw=learned.raw,
    )


def record(connection: Connection, learned: CallOutcome) -> bool:
    """Record an outcome, whatever the state of its job. False: the recorded outcome may not be replaced."""
    replaces = _REPLACES.get(learned.outcome, _ENDS_REPLACE)
    return calls.record(connection, row_of(learned), replaces=replaces, images=learned.images)


def accepted(call: Call, answer: Accepted, *, deadline_s: float | None = None) -> CallOutcome:
    """Return the outcome of a call that the upstream works on.

    ``deadline_s``: the provider's deadline; it replaces the shorter one that an unanswered call may have been given.
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
    """Return the outcome of a call whose images are not stored yet, with their links. Bytes cannot be recorded."""
    links = [_link(image) for image in answer.images]
    return CallOutcome(call, Outcome.FINISHED, result=links, cost=answer.cost, raw=answer.raw)


def _link(image: ResultImage) -> ResultLink:
    return {"url": image.url, "seed": image.seed, "revised_prompt": image.revised_prompt}


def from_error(call: Call, error: ProviderError, *, may_look_up: bool) -> CallOutcome:
    """Return the outcome for an error, by its class (providers/errors.py).

    ``may_look_up``: whether an uncertain call can be looked up at its upstream later.
    """
    outcome, retryable, written_off = _by_class(error, may_look_up=may_look_up)
    coded = replace(call, code=error.code, retryable=retryable, retry_after_s=error.retry_after_s)
    cost = error.cost if isinstance(error, Failed | ContentRefused) else None
    return CallOutcome(coded, outcome, detail=error.detail, written_off=written_off, cost=cost, raw=error.raw)


def _by_class(error: ProviderError, *, may_look_up: bool) -> tuple[Outcome, bool, bool]:
    """Return (outcome, retryable, written off)."""
    match error:
        case NotRun():
            return Outcome.NOT_RUN, True, False
        case Failed():
            return Outcome.FAILED, error.retryable, error.billed
        case ContentRefused():
            return Outcome.REFUSED, False, error.charged or bool(error.cost and error.cost.microusd)
        case Refused() | Misconfigured():
            return Outcome.REFUSED if isinstance(error, Refused) else Outcome.MISCONFIGURED, False, False
        case Uncertain() if may_look_up:
            return Outcome.UNCERTAIN, False, False
        case _:
            # Whether the call ran cannot be found out, and it is never sent again: the caller gets the credits
            # back, and the operator pays if the upstream bills it.
            return Outcome.LOST, False, True


def lost(call: Call, *, code: str = "upstream_uncertain", outcome: Outcome = Outcome.LOST) -> CallOutcome:
    """Return the outcome of a call given up without an image, although the upstream may have made one."""
    return CallOutcome(replace(call, code=code, retryable=False), outcome, written_off=True)
