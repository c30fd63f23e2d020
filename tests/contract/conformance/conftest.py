"""The sandbox that every adapter talks to, a second host next to it, and limits small enough to be met in a test."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.testing import Sandbox, running_sandbox

# WaveSpeed can be searched only where its history shows inputs.
QUICK: Any = {"latency_s": 0.0, "chat_delta_s": 0.0, "prepared": 1, "edge_max_px": 64, "history_shows_input": 1}
HURRIED_S = 0.2
SMALL_BYTES = 256 * 1024
_TIMES = re.compile(r"(?!SERVER_)[A-Z_]*TOTAL_S")  # what is sent to the upstream stays as it is
_SIZES = re.compile(r"MAX_[A-Z_]*BYTES[A-Z_]*")


@pytest.fixture(scope="session")
def running() -> Iterator[Sandbox]:
    with running_sandbox(**QUICK) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


@pytest.fixture(scope="session")
def running_elsewhere() -> Iterator[Sandbox]:
    with running_sandbox(**QUICK) as sandbox:
        yield sandbox


@pytest.fixture
def elsewhere(running_elsewhere: Sandbox) -> Sandbox:
    """Another host, which speaks every dialect and must never see a key."""
    running_elsewhere.reset()
    return running_elsewhere


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every time-out of every adapter is small. For adapters loaded after it."""
    _replace_all(monkeypatch, _TIMES, HURRIED_S)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit of an answer is small. For adapters loaded after it."""
    _replace_all(monkeypatch, _SIZES, SMALL_BYTES)


def _replace_all(monkeypatch: pytest.MonkeyPatch, pattern: re.Pattern[str], value: float) -> None:
    """Constants have the same names in all of `providers`, so a new adapter's are found too."""
    for name, module in list(sys.modules.items()):
        if name.startswith("providers."):
            for constant in filter(pattern.fullmatch, vars(module).copy()):
                monkeypatch.setattr(module, constant, value)
