"""The deadline of a request's body: its base time, and what the slowest speed needs for what has arrived."""

from __future__ import annotations

import pytest

from app.serving.bodies import SLOWEST_BYTES_PER_S, BodyTimeoutError, TimedReader


class Steady:
    """A client that has sent a second's worth at the slowest speed by each read."""

    def read(self, size: int) -> bytes:
        return bytes(min(size, SLOWEST_BYTES_PER_S))


def test_the_deadline_moves_by_what_arrived_and_no_more() -> None:
    now_s, failures = [0.0], []
    reader = TimedReader(Steady(), base_s=10, failed=lambda: failures.append(1), clock=lambda: now_s[0])
    for at_s in (0.0, 10.9, 11.9):  # each read gives another second
        now_s[0] = at_s
        assert len(reader.read(1 << 20)) == SLOWEST_BYTES_PER_S
    now_s[0] = 13.1
    with pytest.raises(BodyTimeoutError):
        reader.read(1 << 20)
    assert failures == [1]
