"""The chaos monkey: seeded faults at every process and connection, one after the other, each undone at its end."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis
from sqlalchemy import text

from chaos.proxy import Mode, Proxy
from chaos.target import Target
from core.embedded.processes import Identity, identify
from core.errors import DatabaseAwayError
from jobs.dispatch import health

# Heartbeats of a worker count as missing after 10 s: only a longer stop makes others take its jobs.
LONGER_THAN_HEARTBEAT_S = 14.0


A_BALANCE = "SELECT 1 FROM balances WHERE account_id = (SELECT max(account_id) FROM balances) FOR UPDATE"
LIVE_JOBS = "SELECT 1 FROM jobs WHERE finished_at IS NULL ORDER BY id LIMIT 5 FOR UPDATE"
CREDENTIALS = "SELECT 1 FROM credentials FOR UPDATE"
PAUSED = "chatgpt2api"
QUEUES = (PAUSED, "openai", "polls", "control")
POISON = ("", "5", "null", "[]", '{"a": 1}', '{"body": "%%%", "headers": {}, "properties": {}}', "\x00\xff")


@dataclass(frozen=True)
class DoneFault:
    """One fault that was done. Times are the wall clock's; from ``ended_at`` on the service was left to recover."""

    kind: str
    began_at: float
    ended_at: float
    worker: str | None = None  # boot id of the worker that died


class NotDoneError(Exception):
    """The fault had no target: the process it needs does not run now."""


# Does one fault; the boot id of the worker it killed, if it did.
Fault = Callable[[], str | None]


class Monkey:
    """Does faults until it is stopped. The same seed makes the same choices in the same order."""

    def __init__(
        self,
        target: Target,
        *,
        seed: int,
        pause_s: tuple[float, float],
        say: Callable[[str], None],
        proxies: Mapping[str, Proxy],
        gentle: bool = False,
    ) -> None:
        self._target = target
        self._chance = random.Random(seed)
        self._pause_s = pause_s
        self._say = say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._do_faults, name="monkey", daemon=True)
        self._faults = _faults(self, proxies, gentle=gentle)
        self.done: list[DoneFault] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _do_faults(self) -> None:
        kinds = [kind for kind, (weight, _) in self._faults.items() for _ in range(weight)]
        while not self._stop.wait(self._chance.uniform(*self._pause_s)):
            kind = self._chance.choice(kinds)
            began_at = time.time()
            try:
                worker = self._faults[kind][1]()
            except (NotDoneError, OSError, redis.RedisError, DatabaseAwayError) as error:
                self._say(f"{kind}: not done ({error})")
                continue
            self.done.append(DoneFault(kind, began_at, time.time(), worker))
            self._say(kind)

    # -- faults

    def send(self, number: signal.Signals, *names: str) -> str | None:
        """A signal to one of the processes whose name begins with one of ``names``; the boot id, if it was a worker."""
        victim = self._victim(names)
        worker = self._boot_id(victim.pid)
        os.kill(victim.pid, number)
        return worker

    def send_to_child(self, number: signal.Signals, *names: str) -> str | None:
        """A signal to a child of such a process: gunicorn's worker, a decoder, one of PostgreSQL's own."""
        children = _children(self._victim(names).pid)
        if not children:
            raise NotDoneError("it has no child")
        os.kill(self._chance.choice(children), number)
        return None

    def freeze(self, seconds: tuple[float, float], *names: str) -> str | None:
        """Stop a process with its whole group, and continue it later."""
        victim = self._victim(names)
        os.killpg(victim.pid, signal.SIGSTOP)
        try:
            self._stop.wait(self._chance.uniform(*seconds))
        finally:
            if identify(victim.pid) == victim:
                os.killpg(victim.pid, signal.SIGCONT)
        return None

    def flush_redis(self) -> str | None:
        self._target.redis().flushall()
        return None

    def kill_redis_clients(self) -> str | None:
        for kind in ("normal", "pubsub"):
            self._target.redis().client_kill_filter(_type=kind, skipme=True)
        return None

    def end_database_sessions(self) -> str | None:
        with self._target.database.autocommit() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = current_user AND pid <> pg_backend_pid()"
                )
            )
        return None

    def spoil(self, proxy: Proxy, mode: Mode, seconds: tuple[float, float]) -> str | None:
        """Cut connections, or let them swallow everything, for a while."""
        proxy.spoil(mode)
        try:
            self._stop.wait(self._chance.uniform(*seconds))
        finally:
            proxy.heal()
        return None

    def hold_rows(self, query: str, seconds: tuple[float, float]) -> str | None:
        """Lock some rows as an abandoned session does: longer than anyone waits for a lock."""
        with self._target.database.transaction() as connection:
            if not connection.execute(text(query)).all():
                raise NotDoneError("there is nothing to lock")
            self._stop.wait(self._chance.uniform(*seconds))
        return None

    def poison(self) -> str | None:
        """Put messages that no publisher of ours sends at both ends of every queue."""
        client = self._target.redis()
        for queue in QUEUES:
            for rubbish in POISON:
                client.lpush(queue, rubbish)
                client.rpush(queue, rubbish)
        return None

    def double_messages(self) -> str | None:
        """Add three copies of every waiting message."""
        client = self._target.redis()
        found = {queue: client.lrange(queue, 0, -1) for queue in QUEUES}
        if not any(found.values()):
            raise NotDoneError("no message waits")
        for queue, messages in found.items():
            for message in messages * 3:
                client.lpush(queue, message)
        return None

    def pause_provider(self, seconds: tuple[float, float]) -> str | None:
        """An operator's pause, lifted again."""
        with self._target.database.autocommit() as connection:
            health.pause(connection, PAUSED)
        try:
            self._stop.wait(self._chance.uniform(*seconds))
        finally:
            with self._target.database.autocommit() as connection:
                health.resume(connection, PAUSED)
        return None

    def _victim(self, names: Sequence[str]) -> Identity:
        running = self._target.processes()
        victims = [one for name, one in sorted(running.items()) if name.startswith(tuple(names))]
        if not victims:
            raise NotDoneError(f"no {' or '.join(names)} runs just now")
        return self._chance.choice(victims)

    def _boot_id(self, pid: int) -> str | None:
        with suppress(DatabaseAwayError), self._target.database.autocommit() as connection:
            found = connection.execute(text("SELECT boot_id FROM workers WHERE pid = :pid"), {"pid": pid})
            return found.scalars().first()
        return None


def _faults(monkey: Monkey, proxies: Mapping[str, Proxy], *, gentle: bool) -> dict[str, tuple[int, Fault]]:
    """Every kind of fault with its weight. ``gentle``: only those that take little time."""
    kill, term = partial(monkey.send, signal.SIGKILL), partial(monkey.send, signal.SIGTERM)
    faults: dict[str, tuple[int, Fault]] = {
        "kill -9 worker": (4, lambda: kill("worker")),
        "kill -9 web": (2, lambda: kill("web")),
        "kill -9 web's child": (2, lambda: monkey.send_to_child(signal.SIGKILL, "web")),
        "kill -9 redis": (2, lambda: kill("redis")),
        "kill -9 postgres": (2, lambda: kill("postgres")),
        "SIGTERM worker": (2, lambda: term("worker")),
        "SIGTERM web": (1, lambda: term("web")),
        "SIGTERM redis": (1, lambda: term("redis")),
        "postgres immediate": (2, lambda: monkey.send(signal.SIGQUIT, "postgres")),
        "FLUSHALL": (2, monkey.flush_redis),
        "CLIENT KILL": (2, monkey.kill_redis_clients),
        "pg_terminate_backend": (2, monkey.end_database_sessions),
    }
    if gentle:
        return faults
    long_s = (LONGER_THAN_HEARTBEAT_S, LONGER_THAN_HEARTBEAT_S + 6)
    slow: dict[str, tuple[int, Fault]] = {
        "kill -9 decoder": (1, lambda: monkey.send_to_child(signal.SIGKILL, "worker")),
        "kill -9 postgres backend": (1, lambda: monkey.send_to_child(signal.SIGKILL, "postgres")),
        "SIGSTOP worker": (3, lambda: monkey.freeze(long_s, "worker")),
        "SIGSTOP web": (1, lambda: monkey.freeze((2, 6), "web")),
        "SIGSTOP redis": (2, lambda: monkey.freeze((3, 12), "redis")),
        "SIGSTOP postgres": (2, lambda: monkey.freeze((3, 12), "postgres")),
    }
    slow |= {
        "a balance locked": (1, lambda: monkey.hold_rows(A_BALANCE, (4, 9))),
        "live jobs locked": (1, lambda: monkey.hold_rows(LIVE_JOBS, (4, 9))),
        "credentials locked": (1, lambda: monkey.hold_rows(CREDENTIALS, (4, 9))),
        "poison": (1, monkey.poison),
        "messages doubled": (1, monkey.double_messages),
        "provider paused": (1, lambda: monkey.pause_provider((3, 9))),
    }
    for name, proxy in proxies.items():
        slow[f"{name} cut"] = (1, partial(monkey.spoil, proxy, Mode.CUT, (2, 8)))
        slow[f"{name} half-open"] = (2, partial(monkey.spoil, proxy, Mode.BLACK_HOLE, (0.1, 0.2)))
        slow[f"{name} silent"] = (1, partial(monkey.spoil, proxy, Mode.SILENT, (5, 15)))
    return faults | slow


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
