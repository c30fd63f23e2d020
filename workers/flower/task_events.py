"""Telling Flower how jobs end: Celery's own task events, for ends that no Celery task stands for.

The Celery id of ``jobs.run`` is the job's, and its row in Flower tells the job's life. Most jobs end
elsewhere: in a poll, a sweep, a cancel. The step that ends one hands in an ``Ended``; one thread a process
sends them in batches, as Celery's own workers do, so that no step waits for the broker.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from kombu import Connection

from jobs.states import Ended, EndStatus
from workers.broker.options import hang_up
from workers.celery_app import app

log = structlog.get_logger(__name__)

RUN = "jobs.run"

BATCH = 24
WAIT_S = 0.2
AGAIN_AFTER_S = 5.0
# What waits for a broker that is away; Flower forgets sooner (--max_tasks).
MOST_WAITING = 10_000
ENDS_REMEMBERED = 20_000
LAST_WORDS_S = 1.0

_TYPES: dict[EndStatus, str] = {
    "succeeded": "task-succeeded",
    "failed": "task-failed",
    "retried": "task-retried",
    "cancelled": "task-revoked",
}


@dataclass(frozen=True, slots=True)
class _Told:
    ended: Ended
    node: str
    at: float  # of time.time(): what Flower shows, however long the broker was away


class TaskEvents:
    """Sends what it is told, soon and in batches; never raises, never waits. One per process.

    ``node``: the name of this process's worker. Without one (the web) an end is told in the name of the
    worker that ran the job, for our own would show as a worker that does not exist; and not at all for a
    job that none has run. ``dropped`` counts what was never sent because the broker was away too long.
    """

    def __init__(self, connect: Callable[[], Connection], *, node: str | None, enabled: bool = True) -> None:
        self._connect, self._node, self._enabled = connect, node, enabled
        self._waiting: deque[_Told] = deque()
        self._ends: OrderedDict[str, None] = OrderedDict()  # jobs whose end is told; the oldest are forgotten
        self._changed = threading.Condition()
        self._urgent = False
        self._sending = False
        self._thread: threading.Thread | None = None
        self._dispatcher: Any = None
        self.dropped = 0

    def tell(self, ends: Sequence[Ended]) -> None:
        """Send soon. After a job's end nothing more is told of it: a late retry would undo the end."""
        if not ends or not self._enabled:
            return
        now = time.time()
        with self._changed:
            for ended in ends:
                node = self._node or ended.node
                if node and self._is_news(ended):
                    self._put(_Told(ended, node, now))
            if self._waiting:
                self._ensure_thread()
                self._changed.notify_all()

    def told_by_celery(self, job_id: str) -> None:
        """Celery's own event says how this job ended."""
        with self._changed:
            self._remember(job_id)

    def has_ended(self, job_id: str) -> bool:
        """Whether this process has told the job's end."""
        return job_id in self._ends

    def close(self) -> None:
        """Send what waits, within a second."""
        until = time.monotonic() + LAST_WORDS_S
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            while (self._waiting or self._sending) and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _is_news(self, ended: Ended) -> bool:
        if ended.job_id in self._ends:
            return False
        if ended.status == "retried":
            self._urgent = True  # its next start is told at once, and must be told after it
        else:
            self._remember(ended.job_id)
        return True

    def _remember(self, job_id: str) -> None:
        self._ends[job_id] = None
        self._ends.move_to_end(job_id)
        while len(self._ends) > ENDS_REMEMBERED:
            self._ends.popitem(last=False)

    def _put(self, told: _Told) -> None:
        self._waiting.append(told)
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1

    def _ensure_thread(self) -> None:
        """Started with the first event, so that a process that forks first has one of its own."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="task-events", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            sent = self._sent(batch)
            with self._changed:
                self._sending = False
                if not sent:
                    self._put_back(batch)
                self._changed.notify_all()
            if not sent:
                time.sleep(AGAIN_AFTER_S)

    def _next_batch(self) -> list[_Told]:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            until = time.monotonic() + WAIT_S
            while len(self._waiting) < BATCH and not self._urgent and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._urgent = self._urgent and bool(self._waiting)
            self._sending = True
            return batch

    def _put_back(self, batch: Sequence[_Told]) -> None:
        """To the head of the line, as far as there is room: the oldest go first."""
        room = MOST_WAITING - len(self._waiting)
        kept = batch[len(batch) - min(room, len(batch)) :]
        self.dropped += len(batch) - len(kept)
        self._waiting.extendleft(reversed(kept))

    def _sent(self, batch: Sequence[_Told]) -> bool:
        try:
            self._send(batch)
        except Exception as error:  # noqa: BLE001 - of each kind of broker its own; whatever it was, Flower waits
            log.warning(
                "task_events_wait", error=type(error).__name__, waiting=len(self._waiting), dropped=self.dropped
            )
            self._hang_up()
            return False
        return True

    def _send(self, batch: Sequence[_Told]) -> None:
        """One message for all, by Celery's own dispatcher; it adds host name, clock and process id."""
        if self._dispatcher is None:
            self._dispatcher = app.events.Dispatcher(
                self._connect(),
                enabled=True,
                buffer_while_offline=False,
                buffer_group={"task"},
                buffer_limit=BATCH + 1,  # we flush
            )
        for told in batch:
            if told.ended.status == "retried" and self.has_ended(told.ended.job_id):
                continue  # Celery was quicker with the end
            self._dispatcher.hostname = told.node
            self._dispatcher.send(_TYPES[told.ended.status], timestamp=told.at, **fields(told.ended))
        self._dispatcher.flush(errors=False)

    def _hang_up(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            hang_up(dispatcher.connection)


def fields(ended: Ended) -> dict[str, Any]:
    """What a Celery worker would say of this end. Name and arguments too: Flower may have forgotten them."""
    known: dict[str, Any] = {"uuid": ended.job_id, "name": RUN, "args": f"('{ended.job_id}',)", "kwargs": "{}"}
    if ended.runtime_s is not None:
        known["runtime"] = ended.runtime_s
    match ended.status:
        case "succeeded":
            known["result"] = "None"
        case "failed" | "retried":
            known |= {"exception": ended.code or "", "traceback": ""}
        case "cancelled":
            known |= {"terminated": False, "signum": None, "expired": False}
    return known
