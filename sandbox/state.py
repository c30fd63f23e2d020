"""Everything one running sandbox knows, in one place: emulators reach it by ``current_state()``."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from flask import current_app

from sandbox.counts import Counts
from sandbox.drawing.images import Gallery, Recipe
from sandbox.faults import FaultBook, Occasion, Script
from sandbox.plumbing.model_lists import ModelLists
from sandbox.settings import Settings

EXTENSION = "sandbox"
S = TypeVar("S")


class Store(Protocol):
    """What an emulator keeps between requests."""

    def clear(self) -> None:
        """Delete it all (``POST /control/reset``)."""

    def restart(self) -> int:
        """Behave as if the upstream had been restarted; returns how many tasks that broke off."""


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
    """Settings, clock, faults, images, counts, and one store per emulator."""

    settings: Settings
    clock: Clock = field(default_factory=Clock)
    faults: FaultBook = field(default_factory=FaultBook)
    gallery: Gallery = field(init=False)
    counts: Counts = field(default_factory=Counts)
    stores: dict[str, Store] = field(default_factory=dict)
    lists: ModelLists = field(default_factory=ModelLists)

    def __post_init__(self) -> None:
        self.gallery = Gallery(edge_max_px=lambda: self.settings.edge_max_px)

    def draw(self, recipe: Recipe) -> bytes:
        """The file of a recipe, prepared where the settings say so. Raises NotAnImage."""
        return self.gallery.file(recipe, prepared=self.settings.prepared)

    def store(self, name: str, kind: type[S]) -> S:
        """The store of the emulator ``name``. Raises TypeError where it is of another kind."""
        found = self.stores[name]
        if not isinstance(found, kind):
            raise TypeError(f"the store of {name} is a {type(found).__name__}, not a {kind.__name__}")
        return found

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
        """Delete work, counts, faults and changes of lists; settings stay."""
        self.faults.clear()
        self.lists.changes.clear()
        self.counts.reset(requests_kept=self.settings.requests_kept)
        for store in self.stores.values():
            store.clear()


def current_state() -> State:
    """The state of the app that serves the current request."""
    return cast(State, current_app.extensions[EXTENSION])
