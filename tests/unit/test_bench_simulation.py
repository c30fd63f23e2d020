"""The simulation of dispatch: windows, turns and shares, with small numbers that can be told beforehand."""

from __future__ import annotations

import pytest

from bench import simulation
from bench.simulation import Queue, jain, served_in_turns, waits_of_newcomers
from jobs.dispatch.refill import Pair, share_out


def newcomer_s(queue: Queue) -> float:
    [wait] = waits_of_newcomers(queue, newcomers=1, over_s=0, seed=1)
    return wait


def test_a_flood_costs_another_account_one_window() -> None:
    queue = Queue(window=8, claims_per_s=1)
    queue.submit(0, 10_000)
    assert newcomer_s(queue) == 9
    assert queue.longest == 9


def test_windows_of_busy_accounts_add_up() -> None:
    queue = Queue(window=8, claims_per_s=1)
    for number in range(100):
        queue.submit(number, 50)
    assert newcomer_s(queue) == 801


def test_an_account_has_as_many_messages_as_its_weight_says_until_it_has_no_more_orders() -> None:
    queue = Queue(window=4, claims_per_s=1)
    queue.submit(0, 9, weight=2)
    assert len(queue.messages) == 8
    assert [queue.claim() for _ in range(10)] == [0] * 9 + [None]


def test_no_more_calls_are_open_than_there_are_permits() -> None:
    # No call ends within these two seconds, so that each of the 30 was made once.
    assert sum(served_in_turns([1] * 7, permits=30, call_s=100, seconds=2, seed=1)) == 30


def weighted(permits: int) -> float:
    """Calls of an account of weight 4 by those of one of weight 1."""
    served = served_in_turns([4, 1, 1, 1] * 100, permits=permits, call_s=2, seconds=200, seed=1)
    heavy = sum(served[::4])
    return heavy / 100 / ((sum(served) - heavy) / 300)


def test_shares_follow_weights_where_permits_come_free_together() -> None:
    assert 3.2 < weighted(permits=300) < 4.8
    assert weighted(permits=2) < 2


def test_turns_go_round_before_an_account_has_a_second_one() -> None:
    pairs: list[Pair] = [(name, "openai", 1) for name in "abcd"]
    took = share_out(pairs, 6, first=2, fill=lambda pair, most: [pair[0]] * most)
    assert took == ["c", "d", "a", "b", "c", "d"]


def test_an_account_without_orders_leaves_its_places_to_the_others() -> None:
    left = {"a": 1, "b": 9}

    def fill(pair: Pair, most: int) -> list[str]:
        taken = min(most, left[pair[0]])
        left[pair[0]] -= taken
        return [pair[0]] * taken

    took = share_out([("a", "openai", 1), ("b", "openai", 1)], 8, first=0, fill=fill)
    # Four places a turn; what an account leaves is the other's in the next turn.
    assert (took.count("a"), took.count("b")) == (1, 7)


@pytest.mark.parametrize(("shares", "index"), [([1, 1, 1, 1], 1), ([4, 0, 0, 0], 0.25), ([0, 0], 1)])
def test_jains_index(shares: list[float], index: float) -> None:
    assert jain(shares) == index


def test_the_rows_of_the_table_hold_their_targets() -> None:
    rows = simulation.measure(accounts=200)
    assert len(rows) == 7
    assert {row.verdict for row in rows} <= {"pass", ""}
