"""Where a client is in a stream: the ``id:`` of each record, which it sends back as Last-Event-ID.

One whole number: the id of the last event of the table ``job_events`` that the stream has passed, times a million, plus
the job's version for a record of progress, which is no event. So it grows within a task, and what comes after it can be
read in any web process, at any time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSIONS = 1_000_000
_WRITTEN = re.compile(r"[0-9]{1,25}")
_MOST = 2**63 - 1  # PostgreSQL's bigint


@dataclass(frozen=True, slots=True)
class Position:
    """``event``: the last event that is known; 0 before the first. ``version``: of the job, for progress after it."""

    event: int
    version: int = 0

    def __str__(self) -> str:
        return str(self.event * _VERSIONS + min(self.version, _VERSIONS - 1))


START = Position(0)


def read_position(text: str) -> Position | None:
    """The position that an ``id:`` means; None for text that is none of ours."""
    if not _WRITTEN.fullmatch(text):
        return None
    event, version = divmod(int(text), _VERSIONS)
    return Position(event, version) if event <= _MOST else None
