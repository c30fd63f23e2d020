"""The door to the queues never raises and never waits long."""

from __future__ import annotations

import time

import pytest
from kombu.exceptions import LimitExceeded

from core.embedded.ports import free_ports
from jobs.states import poll, run, wake
from workers import enqueue
from workers.enqueue import Publisher


@pytest.fixture
def away() -> Publisher:
    nobody = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    return Publisher(nobody, nobody)


@pytest.fixture(autouse=True)
def urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")


@pytest.mark.parametrize("nudge", [run("openai", "job_x"), poll("openai"), wake("job_x")])
def test_a_broker_that_is_away_costs_a_moment_once(away: Publisher, nudge: object) -> None:
    began = time.monotonic()
    assert away.publish([nudge]) is False
    assert time.monotonic() - began < 3
    assert away.skipping
    began = time.monotonic()
    assert away.publish([nudge]) is False
    assert time.monotonic() - began < 0.1


def test_nothing_to_send_is_sent(away: Publisher) -> None:
    assert away.publish([]) is True


def test_it_is_tried_again_after_a_while(away: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    away.publish([wake("job_x")])
    later = time.monotonic() + enqueue.SKIP_AFTER_FAILURE_S
    monkeypatch.setattr(enqueue.time, "monotonic", lambda: later)
    assert not away.skipping


def test_a_full_pool_of_producers_is_no_accident(away: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise LimitExceeded(50)

    monkeypatch.setattr(away._producers, "acquire", full)
    assert away.publish([run("openai", "job_x")]) is False
