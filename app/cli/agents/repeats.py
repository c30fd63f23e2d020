"""The Idempotency-Key of an order whose agent named none.

It is made of who orders, what is ordered, and the how-manieth such order it is among those that this process has
answered. So a call that is repeated because its answer never arrived (the agent crashed, or this process was killed)
finds the job of the first, while the same call after an answer is another job.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Past these many different orders the oldest are forgotten: to repeat one of them then joins its first job.
KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Turn:
    """One order of several equal ones; ``key`` is what it is sent under."""

    order: str
    number: int

    @property
    def key(self) -> str:
        return f"mcp-{self.order}-{self.number}"


@dataclass(slots=True)
class Repeats:
    """Which of equal orders were answered. For one event loop; no method waits."""

    _taken: OrderedDict[str, set[int]] = field(default_factory=OrderedDict)
    _by_task: OrderedDict[str, Turn] = field(default_factory=OrderedDict)

    def take(self, who: str, operation: str, order: Mapping[str, Any]) -> Turn:
        """The first turn of this order that is neither answered nor on its way."""
        told = json.dumps([who, operation, order], sort_keys=True, ensure_ascii=True).encode()
        name = hashlib.sha256(told).hexdigest()[:40]
        taken = self._taken.setdefault(name, set())
        self._taken.move_to_end(name)
        if len(self._taken) > KEPT:
            self._taken.popitem(last=False)
        number = next(each for each in range(len(taken) + 1) if each not in taken)
        taken.add(number)
        return Turn(name, number)

    def give_back(self, turn: Turn, task_id: str | None = None) -> None:
        """The answer was not given: the next equal order joins this one's job, until its end is told."""
        self._taken.get(turn.order, set()).discard(turn.number)
        if task_id is not None:
            self._by_task[task_id] = turn
            if len(self._by_task) > KEPT:
                self._by_task.popitem(last=False)

    def told(self, task_id: str) -> None:
        """The end of a job was told by another call: an equal order is a new one from now on."""
        turn = self._by_task.pop(task_id, None)
        if turn is not None:
            self._taken.setdefault(turn.order, set()).add(turn.number)
