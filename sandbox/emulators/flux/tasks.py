"""The tasks of the FLUX twin: how they go, what they say of themselves, and how long their links live."""

import hashlib
import threading
import uuid
from collections import defaultdict
from dataclasses import dataclass, replace

from sandbox.bounded import BoundedStore
from sandbox.drawing.bad_files import IMAGE_FAULTS
from sandbox.drawing.images import Recipe, dimensions
from sandbox.emulators.flux.images import recipe_for
from sandbox.emulators.flux.rules import MEGAPIXEL, Order
from sandbox.faults import Script
from sandbox.markers import Fault, without_markers
from sandbox.state import State

LINK_LIVES_S = 600.0
ACTIVE_MAX = 24
FILES_BYTES_MAX = 256 * 2**20
# When each state begins, as a share of the whole time.
STATES = ((0.0, "Pending"), (0.2, "Reasoning"), (0.4, "Generating"))
REQUEST_MODERATED, CONTENT_MODERATED = "Request Moderated", "Content Moderated"


@dataclass(frozen=True)
class Ending:
    """What a task comes to. ``status`` as the API spells it; ``details`` a text or an object."""

    status: str = "Ready"
    details: object = None
    http: int = 200
    at_once: bool = False


@dataclass
class Task:
    """One accepted submit. Moments are seconds since 1970, on the sandbox's clock."""

    number: str
    owner: str
    order: Order
    recipe: Recipe
    ending: Ending
    script: Script
    host: str  # where it was submitted
    seed: int
    cost: float
    input_mp: float
    output_mp: float
    created_s: float
    lasts_s: float

    @property
    def done_s(self) -> float:
        return self.created_s if self.ending.at_once else self.created_s + self.lasts_s

    def is_known(self, now: float) -> bool:
        """False before it can be seen (``unseen``), and when it has expired (``expire``)."""
        unseen, expire = self.script.get("unseen"), self.script.get("expire")
        if unseen and now < self.created_s + unseen.number(1.0):
            return False
        return expire is None or now < self.done_s + expire.number(0.0)

    def is_active(self, now: float) -> bool:
        """Whether it takes one of the account's places."""
        return now < self.done_s or self.script.get("never") is not None


def status_at(task: Task, now: float) -> tuple[str, float | None]:
    """The word for the task's state and its progress."""
    if not task.is_active(now):
        if task.script.get("flip") and now >= task.done_s + 1:
            return "Error", None
        return task.ending.status, 1.0 if task.ending.status == "Ready" else None
    share = min(0.99, (now - task.created_s) / task.lasts_s) if task.lasts_s > 0 else 0.99
    if task.script.get("backwards") and 0.6 < share < 0.8:
        return "Pending", 0.0
    word = task.script.get("word")
    status = next(name for begins, name in reversed(STATES) if share >= begins)
    return word.value.replace("_", " ") if word else status, round(share, 2)


def describe_fresh(task: Task, poll_url: str) -> dict[str, object]:
    """The answer to the submit: with a webhook it has no poll URL (section 2)."""
    cost = None if task.order.model.settles_late else task.cost
    prices = {"cost": cost, "input_mp": task.input_mp, "output_mp": task.output_mp}
    hook = task.order.fields.get("webhook_url")
    if hook is not None:
        return {"id": task.number, "status": "Pending", "webhook_url": hook, **prices}
    return {"id": task.number, "polling_url": poll_url, **prices}


def not_found(number: str) -> dict[str, object]:
    """What is said of an id nobody knows (any more, or yet)."""
    return {
        "id": number,
        "status": "Task not found",
        "result": None,
        "progress": None,
        "details": None,
        "preview": None,
    }


def describe(task: Task, now: float, base_url: str) -> tuple[dict[str, object], int]:
    """The result answer and its HTTP status."""
    status, progress = status_at(task, now)
    shown: dict[str, object] = {**not_found(task.number), "status": status, "progress": progress}
    if status == "Ready":
        shown |= {"result": _result(task, base_url), "cost": task.cost}
        return shown, 200
    ended = not task.is_active(now)
    return {**shown, "details": task.ending.details if ended else None}, task.ending.http if ended else 200


def _result(task: Task, base_url: str) -> dict[str, object]:
    if task.script.get("empty"):
        return {}
    prompt = without_markers(task.order.prompt)
    return {
        "sample": link_of(task, base_url),
        "prompt": f"{prompt}, in fine detail" if task.order.fields.get("prompt_upsampling") else prompt,
        "seed": task.seed,
        "start_time": task.created_s,
        "end_time": task.done_s,
        "duration": round(task.lasts_s, 3),
    }


def link_of(task: Task, base_url: str) -> str:
    """The signed link; ``dead_link`` breaks it."""
    until_s = int(task.done_s + LINK_LIVES_S)
    place = f"/delivery/{task.number}/sample.{task.recipe.file_format}?se={until_s}&sig={signature(task, until_s)}"
    dead = task.script.get("dead_link")
    if dead is None:
        return f"{base_url}{place}"
    if dead.value == "relative":
        return place
    if dead.value == "host":
        return f"http://127.0.0.1:1{place}"
    return f"{base_url}{place.replace(task.number, str(uuid.UUID(int=0)))}"


def signature(task: Task, until_s: int) -> str:
    """Binds a link to its task and its end."""
    return hashlib.sha256(f"{task.number} {task.owner} {until_s}".encode()).hexdigest()[:32]


def ending_for(script: Script) -> Ending:
    """What the faults of a task make of it."""
    if script.get("refuse"):
        return Ending(REQUEST_MODERATED, "The prompt was flagged by our filters.", at_once=True)
    fault = script.get("fail", "timeout", "restart")
    if fault is None:
        return Ending()
    if fault.name != "fail":
        return Ending("Error", {"reason": fault.name})
    return _failure(fault)


def _failure(fault: Fault) -> Ending:
    match fault.value:
        case "":
            return Ending("Error", {"reason": "internal", "code": 17})
        case "policy":
            return Ending(REQUEST_MODERATED, "The prompt was flagged by our filters.", at_once=True)
        case "moderation":
            return Ending(CONTENT_MODERATED, "The picture was flagged by our filters.")
        case "503":
            return Ending("Error", {"reason": "no worker"}, http=503)
        case "failed":
            return Ending("Failed", "the worker gave up")
    return Ending("Error", fault.value.replace("_", " "))


class TaskStore:
    """All tasks of the twin. Calls are atomic."""

    def __init__(self, sandbox_state: State) -> None:
        self._sandbox = sandbox_state
        self._tasks: BoundedStore[str, Task] = BoundedStore(
            items_max=sandbox_state.settings.tasks_max,
            size_max=FILES_BYTES_MAX,
            size_of=lambda task: task.recipe.size_bytes,
        )
        self._active: defaultdict[str, list[Task]] = defaultdict(list)
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget every task."""
        with self._lock:
            self._tasks.clear()
            self._active.clear()

    def restart(self) -> int:
        """The unfinished fail."""
        now, broken = self._sandbox.clock.now(), 0
        for task in self._tasks.values():
            if task.is_active(now):
                task.ending, task.lasts_s, task.script = Ending("Error", {"reason": "restart"}), 0.0, Script()
                task.created_s, broken = now, broken + 1
        return broken

    def has_room(self, owner: str, order: Order) -> bool:
        """Whether the account may have one more task at work, and one more of this model (section 7)."""
        now = self._sandbox.clock.now()
        with self._lock:
            busy = self._active[owner] = [task for task in self._active[owner] if task.is_active(now)]
        same = sum(task.order.name == order.name for task in busy)
        return len(busy) < ACTIVE_MAX and same < order.model.active_max

    def accept(self, order: Order, *, owner: str, host: str, script: Script) -> Task:
        """A new task. ``host`` is where the caller found us."""
        number = str(uuid.uuid4())
        asked_seed = order.fields.get("seed")
        seed = int(number[:7], 16) if asked_seed is None else int(asked_seed)
        recipe = recipe_for(order, seed, script)
        input_mp = _megapixels(*map(dimensions, order.pictures))
        output_mp = _megapixels((recipe.width_px, recipe.height_px))
        task = Task(
            number=number,
            owner=owner,
            # The pictures live in the recipe; the body's own are not kept.
            order=replace(order, fields={n: v for n, v in order.fields.items() if n in _KEPT}, pictures=(), mask=None),
            recipe=recipe,
            ending=ending_for(script),
            script=script,
            host=host,
            seed=seed,
            cost=order.cost(output_mp=output_mp, input_mp=input_mp),
            input_mp=input_mp,
            output_mp=output_mp,
            created_s=self._sandbox.clock.now(),
            lasts_s=self._sandbox.latency_s(script, order.prompt),
        )
        self._tasks.put(number, task)
        with self._lock:
            self._active[owner].append(task)
        return task

    def find(self, number: str) -> Task | None:
        """The task of this id, if it is known now."""
        task, now = self._tasks.get(number), self._sandbox.clock.now()
        if task is None or not task.is_known(now) or now > task.done_s + self._sandbox.settings.retention_s:
            return None
        return task

    def fault_of(self, task: Task) -> Fault | None:
        """What spoils its file."""
        return task.script.get(*IMAGE_FAULTS)


def _megapixels(*sizes_px: tuple[int, int]) -> float:
    return round(sum(width * height for width, height in sizes_px) / MEGAPIXEL, 2)


_KEPT = frozenset({"prompt", "prompt_upsampling", "webhook_url"})
