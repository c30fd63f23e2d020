"""The answer to a scrape: what the processes of this machine have counted, and what is read for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from core.metrics import slots

CONTENT_TYPE = CONTENT_TYPE_LATEST
READ_EVERY_S = 5.0

Source = Callable[[], Iterable[Metric]]


class Cached:
    """A source that is read at most once in ``every_s``, however many scrapes ask at a time."""

    def __init__(
        self, read: Source, *, every_s: float = READ_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._every_s, self._clock = read, every_s, clock
        self._lock = threading.Lock()
        self._known: Sequence[Metric] = ()
        self._at: float | None = None

    def __call__(self) -> Iterable[Metric]:
        with self._lock:
            if self._at is None or self._clock() - self._at >= self._every_s:
                self._known = list(self._read())
                self._at = self._clock()
            return self._known


class Exposition:
    """Answers scrapes. ``sources`` are read, in addition to what was counted; they must not raise."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        for source in (slots.collect, *self._sources):
            registry.register(_Collector(source))
        return generate_latest(registry)


class _Collector:
    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._source()
