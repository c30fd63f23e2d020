"""Backlogs are processed in turns, within a time limit, and a failing one does not stop the others."""

from __future__ import annotations

from jobs.maintenance.backlogs import FAILURES_AT_MOST, PAUSE_SHARE, Backlog, Done, drain


class Clock:
    """A clock that moves only by what pages and pauses take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def backlog(
    name: str, rows: int, clock: Clock, order: list[tuple[str, int]], *, takes_s: float = 0.1, size: int = 100
) -> Backlog:
    left = rows

    def page(most: int) -> Done:
        nonlocal left
        clock.now += takes_s
        went = min(most, left)
        left -= went
        order.append((name, most))
        return Done(went, left > 0)

    return Backlog(name, page, size)


def test_backlogs_take_turns_until_all_are_empty() -> None:
    clock, order = Clock(), []
    long, short = backlog("long", 300, clock, order), backlog("short", 150, clock, order)
    assert drain([long, short], seconds=60, clock=clock, sleep=clock.sleep)
    assert [name for name, _ in order] == ["long", "short", "long", "short", "long"]
    assert (long.done, short.done, long.over, short.over) == (300, 150, True, True)


def test_work_stops_when_the_time_is_over() -> None:
    clock, order = Clock(), []
    endless = backlog("endless", 10**9, clock, order)
    assert not drain([endless], seconds=10, clock=clock, sleep=clock.sleep)
    assert 10 <= clock.now < 10.2
    assert not endless.over


def test_one_backlog_leaves_time_for_the_others() -> None:
    clock, order = Clock(), []
    drain([backlog("a", 1000, clock, order)], seconds=60, clock=clock, sleep=clock.sleep)
    assert len(clock.slept) == 10
    assert all(abs(each - 0.1 * PAUSE_SHARE) < 1e-9 for each in clock.slept)


def test_slow_pages_shrink_and_fast_pages_grow_again() -> None:
    clock, order = Clock(), []
    slow = backlog("slow", 1000, clock, order, takes_s=2.0)
    drain([slow], seconds=9, clock=clock, sleep=clock.sleep)
    assert [most for _, most in order] == [100, 50, 25, 12]
    quick = backlog("quick", 1000, clock, order, takes_s=0.01)
    quick.turn(clock)
    assert order[-1] == ("quick", 100)


def test_a_failing_page_is_retried_smaller_and_then_left_for_the_next_round() -> None:
    clock, sizes, order = Clock(), [], []

    def fail(size: int) -> Done:
        sizes.append(size)
        raise RuntimeError("canceling statement due to statement timeout")

    others = backlog("others", 500, clock, order)
    broken = Backlog("broken", fail, 100)
    assert not drain([broken, others], seconds=60, clock=clock, sleep=clock.sleep)
    assert (sizes, len(sizes), others.done) == ([100, 25, 6], FAILURES_AT_MOST, 500)


def test_a_page_that_times_out_is_processed_in_smaller_pages() -> None:
    clock, done = Clock(), []

    def page(size: int) -> Done:
        if size > 30:
            raise RuntimeError("canceling statement due to statement timeout")
        done.append(size)
        return Done(size, sum(done) < 60)

    assert drain([Backlog("big", page, 100)], seconds=60, clock=clock, sleep=clock.sleep)
    assert done[0] == 25
