"""Flower's rows, small: it keeps one for each of the last 20,000 jobs.

Celery's row holds all that any event said, each text and key as a copy of its own, and a cycle of objects
that only the garbage collector frees: 7.3 kB, and 222 MB for a Flower of 20,000 (``bench/flower_memory.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any
from weakref import WeakSet

from celery.events import state

# The same in every row, or nearly so: one copy serves all.
_SHARED = frozenset({"name", "kwargs", "exception", "traceback", "result"})
_FIELDS = {sys.intern(name): name for name in state.Task._fields}


class Row(state.Task):  # type: ignore[misc]
    """A task as Flower shows it; says what Celery's says."""

    def __init__(self, uuid: str | None = None, cluster_state: Any = None, children: Any = None, **kwargs: Any) -> None:
        del children  # a job's task has none, and Flower saves no state
        self.uuid = uuid
        self.cluster_state = cluster_state
        self.__dict__.update(kwargs)

    @cached_property
    def children(self) -> WeakSet[Any]:
        return WeakSet()

    @property
    def _serializer_handlers(self) -> dict[str, Callable[[Any], Any]]:
        return {
            "children": self._serializable_children,
            "root": self._serializable_root,
            "parent": self._serializable_parent,
        }

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().event(type_, timestamp, local_received, self._lean(fields or {}))

    def _lean(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that a row shows, without those that say nothing."""
        lean = {_FIELDS[name]: _shared(name, value) for name, value in fields.items() if name in _FIELDS}
        for name in [name for name, value in lean.items() if value is None]:
            del lean[name]
        for name in ("uuid", "root_id"):
            if lean.get(name) == self.uuid:
                lean[name] = self.uuid
        return lean


def _shared(name: str, value: Any) -> Any:
    return sys.intern(value) if name in _SHARED and isinstance(value, str) and len(value) < 100 else value


def install() -> None:
    """For the process that is Flower, before it keeps its first row."""
    from flower.events import EventsState

    EventsState.Task = Row
