"""A generation as ``/api/generation`` tells it, and its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.http.dialect import Dialect, Problem, Said
from app.http.links import Here
from app.http.signing import Signer
from core.wire import rfc3339
from jobs.failures import sentence
from jobs.reads.tasks import Task
from quota.prices import credits_text

PATH = "/api/generation"
_STATUS = {
    "queued": "starting",
    "running": "processing",
    "waiting": "processing",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "canceled",
}


def say(problem: Problem) -> Said:
    """An error as a generation that has failed: its clients look at ``error`` and ``status``."""
    status: int = problem["status"]
    faults = problem.get("errors") or ()
    words = "; ".join(f"{each['field']}: {each['message']}" for each in faults) or problem["detail"]
    metadata = {"code": problem["code"], "requestId": problem["request_id"], "errors": list(faults)}
    if "category" in problem:
        metadata["category"] = problem["category"]
    body = {"id": None, "status": "failed", "output": None, "error": words, "progress": None, "metadata": metadata}
    return Said(body, 400 if status == 422 else status)


DIALECT = Dialect("generation", (PATH,), say)


@dataclass(frozen=True, slots=True)
class Generations:
    """Renders tasks as generations, without a request."""

    here: Here
    signer: Signer

    def of(self, task: Task) -> dict[str, Any]:
        """app.shapes.schemas.replaced.GenerationOut."""
        images = [image for image in task.images if image.deleted_at is None] if task.ended else []
        done = task.status == "succeeded"
        return {
            "id": task.id,
            "status": _STATUS[task.status],
            "output": [self.here.image_link(task, image.index) for image in images] if done else None,
            "error": _error(task),
            "progress": 100 if done else None if task.progress is None else round(100 * task.progress),
            "metadata": self._metadata(task),
        }

    def _metadata(self, task: Task) -> dict[str, Any]:
        path = f"{PATH}/{task.id}"
        return {
            "sessionId": task.id,
            "providerId": task.provider,
            "provider": task.provider,
            "model": task.model,
            "numOutputs": task.n,
            "seeds": [image.seed for image in task.images],
            "createdAt": rfc3339(task.created_at),
            "startedAt": rfc3339(task.started_at),
            "completedAt": rfc3339(task.finished_at),
            "queuePosition": task.queue_position,
            "cost": credits_text(
                task.quoted_microcredits if task.captured_microcredits is None else task.captured_microcredits
            ),
            "code": task.failure_code,
            "warnings": list(task.warnings),
            "streamUrl": self.here.absolute(f"{path}?{self.signer.link(path, account_id=task.account_id, index=0)}"),
        }


def _error(task: Task) -> str | None:
    if task.failure_code is None:
        return "the generation was cancelled" if task.status == "cancelled" else None
    return task.failure_detail or sentence(task.failure_code)
