"""Questions asked at the same time share one query.

The first caller leads: it waits until the previous query has returned, and callers that arrive in the meantime join
its batch. No one joins once the query has begun, so every answer is as fresh as that of a query of its own, and a
single caller waits for no one. Under load the fixed cost of a query (driver, pool, round trip) is paid once for many
status reads.
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
        # Held by the leader until the answer is there; each caller that joined takes and releases it in turn. An Event
        # would ask a held lock whether it is free, which under gevent costs a turn of the hub for each waiting caller.
        self.done = threading.Lock()
        self.done.acquire()


class Coalescing(Generic[K, V]):
    """Batches concurrent questions; ``look`` answers many keys by one query and leaves out those it does not find."""

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
            # The leader was killed before the answer came: ask again.

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
                time.sleep(0)  # lets every request that has already arrived join
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
