"""Rounds in turns on a noisy machine: A, B, A, B ..., each judged by the median of its rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Round:
    """``per_core`` is requests per second of processor time in the web process, ``rate`` per second of the clock."""

    per_core: float
    rate: float
    p50_ms: float
    p95_ms: float


def take_turns(contenders: Mapping[str, Callable[[], Round]], rounds: int) -> dict[str, list[Round]]:
    """Run every contender ``rounds`` times, interleaved, so that other load on the machine affects all of them."""
    done: dict[str, list[Round]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            done[name].append(run())
    return done


def median(rounds: Sequence[Round], figure: str) -> float:
    return float(statistics.median(getattr(one, figure) for one in rounds))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least ``share`` of all at or below it (nearest rank)."""
    if not values:
        raise ValueError("no values")
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]
