"""The arithmetic of waiting for a start: from gaps between starts and service times to seconds.

Pure functions over what ``jobs/submission/estimates.py`` measures.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

# Fewer measurements than this say nothing.
SAMPLE_LEAST = 3
# What a claim takes, where every job that was measured waited for a permit.
GAP_S = 0.05
# Machines are slower during a burst than before it: nine of ten jobs do not wait longer by more than this factor.
SLACK = 1.8
# A permit of a rate is free again a minute after its use, and a little for the delay of the claim.
MINUTE_S = 62.0


@dataclass(frozen=True, slots=True)
class Life:
    """One job lately, in seconds on the database's clock; ``finished_s`` None: still going on."""

    created_s: float
    started_s: float
    finished_s: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a provider and a model; times in seconds. ``permits``: in all; None: no limit.

    A gap is the time from the moment when a job could be started, because the one before it was or because it
    came, to its start.
    """

    p50_s: float  # service times
    p90_s: float
    permits: int | None
    active: int
    max_per_minute: int | None = None
    submits_lately: int = 0  # of the last minute
    gap_s: float = 0.0  # on average
    gap_p90_s: float = 0.0  # of a single one
    freed_s: float = 0.0  # average gap while every permit was taken; 0: not seen
    shut_for_s: float = 0.0  # the upstream asked to wait, or an open circuit
    reopens_within_s: float = 0.0  # claims that were put off come back at random within this time


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds until the start: half of the jobs in this place start sooner than p50, nine of ten sooner than p90."""

    p50_s: float
    p90_s: float


def wait(measured: Measured, ahead: int) -> Wait:
    """The wait behind ``ahead`` others: for the turn, for permits to come free, and for the minute's submits."""
    place = ahead + 1
    turn = place * measured.gap_s
    turn_p90 = SLACK * turn + measured.gap_p90_s
    must_end, rounds = 0, 0.0
    if measured.permits:
        must_end = max(0, place - max(0, measured.permits - measured.active))
        rounds = must_end / measured.permits
    # Includes the time from a job's end to the next one's start, where that was measured.
    ended = max(rounds * measured.p50_s, must_end * measured.freed_s)
    minutes = 0.0
    if measured.max_per_minute:
        free = max(0, measured.max_per_minute - measured.submits_lately)
        minutes = max(0, place - free) / measured.max_per_minute
    p50 = max(turn, ended, minutes * 60)
    # Jobs that started together end together: a round is over when the slowest are.
    p90 = turn_p90 + max(math.ceil(rounds) * measured.p90_s, SLACK * ended, math.ceil(minutes) * MINUTE_S)
    shut_s = measured.shut_for_s
    return Wait(round(shut_s + p50, 1), _up(max(p50, p90) + shut_s + measured.reopens_within_s))


def _up(seconds: float) -> float:
    """Rounded up to a tenth."""
    return math.ceil(round(seconds * 10, 6)) / 10


def gaps(lives: Sequence[Life], permits: int | None) -> tuple[list[float], list[float]]:
    """How long each job took to be started once it could be, oldest first.

    The second list has those that found every permit taken: they waited for another job's end.
    """
    ordered = sorted(lives, key=lambda life: life.started_s)
    starts = [life.started_s for life in ordered]
    ends = sorted(life.finished_s for life in ordered if life.finished_s is not None)
    found: list[float] = []
    freed: list[float] = []
    before_s = -math.inf
    for life in ordered:
        could_s = max(life.created_s, before_s)
        before_s = life.started_s
        is_free = permits is None or bisect_right(starts, could_s) - bisect_right(ends, could_s) < permits
        (found if is_free else freed).append(max(0.0, life.started_s - could_s))
    return found, freed


def share_of(values: Sequence[float], share: float) -> float:
    """The smallest of the sorted ``values`` with at least ``share`` of them at or below it."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def calibrated(
    lives: Sequence[Life], permits: int | None, *, head_since_s: float | None, now_s: float
) -> tuple[float, float, float]:
    """Average and ninth of ten of the gaps between starts, and the average where all permits were taken.

    ``head_since_s``: since when the first waiting job could be started.

    The gap that is open at this moment counts as far as it goes, so that a queue that does not move shows.
    """
    found, freed = gaps(lives, permits)
    found = sorted(found) or [GAP_S]
    if head_since_s is not None and permits is None:
        last_start_s = max((life.started_s for life in lives), default=-math.inf)
        open_s = now_s - max(head_since_s, last_start_s)
        if open_s > found[-1]:
            found.append(open_s)
    return sum(found) / len(found), share_of(found, 0.9), sum(freed) / len(freed) if len(freed) >= SAMPLE_LEAST else 0.0
