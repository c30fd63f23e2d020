"""sd-server's job queue: results for ten minutes, everything gone with the process.

Source: providers/upstreams/llamaswap/CONTRACT.md, sections 2 and 5.
"""

from collections import Counter
from dataclasses import dataclass

from sandbox.emulators.llamaswap.errors import ServerError
from sandbox.emulators.llamaswap.rules import ImageOrder
from sandbox.faults import Script
from sandbox.plumbing.tasks import Ending, Task, TaskStore
from sandbox.state import State

QUEUE_MAX = 64
KEPT_S = 600.0
FAILED = Ending("failed", "generate_image returned no results")
CANCELLED = Ending("cancelled", "job was cancelled")


@dataclass(kw_only=True)
class Job(Task[Ending]):
    """One accepted job."""

    stages = ((0.0, "queued"), (0.3, "generating"))
    order: ImageOrder


class LlamaStore(TaskStore[Job]):
    """What llama-swap keeps: the loaded model, requests under way by model, and its process's jobs."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.loaded: str | None = None
        self.under_way: Counter[str] = Counter()

    def clear(self) -> None:
        """Delete it all."""
        super().clear()
        self.loaded = None
        self.under_way.clear()

    def restart(self) -> int:
        """The loaded model's process ends, and with it all its jobs."""
        self.loaded = None
        return self.lose_all()

    def load(self, model: str) -> bool:
        """Make the model the loaded one; True when that was a swap, which ends the former's process."""
        if self.loaded == model:
            return False
        self.restart()
        self.loaded = model
        return True

    def is_full(self) -> bool:
        """Whether the queue takes no more."""
        return len(self.unfinished()) >= QUEUE_MAX

    def queue(self, order: ImageOrder, fate: Script) -> Job:
        """Take a job on."""
        return self.start(
            Job,
            number=f"job_{int(self.now()):08x}_{self.next_count() - 1:08x}",
            prompt=order.first.prompt,
            fate=fate,
            ending=FAILED if fate.get("fail") else Ending("completed"),
            retention_s=KEPT_S,
            order=order,
        )

    def job(self, number: str) -> Job:
        """The job of this number. Raises ServerError: 410 where it expired lately, else 404."""
        job, now = self.tasks.get(number), self.now()
        if job is None or (job.fate.get("restart") and job.is_over(now)) or now >= job.done_s + job.kept_s + KEPT_S:
            raise ServerError("job not found", 404)
        if job.is_gone(now):
            raise ServerError("job expired", 410)
        return job

    def place_of(self, job: Job) -> int:
        """Its place in the queue, from 1; 0 where it does not wait."""
        now = self.now()
        waiting = [other.number for other in self.tasks.values() if other.standing(now).status == "queued"]
        return waiting.index(job.number) + 1 if job.number in waiting else 0
