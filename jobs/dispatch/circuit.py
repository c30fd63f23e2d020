"""The circuit breaker of a provider as a pure state machine; ``jobs/dispatch/health.py`` stores its row.

CLOSED counts failures in a row. Enough of them within a window open the circuit: nothing is submitted for a time
that doubles with every failed probe. After that it is HALF_OPEN: one call is sent as a probe, and only its outcome
closes the circuit or opens it again. Calls sent before the circuit opened do not count.

Each job counts once, because a job that has failed before may fail through its own order. For the same reason a job
that was never tried is the best probe (``jobs/dispatch/refill.py``, ``permits.TAKE``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jobs.states import Outcome

FAILURES_TO_OPEN = 5
WINDOW_S = 60.0
OPEN_FIRST_S = 5.0
OPEN_MAX_S = 60.0
# How many jobs with a counted failure are remembered, so that they are not counted again; the oldest is dropped.
JOBS_REMEMBERED = 32

# An Uncertain outcome from a fault in our code says nothing about the upstream.
_OURS = frozenset({"upstream_uncertain", "storage_unavailable", "internal_error"})
_NOT_REACHED = frozenset({"upstream_unreachable", "upstream_overloaded"})
# Codes of a failed submit. A task that fails after it was accepted may have failed through its own content.
_BROKEN = frozenset({"upstream_failed", "upstream_restarted"})


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Circuit:
    """``trips``: openings in a row, 0 while closed. ``failing_for_s``: seconds since the first counted failure."""

    failures: int = 0
    failing_for_s: float = 0.0
    failing_jobs: tuple[str, ...] = ()
    trips: int = 0
    probe: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What the first outcome of a call shows about its upstream: ``away``, or answering."""

    call_id: str
    job_id: str
    away: bool


@dataclass(frozen=True, slots=True)
class Count:
    """One more failure. ``jobs``: those counted, newest last. ``first_of_window``: it starts a new window."""

    failures: int
    jobs: tuple[str, ...]
    first_of_window: bool


@dataclass(frozen=True, slots=True)
class Open:
    trips: int
    for_s: float
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Closed, no failure counted; the jobs that have failed stay remembered."""


Change = Count | Open | Close


def says_away(outcome: Outcome, code: str | None, *, retryable: bool) -> bool | None:
    """Return whether the outcome of a submit shows that the upstream is away; None: it shows neither.

    A refusal, a rate limit or a rejected key come from an upstream that answers.
    """
    if code in _OURS:
        return None
    match outcome:
        case Outcome.UNCERTAIN | Outcome.LOST:
            return True
        case Outcome.NOT_RUN:
            return code in _NOT_REACHED
        case Outcome.FAILED:
            return retryable and code in _BROKEN
        case Outcome.CANCELLED | Outcome.TIMED_OUT:
            return None
        case _:
            return False


def after(circuit: Circuit, seen: Observation) -> Change | None:
    """Return how an observation changes a circuit; None: not at all."""
    if circuit.trips:
        return _after_probe(circuit, seen) if seen.call_id == circuit.probe else None
    if not seen.away:
        return Close() if circuit.failures else None
    if seen.job_id in circuit.failing_jobs:
        return None
    jobs = _remember(circuit, seen.job_id)
    if circuit.failures and circuit.failing_for_s > WINDOW_S:
        return Count(1, jobs, first_of_window=True)
    if circuit.failures + 1 >= FAILURES_TO_OPEN:
        return Open(1, open_s(1), jobs)
    return Count(circuit.failures + 1, jobs, first_of_window=circuit.failures == 0)


def _after_probe(circuit: Circuit, seen: Observation) -> Change:
    if not seen.away:
        return Close()
    return Open(circuit.trips + 1, open_s(circuit.trips + 1), _remember(circuit, seen.job_id))


def _remember(circuit: Circuit, job_id: str) -> tuple[str, ...]:
    others = [job for job in circuit.failing_jobs if job != job_id]
    return (*others, job_id)[-JOBS_REMEMBERED:]


def open_s(trips: int) -> float:
    """Return how many seconds the circuit stays open before its next probe: 5, 10, 20, 40, 60."""
    return float(min(OPEN_MAX_S, OPEN_FIRST_S * 2 ** min(trips - 1, 10)))
