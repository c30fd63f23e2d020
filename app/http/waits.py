"""Waiting for tasks to change: many requests share one subscription and one query a second.

A message on the Redis channel ``darkroom:wake`` says "look at job X now" and ends a wait early. The database, which is
asked once a second for all jobs waited for, is the truth and works while Redis is away. The threads are greenlets under
gunicorn's gevent workers; they start with the first wait, which is after the fork.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import redis
import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.http.places import Places
from app.serving import seats
from core import outages
from core.errors import DatabaseAwayError
from jobs.reads.tasks import Task

log = structlog.get_logger(__name__)

CHANNEL = "darkroom:wake"
LISTEN_S = 1.0
LISTEN_PAUSE_S = 2.0  # after Redis was found away
EARLY_PAUSE_S = 1.0  # of a wait that ends early

Versions = Callable[[Sequence[str]], Mapping[str, tuple[int, bool]]]


class Watch:
    """One request waiting for one job. ``version`` is what it has seen."""

    __slots__ = ("_changed", "job_id", "version")

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.version: int | None = None
        self._changed = threading.Event()

    def wait(self, timeout_s: float) -> bool:
        """Whether something may have changed before the time ran out."""
        woken = self._changed.wait(timeout_s)
        self._changed.clear()
        return woken

    def wake(self) -> None:
        self._changed.set()


class Waits:
    """All waits of this process. ``most`` caps them; a wait beyond it is answered after a second.

    ``places`` are shared with the streams over whole accounts (app/streams/).
    """

    def __init__(
        self,
        versions: Versions,
        client: redis.Redis | None,
        *,
        poll_s: float = 1.0,
        most: int = 4000,
        most_per_account: int = 3000,
    ) -> None:
        self._versions = versions
        self._client = client
        self._poll_s = poll_s
        self.places = Places(most, most_per_account)
        self._lock = threading.Lock()
        self._in_use = threading.Event()
        self._watches: dict[str, list[Watch]] = {}
        self._hearers: list[Callable[[str], None]] = []
        self._threads: dict[str, threading.Thread] = {}
        self._pid = 0
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether the process is about to end: an answer that loops over :meth:`until` ends then."""
        return self._stopping

    def until(
        self, find: Callable[[], Task], done: Callable[[Task], bool], *, account_id: str, timeout_s: float
    ) -> Task:
        """Read a task until it is ``done`` or the time is over; raises what ``find`` raises.

        The watch begins before the reading that counts, so that no change falls between the two. Needs no request:
        a generator may loop over it. Ends early where too many wait already, where the client has gone, and when the
        process is :attr:`stopping`.
        """
        task = find()
        if timeout_s <= 0 or done(task):
            return task
        seat = seats.current()
        ends_at = time.monotonic() + timeout_s
        with self.watch(task.id, account_id) as watch:
            if watch is None or self._stopping or seat.gone:
                time.sleep(min(timeout_s, EARLY_PAUSE_S))  # a loop over this must not spin
                return find()
            while True:
                task = find()
                watch.version = task.version
                left_s = ends_at - time.monotonic()
                if done(task) or left_s <= 0 or self._stopping or seat.gone or not watch.wait(left_s):
                    break
        return task

    @contextmanager
    def watch(self, job_id: str, account_id: str) -> Iterator[Watch | None]:
        """A watch on a job, or None when too many wait already."""
        if not self.places.take(account_id):
            yield None
            return
        try:
            with self.watching(job_id) as watch:
                yield watch
        finally:
            self.places.give_back(account_id)

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Watch]:
        """The same for a caller who has a place already."""
        watch = Watch(job_id)
        with self._lock:
            self._watches.setdefault(job_id, []).append(watch)
            self._in_use.set()
        try:
            self._start()
            if self._stopping:
                watch.wake()
            with seats.current().waiting(watch.wake):
                yield watch
        finally:
            self._remove(watch)

    def hear(self, hearer: Callable[[str], None]) -> None:
        """Have ``hearer`` told, from now on, the id of each job that a message names."""
        with self._lock:
            self._hearers.append(hearer)
            self._in_use.set()
        self._start()

    def unhear(self, hearer: Callable[[str], None]) -> None:
        with self._lock:
            self._hearers.remove(hearer)
            self._rest()

    def stop(self) -> None:
        """End every wait: the process is about to end, and clients had better connect again elsewhere."""
        self._stopping = True
        with self._lock:
            for watches in self._watches.values():
                for watch in watches:
                    watch.wake()

    def look(self) -> None:
        """Ask the database once for every job waited for, and wake the requests whose job has changed."""
        with self._lock:
            ids = list(self._watches)
        if not ids:
            return
        found = self._versions(ids)
        with self._lock:
            for job_id in ids:
                version = found.get(job_id, (-1, True))[0]
                for watch in self._watches.get(job_id, ()):
                    if watch.version is not None and watch.version != version:
                        watch.wake()

    def wake(self, job_id: str) -> None:
        """Wake the requests that wait for a job, which has changed."""
        with self._lock:
            for watch in self._watches.get(job_id, ()):
                watch.wake()
            hearers = list(self._hearers)
        for hearer in hearers:
            hearer(job_id)

    def _remove(self, watch: Watch) -> None:
        with self._lock:
            left = self._watches[watch.job_id]
            left.remove(watch)
            if not left:
                del self._watches[watch.job_id]
            self._rest()

    def _rest(self) -> None:
        """Have the threads wait where there is nothing to do; needs the lock."""
        if not self._watches and not self._hearers:
            self._in_use.clear()

    def _start(self) -> None:
        """Have both threads running in this very process."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._threads = os.getpid(), {}
            bodies = {"look": self._keep_looking}
            if self._client is not None:
                bodies["listen"] = self._keep_listening
            for name, body in bodies.items():
                if name not in self._threads:
                    self._threads[name] = threading.Thread(target=body, name=f"waits-{name}", daemon=True)
                    self._threads[name].start()

    def _keep_looking(self) -> None:
        with self._forgotten("look"):
            while True:
                self._in_use.wait()
                try:
                    self.look()
                except DatabaseAwayError:
                    pass  # core/db.py tells of the outage
                except SQLAlchemyError as error:
                    log.warning("waits_look_failed", error=type(error).__name__)
                time.sleep(self._poll_s)

    def _keep_listening(self) -> None:
        with self._forgotten("listen"):
            while True:
                self._in_use.wait()
                try:
                    self._listen()
                except (redis.RedisError, OSError) as error:
                    # Waits still end by the query; only their haste is lost.
                    outages.of("redis").away(error=type(error).__name__)
                    time.sleep(LISTEN_PAUSE_S)

    @contextmanager
    def _forgotten(self, name: str) -> Iterator[None]:
        """Have the next wait start this thread again should it end. (Asking whether it lives costs a turn of the hub
        under gevent, at every wait.)"""
        try:
            yield
        finally:
            with suppress(KeyError):
                del self._threads[name]

    def _listen(self) -> None:
        """Pass messages on until Redis goes away."""
        assert self._client is not None  # noqa: S101 (the thread is not started without)
        with self._client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(CHANNEL)
            outages.of("redis").back()
            while True:
                message = subscription.get_message(timeout=LISTEN_S)
                if message is not None and message["type"] == "message":
                    self.wake(str(message["data"]))
