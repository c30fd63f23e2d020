"""The simulation of dispatch: windows, turns and shares, with small numbers that can be told beforehand."""

from __future__ import annotations

import pytest

from bench import simulation
from bench.simulation import Queue, jain, served_in_turns, waits_of_newcomers
from jobs.dispatch import turns
from jobs.dispatch.turns import Waiting


def newcomer_s(queue: Queue) -> float:
    [wait] = waits_of_newcomers(queue, newcomers=1, over_s=0, seed=1)
    return wait


def test_a_flood_costs_another_account_one_window() -> None:
    queue = Queue(window=8, claims_per_s=1)
    queue.submit(0, 10_000)
    assert newcomer_s(queue) == 9
    assert queue.longest == 9


def test_a_hundred_busy_accounts_have_one_message_each_before_a_newcomer() -> None:
    queue = Queue(window=8, claims_per_s=1)
    for number in range(100):
        queue.submit(number, 50)
    # One of each, and what the first ones had before the others came: less than the two windows that all share.
    assert 101 <= newcomer_s(queue) <= 101 + 16


def test_two_busy_accounts_share_two_windows_with_the_places_left() -> None:
    queue = Queue(window=9, claims_per_s=1)
    queue.submit(0, 500)
    assert queue.accounts[0].published == 9
    queue.submit(1, 500)
    for _ in range(50):
        queue.claim()
    assert {queue.accounts[0].published, queue.accounts[1].published} == {6}


def test_an_account_has_as_many_messages_as_its_weight_says_until_it_has_no_more_orders() -> None:
    queue = Queue(window=4, claims_per_s=1)
    queue.submit(0, 9, weight=2)
    assert len(queue.messages) == 8
    assert [queue.claim() for _ in range(10)] == [0] * 9 + [None]


def test_no_more_calls_are_open_than_there_are_permits() -> None:
    # No call ends within these two seconds, so that each of the 30 was made once.
    assert sum(served_in_turns([1] * 7, permits=30, call_s=100, seconds=2, seed=1).calls) == 30


@pytest.mark.parametrize("permits", [1, 2, 300])
def test_shares_follow_weights_however_few_permits_come_free_at_a_time(permits: int) -> None:
    accounts = [4, 1, 1, 1] * (1 if permits < 3 else 100)
    served = served_in_turns(accounts, permits=permits, call_s=2, seconds=200, seed=1).calls
    heavy = sum(served[::4]) / len(served[::4])
    assert heavy / ((sum(served) - sum(served[::4])) / (len(served) - len(served[::4]))) == pytest.approx(4, rel=0.1)


def test_turns_go_round_before_an_account_has_a_second_one() -> None:
    waiting = [Waiting(name, 1) for name in "abcd"]
    now, took = 0.0, list[str]()
    for free in (3, 1, 2, 2, 4):
        turns.admit(waiting, now)
        asked = turns.plan(waiting, free)
        now = turns.charge(waiting, [(each, 1.0) for each in asked for _ in range(asked[each])], now)
        took += asked
    assert [sorted(took[place : place + 4]) for place in (0, 4, 8)] == [["a", "b", "c", "d"]] * 3


def test_an_account_has_no_more_turns_than_places() -> None:
    assert turns.plan([Waiting("a", 1, places=1), Waiting("b", 1), Waiting("c", 1, places=0)], 8) == {
        "a": 1,
        "b": 7,
    }


def test_having_been_away_earns_nothing_and_an_advance_is_not_forgotten() -> None:
    busy = Waiting("busy", 1, passed=100.0, entering=False)
    waiting = [busy, Waiting("new", 1), Waiting("away", 1, passed=5.0), Waiting("ahead", 1, passed=103.0)]
    turns.admit(waiting, 100.0)
    assert [each.passed for each in waiting] == [100.0, 100.0, 100.0, 103.0]
    assert turns.plan(waiting, 2) == {"new": 1, "away": 1}  # before one that is as far
    assert turns.charge(waiting, [("new", 1.0), ("away", 1.0)], 100.0) == 100.5
    assert turns.plan(waiting, 7) == {"busy": 3, "new": 2, "away": 2}


def test_a_stream_of_newcomers_does_not_keep_a_busy_account_from_its_share() -> None:
    """Each step brings one that was never served, and one permit."""
    busy, now, served = Waiting("busy", 1), 0.0, 0
    waiting = [busy]
    for number in range(100):
        waiting.append(Waiting(f"new {number}", 1, places=1))
        turns.admit(waiting, now)
        [account_id] = turns.plan(waiting, 1)
        now = turns.charge(waiting, [(account_id, 1.0)], now)
        served += account_id == "busy"
        waiting = [each for each in waiting if each is busy or each.account_id != account_id]
    assert served >= 10  # as many wait in the end


@pytest.mark.parametrize(("shares", "index"), [([1, 1, 1, 1], 1), ([4, 0, 0, 0], 0.25), ([0, 0], 1)])
def test_jains_index(shares: list[float], index: float) -> None:
    assert jain(shares) == index


def test_the_rows_of_the_table_hold_their_targets() -> None:
    rows = simulation.measure(accounts=200)
    assert len(rows) == 9
    assert {row.verdict for row in rows} <= {"pass", ""}
