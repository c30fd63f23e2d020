"""The states of jobs and calls, and the signals that verbs return: wake-up messages (nudges) and ends.

A job is a row; a message only says "look at job X now". Verbs return nudges, and the caller
publishes them after the commit (``workers/enqueue.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"  # a worker holds it
    WAITING = "waiting"  # the upstream works; no one here waits
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.WAITING})
TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class Money(StrEnum):
    """Where a job's price stands: counted against the balance, held, or done with."""

    QUEUED = "queued"
    HELD = "held"
    SETTLED = "settled"


class Outcome(StrEnum):
    """What became of one upstream call; NULL in the table while it is unanswered."""

    ACCEPTED = "accepted"  # the upstream works on it
    UNCERTAIN = "uncertain"  # it may have run
    FINISHED = "finished"  # made, not yet kept by us
    KEPT = "kept"
    NOT_RUN = "not_run"
    FAILED = "failed"
    REFUSED = "refused"
    MISCONFIGURED = "misconfigured"
    CANCELLED = "cancelled"  # the upstream confirmed that it stopped
    TIMED_OUT = "timed_out"  # given up at the provider's own deadline
    LOST = "lost"  # given up without ever knowing


# While a call is open the upstream may be working for us: it occupies a slot of its credential.
OPEN_OUTCOMES = frozenset({Outcome.ACCEPTED, Outcome.UNCERTAIN})  # and NULL


class Priority(StrEnum):
    NORMAL = "normal"
    LOW = "low"


CONTROL_QUEUE = "control"
POLL_QUEUE = "polls"  # looks at images in progress: their own, so that nothing else is served before them


@dataclass(frozen=True, slots=True)
class Nudge:
    """A message to publish after the commit: a task's name, its queue and its one argument."""

    task: str
    queue: str
    argument: str


def run(provider: str, job_id: str) -> Nudge:
    return Nudge("jobs.run", provider, job_id)


def poll(provider: str) -> Nudge:
    return Nudge("jobs.poll", POLL_QUEUE, provider)


WAKE = "wake"


def wake(job_id: str) -> Nudge:
    """Not a task: tells waiting web processes that this job has changed (Redis pub/sub)."""
    return Nudge(WAKE, "", job_id)


EndStatus = Literal["succeeded", "failed", "cancelled", "retried"]


@dataclass(frozen=True, slots=True)
class Ended:
    """What a verb did to a job that Flower shows: published like a nudge, after the commit.

    ``retried``: back in the queue, alive. ``code``: why it failed or is tried again. ``runtime_s``: from
    the first claim to the end. ``node``: the worker node that made its latest call; None if no worker ever
    ran it. ``job_id`` is the Celery id of its task.
    """

    job_id: str
    status: EndStatus
    code: str | None = None
    runtime_s: float | None = None
    node: str | None = None


Signal = Nudge | Ended
