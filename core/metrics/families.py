"""Families of series: counters, gauges and histograms that a process keeps, and gauges that are read when asked for.

Every family is declared once, at import, with its name, its help and the names of its labels. Labels hold what is
bounded by the code or the configuration; should one not be, a family has :data:`MOST` series and one for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, Literal, TypeVar

import prometheus_client
from prometheus_client.core import GaugeMetricFamily, Metric

MOST = 2000
OTHER = "other"
Mode = Literal["sum", "max", "min"]
Kept = TypeVar("Kept", prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)

# Seconds: of an answer, of an upstream's work, of a job's life.
SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LONG = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0)


class Family:
    """What every family says of itself; ``kind`` as Prometheus names it."""

    def __init__(self, kind: str, name: str, text: str, labels: Sequence[str]) -> None:
        if name in FAMILIES:
            raise ValueError(f"{name} is declared twice")
        self.kind, self.name, self.text, self.labels = kind, name, text, tuple(labels)
        FAMILIES[name] = self


# Every family that the modules loaded so far declare, by name.
FAMILIES: dict[str, Family] = {}


class Counted(Family, Generic[Kept]):
    """A family whose values this process keeps; ``mode``: how those of several processes become one."""

    mode: Mode = "sum"

    def __init__(self, kind: str, name: str, text: str, labels: Sequence[str]) -> None:
        super().__init__(kind, name, text, labels)
        self._made: Kept | None = None
        self._series: dict[tuple[str, ...], Kept] = {}

    def of(self, *values: str) -> Kept:
        """The series with these values of the labels, in their order."""
        found = self._series.get(values)
        return found if found is not None else self._add(values)

    def _add(self, values: tuple[str, ...]) -> Kept:
        if self._made is None:
            self._made = self._make()
        if not self.labels:
            series = self._made
        elif len(self._series) >= MOST:
            return self._made.labels(*[OTHER] * len(self.labels))
        else:
            series = self._made.labels(*values)
        return self._series.setdefault(values, series)

    def _make(self) -> Kept:
        raise NotImplementedError

    def collect(self) -> Iterable[Metric]:
        """What this process has counted."""
        return self._made.collect() if self._made is not None else ()


class Counter(Counted[prometheus_client.Counter]):
    """Only grows, also over restarts of its process."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__("counter", name, text, labels)

    def _make(self) -> prometheus_client.Counter:
        return prometheus_client.Counter(self.name, self.text, self.labels, registry=None)


class Histogram(Counted[prometheus_client.Histogram]):
    """How often which sizes came, in ``buckets``."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SHORT) -> None:
        super().__init__("histogram", name, text, labels)
        self._buckets = buckets

    def _make(self) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(self.name, self.text, self.labels, buckets=self._buckets, registry=None)


class Gauge(Counted[prometheus_client.Gauge]):
    """How it is now; of several processes that live, the sum, the greatest or the least."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, mode: Mode = "sum") -> None:
        super().__init__("gauge", name, text, labels)
        self.mode = mode

    def _make(self) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(self.name, self.text, self.labels, registry=None)


class Reading(Family):
    """A gauge that no process keeps: it is read when it is asked for."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__("gauge", name, text, labels)

    def metric(self, *samples: tuple[Sequence[str], float]) -> Metric:
        """The family with these samples: values of the labels, and the value."""
        family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for values, value in samples:
            family.add_metric(list(values), value)
        return family


def kept() -> Iterable[Counted[Any]]:
    """The families whose values this process keeps."""
    return [family for family in list(FAMILIES.values()) if isinstance(family, Counted)]
