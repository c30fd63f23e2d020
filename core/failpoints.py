"""Crash points: places at which a test lets this very process die, as by ``kill -9``.

``DARKROOM_FAILPOINT=name`` kills at the first arrival there, ``name:3`` at the third. Each name stands
between an intent and its outcome, or between a commit and what follows from it; the table says what the
rows hold at that moment. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping

VARIABLE = "DARKROOM_FAILPOINT"

POINTS: Mapping[str, str] = {
    # web
    "submit.uncommitted": "the order is written, its transaction not committed: nobody was told anything",
    "submit.committed": "accepted for good; neither the queue nor the caller has heard of it",
    # worker, around the paid call
    "claim.uncommitted": "claimed, intended and held, not committed: nothing has happened",
    "claim.committed": "the intent is on record and nothing is sent",
    "call.answered": "the upstream has answered, and nothing of it is on record",
    "step.unrecorded": "all that a step learned is in memory alone; what it kept lies in the store",
    "step.recorded": "a step's outcome is on record; what should follow was not published",
    # worker, following what goes on upstream
    "look.answered": "the upstream was asked how its work goes, and nothing of it is on record",
    "resend.answered": "an uncertain call's bytes were sent again, and nothing of it is on record",
    "found.unkept": "the upstream has said that it is done; nothing is fetched",
    "blob.kept": "a result's bytes lie in the store and no row knows them",
    # sweep
    "sweep.moved": "one of a batch was moved on, the others not, and nothing was published",
    "sweep.unpublished": "marked as published, and not published",
}


def hit(name: str) -> None:
    """Die here if this is the point, and the arrival, that the environment names."""
    if _TARGET is not None and name == _TARGET and next(_arrivals) == _NTH:
        os.kill(os.getpid(), signal.SIGKILL)


def parse(wanted: str) -> tuple[str | None, int]:
    """``name`` or ``name:nth`` as its parts; (None, 1) for nothing. Raises ValueError.

    A name that does not exist is an error: a test that never dies would prove nothing.
    """
    name, _, nth = wanted.strip().partition(":")
    if not name:
        return None, 1
    if name not in POINTS:
        raise ValueError(f"{VARIABLE}: there is no point {name!r}; there are {', '.join(POINTS)}")
    return name, int(nth or 1)


_TARGET, _NTH = parse(os.environ.get(VARIABLE, ""))
_arrivals = itertools.count(1)
