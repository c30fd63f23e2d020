"""Watching one job for an answer that outlives its request: the wait for its end, whatever the database says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from app.services import Services
from core.errors import UnavailableError
from jobs.errors import JobNotFoundError
from jobs.reads.tasks import Task

# Where a wait comes back at once: too many wait already, or the database is away.
PAUSE_S = 1.0


@dataclass(slots=True)
class Watching:
    """``task`` is how it was last read. ``look_s``: how often ``done`` is asked again, for what is not of the task."""

    service: Services
    task: Task
    look_s: float = math.inf

    @property
    def stopping(self) -> bool:
        """Whether this process is about to end: an answer that its client asks for again ends then."""
        return self.service.waits.stopping

    def turn(self, done: Callable[[Task], bool], timeout_s: float) -> bool:
        """Wait once, and say whether the task is ``done``. It may come back early, and does not spin then.

        Raises JobNotFoundError once the task is gone.
        """
        began_at = time.monotonic()
        with suppress(UnavailableError):  # it is asked again at the next turn
            self.task = self.service.waits.until(
                self._find, done, account_id=self.task.account_id, timeout_s=max(0.0, timeout_s)
            )
        if done(self.task):
            return True
        spare_s = min(timeout_s, PAUSE_S) - (time.monotonic() - began_at)
        if spare_s > 0:
            time.sleep(spare_s)
        return False

    def until(self, done: Callable[[Task], bool], timeout_s: float) -> bool:
        """Whether the task is ``done`` within so many seconds, all of which are waited unless the process is
        :attr:`stopping`. Raises JobNotFoundError."""
        ends_at = time.monotonic() + timeout_s
        while not done(self.task):
            left_s = ends_at - time.monotonic()
            if left_s <= 0 or self.stopping:
                return False
            self.turn(done, min(left_s, self.look_s))
        return True

    def end(self, timeout_s: float) -> Task | None:
        """The task if it ends within so many seconds. Raises JobNotFoundError."""
        return self.task if self.until(lambda task: task.ended, timeout_s) else None

    def end_within(self, most_s: float) -> Callable[[float], Task | None]:
        """``ended`` of app.http.held.held: the task once it has ended or was deleted, or as it is after ``most_s``."""
        gives_up_at = time.monotonic() + most_s

        def ended(timeout_s: float) -> Task | None:
            left_s = gives_up_at - time.monotonic()
            try:
                found = self.end(min(timeout_s, left_s))
            except JobNotFoundError:
                return self.task
            return self.task if left_s <= timeout_s else found

        return ended

    def _find(self) -> Task:
        return self.service.task_reads.task(self.task.account_id, self.task.id)
