"""So many at a time for each key, for example for each account."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class _Turn:
    """The lock of one key, and how many hold it or wait for it."""

    def __init__(self, at_once: int) -> None:
        self.lock = threading.Semaphore(at_once)
        self.users = 0


class Turns:
    """Lets ``at_once`` callers at a time in for each key. Thread-safe and greenlet-safe; keys that no one uses take no
    room."""

    def __init__(self, wait_s: float, at_once: int = 1) -> None:
        self._wait_s = wait_s
        self._at_once = at_once
        self._lock = threading.Lock()
        self._turns: dict[Hashable, _Turn] = {}

    @contextmanager
    def turn(self, key: Hashable) -> Iterator[None]:
        """Wait for the turn of ``key``, at most the given time. Raises TimeoutError."""
        with self._lock:
            turn = self._turns.setdefault(key, _Turn(self._at_once))
            turn.users += 1
        try:
            if not turn.lock.acquire(timeout=self._wait_s):
                raise TimeoutError(f"no turn within {self._wait_s:.0f} s")
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            with self._lock:
                turn.users -= 1
                if not turn.users:
                    del self._turns[key]
