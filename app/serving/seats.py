"""How many connections of one address are open, without those whose answer waits for a job.

A waiting answer has shown its key, and is counted against its account instead (app/http/places.py). So a client may
hold two thousand streams from one address, and strangers may still not take every connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from greenlet import getcurrent

_ATTRIBUTE = "darkroom_seat"


class Seats:
    """The open connections by address. ``most`` of one; 0 is no limit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open: Counter[str] = Counter()

    def full(self, block: str) -> bool:
        """Whether an address has as many connections as it may."""
        return bool(block and self.most and self.open[block] >= self.most)

    @contextmanager
    def taken(self, block: str) -> Iterator[None]:
        """Count the connection that the current greenlet serves."""
        greenlet = getcurrent()
        self.count(block, 1)
        setattr(greenlet, _ATTRIBUTE, (self, block))
        try:
            yield
        finally:
            delattr(greenlet, _ATTRIBUTE)
            self.count(block, -1)

    def count(self, block: str, change: int) -> None:
        self.open[block] += change
        if not self.open[block]:
            del self.open[block]


@contextmanager
def not_counted() -> Iterator[None]:
    """Leave the current greenlet's connection out of the count; elsewhere it does nothing."""
    seat: tuple[Seats, str] | None = getattr(getcurrent(), _ATTRIBUTE, None)
    if seat is None:
        yield
        return
    seats, block = seat
    seats.count(block, -1)
    try:
        yield
    finally:
        seats.count(block, 1)
