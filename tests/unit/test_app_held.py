"""Answers that are kept alive by white space until a job has ended."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from app.http.held import BrokenOff, held, leaving, on_end


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


def test_an_answer_is_broken_off_when_the_process_stops() -> None:
    """Its client asks again; a loop that beats on would hold up the stop for as long as it may take."""
    ended, _ = _ends_after(5)
    stops = iter([False, True])
    response = held(
        ended, lambda found: found.encode(), beat_s=1.0, content_type="application/json", stopping=lambda: next(stops)
    )
    pieces = iter(response.response)
    assert [next(pieces), next(pieces)] == [b" ", b" "]
    with pytest.raises(BrokenOff):
        next(pieces)


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_tells_whether_it_went_out_to_its_last_byte(whole: bool) -> None:
    told: list[bool] = []
    response = held(lambda _wait_s: "end", lambda found: found.encode(), beat_s=1.0, content_type="application/json")
    on_end(response, told.append)
    pieces = response.get_app_iter({"REQUEST_METHOD": "POST"})
    taken = list(pieces) if whole else [next(iter(pieces))]
    assert told == []
    pieces.close()  # type: ignore[attr-defined]
    assert (told, len(taken)) == ([whole], 2 if whole else 1)


def test_a_client_that_closes_its_connection_is_seen_to_leave() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        left = leaving({"gunicorn.socket": ours})
        assert not left()
        theirs.send(b"more")  # another request, sent in advance
        assert not left()
        ours.recv(4)
        theirs.close()
        assert left()
    assert not leaving({})()
