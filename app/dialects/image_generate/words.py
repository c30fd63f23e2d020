"""The wrapper of ``POST /image/generate``: ``success``, ``code``, ``data``, for images and for errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.http.dialect import Dialect, Problem, Said
from app.http.links import Here
from app.shapes.inline_images import data_urls
from core.errors import ServiceError
from jobs.failures import sentence
from jobs.reads.tasks import Task
from storage.base import StorageUnavailableError, Store

# These keep their status; what is wrong with an order is 400, and whatever the storage or a provider does is 502.
_KEPT = frozenset({401, 402, 403, 404, 405, 406, 408, 409, 429, 502, 503})
_BAD_GATEWAY = frozenset({"storage_unavailable"})
# A failed job whose order was at fault, by what the provider said of it.
_REFUSED = frozenset(
    {"content_refused", "upstream_rejected", "upstream_too_large", "mask_not_png", "extra_not_allowed"}
)


class CustomerMismatchError(ServiceError):
    """customer_id is not one under which the caller is known."""

    code = "customer_mismatch"


def status_of(problem: Problem) -> int:
    """The status that this route's clients know for an error."""
    status: int = problem["status"]
    if problem["code"] in _BAD_GATEWAY:
        return 502
    if status in _KEPT:
        return status
    return 400 if status < 500 else 500


def say(problem: Problem) -> Said:
    """An error in the wrapper."""
    status = status_of(problem)
    facts = {name: problem[name] for name in ("category", "errors") if problem.get(name)}
    words = _words(problem)
    return Said({**_failure(status, words), "error": problem["code"], **facts}, status)


def _words(problem: Problem) -> str:
    """What is wrong, with every bad field: old clients show nothing but the message."""
    faults = problem.get("errors") or ()
    return "; ".join(f"{each['field']}: {each['message']}" for each in faults) or str(problem["detail"])


def _failure(status: int, message: str) -> dict[str, Any]:
    return {"success": False, "code": status, "message": message, "data": None}


DIALECT = Dialect("image_generate", ("/image/",), say)


@dataclass(frozen=True, slots=True)
class Answers:
    """Renders an ended task, without a request."""

    here: Here
    store: Store

    def of(self, task: Task) -> tuple[dict[str, Any], int]:
        """The wrapper and its status."""
        if not task.ended:
            words = "the image is still being made; its task has it when it is done"
            return {**_failure(504, words), "error": "request_timeout", "task_id": task.id}, 504
        if task.status == "succeeded":
            try:
                return {**self._success(task), "task_id": task.id}, 200
            except StorageUnavailableError:
                words = "the image is made and kept, but the storage is away"
                return {**_failure(502, words), "error": "storage_unavailable", "task_id": task.id}, 502
        code = task.failure_code or "cancelled"
        status = _status_of_failure(code)
        words = task.failure_detail or ("the task was cancelled" if code == "cancelled" else sentence(code))
        return {**_failure(status, words), "error": code, "task_id": task.id}, status

    def _success(self, task: Task) -> dict[str, Any]:
        image = next(each for each in task.images if each.deleted_at is None)
        inline = data_urls(task, self.store).get(image.index)
        data = {
            "image_url": inline or self.here.image_link(task, image.index),
            "provider": task.provider,
            "model": task.model,
            "settings": {"image": _settings(task, image.width_px, image.height_px)},
        }
        return {"success": True, "code": 200, "message": None, "data": data}


def _settings(task: Task, width_px: int | None, height_px: int | None) -> dict[str, Any]:
    """Model, size and quality as they were used."""
    params: Mapping[str, Any] = task.request["params"]
    return {"model": task.model, "width": width_px, "height": height_px, "quality": params.get("quality")}


def _status_of_failure(code: str) -> int:
    if code in _REFUSED:
        return 400
    if code == "insufficient_credits":
        return 402
    return 500 if code in ("internal_error", "cancelled") else 502
