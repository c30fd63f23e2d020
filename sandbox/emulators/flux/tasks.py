"""The tasks of FLUX's emulator: how they go, what they say of themselves, and how long their links live."""

import hashlib
import uuid
from collections import defaultdict
from dataclasses import dataclass

from sandbox.drawing.images import Recipe, dimensions
from sandbox.emulators.flux.images import recipe_for
from sandbox.emulators.flux.rules import ACTIVE_MAX, MEGAPIXEL, Model, Order
from sandbox.faults import Script
from sandbox.markers import without_markers
from sandbox.plumbing import outcomes, tasks
from sandbox.plumbing.tasks import Standing
from sandbox.state import State

LINK_LIVES_S = 600.0


@dataclass(frozen=True)
class Ending(tasks.Ending):
    """What a task comes to. ``details`` is a text or an object; ``http`` the status of the answer that tells it."""

    details: object = None
    http: int = 200
    at_once: bool = False


READY = Ending("Ready")
REFUSED = Ending("Request Moderated", details="The prompt was flagged by our filters.", at_once=True)
_FAILURES = {
    "": Ending("Error", details={"reason": "internal", "code": 17}),
    "policy": REFUSED,
    "moderation": Ending("Content Moderated", details="The image was flagged by our filters."),
    "503": Ending("Error", details={"reason": "no worker"}, http=503),
    "failed": Ending("Failed", details="the worker gave up"),
}


def ending_for(fate: Script) -> Ending:
    """What the faults of a task make of it."""
    fault = fate.get("refuse") or fate.get("fail", "timeout", "restart")
    if fault is None:
        return READY
    if fault.name == "refuse":
        return REFUSED
    if fault.name != "fail":
        return Ending("Error", details={"reason": fault.name})
    return _FAILURES.get(fault.value) or Ending("Error", details=fault.value.replace("_", " "))


@dataclass(kw_only=True)
class Task(tasks.Task[Ending]):
    """One accepted submit. ``host`` is where it was submitted."""

    stages = ((0.0, "Pending"), (0.2, "Reasoning"), (0.4, "Generating"))

    model: Model
    recipe: Recipe
    is_upsampled: bool
    webhook_url: str | None
    host: str
    cost: float
    input_mp: float
    output_mp: float

    @property
    def word(self) -> str:
        """Blanks are written as ``_`` in a marker."""
        return super().word.replace("_", " ")

    @property
    def size_bytes(self) -> int:
        """Its input images, which live in the recipe."""
        return self.recipe.size_bytes

    def is_gone(self, now: float) -> bool:
        """Also unknown in its first seconds, with ``unseen``."""
        unseen = self.fate.get("unseen")
        return super().is_gone(now) or (unseen is not None and now < self.created_s + unseen.number(1.0))


def describe_fresh(task: Task, poll_url: str) -> dict[str, object]:
    """The answer to the submit: with a webhook it has no poll URL (CONTRACT.md, section 2)."""
    at = (
        {"polling_url": poll_url}
        if task.webhook_url is None
        else {"status": "Pending", "webhook_url": task.webhook_url}
    )
    # A price that depends on the resolution is settled with the result.
    cost = None if task.model.prices else task.cost
    return {"id": task.number, **at, "cost": cost, "input_mp": task.input_mp, "output_mp": task.output_mp}


def not_found(number: str) -> dict[str, object]:
    """What is said of an id that is not known, any more or yet."""
    unknown = dict.fromkeys(("result", "progress", "details", "preview"))
    return {"id": number, "status": "Task not found", **unknown}


def describe(task: Task, now: float, base_url: str) -> tuple[dict[str, object], int]:
    """The result answer and its HTTP status."""
    standing = task.standing(now)
    shown: dict[str, object] = {**not_found(task.number), "status": standing.shown}
    ending = standing.ending
    if ending is None:
        return {**shown, "progress": _progress(standing)}, 200
    if ending == READY:
        return {**shown, "progress": 1.0, "result": _result(task, base_url), "cost": task.cost}, 200
    return {**shown, "details": ending.details}, ending.http


def _progress(standing: Standing[Ending]) -> float:
    fell_back = standing.status == "Pending" and standing.share >= tasks.BACK_FROM
    return 0.0 if fell_back else round(min(0.99, standing.share), 2)


def _result(task: Task, base_url: str) -> dict[str, object]:
    if task.fate.get("empty"):
        return {}
    prompt = without_markers(task.prompt)
    return {
        "sample": _link(task, base_url),
        "prompt": f"{prompt}, in fine detail" if task.is_upsampled else prompt,
        "seed": task.recipe.seed,
        "start_time": task.created_s,
        "end_time": task.done_s,
        "duration": round(task.lasts_s, 3),
    }


def _link(task: Task, base_url: str) -> str:
    """The signed link; ``dead_link`` breaks it."""
    until_s = int(task.done_s + LINK_LIVES_S)
    place = f"/delivery/{task.number}/sample.{task.recipe.file_format}?se={until_s}&sig={signature(task, until_s)}"
    nowhere = base_url + place.replace(task.number, str(uuid.UUID(int=0)))
    return outcomes.link_of(base_url + place, task.fate, host_url=base_url, nowhere=nowhere)


def signature(task: Task, until_s: int) -> str:
    """Binds a link to its task and its end."""
    return hashlib.sha256(f"{task.number} {task.owner} {until_s}".encode()).hexdigest()[:32]


class TaskStore(tasks.TaskStore[Task]):
    """All tasks of the emulator. Calls are atomic."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._active: defaultdict[str, list[Task]] = defaultdict(list)

    def clear(self) -> None:
        """Delete every task."""
        with self.lock:
            super().clear()
            self._active.clear()

    def interrupted(self, _task: Task) -> Ending:
        """The unfinished fail."""
        return Ending("Error", details={"reason": "restart"})

    def has_room(self, owner: str, model: Model) -> bool:
        """Whether the account may have one more task at work, and one more of this model (CONTRACT.md, section 7)."""
        now = self.now()
        with self.lock:
            busy = self._active[owner] = [task for task in self._active[owner] if not task.is_over(now)]
        return len(busy) < ACTIVE_MAX and sum(task.model is model for task in busy) < model.active_max

    def accept(self, order: Order, *, owner: str, host: str, fate: Script) -> Task:
        """A new task. ``host`` is where the caller found us."""
        number, ending, seed = str(uuid.uuid4()), ending_for(fate), order.fields.get("seed")
        recipe = outcomes.altered(recipe_for(order, int(number[:7], 16) if seed is None else seed), fate)
        input_mp = _megapixels(*map(dimensions, order.images))
        output_mp = _megapixels((recipe.width_px, recipe.height_px))
        lasts = {"lasts_s": 0.0} if ending.at_once else {}
        task = self.start(
            Task,
            number=number,
            owner=owner,
            prompt=order.prompt,
            fate=fate,
            ending=ending,
            flips_to=Ending("Error"),
            retention_s=self.state.settings.retention_s,
            model=order.model,
            recipe=recipe,
            is_upsampled=bool(order.fields.get("prompt_upsampling")),
            webhook_url=order.fields.get("webhook_url"),
            host=host,
            cost=order.cost(output_mp=output_mp, input_mp=input_mp),
            input_mp=input_mp,
            output_mp=output_mp,
            **lasts,
        )
        with self.lock:
            self._active[owner].append(task)
        return task


def _megapixels(*sizes_px: tuple[int, int]) -> float:
    return round(sum(width * height for width, height in sizes_px) / MEGAPIXEL, 2)
