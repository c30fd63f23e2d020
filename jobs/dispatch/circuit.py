"""The circuit breaker of a provider as a pure state machine; ``jobs/dispatch/health.py`` keeps its row.

CLOSED counts failures in a row. Enough of them within a window open the circuit: no one submits for a
while that doubles with every failed probe. Then it is HALF_OPEN: one call goes out as a probe, and its
outcome alone closes the circuit or opens it again. Calls sent before it opened say nothing about now.

A job counts once: what has failed before may fail by itself, and tried again it says nothing new. For the
same reason a job that was never tried is the best probe (``jobs/dispatch/refill.py``, ``permits.TAKE``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jobs.states import Outcome

FAILURES_TO_OPEN = 5
WINDOW_S = 60.0
OPEN_FIRST_S = 5.0
OPEN_MAX_S = 60.0
# Jobs whose failures were counted and that are not counted again; the oldest is dropped.
JOBS_REMEMBERED = 32

# An Uncertain of our own making (a fault in our code) says nothing about the upstream.
_OURS = frozenset({"upstream_uncertain", "storage_unavailable", "internal_error"})
_NOT_REACHED = frozenset({"upstream_unreachable", "upstream_overloaded"})
# A task that failed after it was accepted may have failed for its own content; this is said of the submit.
_BROKEN = frozenset({"upstream_failed", "upstream_restarted"})


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Circuit:
    """``trips``: openings in a row, 0 while closed. ``failing_for_s``: since the first counted failure."""

    failures: int = 0
    failing_for_s: float = 0.0
    failing_jobs: tuple[str, ...] = ()
    trips: int = 0
    probe: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What the first outcome of a call says of its upstream: away, or answering."""

    call_id: str
    job_id: str
    away: bool


@dataclass(frozen=True, slots=True)
class Count:
    """One more failure; ``jobs`` were counted, newest last. ``first_of_window``: the first of a new window."""

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
    """Closed, no failure counted; the jobs that have failed stay known."""


Change = Count | Open | Close


def says_away(outcome: Outcome, code: str | None, *, retryable: bool) -> bool | None:
    """Whether the answer to a submit shows the upstream away; None: it shows nothing either way.

    A refusal, a rate limit or a bad key come from an upstream that is there.
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
    """What becomes of a circuit; None: nothing changes."""
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
    """How long the circuit stays open before its next probe: 5, 10, 20, 40, 60 s."""
    return float(min(OPEN_MAX_S, OPEN_FIRST_S * 2 ** min(trips - 1, 10)))
