"""The deadline of a request's body: its base time, and what the slowest speed needs for what has arrived."""

from __future__ import annotations

from io import BytesIO

import pytest
from gunicorn.http.body import LengthReader

from app.serving.bodies import SLOWEST_BYTES_PER_S, BodyTimeoutError, Reader, TimedReader


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


@pytest.mark.parametrize("reader", [LengthReader(None, 0), BytesIO(b"")])
def test_a_body_that_is_there_is_at_its_end_at_any_time(reader: Reader) -> None:
    """The answer may have taken minutes; its connection is then kept, or reset, as it would have been at once."""
    now_s, failures = [0.0], []
    timed = TimedReader(reader, base_s=10, failed=lambda: failures.append(1), clock=lambda: now_s[0])
    for at_s in (0.0, 60.0):
        now_s[0] = at_s
        assert timed.read(1024) == b""
    assert failures == []
