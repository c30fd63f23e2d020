"""A worker that leaves: it signs off, and exits whether or not the servers answer."""

from __future__ import annotations

import threading

import pytest

from workers import drain


class ExitedError(Exception):
    """In place of the end of the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    statuses: list[int] = []

    def leave(status: int) -> None:
        statuses.append(status)
        raise ExitedError

    monkeypatch.setattr(drain.os, "_exit", leave)
    monkeypatch.setattr(drain, "SIGN_OFF_S", 0.05)
    monkeypatch.setattr(drain, "_leaving", threading.Event())
    return statuses


def test_a_worker_leaves_although_a_server_never_answers(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    silence = threading.Event()
    monkeypatch.setattr(drain, "sign_off", silence.wait)
    with pytest.raises(ExitedError):
        drain.leave_after_calls(lambda: 0, at_most_s=0)
    silence.set()
    assert exits == [1]


def test_a_worker_signs_off_before_it_leaves(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(drain, "sign_off", lambda: said.append("signed off"))
    with pytest.raises(ExitedError):
        drain.leave_after_calls(lambda: 0, at_most_s=0)
    assert (said, exits) == (["signed off"], [1])
