"""A small pool of threads that serves its lanes in turns, so that a full lane does not delay the others.

The threads are greenlets where gevent has patched them. An idle pool has no threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


class FairPool:
    """At most ``size`` items at work, ``per_lane`` of them from one lane; ``depth`` waiting and at work in all, and
    ``lane_depth`` of one lane (as many as in all, where it is not given)."""

    def __init__(self, size: int = 48, per_lane: int = 8, depth: int = 256, lane_depth: int | None = None) -> None:
        self._size, self._per_lane, self._depth = size, per_lane, depth
        self._lane_depth = depth if lane_depth is None else lane_depth
        self._lock = threading.Lock()
        self._lanes: OrderedDict[Hashable, deque[Callable[[], None]]] = OrderedDict()
        self._at_work: dict[Hashable, int] = {}
        self._threads = 0
        self._waiting = 0

    def room(self) -> int:
        """How many more items it takes now."""
        with self._lock:
            return max(0, self._depth - self._waiting - sum(self._at_work.values()))

    def room_for(self, lane: Hashable) -> int:
        """How many more items of this lane it takes now."""
        room = self.room()
        with self._lock:
            taken = len(self._lanes.get(lane, ())) + self._at_work.get(lane, 0)
            return max(0, min(room, self._lane_depth - taken))

    def give(self, lane: Hashable, work: Callable[[], None]) -> bool:
        """Have ``work`` done when it is the lane's turn, and return at once; ``work`` must not raise.

        Returns False, and does nothing, where there is no room for the lane.
        """
        if not self.room_for(lane):
            return False
        self._give(lane, work)
        return True

    def each(
        self,
        items: Sequence[tuple[Hashable, T]],
        work: Callable[[T], None],
        *,
        meanwhile: Callable[[Sequence[T]], None],
        every_s: float,
    ) -> None:
        """Do ``work`` to every (lane, item) and return when all is done; ``work`` must not raise.

        ``meanwhile`` is called with what is still to do, every ``every_s``.
        """
        left = dict(enumerate(item for _, item in items))
        done = threading.Event()

        def job(number: int) -> None:
            try:
                work(left[number])
            finally:
                with self._lock:
                    del left[number]
                    if not left:
                        done.set()

        if not left:
            return
        for number, (lane, _) in enumerate(items):
            self._give(lane, lambda number=number: job(number))  # type: ignore[misc]
        while not done.wait(every_s):
            with self._lock:
                still = list(left.values())
            if still:
                meanwhile(still)

    def _give(self, lane: Hashable, work: Callable[[], None]) -> None:
        with self._lock:
            self._lanes.setdefault(lane, deque()).append(work)
            self._waiting += 1
            start = self._threads < self._size
            if start:
                self._threads += 1
        if start:
            threading.Thread(target=self._serve, name="fair", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._lock:
                found = self._next()
                if found is None:
                    self._threads -= 1
                    return
            lane, work = found
            done = False
            try:
                work()
                done = True
            finally:
                self._leave(lane, dying=not done)

    def _leave(self, lane: Hashable, *, dying: bool) -> None:
        """One item is no longer at work; a thread that dies of it is replaced if more are waiting."""
        with self._lock:
            self._at_work[lane] -= 1
            if not self._at_work[lane]:
                del self._at_work[lane]
            replaced = dying and self._waiting > 0
            if dying and not replaced:
                self._threads -= 1
        if replaced:
            threading.Thread(target=self._serve, name="fair", daemon=True).start()

    def _next(self) -> tuple[Hashable, Callable[[], None]] | None:
        """The first item of the lane whose turn it is; the lane goes to the end of the queue."""
        for lane in list(self._lanes):
            if self._at_work.get(lane, 0) >= self._per_lane:
                continue
            waiting = self._lanes[lane]
            work = waiting.popleft()
            self._waiting -= 1
            if waiting:
                self._lanes.move_to_end(lane)
            else:
                del self._lanes[lane]
            self._at_work[lane] = self._at_work.get(lane, 0) + 1
            return lane, work
        return None
