"""Asynchronous tasks: the ending is settled when a task is accepted, its state follows from the clock.

No thread works on a task; fifty thousand in flight cost their memory and nothing else. An emulator derives:

    @dataclass(kw_only=True)
    class Job(Task[Ending]):
        stages = ((0.0, "queued"), (0.3, "generating"))
        order: ImageOrder

    class JobStore(TaskStore[Job]):
        def interrupted(self, task: Job) -> Ending:
            return Ending("failed", "the process ended")

    job = store.start(
        Job, number=..., owner=keys.owner_of(key), prompt=order.prompt, fate=fate, ending=ending_for(fate),
        retention_s=600, order=order,
    )
    standing = job.standing(store.now())        # standing.status, .shown, .since_s, .share, .ending

The faults of an outcome that shape the course are handled here: ``latency``, ``never``, ``backwards``, ``flip`` (where
the emulator gives ``flips_to``), ``word``, ``expire`` (by ``kept_s``). ``fail``, ``timeout``, ``restart`` and the like
choose the ending, in the emulator's words.
"""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from sandbox.bounded import BoundedStore
from sandbox.drawing.images import Recipe
from sandbox.faults import Script
from sandbox.markers import Fault
from sandbox.plumbing import outcomes
from sandbox.state import State, current_state

BYTES_MAX = 256 * 2**20
FLIPS_AFTER_S = 1.0
# A task that falls back is in its first stage again between these shares of its time.
BACK_FROM, BACK_UNTIL = 0.6, 0.8
FOREVER_S = float("inf")


@dataclass(frozen=True)
class Ending:
    """What a task comes to: the upstream's word for that state, and the error it tells. Emulators may derive more."""

    status: str
    error: str = ""


E = TypeVar("E", bound=Ending)
S = TypeVar("S")


@dataclass(frozen=True)
class Standing(Generic[E]):
    """Where a task is at one moment. ``share`` of its time has passed (0 to 1); ``ending`` is None while it works.

    ``shown`` is the status as callers see it: while at work the word of a scripted ``word=``, else ``status``.
    """

    status: str
    shown: str
    since_s: float
    share: float
    ending: E | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.ending is not None


_Step = tuple[float, str, E | None]  # from when, which status, and the ending where it is one


@dataclass(kw_only=True)
class Task(Generic[E]):
    """One accepted submit. Moments are seconds since 1970, on the sandbox's clock; ``kept_s`` counts from the end.

    ``stages`` are (share of the whole time, the upstream's word), the first at share 0. ``never_s`` is how long a task
    lasts that never ends: a finite one ends then as its ending says.
    """

    stages: ClassVar[tuple[tuple[float, str], ...]] = ((0.0, "queued"), (0.05, "running"))
    never_s: ClassVar[float] = FOREVER_S

    number: str
    owner: str
    prompt: str
    fate: Script = field(repr=False)
    ending: E
    created_s: float
    lasts_s: float
    kept_s: float = FOREVER_S
    flips_to: E | None = None
    broken_off: tuple[float, E] | None = None

    @property
    def done_s(self) -> float:
        """When it ends or ended: first reaches any ending, or was broken off; infinite if it never does."""
        planned_s = self.created_s + (self.never_s if self.fate.get("never") else self.lasts_s)
        return planned_s if self.broken_off is None else min(planned_s, self.broken_off[0])

    @property
    def word(self) -> str:
        """The scripted word for a task at work; empty for the usual ones."""
        scripted = self.fate.get("word")
        return scripted.value if scripted else ""

    @property
    def size_bytes(self) -> int:
        """Memory it holds on to, roughly; the store keeps the sum within bounds."""
        return len(self.prompt)

    def standing(self, now: float) -> Standing[E]:
        """Its state at ``now``; before it was created, its first stage."""
        steps = self._steps()
        since_s, status, ending = next((step for step in reversed(steps) if step[0] <= now), steps[0])
        share = (now - self.created_s) / self.lasts_s if self.lasts_s > 0 else 1.0
        shown = status if ending is not None else self.word or status
        return Standing(status, shown, since_s, min(1.0, max(0.0, share)), ending)

    def began_s(self, status: str) -> float | None:
        """When it enters a stage for the first time; None where it is broken off before."""
        return next((at_s for at_s, reached, _ in self._steps() if reached == status), None)

    def is_over(self, now: float) -> bool:
        """Whether it has ended."""
        return now >= self.done_s

    def is_gone(self, now: float) -> bool:
        """Whether it is no longer kept. With ``expire`` a task that never ends goes too, from its usual end on."""
        if self.fate.get("expire") and self.broken_off is None:
            return now >= self.created_s + self.lasts_s + self.kept_s
        return now >= self.done_s + self.kept_s

    def break_off(self, now: float, ending: E) -> bool:
        """End it before its time, as a cancel or a restart does; False where it has ended already."""
        if self.is_over(now):
            return False
        self.broken_off = now, ending
        return True

    def _steps(self) -> list[_Step[E]]:
        """Its states in the order of time, the last one an ending unless it never ends."""
        shares = list(self.stages)
        if self.fate.get("backwards"):
            shares += [(BACK_FROM, self.stages[0][1]), (BACK_UNTIL, self.stages[-1][1])]
        steps: list[_Step[E]] = [(self.created_s + share * self.lasts_s, word, None) for share, word in shares]
        if self.broken_off is not None and self.broken_off[0] <= self.done_s:
            at_s, ending = self.broken_off
            return [*(step for step in steps if step[0] < at_s), (at_s, ending.status, ending)]
        if self.done_s < FOREVER_S:
            steps.append((self.done_s, self.ending.status, self.ending))
            if self.flips_to is not None and self.fate.get("flip"):
                steps.append((self.done_s + FLIPS_AFTER_S, self.flips_to.status, self.flips_to))
        return steps


T = TypeVar("T", bound=Task[Any])


@dataclass(frozen=True)
class ResultFile:
    """A file behind a link: there from a moment on, until another; drawn when it is fetched, spoilt by ``fault``."""

    recipe: Recipe
    prompt: str = ""
    fault: Fault | None = None
    from_s: float = 0.0
    until_s: float = FOREVER_S

    def is_there(self, now: float) -> bool:
        """Whether it can be fetched."""
        return self.from_s <= now < self.until_s


class TaskStore(Generic[T]):
    """The tasks of one emulator and their result files, the oldest deleted first. Calls are atomic."""

    def __init__(self, state: State, *, bytes_max: int = BYTES_MAX) -> None:
        self.state = state
        self.lock = threading.RLock()
        items_max = state.settings.tasks_max
        self.tasks: BoundedStore[Hashable, T] = BoundedStore(
            items_max=items_max,
            size_max=bytes_max,
            size_of=lambda task: task.size_bytes,
            on_drop=lambda _key, task: self.dropped(task),
        )
        self.files: BoundedStore[str, ResultFile] = BoundedStore(
            items_max=items_max, size_max=bytes_max, size_of=lambda file: file.recipe.size_bytes
        )
        self.count = 0

    def interrupted(self, task: T) -> Ending:
        """How an unfinished task ends when the upstream restarts. To be defined by the emulator."""
        raise NotImplementedError

    def key_of(self, owner: str, number: str) -> Hashable:
        """What a task is found by: its number, or with its owner where owners choose their numbers."""
        del owner
        return number

    def dropped(self, task: T) -> None:
        """Called for a task that had to make room."""

    def clear(self) -> None:
        """Delete it all."""
        with self.lock:
            self.tasks.clear()
            self.files.clear()
            self.count = 0

    def restart(self) -> int:
        """Break off what is unfinished; returns how many tasks that were."""
        now = self.now()
        return sum(task.break_off(now, self.interrupted(task)) for task in self.tasks.values())

    def lose_all(self) -> int:
        """Delete every task, as a restart does where work is kept in memory; returns how many had not ended."""
        lost = len(self.unfinished())
        self.tasks.clear()
        return lost

    def now(self) -> float:
        """Seconds since 1970, on the sandbox's clock."""
        return self.state.clock.now()

    def latency_s(self, fate: Script, prompt: str) -> float:
        """How long this work takes."""
        return self.state.latency_s(fate, prompt)

    def next_count(self) -> int:
        """1, 2, 3 ... since the last reset: for numbers and seeds that differ from task to task."""
        with self.lock:
            self.count += 1
            return self.count

    def put(self, task: T) -> T:
        """Keep a new task."""
        self.tasks.put(self.key_of(task.owner, task.number), task)
        return task

    def start(
        self, kind: Callable[..., T], *, prompt: str, fate: Script, retention_s: float = FOREVER_S, **facts: Any
    ) -> T:
        """Keep a new task of ``kind``, of no owner where ``facts`` name none, and return it.

        It is created now, lasts as long as its work takes, and is kept for ``retention_s`` unless ``fate`` says
        otherwise; ``facts`` are its other fields, and may set these three themselves.
        """
        course = {
            "owner": "",
            "created_s": self.now(),
            "lasts_s": self.latency_s(fate, prompt),
            "kept_s": outcomes.kept_s(retention_s, fate),
        }
        return self.put(kind(prompt=prompt, fate=fate, **(course | facts)))

    def add(self, owner: str, number: str, make: Callable[[], T]) -> tuple[T, bool]:
        """The living task of this number and False, else what ``make`` returns and True."""
        with self.lock:
            if (living := self.find(owner, number)) is not None:
                return living, False
            return self.put(make()), True

    def find(self, owner: str, number: str) -> T | None:
        """The owner's task, as long as it is kept."""
        task = self.tasks.get(self.key_of(owner, number))
        return task if task is not None and task.owner == owner and not task.is_gone(self.now()) else None

    def find_any(self, number: str) -> T | None:
        """The task of any owner, as long as it is kept: for what is looked at without a key."""
        task = self.tasks.get(number)
        return task if task is not None and not task.is_gone(self.now()) else None

    def all_of(self, owner: str) -> list[T]:
        """Every task of an owner that is still kept, the latest first."""
        now = self.now()
        return [task for task in reversed(self.tasks.values()) if task.owner == owner and not task.is_gone(now)]

    def unfinished(self) -> list[T]:
        """Every task that has not ended, the oldest first."""
        now = self.now()
        return [task for task in self.tasks.values() if not task.is_over(now)]

    def file(self, path: str) -> ResultFile | None:
        """A result file by its path, while it is there."""
        found = self.files.get(path)
        return found if found is not None and found.is_there(self.now()) else None


def store_of(name: str, kind: type[S]) -> Callable[[], S]:
    """A function that returns the store of the emulator ``name`` in the sandbox that serves the current request."""
    return lambda: current_state().store(name, kind)
