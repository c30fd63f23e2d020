"""Workers that are forked from a process which has loaded the code, for a test that starts many one after the other.

Loading takes a worker more than a second of CPU. What runs is ``workers.__main__.main`` as in ``python -m workers``, in
a process of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Each line of its input is a worker to be forked, by a process that waits for it and writes down how it ended.
# Failpoints are read from the environment when they are loaded, which is why they are loaded again. The worker itself
# loads workers.tasks and workers.ticker, which read the settings.
_PARENT = """
import importlib, json, os, signal, sys, traceback
from workers import __main__ as worker
import celery.apps.worker, celery.bin.worker, celery.concurrency.gevent, celery.loaders.app, kombu.transport.redis
from jobs.execution import poll, run as run_job
from workers import celery_app, wiring
from workers.broker import transports
from core import failpoints
from core.embedded.launch import die_with_parent
from gevent import monkey
fork, wait = monkey.get_original("os", "fork"), monkey.get_original("os", "waitpid")

def run(wanted):
    log = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(wanted["environ"])
    importlib.reload(failpoints)
    sys.argv = ["workers"]
    worker.main()

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
parent = os.getpid()
for line in sys.stdin:
    wanted = json.loads(line)
    if fork():
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent(parent)
    waiting = os.getpid()
    pid = fork()
    if not pid:
        die_with_parent(waiting)
        try:
            run(wanted)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    draft = wanted["ended"] + ".draft"
    with open(draft, "w") as file:
        file.write(str(os.waitstatus_to_exitcode(wait(pid, 0)[1])))
    os.rename(draft, wanted["ended"])
    os._exit(0)
"""


class Forks:
    """Runs workers for any number of threads."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def run(self, environ: Mapping[str, str], log: Path, within_s: float) -> int:
        """Fork a worker and return its exit code once it has ended. Raises TimeoutError; it goes on running then."""
        assert self._process.stdin is not None
        with self._lock:
            ended = self._folder / f"worker-{next(self._numbers)}"
            wanted = {"environ": dict(environ), "log": str(log), "ended": str(ended)}
            self._process.stdin.write(json.dumps(wanted) + "\n")
            self._process.stdin.flush()
        until = time.monotonic() + within_s
        while not ended.exists():
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.05)
        return int(ended.read_text())


@contextmanager
def worker_forks(folder: Path, root: Path) -> Iterator[Forks]:
    """The process, which ends with its workers after the block; ``folder`` is for how each worker ended."""
    with (folder / "forks.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _PARENT],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    try:
        yield Forks(process, folder)
    finally:
        process.kill()
        process.wait()
        process.communicate()
