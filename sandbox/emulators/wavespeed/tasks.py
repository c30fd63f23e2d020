"""The emulator's tasks and uploads: what a task comes to, and what is shown of it."""

import base64
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sandbox.bounded import BoundedStore
from sandbox.emulators.wavespeed.images import Served
from sandbox.emulators.wavespeed.models import DATA, Model
from sandbox.faults import Script
from sandbox.plumbing import tasks
from sandbox.plumbing.webhooks import Postman
from sandbox.state import State

KEPT_S = 7 * 86400.0  # history and uploads: CONTRACT.md, section 2
BYTES_MAX = 512 * 2**20
SUCCEEDED = ("completed", "succeeded", "success", "done")
FAILED = ("failed", "cancelled", "timeout", "deleted")


@dataclass(frozen=True)
class Ending(tasks.Ending):
    """What a task comes to, with the code of its error."""

    code: int | None = None


def failure(code: int, status: str = "failed") -> Ending:
    """A failure with a code of CONTRACT.md, section 6."""
    return Ending(status, DATA["task_errors"].get(code, "Unknown error"), code)


def ending_for(fate: Script, model: Model) -> Ending:
    """What the faults of an accepted task make of it."""
    if fault := fate.get("fail"):
        return _scripted_failure(fault.value)
    if fate.get("timeout"):
        return failure(5004, "timeout")
    if fate.get("restart"):
        return failure(5000)
    word = fate.get("word")
    if word and word.value in SUCCEEDED:
        return Ending(word.value)
    return Ending("succeeded" if model.is_partner else "completed")


def _scripted_failure(value: str) -> Ending:
    """``fail=1403`` by code, ``=moderation`` by code 1200, ``=cancelled`` by status, else by the words alone."""
    if value in ("policy", "moderation"):
        return failure(1200)
    if value in FAILED:
        return Ending(value, f"The task was {value}")
    if value.isdecimal() or not value:
        return failure(int(value or 1405))
    return Ending("failed", value.replace("_", " "))


@dataclass(kw_only=True)
class Task(tasks.Task[Ending]):
    """One accepted submit. ``form`` says how its outputs are written, ``words`` are a caption."""

    stages = ((0.0, "created"), (0.05, "processing"))

    model: Model
    given: Mapping[str, Any]
    base_url: str
    files: tuple[Served, ...]
    links: tuple[str, ...]
    words: str
    form: str

    @property
    def word(self) -> str:
        """A word of success is shown at the end alone."""
        return "" if super().word in SUCCEEDED else super().word

    @property
    def size_bytes(self) -> int:
        """Its input, and the decoded images in it."""
        return len(repr(self.given)) + sum(file.recipe.size_bytes for file in self.files[:1] if file.recipe)


# ---------------------------------------------------------------- what is shown


def describe_now(task: Task, here: State) -> dict[str, object]:
    """The prediction object as the task stands."""
    standing = task.standing(here.clock.now())
    return describe(task, standing.shown, standing.ending, here)


def describe(task: Task, status: str, ending: Ending | None, here: State) -> dict[str, object]:
    """The prediction object (CONTRACT.md, section 2), which tells a moment's status and ending."""
    succeeded = ending is not None and ending.status in SUCCEEDED
    outputs = _outputs(task, here) if succeeded else []
    ran_ms = int((task.done_s - task.created_s) * 1000) if ending else 0
    shown: dict[str, object] = {
        "id": task.number,
        "model": task.model.path,
        "status": status,
        "outputs": outputs,
        "urls": {"get": f"{task.base_url}/api/v3/predictions/{task.number}/result"},
        "has_nsfw_contents": [task.form == "flagged"] * len(outputs),
        "created_at": _moment(task.created_s),
        "error": ending.error if ending else "",
        "timings": {"inference": ran_ms},
    }
    if ending:
        shown |= {"executionTime": ran_ms} | ({} if ending.code is None else {"code": ending.code})
    return shown | (_in_form(task.form, outputs) if succeeded else {})


def _outputs(task: Task, here: State) -> list[str]:
    if task.words:
        return [] if task.fate.get("empty") else [task.words]
    if task.given.get("enable_base64_output") or task.form == "base64":
        return [base64.b64encode(file.blob(here.draw)).decode() for file in task.files]
    return list(task.links)


def _in_form(form: str, outputs: list[str]) -> dict[str, object]:
    """The outputs as some models write them (CONTRACT.md, section 2)."""
    match form:
        case "singular":
            return {"outputs": None, "output": outputs[0] if len(outputs) == 1 else outputs}
        case "url" | "image_url" | "output":
            return {"outputs": [{form: link} for link in outputs]}
        case "nested":
            return {"outputs": [{"output": [{"url": link}]} for link in outputs]}
        case "null":
            return {"outputs": None}
    return {}


def _moment(seconds: float) -> str:
    """A time as the vendor writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------- tasks and uploads, kept


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


class TaskStore(tasks.TaskStore[Task]):
    """All tasks, uploads and webhooks of the emulator."""

    def __init__(self, state: State) -> None:
        super().__init__(state, bytes_max=BYTES_MAX)
        self.postman = Postman(state)
        self._uploads: BoundedStore[str, Upload] = BoundedStore(
            items_max=state.settings.tasks_max, size_max=BYTES_MAX, size_of=lambda upload: upload.size_bytes
        )

    def clear(self) -> None:
        """Delete every task, upload and webhook to come."""
        super().clear()
        self.postman.clear()
        self._uploads.clear()

    def interrupted(self, _task: Task) -> Ending:
        """Unfinished tasks fail with an internal error."""
        return failure(5000)

    def result_file(self, number: str, name: str) -> tuple[Task, Served] | None:
        """A result file, once its task has ended and as long as it is kept, which may be longer than the task."""
        task, now = self.tasks.get(number), self.now()
        if task is None or not 0 <= now - task.done_s <= self.state.settings.retention_s:
            return None
        return next(((task, file) for file in task.files if file.name == name), None)

    def open_upload(self, filename: str, size_bytes: int, content_type: str) -> Upload:
        """A ticket."""
        number = uuid.uuid4().hex
        token = hashlib.sha256(f"ticket {number}".encode()).hexdigest()[:24]
        upload = Upload(number, filename, size_bytes, content_type, token, self.now())
        self._uploads.put(number, upload)
        return upload

    def upload(self, number: str) -> Upload | None:
        """A ticket by its number, for seven days."""
        found = self._uploads.get(number)
        return found if found and self.now() <= found.created_s + KEPT_S else None
