"""The pool that serves lanes in turns: who comes when, how many at once, and what an accident does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from core.fair_pool import FairPool

# Threads end by accidents here on purpose; pytest may notice one during the next test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def nothing(_: Sequence[object]) -> None:
    """What is done meanwhile where a test does not care."""


def run(pool: FairPool, items: Sequence[tuple[str, str]], work: Callable[[str], None]) -> None:
    pool.each(items, work, meanwhile=nothing, every_s=10)


def in_lane(lane: str, count: int) -> list[tuple[str, str]]:
    return [(lane, f"{lane}{number}") for number in range(count)]


class Gate:
    """Work that stops until it is let through, and tells who is at it."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self._open = threading.Event()
        self._changed = threading.Condition()

    def __call__(self, item: str) -> None:
        with self._changed:
            self.entered.append(item)
            self._changed.notify_all()
        assert self._open.wait(10)

    def until(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.entered) >= count, 10)

    def open(self) -> None:
        self._open.set()


def in_thread(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def until_room(pool: FairPool, left: int) -> None:
    """Return once the pool has been given so much that no more is left."""
    deadline = time.monotonic() + 10
    while pool.room() > left:
        assert time.monotonic() < deadline, "it was not given"


def until_idle(pool: FairPool, depth: int) -> None:
    """Return once the pool has room for all again: the last work is done a moment before it has left."""
    deadline = time.monotonic() + 10
    while pool.room() < depth:
        assert time.monotonic() < deadline, "something stays in it"


def test_all_is_done_when_it_returns() -> None:
    done: list[str] = []
    run(FairPool(size=3), [*in_lane("a", 20), *in_lane("b", 5)], done.append)
    assert sorted(done) == sorted(item for _, item in [*in_lane("a", 20), *in_lane("b", 5)])


def test_nothing_to_do_is_done_at_once() -> None:
    FairPool().each([], lambda _: None, meanwhile=nothing, every_s=10)


def test_lanes_are_served_in_turns() -> None:
    """With one at work, a lane of a hundred lets a lane of two through at every second place."""
    pool, done = FairPool(size=1), []
    gate = Gate()
    first = in_thread(lambda: run(pool, [("gate", "gate")], gate))
    gate.until(1)  # the only worker is busy while the others queue up
    second = in_thread(lambda: run(pool, [*in_lane("crowd", 100), *in_lane("quiet", 2)], done.append))
    until_room(pool, FairPool().room() - 103)
    gate.open()
    first.join()
    second.join()
    assert done[:5] == ["crowd0", "quiet0", "crowd1", "quiet1", "crowd2"]


def test_who_comes_later_does_not_wait_for_the_crowd() -> None:
    """A lane that comes while another's hundred wait is next but one."""
    pool, done, gate = FairPool(size=1), [], Gate()

    def work(item: str) -> None:
        if item == "crowd0":
            gate(item)
        done.append(item)

    crowd = in_thread(lambda: run(pool, in_lane("crowd", 100), work))
    gate.until(1)
    late = in_thread(lambda: run(pool, [("late", "late")], work))
    until_room(pool, FairPool().room() - 101)
    gate.open()
    crowd.join()
    late.join()
    assert "late" in done[:3]


def test_one_lane_has_no_more_than_its_share_at_work() -> None:
    pool, gate = FairPool(size=6, per_lane=2), Gate()
    crowd = in_thread(lambda: run(pool, in_lane("crowd", 10), gate))
    gate.until(2)
    other = in_thread(lambda: run(pool, in_lane("other", 1), gate))
    gate.until(3)
    assert sorted(gate.entered) == ["crowd0", "crowd1", "other0"]
    gate.open()
    crowd.join()
    other.join()
    assert len(gate.entered) == 11


def test_no_more_are_at_work_than_the_pool_is_large() -> None:
    at_work, most, lock = [0], [0], threading.Lock()

    def work(_: str) -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        with lock:
            at_work[0] -= 1

    run(FairPool(size=3), [item for lane in "abcdef" for item in in_lane(lane, 20)], work)
    assert 1 <= most[0] <= 3


def test_room_is_what_neither_waits_nor_is_at_work() -> None:
    pool, gate = FairPool(size=2, depth=5), Gate()
    assert pool.room() == 5
    crowd = in_thread(lambda: run(pool, in_lane("crowd", 4), gate))
    until_room(pool, 1)
    gate.until(2)
    assert pool.room() == 1
    gate.open()
    crowd.join()
    until_idle(pool, 5)


def test_room_is_never_less_than_none() -> None:
    pool, gate = FairPool(size=1, depth=2), Gate()
    crowd = in_thread(lambda: run(pool, in_lane("crowd", 5), gate))
    until_room(pool, 0)
    gate.until(1)
    assert pool.room() == 0
    gate.open()
    crowd.join()


def test_what_is_still_to_do_is_told_meanwhile() -> None:
    """Until the last is done, for their leases have to be renewed; never with nothing."""
    pool, gate, told = FairPool(size=1), Gate(), []
    heard = threading.Event()

    def meanwhile(left: Sequence[str]) -> None:
        told.append(list(left))
        heard.set()

    def each() -> None:
        pool.each(in_lane("a", 3), gate, meanwhile=meanwhile, every_s=0.01)

    thread = in_thread(each)
    assert heard.wait(10)
    gate.open()
    thread.join()
    assert told[0] == ["a0", "a1", "a2"]
    assert all(told)


def test_work_that_raises_does_not_stop_the_rest_nor_the_pool() -> None:
    """It must not, and where it does its thread is lost, not its place."""
    pool, done = FairPool(size=2, depth=10), []

    def work(item: str) -> None:
        if item == "a0":
            raise ValueError("an accident")
        done.append(item)

    run(pool, in_lane("a", 4), work)
    run(pool, in_lane("b", 4), done.append)
    assert sorted(done) == ["a1", "a2", "a3", "b0", "b1", "b2", "b3"]
    until_idle(pool, 10)


@pytest.mark.parametrize("per_lane", [1, 2])
def test_an_accident_in_the_only_thread_leaves_no_work_lying(per_lane: int) -> None:
    """It comes when all the others are waiting behind it."""
    pool, done, gate = FairPool(size=1, per_lane=per_lane), [], Gate()

    def work(item: str) -> None:
        if item == "a0":
            gate(item)
            raise ValueError("an accident")
        done.append(item)

    thread = in_thread(lambda: run(pool, in_lane("a", 3), work))
    until_room(pool, FairPool().room() - 3)
    gate.open()
    thread.join(10)
    assert not thread.is_alive(), "what waited behind the accident waits forever"
    assert done == ["a1", "a2"]


def test_an_idle_pool_has_no_threads() -> None:
    before = threading.active_count()
    run(FairPool(size=4), in_lane("a", 20), lambda _: None)
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline, "they stay"


def test_what_is_given_is_done_later_and_refused_where_its_lane_has_no_room() -> None:
    pool, begun, leave, done = FairPool(1, 1, 3, 2), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        leave.wait(10)

    assert pool.give("a", work)
    assert begun.wait(10)
    assert pool.give("a", nothing_more)
    assert not pool.give("a", nothing_more)  # one at work and one waiting: the lane is full
    assert pool.give("b", done.set)
    assert not pool.give("c", nothing_more)  # three in all
    leave.set()
    assert done.wait(10)


def nothing_more() -> None:
    """Work that is none."""
