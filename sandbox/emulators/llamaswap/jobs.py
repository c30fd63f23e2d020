"""sd-server's job queue: states by the clock, results for ten minutes, everything gone with the process.

Source: upstreams sheet "llama-swap", sections 2 and 5.
"""

import itertools
from collections import Counter
from dataclasses import dataclass

from sandbox.bounded import BoundedStore
from sandbox.emulators.llamaswap.rules import ImageOrder
from sandbox.faults import Script
from sandbox.state import State

QUEUE_MAX = 64
KEPT_S = 600.0
# The share of a job's time that it waits in the queue, at the most: one is drawn at a time.
QUEUED_SHARE = 0.3


@dataclass
class Job:
    """One accepted job. Moments are seconds since 1970, on the sandbox's clock."""

    number: str
    model: str
    order: ImageOrder
    script: Script
    created_s: float
    lasts_s: float
    cancelled_s: float | None = None

    @property
    def done_s(self) -> float:
        """When it ends, or ended."""
        return self.created_s + self.lasts_s if self.cancelled_s is None else self.cancelled_s

    @property
    def begun_s(self) -> float:
        """When it is its turn."""
        return self.created_s + self.lasts_s * QUEUED_SHARE

    def status(self, now: float) -> str:
        """queued, generating, completed, failed or cancelled."""
        if self.cancelled_s is not None:
            return "cancelled"
        if now < self.begun_s:
            return "queued"
        if now < self.done_s or self.script.get("never"):
            return "generating"
        return "failed" if self.script.get("fail") else "completed"

    def is_live(self, now: float) -> bool:
        """Whether it still waits or is drawn."""
        return self.status(now) in ("queued", "generating")


class LlamaStore:
    """What llama-swap keeps: the loaded model, requests under way by model, and its process's jobs."""

    def __init__(self, sandbox_state: State) -> None:
        self._sandbox = sandbox_state
        self._jobs: BoundedStore[str, Job] = BoundedStore(items_max=sandbox_state.settings.tasks_max)
        self._numbers = itertools.count()
        self.loaded: str | None = None
        self.under_way: Counter[str] = Counter()

    def clear(self) -> None:
        """Forget it all."""
        self._jobs.clear()
        self.loaded = None
        self.under_way.clear()

    def restart(self) -> int:
        """The loaded model's process ends, and with it all its jobs."""
        now = self._sandbox.clock.now()
        broken = sum(job.is_live(now) for job in self._jobs.values())
        self._jobs.clear()
        self.loaded = None
        return broken

    def load(self, model: str) -> bool:
        """Make the model the loaded one; True when that was a swap, which ends the former's process."""
        if self.loaded == model:
            return False
        self.restart()
        self.loaded = model
        return True

    def is_full(self) -> bool:
        """Whether the queue takes no more."""
        now = self._sandbox.clock.now()
        return sum(job.is_live(now) for job in self._jobs.values()) >= QUEUE_MAX

    def add(self, model: str, order: ImageOrder, script: Script) -> Job:
        """Queue a job."""
        now = self._sandbox.clock.now()
        number = f"job_{int(now):08x}_{next(self._numbers):08x}"
        job = Job(number, model, order, script, now, self._sandbox.latency_s(script, order.prompt))
        self._jobs.put(number, job)
        return job

    def find(self, number: str) -> tuple[Job | None, int]:
        """The job and 200, or None and 404 or 410: forgotten, or expired."""
        job, now = self._jobs.get(number), self._sandbox.clock.now()
        if job is None or (job.script.get("restart") and now >= job.done_s):
            return None, 404
        expire = job.script.get("expire")
        kept_s = expire.number(0) if expire else KEPT_S
        if job.is_live(now) or now < job.done_s + kept_s:
            return job, 200
        return None, 410 if now < job.done_s + kept_s + KEPT_S else 404

    def place_of(self, job: Job) -> int:
        """Its place in the queue, from 1."""
        now = self._sandbox.clock.now()
        waiting = [other.number for other in self._jobs.values() if other.status(now) == "queued"]
        return waiting.index(job.number) + 1 if job.number in waiting else 0
