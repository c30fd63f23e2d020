"""Waiting for a job in turns: at most so long each, whatever the database says, and never in a hot loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from app.http.waits import Waits
from core.errors import UnavailableError
from jobs.reads.tasks import Task

# Where a wait comes back at once: too many wait already, or the database is away.
PAUSE_S = 1.0


@dataclass(slots=True)
class Watching:
    """One job, followed by an answer that outlives its request. ``task`` is how it was last read."""

    waits: Waits
    find: Callable[[], Task]
    task: Task

    @property
    def stopping(self) -> bool:
        """Whether this process is about to end: an answer that follows a job ends then."""
        return self.waits.stopping

    def until(self, done: Callable[[Task], bool], timeout_s: float) -> bool:
        """Whether the job is ``done`` within so many seconds. Raises JobNotFoundError once it is gone."""
        began_at = time.monotonic()
        with suppress(UnavailableError):  # it is asked again at the next turn
            self.task = self.waits.until(
                self.find, done, account_id=self.task.account_id, timeout_s=max(0.0, timeout_s)
            )
        if done(self.task):
            return True
        spare_s = min(timeout_s, PAUSE_S) - (time.monotonic() - began_at)
        if spare_s > 0:
            time.sleep(spare_s)
        return False
