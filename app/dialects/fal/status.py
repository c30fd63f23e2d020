"""How far a request is, in fal's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.dialects.fal.failures import failure_of, words_of
from jobs.reads.brief import Brief, Event


def status_of(task: Brief) -> dict[str, Any]:
    """The members that say how far a task is; their names and values are those of fal's queue."""
    if task.status == "queued":
        return {"status": "IN_QUEUE", "queue_position": task.ahead}
    logs = None if task.events is None else _logs(task.events)
    if not task.ended:
        return {"status": "IN_PROGRESS", "logs": logs}
    metrics = {} if task.run_s is None else {"inference_time": round(task.run_s, 3)}
    done = {"status": "COMPLETED", "logs": logs, "metrics": metrics}
    if task.made:
        return done
    code = task.failure_code
    return {**done, "error": words_of(code, task.failure_detail), "error_type": failure_of(code).type}


def _logs(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Every transition of a job as a line of its log."""
    return [
        {"timestamp": event["at"], "level": "INFO", "source": "darkroom", "message": event["type"].replace("_", " ")}
        for event in events
    ]
