"""A job as a prediction. Pure, and without Flask: callbacks have the same object as answers.

What the job's order kept for this dialect (:class:`Kept`) is taken where it is there; a job that was made elsewhere
has none, and is told by its model's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

from app.dialects.replicate.names import Named
from core.wire import rfc3339
from jobs.failures import sentence
from jobs.reads.tasks import Task

DIALECT = "replicate"
PATH = "/v1/predictions"
LIVE = ("starting", "processing")
# The words by which clients know a refusal.
FLAGGED = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
_BAR_CHARS = 10


class Kept(TypedDict):
    """orders.client of an order that came as a prediction. ``cancel_after_s``: seconds from its creation."""

    dialect: str
    model: str
    version: str
    single: bool
    input: dict[str, Any]
    notes: list[str]
    webhook: str | None
    webhook_events_filter: list[str] | None
    cancel_after_s: int | None


@dataclass(frozen=True, slots=True)
class Links:
    """Absolute links of a prediction: ``base`` is the address before our paths, ``image`` makes that of one image by
    its index, and ``stream`` is signed; None where no link to the stream can be made."""

    base: str
    image: Callable[[int], str]
    stream: str | None = None


def kept_of(task: Task) -> Kept | None:
    """What the order kept, None for one that came by another way."""
    found: Any = task.client
    return found if found.get("dialect") == DIALECT else None


def status_of(task: Task) -> str:
    """Replicate's word. ``aborted``: its deadline passed before it began; only orders with Cancel-After come to it."""
    match task.status:
        case "queued":
            return "starting"
        case "running":
            return "processing"
        case "cancelled":
            return "aborted" if _aborted(task) else "canceled"
        case status:
            return status


def _aborted(task: Task) -> bool:
    deadline = deadline_of(task)
    return deadline is not None and task.started_at is None and (task.finished_at or deadline) >= deadline


def deadline_of(task: Task) -> datetime | None:
    """When the order's Cancel-After ends it; None without one."""
    kept = kept_of(task)
    after_s = kept.get("cancel_after_s") if kept else None
    return task.created_at + timedelta(seconds=after_s) if after_s is not None else None


def prediction(task: Task, named: Named | None, links: Links, *, status: str | None = None) -> dict[str, Any]:
    """The object of one prediction. ``named`` are the names of the job's model, for a job that kept none; ``status``
    is told in place of its own."""
    kept = kept_of(task)
    url = f"{links.base}{PATH}/{task.id}"
    found = {
        "id": task.id,
        "model": (kept and kept["model"]) or (named.full if named else task.model),
        "version": (kept and kept["version"]) or (named.version if named else "hidden"),
        "input": _input(task, kept),
        "output": output_of(task, named, links.image),
        "error": error_of(task),
        "logs": logs_of(task),
        "metrics": _metrics(task),
        "status": status or status_of(task),
        "created_at": rfc3339(task.created_at),
        "started_at": rfc3339(task.started_at),
        "completed_at": rfc3339(task.finished_at),
        "data_removed": data_removed(task),
        "source": "api",
        "urls": {
            "get": url,
            "cancel": f"{url}/cancel",
            "web": f"{links.base}/api/images/tasks/{task.id}",
            **({"stream": links.stream} if links.stream else {}),
        },
    }
    if (deadline := deadline_of(task)) is not None:
        found["deadline"] = rfc3339(deadline)
    if kept and kept.get("webhook"):
        found["webhook"] = kept["webhook"]
        found["webhook_events_filter"] = kept.get("webhook_events_filter") or ["output", "completed"]
    return found


def unfinished(task: Task, named: Named | None, links: Links) -> dict[str, Any]:
    """The object for a wait that ended before the job. Its status is ``starting`` even while the job runs: the
    clients' run() takes ``processing`` for the end, and returns nothing."""
    return prediction(task, named, links, status="starting" if not task.ended else None)


def output_of(task: Task, named: Named | None, link: Callable[[int], str]) -> list[str] | str | None:
    """Links to what was made: one for a model that makes one a call, a list for the others; a text as it is."""
    made = [image for image in task.images if image.deleted_at is None]
    if not made:
        return None
    texts = [image.text for image in made]
    found = [text if text is not None else link(image.index) for text, image in zip(texts, made, strict=True)]
    kept = kept_of(task)
    single = kept["single"] if kept else named is not None and named.single
    return found[0] if (single and task.n == 1) or texts == [found[0]] else found


def data_removed(task: Task) -> bool:
    """Whether all that was made is deleted."""
    return bool(task.images) and all(image.deleted_at is not None for image in task.images)


def error_of(task: Task) -> str | None:
    """Why a job failed, for people."""
    if task.failure_code is None:
        return None
    words = task.failure_detail or sentence(task.failure_code)
    return f"{FLAGGED} ({words})" if task.failure_code == "content_refused" else words


def logs_of(task: Task) -> str:
    """What was left out or changed, and how far it is, one a line."""
    lines = [*notes_of(task), *([bar(task.progress)] if task.progress is not None else [])]
    return "".join(f"{line}\n" for line in lines)


def notes_of(task: Task) -> Sequence[str]:
    kept = kept_of(task)
    return [*(kept.get("notes") or () if kept else ()), *task.warnings]


def bar(progress: float) -> str:
    """A share from 0 to 1 as the line of a progress bar, which is where clients look for it."""
    percent = max(0, min(100, int(progress * 100)))
    done = percent * _BAR_CHARS // 100
    return f"{percent:3d}%|{'#' * done}{' ' * (_BAR_CHARS - done)}| {percent}/100"


def _metrics(task: Task) -> dict[str, float | int]:
    if task.finished_at is None:
        return {}
    found: dict[str, float | int] = {"total_time": _seconds(task.created_at, task.finished_at)}
    if task.started_at is not None:
        found["predict_time"] = _seconds(task.started_at, task.finished_at)
    return found


def _seconds(since: datetime, until: datetime) -> float:
    return round(max(0.0, (until - since).total_seconds()), 6)


def _input(task: Task, kept: Kept | None) -> Mapping[str, Any]:
    if kept is None:
        return _of_request(task)
    given = dict(kept["input"])
    if "prompt" in given and given["prompt"] is None:
        given["prompt"] = task.request["prompt"]  # it was too long to be kept twice
    return given


def _of_request(task: Task) -> dict[str, Any]:
    """The input of a job that was made elsewhere: what is asked of its model."""
    asked = task.request
    prompt = {"prompt": asked["prompt"]} if asked["prompt"] is not None else {}
    count = {"num_outputs": asked["n"]} if asked["n"] > 1 else {}
    return {**prompt, **count, **asked["size"], **asked["params"]}
