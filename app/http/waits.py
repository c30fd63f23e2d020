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
from contextlib import contextmanager

import redis
import structlog
from sqlalchemy.exc import SQLAlchemyError

from core import outages
from core.errors import DatabaseAwayError
from jobs.reads.tasks import Task

log = structlog.get_logger(__name__)

CHANNEL = "darkroom:wake"
LISTEN_S = 1.0
LISTEN_PAUSE_S = 2.0  # after Redis was found away

Versions = Callable[[Sequence[str]], Mapping[str, tuple[int, bool]]]


class Watch:
    """One request waiting for one job. ``version`` is what it has seen."""

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
    """All waits of this process. ``most`` caps them; a request beyond it is answered immediately."""

    def __init__(
        self,
        versions: Versions,
        client: redis.Redis | None,
        *,
        poll_s: float = 1.0,
        most: int = 2000,
        most_per_account: int = 200,
    ) -> None:
        self._versions = versions
        self._client = client
        self._poll_s = poll_s
        self._most = most
        self._most_per_account = most_per_account
        self._lock = threading.Lock()
        self._in_use = threading.Event()
        self._watches: dict[str, list[Watch]] = {}
        self._accounts: dict[str, int] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._pid = 0

    def until(
        self, find: Callable[[], Task], done: Callable[[Task], bool], *, account_id: str, timeout_s: float
    ) -> Task:
        """Read a task until it is ``done`` or the time is over; raises what ``find`` raises.

        The watch begins before the reading that counts, so that no change falls between the two.
        """
        task = find()
        if timeout_s <= 0 or done(task):
            return task
        ends_at = time.monotonic() + timeout_s
        with self.watch(task.id, account_id) as watch:
            while watch is not None:
                task = find()
                watch.version = task.version
                left_s = ends_at - time.monotonic()
                if done(task) or left_s <= 0 or not watch.wait(left_s):
                    break
        return task

    @contextmanager
    def watch(self, job_id: str, account_id: str) -> Iterator[Watch | None]:
        """A watch on a job, or None when too many wait already."""
        watch = self._add(job_id, account_id)
        if watch is None:
            yield None
            return
        try:
            self._start()
            yield watch
        finally:
            self._remove(watch, account_id)

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

    def _add(self, job_id: str, account_id: str) -> Watch | None:
        with self._lock:
            mine = self._accounts.get(account_id, 0)
            if sum(self._accounts.values()) >= self._most or mine >= self._most_per_account:
                return None
            watch = Watch(job_id)
            self._watches.setdefault(job_id, []).append(watch)
            self._accounts[account_id] = mine + 1
            self._in_use.set()
            return watch

    def _remove(self, watch: Watch, account_id: str) -> None:
        with self._lock:
            left = self._watches[watch.job_id]
            left.remove(watch)
            if not left:
                del self._watches[watch.job_id]
            self._accounts[account_id] -= 1
            if not self._accounts[account_id]:
                del self._accounts[account_id]
            if not self._watches:
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
                thread = self._threads.get(name)
                if thread is None or not thread.is_alive():
                    self._threads[name] = threading.Thread(target=body, name=f"waits-{name}", daemon=True)
                    self._threads[name].start()

    def _keep_looking(self) -> None:
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
        while True:
            self._in_use.wait()
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                # Waits still end by the query; only their haste is lost.
                outages.of("redis").away(error=type(error).__name__)
                time.sleep(LISTEN_PAUSE_S)

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
