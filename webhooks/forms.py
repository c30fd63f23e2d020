"""The forms a callback can have: what its body says and how it is signed.

A form is a module (or an object) with the two functions of :class:`Form`; ``workers/wiring.py`` names them all. The
record that a callback is about is a job's task, which this room does not know: it is ``TaskT_contra`` here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

TaskT_contra = TypeVar("TaskT_contra", contravariant=True)

# The events of a job, in the order of its life. ``refunded`` comes beside an end that returned credits.
QUEUED = "image.task.queued"
STARTED = "image.task.started"
PROGRESS = "image.task.progress"
SUCCEEDED = "image.task.succeeded"
FAILED = "image.task.failed"
CANCELLED = "image.task.cancelled"
REFUNDED = "image.task.refunded"
EVENTS = (QUEUED, STARTED, PROGRESS, SUCCEEDED, FAILED, CANCELLED, REFUNDED)
ENDS = (SUCCEEDED, FAILED, CANCELLED)

# The ends of a batch, to endpoints alone: ``batch.`` and its status. Their message has the batch's id for the job's.
BATCH_EVENTS = ("batch.completed", "batch.failed", "batch.cancelled", "batch.expired")
ENDPOINT_EVENTS = (*EVENTS, *BATCH_EVENTS)

# To an endpoint at its owner's wish; about no job.
TEST = "webhook.test"

STANDARD = "standard"


class Links(Protocol):
    """Absolute links that a receiver can open: ``base`` is the public address before our paths, without a slash."""

    @property
    def base(self) -> str: ...

    def image(self, account_id: str, job_id: str, index: int) -> str:
        """A signed link to one image of a task, which needs no key and expires."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """One attempt to deliver a callback, ready to be signed.

    ``id`` is the same at every attempt, ``sent_at`` (Unix seconds) is that of this one. ``secrets`` are the
    ``whsec_`` texts to sign with, the newest first: two while one replaces the other. ``ed25519_seed`` is the 32-byte
    private key of this installation, for forms that sign with it (:mod:`webhooks.installation_key`).
    """

    id: str
    sent_at: int
    account_id: str
    job_id: str
    body: bytes = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    ed25519_seed: bytes = field(repr=False)


class Form(Protocol[TaskT_contra]):
    """A form of callback. Both functions are pure: no network, no database, no Flask."""

    def body(self, task: TaskT_contra, event: str, links: Links) -> bytes:
        """Return the body about a task as it is now. ``event`` is one of ``EVENTS``."""
        ...

    def headers(self, message: Message) -> Mapping[str, str]:
        """Return the headers of an attempt, Content-Type among them."""
        ...
