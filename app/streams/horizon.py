"""Up to which id no event is missing, although transactions do not commit in the order of their events' ids.

A transaction locks or writes a row before its event gets an id, so by then it has a number of its own. Whatever drew an
id up to the newest one seen has therefore a number below those that a later look finds unassigned; once every
transaction below that bound has ended, no id up to there can still appear.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from jobs.reads.events import InFlight

log = structlog.get_logger(__name__)

# No transaction of ours that writes events lives longer: each statement and each idle pause is bounded by less. Other
# users of the same server may keep one open for hours, and must not hold the streams up.
HELD_MOST_S = 75.0


@dataclass(frozen=True, slots=True)
class _Bound:
    newest: int
    next: int
    seen_at: float


class Horizon:
    """``settled``: every event up to this id is committed, or never will be."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.settled = 0
        self._clock = clock
        self._bounds: deque[_Bound] = deque()

    @property
    def waits(self) -> bool:
        """Whether events are known that are not settled yet."""
        return bool(self._bounds)

    def note(self, newest: int, in_flight: InFlight) -> int:
        """Take in the newest id seen, and the transactions that were under way after that. Returns ``settled``."""
        now = self._clock()
        if newest > (self._bounds[-1].newest if self._bounds else self.settled):
            self._bounds.append(_Bound(newest, in_flight.next, now))
        while self._bounds and self._over(self._bounds[0], in_flight, now):
            self.settled = self._bounds.popleft().newest
        return self.settled

    def _over(self, bound: _Bound, in_flight: InFlight, now: float) -> bool:
        if bound.next <= in_flight.oldest:
            return True
        if now - bound.seen_at <= HELD_MOST_S:
            return False
        log.warning("streams_pass_an_open_transaction", seconds=round(now - bound.seen_at))
        return True
