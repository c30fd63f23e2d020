"""The image tasks: what each will come to, by which steps it gets there, and how the API describes it.

Source: providers/upstreams/chatgpt2api/CONTRACT.md, sections 2.4, 3 and 4.
"""

import base64
import hashlib
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from flask import request

from sandbox.bounded import BoundedStore
from sandbox.chat import tokens_in
from sandbox.drawing.bad_files import IMAGE_FAULTS
from sandbox.drawing.images import NotAnImage, Recipe, check, dimensions
from sandbox.drawing.sizes import pixels, pixels_if_asked
from sandbox.emulators.chatgpt2api.errors import DATA, PREFIX, draws_with, unknown_model
from sandbox.emulators.chatgpt2api.requests import ImageOrder
from sandbox.faults import Script
from sandbox.markers import Fault, without_markers
from sandbox.plumbing import outcomes, tasks
from sandbox.plumbing.tasks import ResultFile, Standing, Task
from sandbox.state import State, current_state

ERROR_TEXTS: dict[str, str] = DATA["errors"]
VARIATIONS = 16


@dataclass(frozen=True)
class Ending(tasks.Ending):
    """Some errors keep their conversation, with which the task can be resumed."""

    conversation_id: str = ""


@dataclass(kw_only=True)
class ImageTask(Task[Ending]):
    """One accepted submit. ``accepted_s`` is when; a resumed task begins again later."""

    # Its thread starts before the answer goes, so only the fault `backwards` ever shows the first word.
    stages: ClassVar[tuple[tuple[float, str], ...]] = ((0.0, "queued"), (0.0, "running"))
    order: ImageOrder
    recipe: Recipe
    link: str
    accepted_s: float
    resumed: bool = False
    progress_lost: bool = False

    @property
    def size_bytes(self) -> int:
        """Memory it holds on to, roughly."""
        return self.recipe.size_bytes

    def progress(self, at: Standing[Ending]) -> tuple[str, float | None]:
        """The step it is at, and when the latest wait for the image began, if one did."""
        if self.progress_lost or not draws_with(self.order.model):  # it is refused before the first step
            return "", None
        if self.resumed or at.ending is not None:
            return "generating" if self.resumed or self.ending.status == "error" else "receiving_image", None
        if at.status == "queued":
            return "", self.created_s
        scripted = self.fate.get("steps")
        passes = max(1, int(scripted.number(1))) if scripted else 1
        steps = [step for step in DATA["steps"] if step != "uploading" or self.order.mode == "edit"] * passes
        place = min(int(at.share * len(steps)), len(steps) - 1)
        resolving = next((n for n in range(place, -1, -1) if steps[n] == "image_stream_resolve_start"), None)
        if resolving is None:
            return steps[place], None
        return steps[place], self.created_s + resolving / len(steps) * self.lasts_s


class ImageTaskStore(tasks.TaskStore[ImageTask]):
    """All tasks and result files. A task belongs to the key that submitted it, which chose its id."""

    def __init__(self, state: State) -> None:
        super().__init__(state, bytes_max=2 * tasks.BYTES_MAX)
        self._asked: BoundedStore[tuple[str, str], list[int]] = BoundedStore(items_max=50_000)

    def key_of(self, owner: str, number: str) -> Hashable:
        """Ids are the owners' own."""
        return owner, number

    def interrupted(self, task: ImageTask) -> Ending:
        """The server's words after a restart."""
        del task
        return Ending("error", ERROR_TEXTS["restart"])

    def dropped(self, task: ImageTask) -> None:
        """The file goes with its task."""
        self.files.discard(task.link.partition("/images/")[2])

    def clear(self) -> None:
        """Delete it all."""
        super().clear()
        self._asked.clear()

    def restart(self) -> int:
        """The unfinished fail; progress and conversations are lost."""
        broken = super().restart()
        for task in self.tasks.values():
            task.progress_lost = True
            task.ending = replace(task.ending, conversation_id="")
        return broken

    def accept(self, order: ImageOrder, owner: str, fate: Script, *, poor: bool) -> ImageTask:
        """A new task; ``poor``: no account of the pool has quota left."""
        self.tasks.items_max = self.files.items_max = max(1, self.state.settings.tasks_max)
        recipe, readable = self.recipe(order, owner, fate)
        now, lasts_s = self.now(), self.latency_s(fate, order.prompt)
        ending = ending_for(fate, order, poor=poor, readable=readable)
        if ending.error == ERROR_TEXTS["restart"]:
            lasts_s /= 2
        return self.start(
            ImageTask,
            number=order.task_id,
            owner=owner,
            prompt=order.prompt,
            fate=fate,
            ending=ending,
            created_s=now,
            lasts_s=lasts_s,
            retention_s=self.state.settings.retention_s,
            flips_to=Ending("error", ERROR_TEXTS["connection"]),
            order=replace(order, images=(), mask=None),  # they live in the recipe
            recipe=recipe,
            link=self.publish(recipe, fate, salt=f"{owner}/{order.task_id}", from_s=now + lasts_s),
            accepted_s=now,
        )

    def recipe(self, order: ImageOrder, owner: str, fate: Script) -> tuple[Recipe, bool]:
        """How the image will be drawn, and whether the inputs decode.

        The n-th submit of a prompt by one owner is variation n, for the upstream has no seed.
        """
        seen, _ = self._asked.add((owner, order.prompt), lambda: [-1])
        seen[0] += 1
        images, mask, size_px, readable = order.images, order.mask, pixels(order.size), True
        try:
            for blob in (*images, *([mask] if mask else [])):
                check(blob)
            if images:
                size_px = pixels_if_asked(order.size) or dimensions(images[0])
        except NotAnImage:
            images, mask, readable = (), None, False
        recipe = Recipe(order.prompt, order.model, *size_px, seed=seen[0] % VARIATIONS, inputs=images, mask=mask)
        return outcomes.altered(recipe, fate), readable

    def publish(self, recipe: Recipe, fate: Script, *, salt: str, from_s: float) -> str:
        """Lay a file out under ``/images/``, drawn when someone fetches it.

        Returns its link, built from the Host of the current request whatever name the caller used for us.
        """
        digest = hashlib.md5(f"{recipe.fingerprint}{salt}".encode(), usedforsecurity=False).hexdigest()
        path = time.strftime(f"%Y/%m/%d/{int(from_s)}_{digest}.png", time.localtime(from_s))
        until_s = from_s + self.state.settings.retention_s
        fault = fate.get(*IMAGE_FAULTS)
        self.files.put(path, ResultFile(recipe, fault=fault, from_s=from_s, until_s=until_s))
        base_url = f"{request.scheme}://{request.host}{PREFIX}"
        link = f"{base_url}/images/{path}"
        return outcomes.link_of(link, fate, host_url=base_url, nowhere=link.replace(digest, "0" * 32))

    def resume(self, task: ImageTask, seconds: float) -> ImageTask:
        """Run again for a while, to the end that the release in question comes to: by default an error."""
        timeout = task.fate.get("timeout")
        works = timeout is not None and timeout.options.get("resume") == "success"
        course: dict[str, Any] = {
            "created_s": self.now(),
            "lasts_s": min(task.lasts_s, seconds),
            "ending": Ending("success") if works else replace(task.ending, error=ERROR_TEXTS["resume"]),
            "fate": Script(),
            "resumed": True,
        }
        return self.put(replace(task, **course))


def ending_for(fate: Script, order: ImageOrder, *, poor: bool, readable: bool) -> Ending:
    """What the faults of an accepted task make of it."""
    if poor or fate.get("quota"):
        return Ending("error", ERROR_TEXTS["quota"])
    if not draws_with(order.model):
        return Ending("error", unknown_model())
    if not readable:
        return Ending("error", ERROR_TEXTS["unreadable"])
    fault = fate.get("fail", "restart", "timeout")
    return Ending("success") if fault is None else _scripted_error(fault)


def _scripted_error(fault: Fault) -> Ending:
    conversation_id = "conv-5a5dbb0e" if fault.options.get("conversation") == "1" else ""
    if fault.name in ("restart", "timeout"):
        return Ending("error", ERROR_TEXTS[fault.name], conversation_id)
    return Ending("error", ERROR_TEXTS.get(fault.value, fault.value.replace("_", " ")))


def describe(task: ImageTask, now: float) -> dict[str, object]:
    """The task object of the API."""
    at = task.standing(now)
    progress, waiting_since_s = task.progress(at)
    shown: dict[str, object] = {
        "id": task.number,
        "status": at.shown,
        "mode": task.order.mode,
        "model": task.order.model,
        "size": task.order.size,
        "quality": task.order.quality,
        "created_at": _local_time(task.accepted_s),
        "updated_at": _local_time(at.since_s),
    }
    if at.ending is not None and at.ending.conversation_id:
        shown["conversation_id"] = at.ending.conversation_id
    if at.is_over or task.resumed:
        shown["data"] = _data(task) if at.status == "success" else []
    if at.status == "success":
        shown["usage"] = usage(task.prompt, task.recipe, images=1)
    if at.ending is not None and at.ending.error:
        shown["error"] = at.ending.error
    shown |= {"progress": progress} if progress else {}
    if at.is_over:
        shown["duration_ms"] = int((at.since_s - task.accepted_s) * 1000)
    elif waiting_since_s is not None:
        shown["elapsed_secs"] = round(max(0.0, now - waiting_since_s), 1)
    return shown


def describe_new(task: ImageTask) -> dict[str, object]:
    """The answer to the submit that made the task: running without a step, however short the work."""
    shown = describe(task, task.created_s - 1.0) | {"status": task.word or "running"}
    shown.pop("elapsed_secs", None)
    return shown


def _data(task: ImageTask) -> list[dict[str, str]]:
    if task.fate.get("empty"):
        return []
    item = {"url": task.link, "revised_prompt": without_markers(task.prompt)}
    if task.resumed:
        item["b64_json"] = base64.b64encode(current_state().draw(task.recipe)).decode()
    return [item]


def usage(prompt: str, recipe: Recipe, *, images: int) -> Mapping[str, object]:
    """The server's own estimate, of no meaning for any bill."""
    text, drawn, seen = tokens_in(prompt), 1056 * images, 300 * len(recipe.inputs)
    return {
        "input_tokens": text + seen,
        "output_tokens": drawn,
        "total_tokens": text + seen + drawn,
        "input_tokens_details": token_details(text=text, image=seen, cached=True),
        "output_tokens_details": token_details(image=drawn),
    }


def token_details(*, text: int = 0, image: int = 0, cached: bool = False) -> dict[str, int]:
    """Tokens by their kind: those read (``cached``) or those written."""
    return {"text_tokens": text, "image_tokens": image, "cached_tokens" if cached else "reasoning_tokens": 0}


def _local_time(moment_s: float) -> str:
    """The server's local time without a zone, as the real one writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_s))
