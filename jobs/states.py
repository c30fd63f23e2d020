"""The states of jobs and calls, and the signals that verbs return: wake-up messages (nudges) and ends.

A job is a row; a message only says that job X should be looked at now. The caller of a verb publishes its signals
after the commit (``workers/enqueue.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"  # a worker holds it
    WAITING = "waiting"  # the upstream works on it; no worker waits
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.WAITING})
TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class Money(StrEnum):
    """The state of a job's price: reserved from the balance, held, or settled."""

    QUEUED = "queued"
    HELD = "held"
    SETTLED = "settled"


class Outcome(StrEnum):
    """The outcome of one upstream call; NULL in the table while it is unanswered."""

    ACCEPTED = "accepted"  # the upstream works on it
    UNCERTAIN = "uncertain"  # it may have run
    FINISHED = "finished"  # made, not yet in our store
    KEPT = "kept"
    NOT_RUN = "not_run"
    FAILED = "failed"
    REFUSED = "refused"
    MISCONFIGURED = "misconfigured"
    CANCELLED = "cancelled"  # the upstream confirmed that it stopped
    TIMED_OUT = "timed_out"  # given up at the provider's own deadline
    LOST = "lost"  # given up; what became of it is unknown


# While a call is open, the upstream may be working on it, so it occupies a permit of its credential.
OPEN_OUTCOMES = frozenset({Outcome.ACCEPTED, Outcome.UNCERTAIN})  # and NULL


class SafePrompt(StrEnum):
    """How far a job is that may have a refused prompt adjusted once; NULL in the table for one that may not."""

    WANTED = "wanted"
    ADJUSTING = "adjusting"  # refused free of charge: it is queued, and cannot be claimed before it has a new wording
    ADJUSTED = "adjusted"


class Priority(StrEnum):
    NORMAL = "normal"
    LOW = "low"


CONTROL_QUEUE = "control"
POLL_QUEUE = "polls"  # status checks of images in progress, on a queue of their own so that nothing delays them


@dataclass(frozen=True, slots=True)
class Nudge:
    """A wake-up message to publish after the commit: a task's name, its queue and its one argument.

    ``traceparent``: the trace that it is sent in, where that is known without asking.
    """

    task: str
    queue: str
    argument: str
    traceparent: str | None = None


def run(provider: str, job_id: str, *, traceparent: str | None = None) -> Nudge:
    """Return the message that lets a worker claim and run a job."""
    return Nudge("jobs.run", provider, job_id, traceparent)


def poll(provider: str) -> Nudge:
    """Return the message that lets a worker check a provider's due jobs."""
    return Nudge("jobs.poll", POLL_QUEUE, provider)


def tell(job_id: str) -> Nudge:
    """Return the message that has a job's callbacks sent now; without it they are sent by the next look of a worker."""
    return Nudge("webhooks.deliver", CONTROL_QUEUE, job_id)


WAKE = "wake"


def wake(job_id: str) -> Nudge:
    """Return the message that wakes the web requests waiting for this job. It is sent by Redis pub/sub, not a task."""
    return Nudge(WAKE, "", job_id)


EndStatus = Literal["succeeded", "failed", "cancelled", "retried"]


@dataclass(frozen=True, slots=True)
class Ended:
    """The end or retry of a job, for Flower; published like a nudge, after the commit.

    ``retried``: the job is in the queue again. ``code``: why it failed or is retried. ``runtime_s``: seconds from the
    first claim to the end. ``node``: the worker that made its latest call; None if no worker ever ran it. ``job_id``
    is also the Celery id of its task.
    """

    job_id: str
    status: EndStatus
    code: str | None = None
    runtime_s: float | None = None
    node: str | None = None


Signal = Nudge | Ended
