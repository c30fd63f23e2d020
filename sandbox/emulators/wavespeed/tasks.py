"""The twin's tasks and uploads: an ending settled at the submit, a state that follows from the clock.

No thread works on a task; only one with a webhook has someone waiting for its end (``wavespeed_hooks``).
"""

import base64
import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sandbox.bounded import BoundedStore
from sandbox.emulators.wavespeed.images import Served
from sandbox.emulators.wavespeed.models import Model
from sandbox.faults import Script
from sandbox.state import State

QUEUED_SHARE = 0.05  # of a task's time
KEPT_S = 7 * 86400.0  # history and uploads (section 2)
BYTES_MAX = 512 * 2**20
SUCCEEDED = ("completed", "succeeded", "success", "done")
ENDED_BADLY = ("failed", "cancelled", "timeout", "deleted")
TASK_ERRORS: Mapping[int, str] = MappingProxyType(
    {
        1200: "Content flagged as potentially sensitive",
        1400: "Missing parameter",
        1401: "Invalid parameter",
        1402: "Input media URL is not reachable",
        1403: "Execution failed",
        1405: "Task failed",
        5000: "Internal error",
        5003: "Service unavailable",
        5004: "Task timed out",
    }
)


@dataclass(frozen=True)
class Ending:
    """What a task comes to. ``plot`` is never, backwards or flip, or empty."""

    status: str = "completed"
    code: int | None = None
    error: str = ""
    plot: str = ""
    waiting: str = ""  # the word for "in progress", where it is none of the usual


@dataclass
class Task:
    """One accepted submit. Moments are seconds since 1970, on the sandbox's clock."""

    number: str
    owner: str
    model: Model
    given: Mapping[str, Any]
    ending: Ending
    created_s: float
    lasts_s: float
    base_url: str
    files: tuple[Served, ...] = ()
    words: str = ""  # a caption
    links: tuple[str, ...] = ()
    form: str = ""  # how outputs are written
    gone_after_s: float | None = None
    webhook: str = ""

    @property
    def done_s(self) -> float:
        """When it ends."""
        return self.created_s + self.lasts_s

    @property
    def size_bytes(self) -> int:
        """Memory it holds on to, roughly: its input, and the decoded pictures in it."""
        recipes = [file.recipe for file in self.files if file.recipe]
        return len(repr(self.given)) + sum(recipe.size_bytes for recipe in recipes[:1])


def ending_for(script: Script, model: Model) -> Ending:
    """What the faults of an accepted task make of it."""
    if fault := script.get("fail"):
        return _failure(fault.value)
    if script.get("timeout"):
        return Ending("timeout", 5004, TASK_ERRORS[5004])
    if script.get("restart"):
        return Ending("failed", 5000, TASK_ERRORS[5000])
    plot = script.get("never", "backwards", "flip", "empty")
    word = script.get("word")
    success = "succeeded" if model.partner else "completed"
    if word and word.value in SUCCEEDED:
        return Ending(word.value, plot=plot.name if plot else "")
    return Ending(success, plot=plot.name if plot else "", waiting=word.value if word else "")


def _failure(value: str) -> Ending:
    """``fail=1403`` by code, ``=moderation`` by code 1200, ``=cancelled`` by status, else by the words alone."""
    if value in ("policy", "moderation"):
        return Ending("failed", 1200, TASK_ERRORS[1200])
    if value in ENDED_BADLY:
        return Ending(value, error=f"The task was {value}")
    if value.isdecimal():
        return Ending("failed", int(value), TASK_ERRORS.get(int(value), "Unknown error"))
    return Ending("failed", error=value.replace("_", " ")) if value else Ending("failed", 1405, TASK_ERRORS[1405])


def status_of(task: Task, now: float) -> str:
    """The task's status at ``now``."""
    ending = task.ending
    if now >= task.done_s and ending.plot != "never":
        return "failed" if ending.plot == "flip" and now >= task.done_s + 1 else ending.status
    share = (now - task.created_s) / task.lasts_s if task.lasts_s > 0 else 1.0
    if share < QUEUED_SHARE or (ending.plot == "backwards" and 0.6 < share < 0.8):
        return ending.waiting or "created"
    return ending.waiting or "processing"


def describe(task: Task, status: str, blob_of: Callable[[Served], bytes]) -> dict[str, object]:
    """The prediction object (section 2)."""
    succeeded, failed = status in SUCCEEDED, status in ENDED_BADLY
    outputs = _outputs(task, blob_of) if succeeded else []
    ran_ms = int(task.lasts_s * 1000) if succeeded or failed else 0
    shown: dict[str, object] = {
        "id": task.number,
        "model": task.model.path,
        "status": status,
        "outputs": outputs,
        "urls": {"get": f"{task.base_url}/api/v3/predictions/{task.number}/result"},
        "has_nsfw_contents": [task.form == "flagged"] * len(outputs),
        "created_at": moment(task.created_s),
        "error": (task.ending.error or "The result was lost") if failed else "",
        "timings": {"inference": ran_ms},
    }
    if succeeded or failed:
        shown["executionTime"] = ran_ms
    if failed and task.ending.code is not None:
        shown["code"] = task.ending.code
    return _in_form(task.form or ("singular" if task.model.partner else ""), shown)


def _outputs(task: Task, blob_of: Callable[[Served], bytes]) -> list[object]:
    if task.ending.plot == "empty":
        return []
    if task.words:
        return [task.words]
    if task.given.get("enable_base64_output") or task.form == "base64":
        return [base64.b64encode(blob_of(file)).decode() for file in task.files[: len(task.links)]]
    return list(task.links)


def _in_form(form: str, shown: dict[str, object]) -> dict[str, object]:
    """The outputs as some models write them (section 2)."""
    outputs = shown["outputs"]
    if not isinstance(outputs, list) or shown["status"] not in SUCCEEDED:
        return shown
    match form:
        case "singular":
            shown |= {"outputs": None, "output": outputs[0] if len(outputs) == 1 else outputs}
        case "url" | "image_url" | "output":
            shown["outputs"] = [{form: link} for link in outputs]
        case "nested":
            shown["outputs"] = [{"output": [{"url": link}]} for link in outputs]
        case "null":
            shown["outputs"] = None
    return shown


def moment(seconds: float) -> str:
    """A time as the vendor writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------- uploads and the shelf


@dataclass
class Upload:
    """One ticket, and the bytes once they were put."""

    number: str
    filename: str
    size_bytes: int
    content_type: str
    token: str
    created_s: float
    data: bytes | None = field(default=None, repr=False)


class TaskStore:
    """All tasks, result files and uploads of the twin."""

    def __init__(self, sandbox_state: State) -> None:
        self._sandbox = sandbox_state
        kept = sandbox_state.settings.tasks_max
        self._tasks: BoundedStore[str, Task] = BoundedStore(
            items_max=kept, size_max=BYTES_MAX, size_of=lambda task: task.size_bytes
        )
        self._uploads: BoundedStore[str, Upload] = BoundedStore(
            items_max=kept, size_max=BYTES_MAX, size_of=lambda upload: upload.size_bytes
        )

    def clear(self) -> None:
        """Forget every task and upload."""
        self._tasks.clear()
        self._uploads.clear()

    def restart(self) -> int:
        """Unfinished tasks fail with an internal error."""
        now, broken = self._sandbox.clock.now(), 0
        for task in self._tasks.values():
            if status_of(task, now) not in (*SUCCEEDED, *ENDED_BADLY):
                task.ending, task.lasts_s = Ending("failed", 5000, TASK_ERRORS[5000]), now - task.created_s
                broken += 1
        return broken

    def keep(self, task: Task) -> None:
        """A new task."""
        self._tasks.put(task.number, task)

    def find(self, owner: str, number: str) -> Task | None:
        """The owner's task, while it is remembered."""
        task = self._tasks.get(number)
        return task if task and task.owner == owner and not self._is_gone(task) else None

    def history(self, owner: str) -> list[Task]:
        """Every task of an owner, the latest first."""
        mine = [task for task in self._tasks.values() if task.owner == owner and not self._is_gone(task)]
        return mine[::-1]

    def file(self, number: str, name: str) -> tuple[Task, Served] | None:
        """A result file, once its task has ended and as long as it is kept."""
        task, now = self._tasks.get(number), self._sandbox.clock.now()
        if task is None or now > task.done_s + self._sandbox.settings.retention_s:
            return None
        return next(((task, file) for file in task.files if file.name == name and now >= file.from_s), None)

    def open_upload(self, filename: str, size_bytes: int, content_type: str) -> Upload:
        """A ticket."""
        number = uuid.uuid4().hex
        token = hashlib.sha256(f"ticket {number}".encode()).hexdigest()[:24]
        upload = Upload(number, filename, size_bytes, content_type, token, self._sandbox.clock.now())
        self._uploads.put(number, upload)
        return upload

    def upload(self, number: str) -> Upload | None:
        """A ticket by its number, for seven days."""
        found = self._uploads.get(number)
        return found if found and self._sandbox.clock.now() <= found.created_s + KEPT_S else None

    def _is_gone(self, task: Task) -> bool:
        now = self._sandbox.clock.now()
        expired = task.gone_after_s is not None and now >= task.gone_after_s
        return expired or now > task.done_s + KEPT_S
