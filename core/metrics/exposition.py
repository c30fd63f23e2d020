"""The answer to a scrape: what the processes of this machine have counted, and what is read for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from core.metrics import slots, snapshots

log = structlog.get_logger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST
READ_EVERY_S = 5.0
PATIENCE_S = 3.0  # less than the ten seconds that Prometheus waits for a scrape

Source = Callable[[], Iterable[Metric]]


class Cached:
    """A source that is read at most once in ``every_s``, however many scrapes ask at a time.

    A scrape waits for the reading at most ``patience_s``, because a server that hangs must not cost the series that
    need no server; it then gets ``instead``. The reading goes on, and no other begins before it has ended.
    """

    def __init__(
        self,
        read: Source,
        *,
        instead: Source = tuple,
        every_s: float = READ_EVERY_S,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._instead, self._every_s, self._patience_s = read, instead, every_s, patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._known: Sequence[Metric] = ()
        self._at: float | None = None
        self._ended: threading.Event | None = None  # of the reading that goes on

    def __call__(self) -> Iterable[Metric]:
        with self._lock:
            if self._at is not None and self._clock() - self._at < self._every_s:
                return self._known
            if self._ended is None:
                self._ended = threading.Event()
                threading.Thread(target=self._run, args=(self._ended,), name="metrics-read", daemon=True).start()
            ended = self._ended
        return self._known if ended.wait(self._patience_s) else self._instead()

    def _run(self, ended: threading.Event) -> None:
        try:
            known = list(self._read())
        except Exception:
            log.exception("metrics_not_read")
            known = list(self._instead())
        with self._lock:
            self._known, self._at, self._ended = known, self._clock(), None
        ended.set()


class Exposition:
    """Answers scrapes. ``sources`` are read, in addition to what was counted; they must not raise."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        for source in (_counted, *self._sources):
            registry.register(_Collector(source))
        return generate_latest(registry)


def _counted() -> Iterable[Metric]:
    return snapshots.metrics(slots.collect())


class _Collector:
    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._source()
