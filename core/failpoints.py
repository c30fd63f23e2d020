"""Crash points: places at which a test makes this process die, as by ``kill -9``.

``DARKROOM_FAILPOINT=name`` kills it the first time it gets there, ``name:3`` the third time. Each point is between an
intent and its outcome, or between a commit and what follows from it; the table says what the rows hold at that
moment. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping

VARIABLE = "DARKROOM_FAILPOINT"

POINTS: Mapping[str, str] = {
    # web
    "submit.uncommitted": "the order is written, its transaction not committed: no one was told anything",
    "cache.copied": "an earlier job's images are copied for an order that has no row",
    "cache.uncommitted": "a job with these images is written, its transaction not committed: no one was told anything",
    "submit.committed": "accepted and committed; neither the queue nor the caller has heard of it",
    # worker, around the paid call
    "claim.uncommitted": "claimed, intended and held, not committed: nothing has happened",
    "claim.committed": "the intent is on record and nothing is sent",
    "call.answered": "the upstream has answered, and nothing of it is on record",
    "step.unrecorded": "what a step learned is in memory only; what it kept is in the store",
    "step.recorded": "a step's outcome is on record; what should follow was not published",
    # worker, adjusting a refused prompt
    "prompt.rewritten": "the language model has answered, and nothing of it is on record",
    "prompt.adjusted": "the new wording is on record; no one was told to try it",
    # worker, following what goes on upstream
    "look.answered": "the upstream was polled, and nothing of its answer is on record",
    "resend.answered": "an uncertain call's bytes were sent again, and nothing of it is on record",
    "found.unkept": "the upstream has said that it is done; nothing is fetched",
    "blob.kept": "a result's bytes are in the store and have no row",
    # worker, sending callbacks
    "webhook.unsent": "a callback is leased, and nothing of it is sent",
    "webhook.sent": "its receiver has answered, and nothing of that is on record",
    # worker, submitting the lines of a batch
    "batch.submitted": "a line is a job, and no one was told",
    "batch.advanced": "a page of lines is behind the batch's cursor, and no further one begun",
    # sweep
    "sweep.moved": "one job of a batch was moved, the others not, and nothing was published",
    "sweep.unpublished": "marked as published, and not published",
}


def hit(name: str) -> None:
    """Die here if the environment names this point and it is reached for the given time."""
    if _TARGET is not None and name == _TARGET and next(_arrivals) == _NTH:
        os.kill(os.getpid(), signal.SIGKILL)


def parse(wanted: str) -> tuple[str | None, int]:
    """``name`` or ``name:nth`` as its parts; (None, 1) for nothing. Raises ValueError.

    An unknown name is an error: a test whose process never dies would prove nothing.
    """
    name, _, nth = wanted.strip().partition(":")
    if not name:
        return None, 1
    if name not in POINTS:
        raise ValueError(f"{VARIABLE}: there is no point {name!r}; there are {', '.join(POINTS)}")
    return name, int(nth or 1)


_TARGET, _NTH = parse(os.environ.get(VARIABLE, ""))
_arrivals = itertools.count(1)
