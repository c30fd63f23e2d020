"""The circuit breaker as a state machine, and the other pure functions of permits, limits and estimates."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from core.settings import SettingsError
from jobs.dispatch import circuit, permits
from jobs.dispatch.circuit import (
    FAILURES_TO_OPEN,
    JOBS_REMEMBERED,
    WINDOW_S,
    Circuit,
    Close,
    Count,
    Observation,
    Open,
    after,
    open_s,
    says_away,
)
from jobs.dispatch.limits import CredentialLimits
from jobs.dispatch.publishing import Pair
from jobs.dispatch.put_off import STAY_AWAY_MAX_S, Outlook, put_off, stay_away_s
from jobs.dispatch.refill import turned
from jobs.states import Outcome
from jobs.submission.wait_model import Life, Measured, Wait, calibrated, gaps, wait
from workers.wiring import limits


@dataclass
class Upstream:
    """A circuit that is updated by observations, as its row would be."""

    now: Circuit = field(default_factory=Circuit)
    calls: int = 0

    def answers(self, away: bool, *, job: str | None = None, probe: bool = False, after_s: float = 0.0) -> None:
        self.calls += 1
        call_id = self.now.probe if probe and self.now.probe else f"call_{self.calls}"
        known = replace(self.now, failing_for_s=self.now.failing_for_s + after_s)
        match after(known, Observation(call_id, job or f"job_{self.calls}", away)):
            case Count(failures, jobs, first_of_window):
                self.now = Circuit(failures, 0.0 if first_of_window else known.failing_for_s, jobs)
            case Open(trips, _, jobs):
                self.now = Circuit(known.failures + 1, known.failing_for_s, jobs, trips, None)
            case Close():
                self.now = Circuit(failing_jobs=known.failing_jobs)
            case None:
                self.now = known

    def sends_probe(self) -> None:
        self.now = replace(self.now, probe="call_p")


def broken() -> Upstream:
    upstream = Upstream()
    for _ in range(FAILURES_TO_OPEN):
        assert upstream.now.trips == 0
        upstream.answers(away=True)
    return upstream


def test_failures_in_a_row_open_the_circuit() -> None:
    assert broken().now.trips == 1


def test_a_good_answer_resets_the_count() -> None:
    upstream = Upstream()
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            upstream.answers(away=True)
        upstream.answers(away=False)
    assert (upstream.now.failures, upstream.now.trips) == (0, 0)


def test_failures_spread_over_hours_do_not_open_the_circuit() -> None:
    upstream = Upstream()
    for _ in range(4 * FAILURES_TO_OPEN):
        upstream.answers(away=True, after_s=WINDOW_S / 2)
    assert upstream.now.trips == 0


def test_repeated_failures_of_one_job_count_once() -> None:
    upstream = Upstream()
    for _ in range(4 * FAILURES_TO_OPEN):
        upstream.answers(away=True, job="job_poison")
    assert (upstream.now.failures, upstream.now.trips) == (1, 0)


def test_a_few_jobs_that_fail_in_turn_do_not_open_the_circuit() -> None:
    upstream = Upstream()
    poison = [f"job_poison_{number}" for number in range(FAILURES_TO_OPEN - 1)]
    for _ in range(4):
        for job in poison:
            upstream.answers(away=True, job=job)
    assert (upstream.now.failures, upstream.now.trips) == (FAILURES_TO_OPEN - 1, 0)


def test_jobs_that_failed_before_a_good_answer_do_not_count_after_it() -> None:
    upstream = Upstream()
    poison = [f"job_poison_{number}" for number in range(FAILURES_TO_OPEN)]
    for job in poison:
        upstream.answers(away=True, job=job)
    upstream.sends_probe()
    upstream.answers(away=False, probe=True)
    for job in poison:
        upstream.answers(away=True, job=job)
    assert (upstream.now.failures, upstream.now.trips) == (0, 0)
    for _ in range(FAILURES_TO_OPEN):
        upstream.answers(away=True)
    assert upstream.now.trips == 1


def test_the_number_of_remembered_failed_jobs_is_bounded() -> None:
    upstream = Upstream()
    for _ in range(3 * JOBS_REMEMBERED):
        upstream.answers(away=True)
        upstream.answers(away=False)
    assert len(upstream.now.failing_jobs) == JOBS_REMEMBERED
    assert upstream.now.failing_jobs[-1] == f"job_{upstream.calls - 1}"


def test_calls_sent_before_the_circuit_opened_do_not_count() -> None:
    upstream = broken()
    opened = upstream.now
    upstream.answers(away=False)
    upstream.answers(away=True)
    assert upstream.now == opened


@pytest.mark.parametrize(("away", "trips"), [(False, 0), (True, 2)])
def test_only_the_probe_closes_or_reopens_the_circuit(away: bool, trips: int) -> None:
    upstream = broken()
    upstream.sends_probe()
    upstream.answers(away=away, probe=True)
    assert upstream.now.trips == trips


def test_each_opening_lasts_longer_up_to_a_maximum() -> None:
    assert [open_s(trips) for trips in (1, 2, 3, 4, 5, 6, 1000)] == [5, 10, 20, 40, 60, 60, 60]


@pytest.mark.parametrize(
    ("outcome", "code", "retryable", "away"),
    [
        (Outcome.NOT_RUN, "upstream_unreachable", True, True),
        (Outcome.NOT_RUN, "upstream_overloaded", True, True),
        (Outcome.NOT_RUN, "upstream_rate_limited", True, False),
        (Outcome.NOT_RUN, "storage_unavailable", True, None),
        (Outcome.UNCERTAIN, "upstream_no_answer", False, True),
        (Outcome.LOST, "upstream_error", False, True),
        (Outcome.LOST, "upstream_uncertain", False, None),
        (Outcome.FAILED, "upstream_failed", True, True),
        (Outcome.FAILED, "upstream_failed", False, False),
        (Outcome.FAILED, "upstream_empty_result", True, False),
        (Outcome.REFUSED, "content_refused", False, False),
        (Outcome.MISCONFIGURED, "upstream_bad_credentials", False, False),
        (Outcome.ACCEPTED, None, False, False),
        (Outcome.KEPT, None, False, False),
        (Outcome.CANCELLED, None, False, None),
    ],
)
def test_which_outcomes_show_that_the_upstream_is_away(
    outcome: Outcome, code: str | None, retryable: bool, away: bool | None
) -> None:
    assert says_away(outcome, code, retryable=retryable) is away


# ---------------------------------------------------------------- putting off


@pytest.mark.parametrize(
    "seen",
    [
        Outlook(paused=True),
        Outlook(open_for_s=4.0),
        Outlook(open_for_s=60.0),
        Outlook(open_for_s=-3.0),
        Outlook(room_after_s=0.0),
        Outlook(room_after_s=45.0),
        Outlook(room_after_s=600.0),
        Outlook(),
    ],
)
def test_jobs_are_put_off_for_at_most_half_a_minute_and_not_all_to_one_time(seen: Outlook) -> None:
    later = put_off(seen)
    assert later.least_s >= 1
    assert later.spread_s >= 2
    assert later.least_s + later.spread_s <= 30


def test_a_job_is_put_off_at_least_until_a_permit_can_be_free() -> None:
    assert put_off(Outlook(room_after_s=12.0)).least_s == 12.0
    assert put_off(Outlook(open_for_s=5.0)).least_s == 5.0


def test_only_an_answer_that_asks_for_a_pause_stops_submits() -> None:
    assert stay_away_s(Outcome.NOT_RUN, "upstream_rate_limited", 7.0) == 7.0
    assert stay_away_s(Outcome.NOT_RUN, "upstream_rate_limited", 1e9) == STAY_AWAY_MAX_S
    assert stay_away_s(Outcome.NOT_RUN, "upstream_rate_limited", None) is None
    assert stay_away_s(Outcome.FAILED, "upstream_rate_limited", 60.0) is None


def test_the_submit_window_is_never_shorter_than_a_minute() -> None:
    assert permits.TOKEN_S >= 60
    assert f"interval '{permits.TOKEN_S} s'" in permits.TAKE
    assert f"interval '{permits.PROBE_GAP_S} s'" in permits.TAKE
    assert circuit.OPEN_MAX_S >= permits.PROBE_GAP_S


# ---------------------------------------------------------------- limits from the environment


def test_limits_are_read_from_variables_of_the_provider() -> None:
    env = {"OPENAI_MAX_ACTIVE": "20", "OPENAI_MAX_PER_MINUTE": " 120 ", "CHATGPT2API_MAX_ACTIVE": ""}
    assert limits("openai", env) == CredentialLimits(20, 120)
    assert limits("chatgpt2api", env) == CredentialLimits()
    assert not limits("chatgpt2api", env).any


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "1e3", "100001", "99999999999", "²"])
def test_an_invalid_limit_raises_and_names_the_variable(value: str) -> None:
    with pytest.raises(SettingsError, match="OPENAI_MAX_PER_MINUTE"):
        limits("openai", {"OPENAI_MAX_PER_MINUTE": value})


# ---------------------------------------------------------------- waits, turns


def measured(**changes: float | None) -> Measured:
    values = {"p50_s": 10.0, "p90_s": 30.0, "permits": 4, "active": 0, **changes}
    return Measured(**values)  # type: ignore[arg-type]


def test_a_job_with_a_free_permit_does_not_wait() -> None:
    assert wait(measured(active=1), 2) == Wait(0.0, 0.0)


def test_the_wait_follows_the_rate_of_starts_while_jobs_waited() -> None:
    unlimited = measured(permits=None, gap_s=0.01, gap_p90_s=0.3)
    assert wait(unlimited, 0) == Wait(0.0, 0.4)  # never negative
    assert wait(unlimited, 249) == Wait(2.5, 4.8)


def test_without_free_permits_the_wait_grows_with_position_and_service_time() -> None:
    assert wait(measured(active=4), 0) == Wait(2.5, 30.0)  # jobs that started together end together
    assert wait(measured(active=4), 7) == Wait(20.0, 60.0)
    assert wait(measured(active=4, freed_s=5.0), 7) == Wait(40.0, 72.0)  # at the slower rate that was measured


def test_a_rate_limit_and_an_open_circuit_lengthen_the_wait() -> None:
    assert wait(measured(max_per_minute=6), 3) == Wait(0.0, 0.0)
    assert wait(measured(max_per_minute=6, submits_lately=6), 2) == Wait(30.0, 62.0)
    assert wait(measured(max_per_minute=6, submits_lately=6), 6) == Wait(70.0, 124.0)
    assert wait(measured(shut_for_s=12.0), 0) == Wait(12.0, 12.0)
    assert wait(measured(shut_for_s=12.0, reopens_within_s=30.0), 0) == Wait(12.0, 42.0)


def test_a_gap_begins_when_the_job_could_have_started() -> None:
    burst = [Life(0.0, 1.0), Life(0.0, 1.5), Life(0.0, 2.5)]
    alone = Life(10.0, 10.25)
    assert gaps([alone, *burst], None) == ([1.0, 0.5, 1.0, 0.25], [])


def test_a_gap_spent_waiting_for_a_permit_is_counted_separately() -> None:
    lives = [Life(0.0, 0.25, 20.0), Life(0.0, 0.5, 30.0), Life(0.0, 20.0, None), Life(40.0, 40.25, None)]
    assert gaps(lives, 2) == ([0.25, 0.25, 0.25], [19.5])
    assert gaps(lives, None) == ([0.25, 0.25, 19.5, 0.25], [])


def test_a_stalled_queue_lengthens_the_wait_at_once() -> None:
    lives = [Life(0.0, 0.01 * number) for number in range(1, 101)]
    quick = calibrated(lives, None, head_since_s=None, now_s=61.0)
    stuck = calibrated(lives, None, head_since_s=0.5, now_s=61.0)
    assert (round(quick[0], 3), round(stuck[0], 2)) == (0.01, 0.6)


def test_turns_start_anywhere_and_include_every_account() -> None:
    pairs = [Pair(f"acct_{number}", "openai", 1, 1.0, 0, 0.0, True) for number in range(4)]
    assert turned(pairs, 2) == [pairs[2], pairs[3], pairs[0], pairs[1]]
