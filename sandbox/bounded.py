"""A dictionary that deletes its oldest entries, so that a long benchmark cannot use up the machine's memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedStore(Generic[K, V]):
    """Keeps at most ``items_max`` values and, where ``size_of`` measures them, about ``size_max`` in all.

    Oldest means put in first. Calls are atomic, under threads as under greenlets.
    """

    def __init__(
        self,
        *,
        items_max: int,
        size_max: int | None = None,
        size_of: Callable[[V], int] | None = None,
        on_drop: Callable[[K, V], None] | None = None,
    ) -> None:
        self.items_max = items_max
        self._size_max = size_max
        self._size_of = size_of or (lambda _value: 0)
        self._on_drop = on_drop
        self._values: OrderedDict[K, V] = OrderedDict()
        self._size = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value, or None."""
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Store ``value``, replacing what was there."""
        with self._lock:
            self.discard(key)
            self._values[key] = value
            self._size += self._size_of(value)
            self._shrink()

    def add(self, key: K, make: Callable[[], V]) -> tuple[V, bool]:
        """The stored value and False, or what ``make`` returns and True."""
        with self._lock:
            known = self._values.get(key)
            if known is not None:
                return known, False
            value = make()
            self.put(key, value)
            return value, True

    def discard(self, key: K) -> None:
        """Delete one entry, if it is there."""
        with self._lock:
            value = self._values.pop(key, None)
            if value is not None:
                self._size -= self._size_of(value)

    def values(self) -> list[V]:
        """All values, oldest first."""
        with self._lock:
            return list(self._values.values())

    def clear(self) -> None:
        """Delete everything."""
        with self._lock:
            self._values.clear()
            self._size = 0

    def _shrink(self) -> None:
        while len(self._values) > self.items_max or (
            self._size_max is not None and self._size > self._size_max and len(self._values) > 1
        ):
            key, value = self._values.popitem(last=False)
            self._size -= self._size_of(value)
            if self._on_drop:
                self._on_drop(key, value)
