"""Reporting the ends of jobs to Flower: Celery's own task events, for job ends outside their Celery task.

The Celery id of ``jobs.run`` is the job's id, and its row in Flower shows the whole job. Most jobs end elsewhere: in
a poll, a sweep or a cancel. The step that ends a job reports an ``Ended``; one thread per process sends these in
batches, as Celery's workers do, so that no step waits for the broker.
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
# How many events wait for a broker that is away; Flower itself keeps fewer (--max_tasks).
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
class _Event:
    ended: Ended
    node: str
    at: float  # time.time() of the end, which Flower shows even if the broker was away


class TaskEvents:
    """Sends the ends of jobs in batches; never raises and never waits. One per process.

    ``node``: the name of this process's worker. A web process has none and reports an end in the name of the worker
    that ran the job, because Flower would show any other name as a worker; the end of a job that no worker ran is not
    reported. ``dropped`` counts the events lost because the broker was away too long.
    """

    def __init__(self, connect: Callable[[], Connection], *, node: str | None, enabled: bool = True) -> None:
        self._connect, self._node, self._enabled = connect, node, enabled
        self._waiting: deque[_Event] = deque()
        self._ends: OrderedDict[str, None] = OrderedDict()  # jobs whose end was reported; the oldest are dropped
        self._changed = threading.Condition()
        self._urgent = False
        self._sending = False
        self._thread: threading.Thread | None = None
        self._dispatcher: Any = None
        self.dropped = 0

    def report(self, ends: Sequence[Ended]) -> None:
        """Send ends soon. Nothing is reported after a job's end, because a late retry would undo the end."""
        if not ends or not self._enabled:
            return
        now = time.time()
        with self._changed:
            for ended in ends:
                node = self._node or ended.node
                if node and self._is_news(ended):
                    self._put(_Event(ended, node, now))
            if self._waiting:
                self._ensure_thread()
                self._changed.notify_all()

    def reported_by_celery(self, job_id: str) -> None:
        """Note that Celery's own event reports the end of this job."""
        with self._changed:
            self._remember(job_id)

    def has_ended(self, job_id: str) -> bool:
        """Return whether this process has reported the job's end."""
        return job_id in self._ends

    def close(self) -> None:
        """Send the waiting events, for up to a second."""
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
            self._urgent = True  # the job's next start is sent at once and must come after its retry
        else:
            self._remember(ended.job_id)
        return True

    def _remember(self, job_id: str) -> None:
        self._ends[job_id] = None
        self._ends.move_to_end(job_id)
        while len(self._ends) > ENDS_REMEMBERED:
            self._ends.popitem(last=False)

    def _put(self, event: _Event) -> None:
        self._waiting.append(event)
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1

    def _ensure_thread(self) -> None:
        """Start the thread with the first event, so that a process that forks before has its own."""
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

    def _next_batch(self) -> list[_Event]:
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

    def _put_back(self, batch: Sequence[_Event]) -> None:
        """Put events back at the head of the queue, as far as there is room; the oldest are dropped."""
        room = MOST_WAITING - len(self._waiting)
        kept = batch[len(batch) - min(room, len(batch)) :]
        self.dropped += len(batch) - len(kept)
        self._waiting.extendleft(reversed(kept))

    def _sent(self, batch: Sequence[_Event]) -> bool:
        try:
            self._send(batch)
        except Exception as error:  # noqa: BLE001 - each kind of broker has its own errors; Flower can wait
            log.debug("task_events_wait", error=type(error).__name__, waiting=len(self._waiting), dropped=self.dropped)
            self._hang_up()
            return False
        return True

    def _send(self, batch: Sequence[_Event]) -> None:
        """Send all events in one message by Celery's dispatcher, which adds host name, clock and process id."""
        if self._dispatcher is None:
            self._dispatcher = app.events.Dispatcher(
                self._connect(),
                enabled=True,
                buffer_while_offline=False,
                buffer_group={"task"},
                buffer_limit=BATCH + 1,  # we flush
            )
        for event in batch:
            if event.ended.status == "retried" and self.has_ended(event.ended.job_id):
                continue  # Celery has reported the end meanwhile
            self._dispatcher.hostname = event.node
            self._dispatcher.send(_TYPES[event.ended.status], timestamp=event.at, **fields(event.ended))
        self._dispatcher.flush(errors=False)

    def _hang_up(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            hang_up(dispatcher.connection)


def fields(ended: Ended) -> dict[str, Any]:
    """Return the fields of a Celery worker's event for this end, with name and arguments in case Flower lacks them."""
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
