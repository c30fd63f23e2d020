"""The task object of chatgpt2api's task API and its errors (providers/upstreams/chatgpt2api/CONTRACT.md, sections 3
and 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.http.dialect import Dialect, Problem, Said
from app.http.links import Here
from jobs.failures import sentence
from jobs.reads.tasks import Task

NAME = "chatgpt2api"
PREFIX = "/api/image-tasks"
UNKNOWN_MODEL = "unsupported image model"
# Its clients know the kind of an error by a few words in its text alone.
_MARKS: Mapping[str, str] = {
    "content_refused": "rejected by upstream policy",
    "upstream_timeout": "超时",
    "upstream_no_answer": "超时",
    "deadline_expired": "超时",
    "insufficient_credits": "no available image quota",
    "upstream_pool_empty": "no available image quota",
    "upstream_out_of_credit": "no available image quota",
    "upstream_rate_limited": "HTTP 429",
    "upstream_restarted": "服务已重启",
    "model_unavailable": UNKNOWN_MODEL,
    "upstream_model_unknown": UNKNOWN_MODEL,
}
# The same for orders that are not taken at all.
_REFUSAL_MARKS: Mapping[str, str] = {
    "spending_limit": "no available image quota",
    "model_not_allowed": UNKNOWN_MODEL,
    "content_refused": _MARKS["content_refused"],
}
_LISTING = "generations"


def say(problem: Problem) -> Said:
    """An error under ``detail``: a sentence, or for the fields of a generation the list that FastAPI makes."""
    status: int = problem["status"]
    faults = problem.get("errors") or ()
    if status in (404, 405) and problem["code"] in ("not_found", "method_not_allowed"):
        return Said({"detail": "Not Found" if status == 404 else "Method Not Allowed"}, status)
    if problem["code"] in ("unknown_model", "invalid_order") and _about_model(faults):
        return Said({"detail": {"error": f"{UNKNOWN_MODEL}: {_told(faults)}"}}, 400)
    if (mark := _REFUSAL_MARKS.get(problem["code"])) is not None:
        return Said({"detail": {"error": f"{mark}: {problem['detail']}"}}, 400 if status == 422 else status)
    if status == 422 and str(problem["instance"]).endswith(_LISTING):
        listed = [{"type": _type(each), "loc": _loc(each["field"]), "msg": each["message"]} for each in faults]
        return Said({"detail": listed or [{"type": "value_error", "loc": ["body"], "msg": problem["detail"]}]}, 422)
    words = _told(faults) or problem["detail"]
    return Said({"detail": {"error": words}}, 400 if status == 422 else status)


def _about_model(faults: Any) -> bool:
    codes = {"unknown_model", "provider_not_configured"}
    return bool(faults) and all(each["field"] == "model" and each["code"] in codes for each in faults)


def _told(faults: Any) -> str:
    return "; ".join(f"{each['field']}: {each['message']}" for each in faults)


def _type(fault: Mapping[str, str]) -> str:
    return "missing" if fault["code"] == "required" else f"{fault['code']}_error"


def _loc(field: str) -> list[str]:
    return ["body", field] if field else ["body"]


DIALECT = Dialect(NAME, (PREFIX,), say)


@dataclass(frozen=True, slots=True)
class ImageTasks:
    """Renders tasks as chatgpt2api would."""

    here: Here

    def of(self, task: Task, now: datetime) -> dict[str, Any]:
        """app.shapes.schemas.replaced.ClientTaskOut; a task that was made elsewhere has its own id."""
        mine = task.client if task.client.get("dialect") == NAME else {}
        status = _status(task)
        shown: dict[str, Any] = {
            "id": mine.get("id") or task.id,
            "status": status,
            "mode": mine.get("mode") or ("generate" if task.operation == "generate" else "edit"),
            "model": mine.get("model") or task.model,
            "size": mine.get("size") or "",
            "quality": mine.get("quality") or "auto",
            "created_at": _local(task.created_at),
            "updated_at": _local(task.finished_at or task.started_at or task.created_at),
        }
        if task.ended:
            shown["data"] = self._data(task) if status == "success" else []
            if status == "error":
                shown["error"] = error_text(task)
            ended_at = task.finished_at or task.created_at
            shown["duration_ms"] = round((ended_at - task.created_at).total_seconds() * 1000)
        else:
            since = (task.started_at if status == "running" else None) or task.created_at
            shown["elapsed_secs"] = round(max(0.0, (now - since).total_seconds()), 1)
        if status != "queued":
            shown["progress"] = "receiving_image" if status == "success" else "generating"
        return shown

    def _data(self, task: Task) -> list[dict[str, Any]]:
        return [
            {"url": self.here.image_link(task, image.index), "revised_prompt": task.request["prompt"]}
            for image in task.images
            if image.deleted_at is None
        ]


def _status(task: Task) -> str:
    if task.status == "queued":
        return "queued"
    if not task.ended:
        return "running"
    return "success" if task.status == "succeeded" else "error"


def error_text(task: Task) -> str:
    """Why a task made nothing, with the words by which clients classify it."""
    if task.failure_code is None:
        return "the task was cancelled"
    words = task.failure_detail or sentence(task.failure_code)
    mark = _MARKS.get(task.failure_code)
    return f"{mark}: {words}" if mark else words


def _local(moment: datetime) -> str:
    """As the real one writes times, in UTC: without a zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
