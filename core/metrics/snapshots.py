"""What a process has counted at one moment: to be written down, read again and added up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from core.metrics.families import Counted

# Of a series: the name of the sample (with _total, _bucket, _sum, _count), its labels with their values.
Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class FamilySnapshot:
    """A family and its samples. ``mode``: how those of several processes become one: sum, max or min."""

    kind: str
    text: str
    labels: tuple[str, ...]
    mode: str
    samples: Mapping[Key, float]


Snapshot = Mapping[str, FamilySnapshot]


def taken(families: Iterable[Counted[Any]]) -> Snapshot:
    """What these families hold now; those without a value are left out."""
    found: dict[str, FamilySnapshot] = {}
    for family in families:
        samples: dict[Key, float] = {
            (each.name, tuple(each.labels.items())): each.value
            for metric in family.collect()
            for each in metric.samples
            if not each.name.endswith("_created")
        }
        if samples:
            found[family.name] = FamilySnapshot(family.kind, family.text, family.labels, family.mode, samples)
    return found


def without_gauges(snapshot: Snapshot) -> Snapshot:
    """What of a snapshot outlives its process."""
    return {name: family for name, family in snapshot.items() if family.kind != "gauge"}


def merged(snapshots: Sequence[Snapshot]) -> Snapshot:
    """All of them as one. A family whose labels differ is as the first of them has it."""
    found: dict[str, FamilySnapshot] = {}
    for snapshot in snapshots:
        for name, family in snapshot.items():
            known = found.get(name)
            if known is None:
                found[name] = FamilySnapshot(family.kind, family.text, family.labels, family.mode, dict(family.samples))
            elif known.labels == family.labels:
                _add(known, family)
    return found


_TOGETHER: Mapping[str, Callable[[float, float], float]] = {"sum": add, "max": max, "min": min}


def _add(known: FamilySnapshot, family: FamilySnapshot) -> None:
    samples: dict[Key, float] = known.samples  # type: ignore[assignment] # made by merged()
    for key, value in family.samples.items():
        before = samples.get(key)
        if before is None:
            samples[key] = value
        else:
            samples[key] = _TOGETHER[known.mode](before, value)


def metrics(snapshot: Snapshot) -> Iterable[Metric]:
    """The families as prometheus-client writes them."""
    for name, family in snapshot.items():
        metric = Metric(name.removesuffix("_total") if family.kind == "counter" else name, family.text, family.kind)
        for (sample, labels), value in family.samples.items():
            metric.add_sample(sample, dict(labels), value)
        yield metric


def write(path: Path, snapshot: Snapshot) -> None:
    """Replace a file by the snapshot. Raises OSError; the file is then as it was."""
    document = {
        name: [each.kind, each.text, each.labels, each.mode, list(each.samples.items())]
        for name, each in snapshot.items()
    }
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> Snapshot:
    """The snapshot of a file; empty where there is none, or none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: FamilySnapshot(kind, text, tuple(labels), mode, {_key(*key): float(value) for key, value in samples})
            for name, (kind, text, labels, mode, samples) in document.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _key(sample: str, labels: Sequence[Sequence[str]]) -> Key:
    return sample, tuple((name, value) for name, value in labels)
