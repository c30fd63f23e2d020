"""The events of whole accounts: one reader for all who listen in this process.

Once a second, and sooner where a message says that a job has changed, it reads what has become certain since the last
time (app/streams/horizon.py), and hands each listener the records of its account, which are written once for all of
them. A listener is registered before the reading from which it goes on, so that nothing falls in between.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.http import event_stream
from app.http.waits import Waits
from app.shapes import events as shapes
from app.shapes.render import Renderer
from app.streams.horizon import Horizon
from app.streams.position import Position
from core.errors import DatabaseAwayError
from jobs.reads.events import Event, InFlight, Progress
from jobs.reads.tasks import Task

log = structlog.get_logger(__name__)

# After a message: what follows within this time shares the reading.
TOGETHER_S = 0.25
JOIN_S = 10.0  # a database that is away for longer is told of
JOIN_PAUSE_S = 0.05
# A new reader begins where everything is certain; where one transaction stays open, no later than this.
SETTLE_S = 2.0
# A client that reads more slowly than its account works is cut off, and comes back for the rest.
MOST_QUEUED = 2000
PROGRESS_OVERLAP = timedelta(seconds=5)  # a transaction that commits later than it looked at the clock


class Reads(Protocol):
    """What the feed asks of the database; each raises DatabaseAwayError."""

    def newest(self) -> int: ...
    def in_flight(self) -> InFlight: ...
    def events(self, account_ids: Collection[str], after: int, last: int) -> list[Event]: ...
    def progress(self, account_ids: Collection[str], since: datetime | None, overlap: timedelta) -> list[Progress]: ...
    def tasks(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Task]: ...


@dataclass(slots=True, eq=False)
class Listener:
    """One stream over an account. ``since``: it is handed all events after that one; None until it has joined."""

    account_id: str
    since: int | None = None
    cut: bool = False
    _queue: deque[tuple[Position, bytes]] = field(default_factory=deque)
    _news: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout_s: float) -> bool:
        """Whether there is news before the time runs out."""
        woken = self._news.wait(timeout_s)
        self._news.clear()
        return woken

    def wake(self) -> None:
        self._news.set()

    def join(self, since: int) -> None:
        self.since = since
        self._news.set()

    def hand(self, records: Sequence[tuple[Position, bytes]]) -> None:
        if len(self._queue) + len(records) > MOST_QUEUED:
            self.cut = True
        else:
            self._queue.extend(records)
        self._news.set()

    def end(self) -> None:
        """Have the stream end after what is queued."""
        self.cut = True
        self._news.set()

    def taken(self) -> Iterator[tuple[Position, bytes]]:
        """What has been handed over, once."""
        while self._queue:
            yield self._queue.popleft()


class AccountFeed:
    """``waits`` tells of messages; ``renderer`` is asked for when the first record is written."""

    def __init__(self, reads: Reads, waits: Waits, renderer: Callable[[], Renderer], *, poll_s: float = 1.0) -> None:
        self._reads = reads
        self._waits = waits
        self._renderer = renderer
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._nudge = threading.Event()
        self._listeners: dict[str, list[Listener]] = {}
        self._joining: list[Listener] = []
        self._horizon = Horizon()
        self._cursor: int | None = None  # None: no one listens
        self._settles_until = 0.0
        self._progress_since: datetime | None = None
        self._told: dict[str, datetime] = {}  # progress lately told, by job
        self._pid = 0

    def join(self, account_id: str) -> Listener:
        """Listen to an account from now on, until :meth:`leave`. Raises DatabaseAwayError."""
        listener = Listener(account_id)
        with self._lock:
            self._joining.append(listener)
        self._start()
        self._nudge.set()
        ends_at = time.monotonic() + JOIN_S
        while listener.since is None and (left_s := ends_at - time.monotonic()) > 0 and not listener.cut:
            listener.wait(left_s)
        if listener.since is None:
            self.leave(listener)
            raise DatabaseAwayError("the events cannot be read at the moment")
        return listener

    def leave(self, listener: Listener) -> None:
        """Stop listening."""
        with self._lock:
            if listener in self._joining:
                self._joining.remove(listener)
            mine = self._listeners.get(listener.account_id, [])
            if listener in mine:
                mine.remove(listener)
            if not mine:
                self._listeners.pop(listener.account_id, None)

    def stop(self) -> None:
        """End all streams: the process is about to end."""
        with self._lock:
            for listener in [*self._joining, *(each for mine in self._listeners.values() for each in mine)]:
                listener.end()

    def tick(self) -> None:
        """Read once, and hand on what is new. Raises DatabaseAwayError; then nothing is lost."""
        with self._lock:
            idle = not self._listeners and not self._joining
        if idle:
            self._cursor = None
            return
        settled = self._settled()
        if settled is None:
            return
        if self._cursor is None:
            self._begin(settled)
        self._admit(settled)

    def _settled(self) -> int | None:
        """Up to which id everything is there; None while a new reader waits for the first such id."""
        if self._cursor is None:
            self._horizon = self._horizon if self._horizon.waits else Horizon()
            self._settles_until = self._settles_until or time.monotonic() + SETTLE_S
        newest = self._reads.newest()
        if newest > self._horizon.settled or self._horizon.waits or self._cursor is None:
            self._horizon.note(newest, self._reads.in_flight())
        if self._cursor is None and self._horizon.waits:
            return None if time.monotonic() < self._settles_until else newest
        return self._horizon.settled

    def _begin(self, settled: int) -> None:
        self._cursor, self._settles_until = settled, 0.0
        self._progress_since, self._told = None, {}

    def _admit(self, settled: int) -> None:
        """Hand on what is new, and let in those who wait to join from there."""
        assert self._cursor is not None  # noqa: S101 (begun before)
        with self._lock:
            listening = {account_id: list(mine) for account_id, mine in self._listeners.items()}
        records = self._records(list(listening), self._cursor, settled) if listening else {}
        with self._lock:
            # In one step: who joins gets what comes after, who is there gets this.
            self._cursor = max(settled, self._cursor)
            for account_id, news in records.items():
                for listener in self._listeners.get(account_id, ()):
                    listener.hand(news)
            for listener in self._joining:
                self._listeners.setdefault(listener.account_id, []).append(listener)
                listener.join(self._cursor)
            self._joining.clear()

    def _records(self, account_ids: Sequence[str], after: int, last: int) -> dict[str, list[tuple[Position, bytes]]]:
        found: dict[str, list[tuple[Position, bytes]]] = {}
        if last > after:
            for account_id, record in written(self._reads, self._renderer(), account_ids, after, last):
                found.setdefault(account_id, []).append(record)
        progress = self._reads.progress(account_ids, self._progress_since, PROGRESS_OVERLAP)
        for each in progress:
            if self._told.get(each.job_id) == each.at:
                continue
            self._told[each.job_id] = each.at
            self._progress_since = max(self._progress_since or each.at, each.at)
            found.setdefault(each.account_id, []).append(
                _record(shapes.progress_out(each), Position(max(after, last), each.version))
            )
        if self._progress_since is not None:
            oldest = self._progress_since - 2 * PROGRESS_OVERLAP
            self._told = {job_id: at for job_id, at in self._told.items() if at > oldest}
        return found

    def _start(self) -> None:
        """Have the thread running in this very process."""
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            threading.Thread(target=self._keep_reading, name="account-feed", daemon=True).start()

    def _keep_reading(self) -> None:
        try:
            while True:
                self._nudge.wait()
                self._waits.hear(self._heard)
                try:
                    self._follow()
                finally:
                    self._waits.unhear(self._heard)
        finally:
            self._pid = 0  # so that the next listener starts another thread

    def _heard(self, _job_id: str) -> None:
        self._nudge.set()

    def _follow(self) -> None:
        """Read until no one listens any more."""
        while True:
            self._nudge.clear()
            try:
                self.tick()
            except DatabaseAwayError:
                pass  # core/db.py tells of the outage
            except SQLAlchemyError as error:
                log.warning("account_feed_failed", error=type(error).__name__)
            with self._lock:
                if not self._listeners and not self._joining:
                    self._cursor = None
                    return
            if self._joining:
                time.sleep(JOIN_PAUSE_S)
            elif self._horizon.waits or self._nudge.wait(self._poll_s):
                self._pause()

    def _pause(self) -> None:
        """Let what follows a message share the reading; who wants to join is let in at once."""
        if not self._joining:
            time.sleep(TOGETHER_S)


def written(
    reads: Reads, renderer: Renderer, account_ids: Collection[str], after: int, last: int
) -> Iterator[tuple[str, tuple[Position, bytes]]]:
    """The records of these accounts' events with ids above ``after`` and up to ``last``, each with its account's id.
    Raises DatabaseAwayError."""
    events = [event for event in reads.events(account_ids, after, last) if shapes.shown(event)]
    ends = [(event.account_id, event.job_id) for event in events if event.type in shapes.ENDS]
    tasks = reads.tasks(ends) if ends else {}
    for event in events:
        task = tasks.get((event.account_id, event.job_id)) if event.type in shapes.ENDS else None
        yield event.account_id, _record(shapes.event_out(event, renderer, task), Position(event.id))


def _record(data: dict[str, object], position: Position) -> tuple[Position, bytes]:
    return position, event_stream.record(data, event=str(data["type"]), last_id=str(position))
