"""Everything one running sandbox knows, in one place: twins reach it by ``world()``."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from flask import current_app

from sandbox.counts import Counts
from sandbox.drawing.images import Gallery
from sandbox.faults import FaultBook, Occasion, Script
from sandbox.settings import Settings

EXTENSION = "sandbox"


class Store(Protocol):
    """What a twin keeps between requests."""

    def clear(self) -> None:
        """Forget it all (``POST /control/reset``)."""

    def restart(self) -> int:
        """Behave as if the upstream had been restarted; says how many jobs that broke off."""


class Clock:
    """The wall clock, which a test may put forward."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._ahead_s = 0.0

    def now(self) -> float:
        """Seconds since 1970."""
        return self._source() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Put the clock forward."""
        self._ahead_s += seconds


@dataclass
class State:
    """Settings, clock, witness, faults, pictures, and one shelf per twin."""

    settings: Settings
    clock: Clock = field(default_factory=Clock)
    faults: FaultBook = field(default_factory=FaultBook)
    gallery: Gallery = field(init=False)
    counts: Counts = field(default_factory=Counts)
    stores: dict[str, Store] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gallery = Gallery(edge_max_px=lambda: self.settings.edge_max_px)

    def script(self, provider: str, place: str, prompt: str = "", key: str = "") -> Script:
        """The faults that fire on this occasion, counted. Raises UnknownFault."""
        script = self.faults.script(Occasion(provider, place, prompt, key))
        for fault in script.faults:
            self.counts.fault(provider, fault.name)
        return script

    def latency_s(self, script: Script, prompt: str) -> float:
        """How long this work takes: exactly ``latency=`` where scripted, else the usual, jittered."""
        if scripted := script.get("latency"):
            return scripted.number(self.settings.latency_s)
        share = hashlib.sha256(prompt.encode()).digest()[0] / 255
        return self.settings.latency_s * (1 + self.settings.latency_jitter * (2 * share - 1))

    def reset(self) -> None:
        """Forget work, counts, faults and pictures; settings stay."""
        self.faults.clear()
        self.counts.reset(requests_kept=self.settings.requests_kept)
        for store in self.stores.values():
            store.clear()


def current_state() -> State:
    """The world of the app that serves the current request."""
    return cast(State, current_app.extensions[EXTENSION])
