"""Looks at many calls, one by one."""

from __future__ import annotations

import threading

from providers.base import CallRef, CheckResult, Finished, Missing, Running
from providers.errors import Failed, NotRun
from providers.shared import looks


def test_each_call_is_looked_at_and_one_failure_stays_one_failure() -> None:
    def check(call: CallRef) -> Finished | Running | Missing:
        if call.id == "2":
            raise Failed("upstream_failed", retryable=True)
        return Running(step=call.id)

    said = looks.check_each(check, [CallRef(name, name, "m") for name in "123"])
    assert said["1"] == Running(step="1")
    assert isinstance(said["2"], Failed)
    assert said["3"] == Running(step="3")


def test_an_upstream_that_is_away_is_not_asked_for_every_call() -> None:
    asked: list[str] = []
    lock = threading.Lock()

    def check(call: CallRef) -> Finished | Running | Missing:
        with lock:
            asked.append(call.id)
        raise NotRun("upstream_unreachable")

    calls = [CallRef(str(number), str(number), "m") for number in range(500)]
    said: dict[str, CheckResult] = looks.check_each(check, calls)
    assert len(said) == 500
    assert all(isinstance(result, NotRun) for result in said.values())
    assert len(asked) < 100
