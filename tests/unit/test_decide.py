"""Decisions on a job's next step, without a database or an upstream."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.call import Call
from jobs.execution.decide import (
    Cancel,
    Facts,
    Fail,
    FailOver,
    Keep,
    Retry,
    Succeed,
    Wait,
    backoff_s,
    life_s,
    most_billed,
    next_step,
    open_slots,
    plan,
)
from jobs.states import Outcome

ENDED = [outcome for outcome in Outcome if outcome not in (Outcome.ACCEPTED, Outcome.UNCERTAIN, Outcome.FINISHED)]


def call(outcome: Outcome | None, *, slot: int = 0, attempt: int = 1, image_count: int = 1, **rest: Any) -> Call:
    if outcome is Outcome.KEPT:
        rest.setdefault("kept", image_count)
    elif outcome in ENDED:
        rest.setdefault("code", f"{outcome}_code")
    return Call(
        f"call_{slot}_{attempt}",
        "key",
        rest.pop("model", ""),
        slot=slot,
        attempt=attempt,
        image_count=image_count,
        outcome=outcome,
        **rest,
    )


def facts(*calls: Call, n: int = 1, max_attempts: int = 3, **rest: Any) -> Facts:
    return Facts(n=n, calls=calls, max_attempts=max_attempts, **rest)


@pytest.mark.parametrize("outcome", [None, Outcome.ACCEPTED, Outcome.UNCERTAIN])
def test_a_job_waits_while_a_call_is_open(outcome: Outcome | None) -> None:
    assert next_step(facts(call(outcome), call(Outcome.KEPT, slot=1), n=2)) == Wait()


def test_images_of_a_finished_call_are_kept_first() -> None:
    assert next_step(facts(call(Outcome.FINISHED), call(None, slot=1), n=2, cancel_requested=True)) == Keep()


def test_a_job_with_all_images_succeeds_without_a_warning() -> None:
    assert next_step(facts(call(Outcome.KEPT, image_count=2), n=2)) == Succeed(2, [])


def test_a_job_with_some_images_succeeds_with_a_warning() -> None:
    step = next_step(facts(call(Outcome.KEPT), call(Outcome.REFUSED, slot=1, code="content_refused"), n=2))
    assert step == Succeed(1, ["1 of 2 images were made (content_refused); the others were not charged"])


@pytest.mark.parametrize(
    "outcome",
    [Outcome.REFUSED, Outcome.MISCONFIGURED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST, Outcome.CANCELLED],
)
def test_a_final_outcome_fails_the_job_with_its_code(outcome: Outcome) -> None:
    assert next_step(facts(call(outcome, code="why"))) == Fail("why")


@pytest.mark.parametrize("ended", [{"outcome": Outcome.NOT_RUN}, {"outcome": Outcome.FAILED, "retryable": True}])
def test_a_retryable_outcome_is_retried_until_the_attempts_are_used_up(ended: dict[str, Any]) -> None:
    for attempt in (1, 2):
        step = next_step(facts(call(attempt=attempt, code="why", **ended)))
        assert isinstance(step, Retry)
        assert step.code == "why"
    assert next_step(facts(call(attempt=3, code="why", **ended))) == Fail("why")


PATIENT = ["upstream_rate_limited", "upstream_pool_empty", "upstream_overloaded"]


def repeated(outcome: Outcome, times: int, *, after: int = 0, **ended: Any) -> list[Call]:
    """Return calls of the first slot with the same outcome, numbered from ``after`` + 1."""
    return [call(outcome, attempt=number, **ended) for number in range(after + 1, after + times + 1)]


@pytest.mark.parametrize("code", PATIENT)
def test_codes_that_ask_for_a_later_retry_get_four_times_the_further_tries(code: str) -> None:
    ended = {"code": code, "retryable": True}
    assert isinstance(next_step(facts(*repeated(Outcome.NOT_RUN, 8, **ended))), Retry)
    assert next_step(facts(*repeated(Outcome.NOT_RUN, 9, **ended))) == Fail(code)


@pytest.mark.parametrize("code", [*PATIENT, "why"])
@pytest.mark.parametrize("outcome", [Outcome.NOT_RUN, Outcome.FAILED])
def test_one_attempt_is_one_call_whatever_the_answer(code: str, outcome: Outcome) -> None:
    assert next_step(facts(call(outcome, code=code, retryable=True), max_attempts=1)) == Fail(code)


@pytest.mark.parametrize("code", PATIENT)
def test_a_job_waits_for_its_upstream_no_longer_than_allowed(code: str) -> None:
    def after(waited_s: float, asked_s: float, code: str = code, **rest: Any) -> Any:
        first = call(Outcome.NOT_RUN, code=code, retryable=True, age_s=waited_s)
        last = call(Outcome.NOT_RUN, attempt=2, code=code, retryable=True, age_s=1.0, retry_after_s=asked_s)
        return next_step(facts(first, last, max_wait_s=1000, **rest))

    assert isinstance(after(400.0, 600.0), Retry)
    assert after(401.0, 600.0) == Fail(code)
    assert isinstance(after(400.0, 1e9), Retry)  # no pause is longer than ten minutes
    assert after(401.0, 600.0, fallbacks=1) == FailOver(code)
    assert isinstance(after(5000.0, 600.0, code="why"), Retry)


@pytest.mark.parametrize("code", PATIENT)
def test_calls_that_may_be_billed_get_no_additional_tries(code: str) -> None:
    ended = {"code": code, "retryable": True}
    assert isinstance(next_step(facts(*repeated(Outcome.FAILED, 2, **ended))), Retry)
    assert next_step(facts(*repeated(Outcome.FAILED, 3, **ended))) == Fail(code)


def test_calls_that_did_not_run_use_up_no_billable_calls() -> None:
    before = repeated(Outcome.NOT_RUN, 5, code="upstream_overloaded", retryable=True)
    busy = {"code": "upstream_overloaded", "retryable": True}
    assert isinstance(next_step(facts(*before, *repeated(Outcome.FAILED, 2, after=5, **busy))), Retry)
    assert isinstance(next_step(facts(*before, *repeated(Outcome.FAILED, 3, after=5, **busy))), Fail)


def test_a_model_leaves_one_call_for_each_fallback_model() -> None:
    failing = {"code": "why", "retryable": True, "model": "first"}
    chain = {"model": "first", "fallbacks": 2, "max_attempts": 4}
    assert isinstance(next_step(facts(*repeated(Outcome.FAILED, 1, **failing), **chain)), Retry)
    assert next_step(facts(*repeated(Outcome.FAILED, 2, **failing), **chain)) == FailOver("why")
    # The last model may use the calls that the first one did not.
    unrun = repeated(Outcome.NOT_RUN, 4, **failing)
    second = {"code": "why", "retryable": True, "model": "second"}
    last = {"model": "second", "fallbacks": 0, "max_attempts": 4}
    assert isinstance(next_step(facts(*unrun, *repeated(Outcome.FAILED, 3, after=4, **second), **last)), Retry)
    assert next_step(facts(*unrun, *repeated(Outcome.FAILED, 4, after=4, **second), **last)) == Fail("why")


def test_the_pause_counts_only_calls_to_the_current_model() -> None:
    before = repeated(Outcome.NOT_RUN, 4, model="first", code="upstream_rate_limited", retry_after_s=300.0)
    assert next_step(facts(*before, model="second")) == Retry("no_capacity", 0.0)
    step = next_step(facts(*before, call(Outcome.NOT_RUN, attempt=5, model="second", code="why"), model="second"))
    assert isinstance(step, Retry)
    assert step.code == "why"
    assert step.after_s <= 2.4


def test_retry_after_is_respected_within_bounds() -> None:
    def waits(asked: float) -> float:
        step = next_step(facts(call(Outcome.NOT_RUN, retry_after_s=asked)))
        assert isinstance(step, Retry)
        return step.after_s

    assert waits(77) == 77
    assert waits(1e9) == 600
    assert waits(0.001) >= 1.6  # never less than the back-off


def test_the_back_off_grows_to_one_minute() -> None:
    for attempt, base_s in ((1, 2), (2, 5), (3, 12.5), (4, 31.25), (5, 60), (50, 60)):
        for _ in range(20):
            assert 0.8 * base_s <= backoff_s(attempt) <= 1.2 * base_s


def test_slots_without_a_permit_are_retried_without_a_pause() -> None:
    assert next_step(facts(call(Outcome.KEPT), n=2)) == Retry("no_capacity", 0.0)


def test_the_first_final_code_is_the_jobs_code() -> None:
    calls = (
        call(Outcome.NOT_RUN, attempt=3, code="upstream_unreachable", retryable=True),
        call(Outcome.REFUSED, slot=1, code="content_refused"),
        call(Outcome.MISCONFIGURED, slot=2, code="upstream_bad_credentials"),
    )
    assert next_step(facts(*calls, n=3)) == Fail("content_refused")


def test_without_a_final_code_the_last_one_is_the_jobs_code() -> None:
    calls = [call(Outcome.FAILED, attempt=a, code=f"code_{a}", retryable=True) for a in (1, 2, 3)]
    assert next_step(facts(*calls)) == Fail("code_3")


@pytest.mark.parametrize(
    ("calls", "charge", "wanted"),
    [
        ([call(Outcome.KEPT)], "full", Cancel("too_late", 1)),
        ([call(Outcome.KEPT)], "none", Cancel("too_late", 0)),
        ([call(Outcome.KEPT), call(Outcome.CANCELLED, slot=1)], "full", Cancel("too_late", 1)),
        ([call(Outcome.CANCELLED)], "full", Cancel("stopped_upstream", 0)),
        ([call(Outcome.LOST)], "full", Cancel("upstream_uncertain", 0)),
        ([call(Outcome.TIMED_OUT)], "full", Cancel("upstream_uncertain", 0)),
        ([call(Outcome.NOT_RUN)], "full", Cancel("stopped_upstream", 0)),
        ([], "full", Cancel("stopped_upstream", 0)),
    ],
)
def test_a_cancelled_job_ends_as_soon_as_no_call_is_open(calls: list[Call], charge: Any, wanted: Cancel) -> None:
    assert next_step(facts(*calls, n=2, cancel_requested=True, cancel_charge=charge)) == wanted


def test_adjacent_slots_share_a_call() -> None:
    assert plan(facts(n=5), max_per_call=2) == [(0, 2, 1), (2, 2, 1), (4, 1, 1)]
    assert plan(facts(n=3), max_per_call=1) == [(0, 1, 1), (1, 1, 1), (2, 1, 1)]


def test_a_plan_has_calls_only_for_slots_that_may_be_called() -> None:
    calls = (
        call(Outcome.KEPT),
        call(Outcome.FAILED, slot=1, retryable=True),
        call(Outcome.NOT_RUN, slot=2),
        call(Outcome.REFUSED, slot=3),
    )
    assert plan(facts(*calls, n=5), max_per_call=4) == [(1, 2, 2), (4, 1, 1)]


def test_only_the_latest_call_of_a_slot_counts() -> None:
    calls = (call(Outcome.FAILED, attempt=1, retryable=True), call(Outcome.KEPT, attempt=2))
    assert open_slots(facts(*calls)) == []
    assert next_step(facts(*reversed(calls))) == Succeed(1, [])


@st.composite
def any_facts(draw: st.DrawFn) -> Facts:
    n = draw(st.integers(1, 4))
    calls = []
    for slot in range(n):
        for attempt in range(1, draw(st.integers(0, 4)) + 1):
            outcome = draw(st.sampled_from([None, *Outcome]))
            calls.append(call(outcome, slot=slot, attempt=attempt, retryable=draw(st.booleans())))
            if outcome is Outcome.KEPT:
                break
    return facts(*calls, n=n, cancel_requested=draw(st.booleans()))


@settings(max_examples=300, deadline=None)
@given(any_facts())
def test_no_step_ends_a_job_with_an_open_call_or_charges_more_than_was_made(given_facts: Facts) -> None:
    step = next_step(given_facts)
    kept = sum(each.kept for each in given_facts.calls)
    is_open = any(each.outcome in (None, Outcome.ACCEPTED, Outcome.UNCERTAIN) for each in given_facts.calls)
    if is_open:
        assert isinstance(step, Wait | Keep)
    match step:
        case Succeed(paid, notes):
            assert paid == kept > 0
            assert bool(notes) == (kept < given_facts.n)
        case Cancel(_, paid):
            assert paid == kept
        case Fail(code):
            assert kept == 0
            assert code
        case Retry():
            assert plan(given_facts, max_per_call=1)


@dataclass
class Life:
    """The history of a simulated job: its calls with their outcomes and models."""

    facts: Facts
    ended: Any = None
    waits: list[tuple[str, float]] = field(default_factory=list)  # (next model to call, pause before it)


def life_of(data: st.DataObject) -> Life:
    """Simulate a job from its first call to its end, with any answers and any number of permits."""
    draw = data.draw
    n, most, behind = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(0, 3))
    max_per_call = draw(st.integers(1, 3))
    life = Life(Facts(n=n, calls=(), max_attempts=most, model="model0", fallbacks=behind))
    # Mostly outcomes after which the job goes on, or most jobs would end before they could break a promise.
    goes_on = st.sampled_from([Outcome.NOT_RUN, Outcome.FAILED, Outcome.FAILED])
    outcomes = st.one_of(goes_on, goes_on, st.sampled_from(ENDED))
    for _ in range(400):
        now = life.facts
        planned = plan(now, max_per_call=max_per_call)
        if planned:
            permits = draw(st.integers(1, len(planned)))
            made = [
                Call(
                    f"call_{slot}_{attempt}",
                    "key",
                    now.model,
                    slot=slot,
                    attempt=attempt,
                    image_count=images,
                    outcome=(outcome := draw(outcomes)),
                    kept=images if outcome is Outcome.KEPT else 0,
                    code=draw(st.sampled_from(["why", *PATIENT])),
                    retryable=draw(st.sampled_from([True, True, True, False])),
                    retry_after_s=draw(st.sampled_from([None, None, 30.0])),
                )
                for slot, images, attempt in planned[:permits]
            ]
            now = life.facts = replace(now, calls=(*now.calls, *made))
        match next_step(now):
            case Retry(_, after_s):
                life.waits.append((now.model, after_s))
            case FailOver():
                number = 1 + int(now.model.removeprefix("model"))
                life.facts = replace(now, model=f"model{number}", fallbacks=now.fallbacks - 1)
                life.waits.append((life.facts.model, 0.0))
            case step:
                life.ended = step
                return life
    return life


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_job_makes_more_calls_than_promised(data: st.DataObject) -> None:
    """The promise of docs/errors.md, "How often an upstream is called"."""
    life = life_of(data)
    assert isinstance(life.ended, Succeed | Fail)
    models = 1 + life.facts.fallbacks + int(life.facts.model.removeprefix("model"))
    most = life.facts.max_attempts
    for slot in range(life.facts.n):
        mine = [each for each in life.facts.calls if slot in each.slots]
        billed = [each for each in mine if each.outcome not in (Outcome.NOT_RUN, Outcome.MISCONFIGURED)]
        assert len(billed) <= max(most, models) == most_billed(most, models)
        for model in {each.model for each in mine}:
            is_last = model == life.facts.model and life.facts.fallbacks == 0
            assert sum(each.model == model for each in mine) <= 1 + (most - 1) * (4 if is_last else 1)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_pauses_follow_the_calls_to_the_current_model(data: st.DataObject) -> None:
    life = life_of(data)
    for model, after_s in life.waits:
        tries = max(
            (
                sum(each.model == model and slot in each.slots for each in life.facts.calls)
                for slot in range(life.facts.n)
            ),
            default=0,
        )
        assert after_s <= max(30.0, 1.2 * min(60.0, 2.0 * 2.5 ** max(0, tries - 1)))


def test_the_lifetime_covers_every_call_and_the_longest_pauses() -> None:
    assert life_s(4, 1, 720.0) == 4 * (720.0 + 72.0)
    assert life_s(2, 3, 100.0) == 3 * 172.0


@settings(max_examples=200, deadline=None)
@given(any_facts(), st.integers(1, 4))
def test_a_plan_covers_each_open_slot_once_with_a_new_attempt(given_facts: Facts, most: int) -> None:
    groups = plan(given_facts, max_per_call=most)
    covered = list(itertools.chain.from_iterable(range(slot, slot + count) for slot, count, _ in groups))
    assert covered == open_slots(given_facts)
    used = {(slot, each.attempt) for each in given_facts.calls for slot in each.slots}
    assert all((slot, attempt) not in used for first, count, attempt in groups for slot in range(first, first + count))
