"""Deciding a job's next step from the state of its calls: pure functions, no I/O.

A job has ``n`` image slots, and a call covers one or more of them. A retry makes a new call only for slots whose
last call certainly did not run or ended in a retryable failure. The job ends when no call is open and no slot may
be tried again.

How often a slot is called (promised in docs/errors.md, checked by a property test):

- Calls that may be billed: at most ``max_attempts`` over all models of the order. One of them is reserved for each
  fallback model that is left; if there are more models than calls, each model may have one.
- Calls that certainly ran nothing (``NOT_RUN``, ``MISCONFIGURED``) are not billed and do not count towards that.
  One model gets ``max_attempts`` calls in all. Where its upstream only asks to come back later and no other model is
  left, each call after the first counts for a quarter (``PATIENCE``). So a job of one attempt makes one call.
- A slot whose call was refused for its content, free of charge, may have one more call with an adjusted prompt, if
  the order asked for that. It does not count towards the calls that may be billed, for the refused one was not.
- A job waits for an upstream that only asks to come back later no longer than ``max_wait_s`` from its first call on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from jobs.call import Call
from jobs.failures import PATIENT_CODES, CancelOutcome
from jobs.states import Outcome

BACKOFF_FIRST_S = 2.0
BACKOFF_FACTOR = 2.5
BACKOFF_MAX_S = 60.0
JITTER = 0.2
RETRY_AFTER_MAX_S = 600.0
# Outcomes that an upstream never bills, because it ran nothing.
UNBILLED = frozenset({Outcome.NOT_RUN, Outcome.MISCONFIGURED})
# How many calls after the first a job may make, for each attempt after the first, where PATIENT_CODES are the answer.
PATIENCE = 4
CONTENT_REFUSED = "content_refused"


class Adjustment(StrEnum):
    """What becomes of a prompt whose content was refused."""

    NOT_WANTED = "not_wanted"
    POSSIBLE = "possible"  # asked for, and not done yet
    IMPOSSIBLE = "impossible"  # asked for, and no language model is configured here
    FAILED = "failed"  # the language model gave no other wording
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a decision depends on. ``fallbacks``: how many models are left after the current ``model``.

    ``max_wait_s``: for how many seconds from its first call on a job may wait for an upstream that asks to come later.
    ``adjusted_at``: calls made before then had the first wording of the prompt.
    """

    n: int
    calls: Sequence[Call]
    max_attempts: int
    cancel_requested: bool = False
    cancel_charge: Literal["full", "none"] = "full"
    model: str = ""
    fallbacks: int = 0
    max_wait_s: float = math.inf
    adjustment: Adjustment = Adjustment.NOT_WANTED
    adjusted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Calls are open: check again later."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Finished calls have images that are not stored yet."""


@dataclass(frozen=True, slots=True)
class Retry:
    code: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Adjust:
    """The prompt was refused free of charge: ask the language model for another wording, then the upstream again."""

    code: str


@dataclass(frozen=True, slots=True)
class FailOver:
    """The current model certainly made nothing for some slot and will not: use the next model."""

    code: str


@dataclass(frozen=True, slots=True)
class Succeed:
    kept: int
    notes: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class Fail:
    code: str
    notes: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class Cancel:
    outcome: CancelOutcome
    charged: int  # images to pay for


Step = Wait | Keep | Retry | Adjust | FailOver | Succeed | Fail | Cancel


def next_step(facts: Facts) -> Step:
    """Return what to do next, without doing it."""
    if any(call.outcome is Outcome.FINISHED for call in facts.calls):
        return Keep()
    if any(call.is_open for call in facts.calls):
        return Wait()
    if not facts.cancel_requested:
        if again := open_slots(facts):
            return _retry(facts, again)
        if facts.adjustment is Adjustment.POSSIBLE and _refused_free(facts):
            return Adjust(CONTENT_REFUSED)
        if facts.fallbacks and facts.adjustment is not Adjustment.FAILED and (barren := _barren(facts)):
            return FailOver(_decisive_code(barren))
    return _end(facts)


def _end(facts: Facts) -> Succeed | Fail | Cancel:
    kept = sum(call.kept for call in facts.calls)
    if facts.cancel_requested:
        return _cancelled(facts, kept)
    if kept:
        return Succeed(kept, [*missing(facts, kept), *_about_the_prompt(facts)])
    return Fail(_decisive_code(facts.calls), _about_the_prompt(facts))


def open_slots(facts: Facts) -> list[int]:
    """Return the slots that need a call and may have one."""
    latest = _latest_by_slot(facts.calls)
    return [slot for slot in range(facts.n) if slot not in latest or _may_call(facts, slot, latest[slot])]


def plan(facts: Facts, *, max_per_call: int) -> list[tuple[int, int, int]]:
    """Return (slot, images, attempt) of each call to make now. Adjacent open slots share a call."""
    latest = _latest_by_slot(facts.calls)
    groups: list[tuple[int, int, int]] = []
    for slot in open_slots(facts):
        attempt = latest[slot].attempt + 1 if slot in latest else 1
        if groups:
            first, count, attempts = groups[-1]
            if first + count == slot and count < max_per_call and attempts == attempt:
                groups[-1] = (first, count + 1, attempts)
                continue
        groups.append((slot, 1, attempt))
    return groups


def backoff_s(attempt: int) -> float:
    """Return the pause in seconds after ``attempt`` calls: 2, 5, 12.5 ... 60, with 20 % jitter."""
    base = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * BACKOFF_FACTOR ** max(0, attempt - 1))
    return base * random.uniform(1 - JITTER, 1 + JITTER)


def most_billed(max_attempts: int, models: int) -> int:
    """Return how many calls may be billed at most for one slot, over all ``models`` of its job (one or more)."""
    return max(max_attempts, models)


def life_s(max_attempts: int, models: int, deadline_s: float) -> float:
    """Return the seconds that all calls of one slot may take, each until its deadline and with the longest pause.

    ``deadline_s``: the longest deadline of the models' providers. The additional tries of ``PATIENCE`` also fit in,
    as long as the upstream asks for pauses no longer than ours.
    """
    return most_billed(max_attempts, models) * (deadline_s + BACKOFF_MAX_S * (1 + JITTER))


def _latest_by_slot(calls: Iterable[Call]) -> dict[int, Call]:
    latest: dict[int, Call] = {}
    for call in sorted(calls, key=lambda call: call.attempt):
        latest.update(dict.fromkeys(call.slots, call))
    return latest


def _may_call(facts: Facts, slot: int, latest: Call) -> bool:
    if _has_new_wording(facts, latest):
        return True
    if latest.model != facts.model:  # the job has failed over since
        return _made_nothing(latest)
    if latest.outcome is Outcome.MISCONFIGURED or not _made_nothing(latest) or _out_of_patience(facts, latest):
        return False
    billed = sum(call.model == facts.model for call in _may_be_billed(facts, slot))
    return _tries(facts, slot, latest) < _tries_at_most(facts, latest) and billed < _allowance(facts, slot)


def _tries(facts: Facts, slot: int, latest: Call) -> int:
    """Return how often the current model, which made the call ``latest``, was called for the slot."""
    before = (call.attempt for call in facts.calls if slot in call.slots and call.model != facts.model)
    return latest.attempt - max(before, default=0)


def _tries_at_most(facts: Facts, latest: Call) -> int:
    # If another model is left, it is used instead of more tries with this one.
    is_patient = latest.code in PATIENT_CODES and not facts.fallbacks
    return 1 + (facts.max_attempts - 1) * (PATIENCE if is_patient else 1)


def _out_of_patience(facts: Facts, latest: Call) -> bool:
    """Return whether the pause that the upstream asks for would end after ``max_wait_s``."""
    if latest.code not in PATIENT_CODES:
        return False
    waited_s = max((call.age_s or 0.0 for call in facts.calls), default=0.0)
    return waited_s + min(latest.retry_after_s or 0.0, RETRY_AFTER_MAX_S) > facts.max_wait_s


def _allowance(facts: Facts, slot: int) -> int:
    """Return how many billable calls the current model may have; one is reserved for each fallback left."""
    before = sum(call.model != facts.model for call in _may_be_billed(facts, slot))
    return max(1, facts.max_attempts - before - facts.fallbacks)


def _may_be_billed(facts: Facts, slot: int) -> list[Call]:
    return [call for call in facts.calls if slot in call.slots and call.outcome not in UNBILLED]


def _made_nothing(call: Call) -> bool:
    """Return whether the call certainly made nothing. False for a refusal, or anything uncertain or billed."""
    if call.outcome is Outcome.FAILED:
        return call.retryable
    return call.outcome in UNBILLED


def _is_free_refusal(call: Call) -> bool:
    return call.outcome is Outcome.REFUSED and call.code == CONTENT_REFUSED and not call.charged


def _is_charged_refusal(call: Call) -> bool:
    return call.outcome is Outcome.REFUSED and call.code == CONTENT_REFUSED and call.charged


def _refused_free(facts: Facts) -> list[Call]:
    """Return the last calls of the slots whose prompt was refused, at no cost."""
    return [call for call in _latest_by_slot(facts.calls).values() if _is_free_refusal(call)]


def _has_new_wording(facts: Facts, latest: Call) -> bool:
    """Return whether the call was refused for a prompt that has been adjusted since."""
    if facts.adjusted_at is None or latest.intended_at is None or not _is_free_refusal(latest):
        return False
    return latest.intended_at < facts.adjusted_at


_ADJUSTMENT_NOTES = {
    Adjustment.IMPOSSIBLE: "safe_prompt: no language model is configured here, so the refused prompt was not adjusted",
    Adjustment.FAILED: "safe_prompt: the language model gave no other wording for the refused prompt",
    Adjustment.DONE: "safe_prompt: the adjusted prompt was refused, too",
}


def _about_the_prompt(facts: Facts) -> tuple[str, ...]:
    """Return the warning for a job that ends with a prompt refused although it might have been adjusted."""
    if facts.adjustment is Adjustment.POSSIBLE and any(_is_charged_refusal(call) for call in facts.calls):
        return ("safe_prompt: the upstream charges for this refusal, so the prompt was not adjusted",)
    note = _ADJUSTMENT_NOTES.get(facts.adjustment)
    return (note,) if note and _refused_free(facts) else ()


def _barren(facts: Facts) -> list[Call]:
    """Return the last calls of the slots that another model may still fill."""
    return [call for call in _latest_by_slot(facts.calls).values() if _made_nothing(call)]


def _retry(facts: Facts, slots: Sequence[int]) -> Retry:
    """Return a retry of the slots. Its pause follows from calls to the current model; without any, there is none."""
    latest = _latest_by_slot(facts.calls)
    tried = [slot for slot in slots if slot in latest and latest[slot].model == facts.model]
    if not tried:  # slots that got no permit before, or that another model was called for
        return Retry("no_capacity", 0.0)
    tries, code = max((_tries(facts, slot, latest[slot]), latest[slot].code or "upstream_error") for slot in tried)
    asked = max((latest[slot].retry_after_s or 0.0) for slot in tried)
    return Retry(code, max(backoff_s(tries), min(asked, RETRY_AFTER_MAX_S)))


def missing(facts: Facts, kept: int) -> list[str]:
    """Return the warning for a job that ends with fewer images than ordered; empty if all were made."""
    if kept == facts.n:
        return []
    codes = sorted({call.code for call in facts.calls if call.code and not call.kept})
    why = f" ({', '.join(codes)})" if codes else ""
    return [f"{kept} of {facts.n} images were made{why}; the others were not charged"]


def _decisive_code(calls: Sequence[Call]) -> str:
    """Return the first code that is not retryable, or else the last one."""
    ended = sorted((call for call in calls if call.code), key=lambda call: (call.slot, call.attempt))
    decisive = [call.code for call in ended if not call.retryable and call.outcome is not Outcome.NOT_RUN]
    return (decisive or [call.code for call in reversed(ended)] or ["upstream_error"])[0] or "upstream_error"


def _cancelled(facts: Facts, kept: int) -> Cancel:
    if kept:
        return Cancel(CancelOutcome.TOO_LATE, kept if facts.cancel_charge == "full" else 0)
    lost = any(call.outcome in (Outcome.LOST, Outcome.TIMED_OUT) for call in facts.calls)
    return Cancel(CancelOutcome.UPSTREAM_UNCERTAIN if lost else CancelOutcome.STOPPED_UPSTREAM, 0)
