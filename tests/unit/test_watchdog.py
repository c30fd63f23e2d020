"""When the watchdog takes silence for a deaf consumer, and when not."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Surroundings:
    now: float = 0.0
    fine: bool = True
    broker_takes: bool = True
    sent: list[str] = field(default_factory=list)
    left: int = 0


@pytest.fixture
def watchdog_module() -> Any:
    os.environ.setdefault("REDIS_URL", "redis://127.0.0.1:1/0")
    return importlib.import_module("workers.watchdog")


@pytest.fixture
def here() -> Surroundings:
    return Surroundings()


@pytest.fixture
def watchdog(watchdog_module: Any, here: Surroundings) -> Any:
    def leave() -> None:
        here.left += 1

    def send(queue: str) -> bool:
        here.sent.append(queue)
        return here.broker_takes

    return watchdog_module.Watchdog("canary.1", send, lambda: here.fine, leave, clock=lambda: here.now)


def silent_rounds(watchdog: Any, here: Surroundings, seconds: int) -> None:
    for _ in range(seconds // 10):
        here.now += 10
        watchdog.look()


def test_a_worker_that_receives_its_canary_stays(watchdog: Any, here: Surroundings) -> None:
    for _ in range(30):
        here.now += 10
        watchdog.look()
        watchdog.heard()
    assert (here.left, len(here.sent)) == (0, 30)


def test_silence_of_ninety_seconds_is_deafness(watchdog: Any, here: Surroundings) -> None:
    silent_rounds(watchdog, here, 90)
    assert here.left == 0
    silent_rounds(watchdog, here, 10)
    assert here.left == 1


def test_an_outage_or_a_full_pool_is_not_deafness(watchdog: Any, here: Surroundings) -> None:
    silent_rounds(watchdog, here, 80)
    here.fine = False
    silent_rounds(watchdog, here, 600)
    here.fine = True
    silent_rounds(watchdog, here, 80)
    assert here.left == 0


def test_silence_counts_from_a_canary_that_the_broker_took(watchdog: Any, here: Surroundings) -> None:
    here.broker_takes = False
    silent_rounds(watchdog, here, 600)
    here.broker_takes = True
    silent_rounds(watchdog, here, 90)
    assert here.left == 0
    silent_rounds(watchdog, here, 10)
    assert here.left == 1


def test_a_canary_received_before_its_send_returns_counts(watchdog: Any, here: Surroundings) -> None:
    sent = watchdog.send

    def heard_at_once(queue: str) -> bool:
        watchdog.heard()
        return bool(sent(queue))

    watchdog.send = heard_at_once
    silent_rounds(watchdog, here, 10)
    here.broker_takes = False
    silent_rounds(watchdog, here, 600)
    assert here.left == 0
