"""When a refused prompt is adjusted: only where it was asked for, cost nothing and was not done before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.call import Call
from jobs.execution.decide import Adjust, Adjustment, Facts, Fail, FailOver, Retry, Succeed, Wait, next_step, plan
from jobs.states import Outcome

NOW = datetime(2026, 11, 22, tzinfo=UTC)
REFUSED = "content_refused"


def call(outcome: Outcome | None, *, slot: int = 0, attempt: int = 1, ago_s: int = 10, **rest: Any) -> Call:
    return Call(
        f"call_{slot}_{attempt}", "key", "", None, None, NOW - timedelta(seconds=ago_s), slot=slot, attempt=attempt,
        image_count=1, outcome=outcome, **rest,
    )  # fmt: skip


def refused(**rest: Any) -> Call:
    return call(Outcome.REFUSED, code=REFUSED, **rest)


def facts(*calls: Call, n: int = 1, **rest: Any) -> Facts:
    return Facts(n=n, calls=calls, max_attempts=3, **{"adjustment": Adjustment.POSSIBLE, **rest})


def test_a_free_refusal_is_adjusted() -> None:
    assert next_step(facts(refused())) == Adjust(REFUSED)


@pytest.mark.parametrize(
    "given",
    [
        facts(refused(), adjustment=Adjustment.NOT_WANTED),
        facts(call(Outcome.REFUSED, code="upstream_rejected")),
        facts(call(Outcome.LOST, code="upstream_uncertain")),
    ],
    ids=["not asked for", "another refusal", "uncertain"],
)
def test_nothing_else_is(given: Facts) -> None:
    step = next_step(given)
    assert isinstance(step, Fail)
    assert not step.notes


def test_a_refusal_that_was_billed_is_final_and_says_so() -> None:
    note = "safe_prompt: the upstream charges for this refusal, so the prompt was not adjusted"
    assert next_step(facts(refused(charged=True))) == Fail(REFUSED, (note,))


def test_open_calls_and_retries_of_other_slots_go_first() -> None:
    assert next_step(facts(refused(), call(Outcome.ACCEPTED, slot=1), n=2)) == Wait()
    again = call(Outcome.NOT_RUN, slot=1, code="upstream_unreachable", retryable=True)
    assert isinstance(next_step(facts(refused(), again, n=2)), Retry)
    assert not isinstance(next_step(facts(refused(), cancel_requested=True)), Adjust)


def test_the_other_images_stay_and_only_refused_slots_are_called_again() -> None:
    calls = (call(Outcome.KEPT, kept=1), refused(slot=1))
    assert next_step(facts(*calls, n=2)) == Adjust(REFUSED)
    done = facts(*calls, n=2, adjustment=Adjustment.DONE, adjusted_at=NOW)
    assert plan(done, max_per_call=4) == [(1, 1, 2)]


def test_after_the_adjustment_each_slot_has_one_more_call() -> None:
    done = {"adjustment": Adjustment.DONE, "adjusted_at": NOW}
    assert plan(facts(refused(), **done), max_per_call=1) == [(0, 1, 2)]
    again = facts(refused(), refused(attempt=2, ago_s=-5), **done)
    assert next_step(again) == Fail(REFUSED, ("safe_prompt: the adjusted prompt was refused, too",))
    assert plan(again, max_per_call=1) == []


@pytest.mark.parametrize("why", [Adjustment.IMPOSSIBLE, Adjustment.FAILED])
def test_where_it_cannot_be_done_the_refusal_stands_and_says_so(why: Adjustment) -> None:
    step = next_step(facts(refused(), adjustment=why))
    assert isinstance(step, Fail)
    assert (step.code, len(step.notes)) == (REFUSED, 1)
    some = next_step(facts(call(Outcome.KEPT, kept=1), refused(slot=1), n=2, adjustment=why))
    assert isinstance(some, Succeed)
    assert len(some.notes) == 2


def test_a_model_behind_is_asked_after_the_adjustment_and_not_before() -> None:
    barren = call(Outcome.FAILED, slot=1, code="upstream_failed")
    barren_for_good = call(Outcome.MISCONFIGURED, slot=1, code="upstream_forbidden")
    assert next_step(facts(refused(), barren_for_good, n=2, fallbacks=1)) == Adjust(REFUSED)
    assert isinstance(next_step(facts(refused(), barren, n=2, fallbacks=1)), Adjust)
    failed = facts(refused(), barren_for_good, n=2, fallbacks=1, adjustment=Adjustment.FAILED)
    assert not isinstance(next_step(failed), FailOver)
