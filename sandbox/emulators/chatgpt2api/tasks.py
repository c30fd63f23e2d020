"""The twin's tasks: what each will come to is settled when it is accepted, what it is now follows the clock.

No thread works on a task. Fifty thousand in flight cost their memory and nothing else.
"""

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sandbox.bounded import BoundedStore
from sandbox.chat import tokens_in
from sandbox.drawing.bad_files import IMAGE_FAULTS
from sandbox.drawing.images import NotAnImage, Recipe, check, dimensions
from sandbox.drawing.sizes import pixels, pixels_if_asked
from sandbox.emulators.chatgpt2api.requests import Wish
from sandbox.faults import Script
from sandbox.markers import Fault, without_markers
from sandbox.state import State

IMAGE_MODELS = (
    "gpt-image-2",
    "codex-gpt-image-2",
    "plus-codex-gpt-image-2",
    "team-codex-gpt-image-2",
    "pro-codex-gpt-image-2",
    "gpt-image-2.5",
)
STEPS = (
    "getting_account",
    "uploading",
    "bootstrapping",
    "getting_token",
    "preparing_conversation",
    "starting_generation",
    "generating",
    "image_stream_resolve_start",
    "receiving_image",
)
# The share of a task's time that it waits for its thread to start.
QUEUED_SHARE = 0.05
FILES_BYTES_MAX = 256 * 2**20
VARIATIONS = 16

RESTARTED = "服务已重启，未完成的图片任务已中断"
TIMED_OUT = "ChatGPT 生图超时（已等待 120 秒），可能是账号被限流或上游繁忙，请稍后重试"
NO_QUOTA = "no available image quota (tried 3 tokens)"
RESUME_BROKEN = "OpenAIBackendAPI.__init__() got an unexpected keyword argument"
ERROR_TEXTS = {
    "": "image generation failed",
    "policy": "this request was rejected by upstream policy",
    "moderation": "无法生成该图片：内容政策限制",
    "text": "I can help with that. Which of the two people should be on the left?",
    "quota": NO_QUOTA,
    "pool": "号池中没有可用账号或所有账号均被限流，请检查号池状态",
    "plus": "no available plus image quota",
    "none": "no image result found",
    "connection": "upstream image connection failed",
    "model": "unsupported image model: gpt-image-9",
    "429": '/backend-api/conversation failed: status=429, body={"detail":"Too many requests"}',
    "500": "/backend-api/conversation failed: status=502, body=<html>bad gateway</html>",
    "401": '/backend-api/me failed: status=401, body={"detail":"token expired"}',
    "403": "/backend-api/conversation failed: status=403, body=<html>Just a moment...</html>",
}


@dataclass(frozen=True)
class Ending:
    """What a task comes to: success, error, empty, never, backwards (a spell of queued again) or flip."""

    kind: str = "success"
    error: str = ""
    conversation_id: str = ""


@dataclass(frozen=True)
class Served:
    """A file under ``/images/``: available from a moment on, spoilt where a picture fault says so."""

    recipe: Recipe
    fault: Fault | None
    from_s: float


@dataclass
class Task:
    """One accepted submit. Moments are seconds since 1970, on the sandbox's clock."""

    number: str
    owner: str
    mode: str
    wish: Wish
    recipe: Recipe
    ending: Ending
    created_s: float
    lasts_s: float
    link: str
    passes: int = 1
    gone_after_s: float | None = None
    resume: str = "broken"
    word: str = ""  # for queued and running, where it is neither
    progress_lost: bool = False
    broken_off_s: float | None = None
    resumed_s: float | None = None

    @property
    def done_s(self) -> float:
        """When it ends, or ended."""
        return self.created_s + self.lasts_s if self.broken_off_s is None else self.broken_off_s


@dataclass(frozen=True)
class Standing:
    """Where a task is at one moment."""

    status: str
    since_s: float
    progress: str = ""
    elapsed_from_s: float | None = None
    error: str = ""


def standing(task: Task, now: float) -> Standing:
    """The task's state at ``now``, computed afresh each time."""
    if task.resumed_s is not None:
        return _resumed(task, task.resumed_s, now)
    if now >= task.done_s and task.ending.kind != "never":
        return _ended(task, now)
    share = (now - task.created_s) / task.lasts_s if task.lasts_s > 0 else 0.0
    if share < QUEUED_SHARE or (task.ending.kind == "backwards" and 0.6 < share < 0.8):
        return Standing("queued", task.created_s, elapsed_from_s=task.created_s)
    return _running(task, min(share, 0.999))


def _running(task: Task, share: float) -> Standing:
    steps = [step for step in STEPS if step != "uploading" or task.mode == "edit"] * task.passes
    worked = (share - QUEUED_SHARE) / (1 - QUEUED_SHARE)
    place = min(int(worked * len(steps)), len(steps) - 1)

    def begun_s(number: int) -> float:
        return task.created_s + task.lasts_s * (QUEUED_SHARE + (1 - QUEUED_SHARE) * number / len(steps))

    resolve = next((n for n in range(place, -1, -1) if steps[n] == "image_stream_resolve_start"), None)
    return Standing("running", begun_s(place), steps[place], None if resolve is None else begun_s(resolve))


def _ended(task: Task, now: float) -> Standing:
    progress = "" if task.progress_lost else "receiving_image"
    if task.ending.kind == "flip" and now >= task.done_s + 1:
        return Standing("error", task.done_s + 1, progress, error=ERROR_TEXTS["connection"])
    if task.ending.kind == "error":
        return Standing("error", task.done_s, "" if task.progress_lost else "generating", error=task.ending.error)
    return Standing("success", task.done_s, progress)


def _resumed(task: Task, resumed_s: float, now: float) -> Standing:
    """After resume-poll: running again for a while, then what the release in question makes of it."""
    until_s = resumed_s + task.lasts_s
    if now < until_s:
        return Standing("running", resumed_s, "generating")
    if task.resume == "success":
        return Standing("success", until_s, "generating")
    return Standing("error", until_s, "generating", error=RESUME_BROKEN)


def ending_for(script: Script, wish: Wish, *, no_quota: bool, readable: bool) -> Ending:
    """What the faults of an accepted task make of it."""
    if no_quota or script.get("quota"):
        return Ending("error", NO_QUOTA)
    if wish.model not in IMAGE_MODELS:
        return Ending("error", f"unsupported image model: {wish.model}")
    if not readable:
        return Ending("error", "/backend-api/files/process_upload_stream failed: status=415, body=unsupported media")
    if fault := script.get("fail", "restart", "timeout"):
        return _scripted_error(fault)
    plain = script.get("empty", "never", "backwards", "flip")
    return Ending(plain.name) if plain else Ending()


def _scripted_error(fault: Fault) -> Ending:
    if fault.name == "restart":
        return Ending("error", RESTARTED)
    if fault.name == "timeout":
        kept = fault.options.get("conversation") == "1"
        return Ending("error", TIMED_OUT, "conv-5a5dbb0e" if kept else "")
    return Ending("error", ERROR_TEXTS.get(fault.value, fault.value.replace("_", " ")))


class TaskStore:
    """All tasks and result files of the twin."""

    def __init__(self, sandbox_state: State) -> None:
        self._sandbox = sandbox_state
        self._tasks: BoundedStore[tuple[str, str], Task] = BoundedStore(
            items_max=sandbox_state.settings.tasks_max,
            size_max=FILES_BYTES_MAX * 2,
            size_of=lambda task: task.recipe.size_bytes,
            on_drop=lambda _key, task: self._files.discard(task.link.partition("/images/")[2]),
        )
        self._files: BoundedStore[str, Served] = BoundedStore(items_max=sandbox_state.settings.tasks_max)
        self._asked: BoundedStore[tuple[str, str], list[int]] = BoundedStore(items_max=50_000)

    def clear(self) -> None:
        """Forget every task and file."""
        for store in (self._tasks, self._files, self._asked):
            store.clear()

    def restart(self) -> int:
        """What a restart does: the unfinished fail, progress and conversations are forgotten."""
        now, broken = self._sandbox.clock.now(), 0
        for task in self._tasks.values():
            if standing(task, now).status in ("queued", "running"):
                task.ending, task.broken_off_s, task.resumed_s = Ending("error", RESTARTED), now, None
                broken += 1
            task.progress_lost = True
            task.ending = replace(task.ending, conversation_id="")
        return broken

    def accept(self, wish: Wish, *, owner: str, base_url: str, make: "Maker") -> tuple[Task, bool]:
        """The stored task and False where (owner, id) is known, whatever the payload; else a new one."""
        self._tasks.items_max = self._files.items_max = max(1, self._sandbox.settings.tasks_max)
        if (known := self._living(owner, wish.task_id)) is not None:
            return known, False
        # Not living, but perhaps still on the shelf: expired, so that its id is free again.
        self._tasks.discard((owner, wish.task_id))
        return self._tasks.add((owner, wish.task_id), lambda: make(self, wish, owner, base_url))

    def variation(self, owner: str, prompt: str) -> int:
        """How often this owner asked for this prompt before: so that two pictures of one prompt differ."""
        seen, _ = self._asked.add((owner, prompt), lambda: [-1])
        seen[0] += 1
        return seen[0] % VARIATIONS

    def publish(self, recipe: Recipe, *, base_url: str, salt: str, from_s: float, fault: Fault | None = None) -> str:
        """Lay a file out under ``/images/`` and say its link. It is drawn when somebody fetches it."""
        digest = hashlib.md5(f"{recipe.fingerprint}{salt}".encode(), usedforsecurity=False).hexdigest()
        place = time.strftime(f"%Y/%m/%d/{int(from_s)}_{digest}.png", time.localtime(from_s))
        self._files.put(place, Served(recipe, fault, from_s))
        return f"{base_url}/images/{place}"

    def file(self, place: str) -> Served | None:
        """A result file by its path below ``/images/``, if it is there yet and still."""
        served, now = self._files.get(place), self._sandbox.clock.now()
        if served is None or now < served.from_s or now > served.from_s + self._sandbox.settings.retention_s:
            return None
        return served

    def find(self, owner: str, numbers: list[str]) -> tuple[list[Task], list[str]]:
        """The owner's tasks of these ids in this order, and the ids that are missing."""
        found = [(number, self._living(owner, number)) for number in numbers]
        return [task for _, task in found if task], [number for number, task in found if task is None]

    def all_of(self, owner: str) -> list[Task]:
        """Every task of an owner, latest first."""
        now = self._sandbox.clock.now()
        mine = [task for task in self._tasks.values() if task.owner == owner and not self._is_gone(task, now)]
        return sorted(mine, key=lambda task: standing(task, now).since_s, reverse=True)

    def _living(self, owner: str, number: str) -> Task | None:
        task = self._tasks.get((owner, number))
        return None if task is None or self._is_gone(task, self._sandbox.clock.now()) else task

    def _is_gone(self, task: Task, now: float) -> bool:
        if task.gone_after_s is not None and now >= task.gone_after_s:
            return True
        finished = standing(task, now).status in ("success", "error")
        return finished and now > task.done_s + self._sandbox.settings.retention_s


Maker = Callable[[TaskStore, Wish, str, str], Task]


def new_task(
    sandbox_state: State, *, mode: str, script: Script, blobs: tuple[bytes, ...], mask: bytes | None, no_quota: bool
) -> Maker:
    """A recipe for the task itself, used only if the id turns out to be new."""

    def make(store: TaskStore, wish: Wish, owner: str, base_url: str) -> Task:
        recipe, readable = recipe_for(wish, blobs, mask, seed=store.variation(owner, wish.prompt))
        recipe = spoilt_recipe(recipe, script)
        now, lasts_s = sandbox_state.clock.now(), sandbox_state.latency_s(script, wish.prompt)
        ending = ending_for(script, wish, no_quota=no_quota, readable=readable)
        if ending.error == RESTARTED:
            lasts_s /= 2
        expire, dead = script.get("expire"), script.get("dead_link")
        salt, fault = f"{owner}/{wish.task_id}", script.get(*IMAGE_FAULTS)
        link = store.publish(recipe, base_url=base_url, salt=salt, from_s=now + lasts_s, fault=fault)
        resume = (script.get("timeout") or Fault("")).options.get("resume", "broken")
        word = script.get("word")
        return Task(
            number=wish.task_id,
            owner=owner,
            mode=mode,
            # The pictures live in the recipe; the request's own parts are not kept.
            wish=replace(wish, sources=(), masks=()),
            recipe=recipe,
            ending=ending,
            created_s=now,
            lasts_s=lasts_s,
            link=broken_link(dead, link, base_url),
            passes=max(1, int(steps.number(1))) if (steps := script.get("steps")) else 1,
            gone_after_s=now + lasts_s + expire.number(0) if expire else None,
            resume=resume,
            word=word.value if word else "",
        )

    return make


def recipe_for(wish: Wish, blobs: tuple[bytes, ...], mask: bytes | None, *, seed: int) -> tuple[Recipe, bool]:
    """How the picture will be drawn, and whether its inputs look like pictures at all."""
    size_px, readable = pixels(wish.size), True
    if blobs:
        try:
            for blob in (*blobs, *((mask,) if mask else ())):
                check(blob)
            size_px = pixels_if_asked(wish.size) or dimensions(blobs[0])
        except NotAnImage:
            blobs, mask, readable = (), None, False
    return Recipe(wish.prompt, wish.model, *size_px, seed=seed, inputs=blobs, mask=mask), readable


def spoilt_recipe(recipe: Recipe, script: Script) -> Recipe:
    """Another size or another format than was asked for, where scripted."""
    if script.get("wrong_size"):
        recipe = replace(recipe, width_px=max(16, recipe.width_px // 2), height_px=max(16, recipe.height_px // 2))
    return replace(recipe, file_format="jpeg") if script.get("wrong_format") else recipe


def broken_link(fault: Fault | None, link: str, base_url: str) -> str:
    """A link to nothing, ``dead_link=relative`` one without a host, ``dead_link=host`` one nobody serves."""
    if fault is None:
        return link
    if fault.value == "relative":
        return link.removeprefix(base_url)
    if fault.value == "host":
        return link.replace(base_url, "http://127.0.0.1:1")
    return f"{link.rpartition('_')[0]}_{'0' * 32}.png"


def describe(task: Task, now: float, picture: Callable[[Recipe], bytes]) -> dict[str, object]:
    """The task object of the API. ``picture`` draws; needed only for what resume-poll brought back."""
    at = standing(task, now)
    is_over = at.status in ("success", "error")
    shown: dict[str, object] = {
        "id": task.number,
        "status": at.status if is_over else task.word or at.status,
        "mode": task.mode,
        "model": task.wish.model,
        "size": task.wish.size,
        "quality": task.wish.quality,
        "created_at": local_time(task.created_s),
        "updated_at": local_time(at.since_s),
    }
    if at.status == "error" and task.ending.conversation_id:
        shown["conversation_id"] = task.ending.conversation_id
    if is_over or task.resumed_s is not None:
        shown["data"] = _data(task, picture) if at.status == "success" else []
    if at.status == "success":
        shown["usage"] = usage(task.wish.prompt, task.recipe, pictures=1)
    shown |= {"error": at.error} if at.error else {}
    shown |= {"progress": at.progress} if at.progress else {}
    if is_over:
        shown["duration_ms"] = int((at.since_s - task.created_s) * 1000)
    elif at.elapsed_from_s is not None:
        shown["elapsed_secs"] = round(now - at.elapsed_from_s, 1)
    return shown


def describe_fresh(task: Task) -> dict[str, object]:
    """The answer to a submit that made the task: always queued, however short the work."""
    return describe(replace(task, lasts_s=task.lasts_s or 1.0), task.created_s, lambda _recipe: b"")


def _data(task: Task, picture: Callable[[Recipe], bytes]) -> list[dict[str, str]]:
    if task.ending.kind == "empty":
        return []
    item = {"url": task.link, "revised_prompt": without_markers(task.wish.prompt)}
    if task.resumed_s is not None:
        item["b64_json"] = base64.b64encode(picture(task.recipe)).decode()
    return [item]


def usage(prompt: str, recipe: Recipe, *, pictures: int) -> dict[str, object]:
    """The server's own estimate, of no meaning for any bill."""
    text, drawn = tokens_in(prompt), 1056 * pictures
    seen = 300 * len(recipe.inputs)
    return {
        "input_tokens": text + seen,
        "output_tokens": drawn,
        "total_tokens": text + seen + drawn,
        "input_tokens_details": {"text_tokens": text, "image_tokens": seen, "cached_tokens": 0},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn, "reasoning_tokens": 0},
    }


def local_time(moment_s: float) -> str:
    """The server's local time without a zone, as the real one writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_s))
