"""Small task rows for Flower, which keeps one for each of the last 20,000 jobs.

Celery's row stores every field of every event with its own copy of each text and key, and a reference cycle that only
the garbage collector frees: 7.3 kB each, 222 MB for 20,000 rows (``bench/flower_memory.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any
from weakref import WeakSet

from celery.events import state

# Fields whose values are nearly the same in every row and are shared.
_SHARED = frozenset({"name", "kwargs", "exception", "traceback", "result"})
_FIELDS = {sys.intern(name): name for name in state.Task._fields}


class Row(state.Task):  # type: ignore[misc]
    """A task as Flower shows it, with the interface of Celery's row."""

    def __init__(self, uuid: str | None = None, cluster_state: Any = None, children: Any = None, **kwargs: Any) -> None:
        del children  # a job's task has no children, and Flower saves no state
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
        """Return the fields that a row shows, without empty ones."""
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
    """Use these rows in this process. Called in Flower's process before its first row."""
    from flower.events import EventsState

    EventsState.Task = Row
