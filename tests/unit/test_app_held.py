"""Answers that are kept alive by white space until a job has ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.http.held import BrokenOff, held


def _ends_after(waits: int) -> tuple[Callable[[float], str | None], list[float]]:
    asked: list[float] = []

    def ended(wait_s: float) -> str | None:
        asked.append(wait_s)
        return "the end" if len(asked) > waits else None

    return ended, asked


def test_white_space_comes_until_the_end_and_then_the_body() -> None:
    ended, asked = _ends_after(2)
    response = held(ended, lambda found: found.encode(), beat_s=10.0, content_type="application/json")
    assert list(response.response) == [b" ", b" ", b" ", b"the end"]
    assert asked == [10.0, 10.0, 10.0]
    assert (response.status_code, response.headers["X-Accel-Buffering"]) == (200, "no")
    assert response.headers["Cache-Control"] == "no-store"


def test_an_answer_may_be_broken_off() -> None:
    def fail(_found: str) -> bytes:
        raise BrokenOff

    ended, _ = _ends_after(0)
    pieces = iter(held(ended, fail, beat_s=1.0, content_type="application/json").response)
    assert next(pieces) == b" "
    with pytest.raises(BrokenOff):
        next(pieces)
