"""Questions asked at the same time share one query.

The first asker leads: it waits until the query before has returned, and whoever asks in the
meantime joins its batch. Nobody joins once the query has begun, so every answer is as fresh as if
it had been asked for alone; a single caller waits for nobody. Under load the fixed price of a query
(driver, pool, round trip) is paid once for many status reads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 200


class _Batch(Generic[K, V]):
    def __init__(self) -> None:
        self.keys: list[K] = []
        self.found: Mapping[K, V] | None = None
        self.fault: Exception | None = None
        # The leader's until the answer is there; who joined passes it on. An Event asks a lock that is held whether
        # it is free, which under gevent is a turn of the hub for each who waits.
        self.done = threading.Lock()
        self.done.acquire()


class Together(Generic[K, V]):
    """``look`` answers many keys by one query and leaves out what is not there."""

    def __init__(self, look: Callable[[Sequence[K]], Mapping[K, V]]) -> None:
        self._look = look
        self._turn = threading.Lock()  # held while a query is under way
        self._lock = threading.Lock()
        self._open: _Batch[K, V] | None = None

    def ask(self, key: K) -> V | None:
        """The answer for one key, None when there is none. Raises what ``look`` raises."""
        while True:
            batch, leads = self._join(key)
            if leads:
                self._answer(batch)
            else:
                with batch.done:
                    pass
            if batch.fault is not None:
                raise batch.fault
            if batch.found is not None:
                return batch.found.get(key)
            # The leader was killed before the answer came: ask anew.

    def _join(self, key: K) -> tuple[_Batch[K, V], bool]:
        with self._lock:
            leads = self._open is None or len(self._open.keys) >= MOST
            if leads:
                self._open = _Batch()
            batch = self._open
            assert batch is not None  # noqa: S101 (made above)
            batch.keys.append(key)
            return batch, leads

    def _answer(self, batch: _Batch[K, V]) -> None:
        try:
            with self._turn:
                time.sleep(0)  # a turn for everybody whose request has already arrived: they join
                self._close(batch)
                batch.found = self._look(batch.keys)
        except Exception as fault:  # noqa: BLE001 (``ask`` raises it, here and to all who joined)
            batch.fault = fault
        finally:
            self._close(batch)
            batch.done.release()

    def _close(self, batch: _Batch[K, V]) -> None:
        with self._lock:
            if self._open is batch:
                self._open = None
