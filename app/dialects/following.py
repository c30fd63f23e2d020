"""Following one job from a generator, which outlives the request that made it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flask import current_app

from app.services import Services
from core.errors import UnavailableError
from jobs.reads.tasks import Task

LOOK_AGAIN_S = 1.0
HOLD = "darkroom_hold"  # of the app, where its settings say how long answers are held


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long an answer is silent at first, how often white space follows, how long it is held in all."""

    quiet_s: float = 15.0
    beat_s: float = 10.0
    most_s: float = 3600.0


def patience() -> Patience:
    """As the app's settings have it."""
    found = current_app.extensions.get(HOLD) or Patience()
    return Patience(found.quiet_s, found.beat_s, found.most_s)


@dataclass(frozen=True, slots=True)
class Following:
    """A job of an account, as its owner follows it."""

    service: Services
    account_id: str
    job_id: str

    def ended(self, within_s: float) -> Task | None:
        """The task once it has ended, or None after so many seconds. Raises JobNotFoundError."""
        return self._until(lambda task: task.ended, within_s)

    def changed(self, version: int, within_s: float) -> Task | None:
        """The task once its version is another, or None after so many seconds. Raises JobNotFoundError."""
        return self._until(lambda task: task.version != version, within_s)

    def _until(self, done: Callable[[Task], bool], within_s: float) -> Task | None:
        """A wait ends early where too many wait already, and while the database is away: then the time is slept."""
        ends_at = time.monotonic() + within_s
        while (left_s := ends_at - time.monotonic()) > 0:
            try:
                task = self.service.waits.until(self._find, done, account_id=self.account_id, timeout_s=left_s)
            except UnavailableError:
                pass  # the order is accepted; how it stands will be read when that is possible
            else:
                if done(task):
                    return task
            time.sleep(max(0.0, min(LOOK_AGAIN_S, ends_at - time.monotonic())))
        return None

    def _find(self) -> Task:
        return self.service.task_reads.task(self.account_id, self.job_id)
