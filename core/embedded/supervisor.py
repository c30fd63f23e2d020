"""Keep programs running: start them, read their output, restart what dies, stop in stages.

One thread does everything, because the kernel ties a child's life to the thread that forked it
(``launch.die_with_parent``). Other threads put requests into a queue and wait.
"""

from __future__ import annotations

import os
import queue
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from core.embedded import processes
from core.embedded.faults import EmbeddedError
from core.embedded.processes import Program
from core.embedded.runfile import RunFile

_TICK_S = 0.1
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.5, 10.0
_HEALTHY_S = 30.0
_CHUNK_BYTES = 65_536

Output = Callable[[str, str], None]


def backoff_s(failures: int) -> float:
    """How long to wait before a restart after ``failures`` early deaths in a row."""
    return float(min(_BACKOFF_FIRST_S * 2 ** max(failures - 1, 0), _BACKOFF_MAX_S))


@dataclass
class _Child:
    """One program and the state of its process; ``process`` is None between two lives."""

    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    steps_taken: int = 0
    next_step_at: float = 0.0
    unfinished_line: bytes = b""


@dataclass
class _Request:
    act: Callable[[], None]
    done: threading.Event = field(default_factory=threading.Event)
    fault: Exception | None = None


class Supervisor:
    """Runs programs until :meth:`stop`. ``output(name, line)`` gets each line they write."""

    def __init__(self, output: Output, run_file: RunFile) -> None:
        self._output = output
        self._run_file = run_file
        self._children: dict[str, _Child] = {}
        self._pipes = selectors.DefaultSelector()
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._recorded: set[int] = set()
        self._stopping = False
        self._hurries_asked = 0
        self._hurries_served = 0
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, program: Program) -> None:
        """Start ``program`` and keep it running. Raises what its first start raises."""
        request = _Request(lambda: self._add(program))
        self._requests.put(request)
        while not request.done.wait(_TICK_S):
            if not self._thread.is_alive():
                raise EmbeddedError(f"{program.name} was not started: everything is being stopped")
        if request.fault is not None:
            raise request.fault

    def stop(self) -> None:
        """Stop everything, the highest stage first, and return when all has ended. Calling it again is harmless."""
        self._stopping = True
        while self._thread.is_alive():  # In slices, so that a second Ctrl-C is noticed.
            self._thread.join(_TICK_S)

    def hurry(self) -> None:
        """Take the next, harsher step against those being stopped. May be called in a signal handler."""
        self._hurries_asked += 1

    def working(self) -> bool:
        return self._thread.is_alive()

    def pids(self) -> dict[str, int]:
        """The process ids that live now, by the names of their programs."""
        seen = [(name, child.process) for name, child in list(self._children.items())]
        return {name: process.pid for name, process in seen if process is not None}

    def failures(self) -> dict[str, int]:
        """How many early deaths in a row each program has had; those without any are left out."""
        seen = list(self._children.items())
        return {name: child.failures for name, child in seen if child.failures}

    # Everything below runs in the one thread.

    def _run(self) -> None:
        while self._children or not self._stopping:
            self._read_output(_TICK_S)
            self._serve_requests()
            for child in list(self._children.values()):
                self._check(child)
            if self._stopping:
                self._advance_stop()
        self._pipes.close()

    def _serve_requests(self) -> None:
        while not self._stopping and not self._requests.empty():
            request = self._requests.get()
            try:
                request.act()
            except (OSError, EmbeddedError) as error:
                request.fault = error
            request.done.set()

    def _add(self, program: Program) -> None:
        if program.name in self._children:
            raise EmbeddedError(f"{program.name} is running already")
        child = _Child(program)
        self._begin(child)
        self._children[program.name] = child
        self._record()

    def _begin(self, child: _Child) -> None:
        process = processes.spawn(child.program, subprocess.PIPE)
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        os.set_blocking(process.stdout.fileno(), False)
        self._pipes.register(process.stdout, selectors.EVENT_READ, child)
        child.process = process
        child.started_at = time.monotonic()

    def _check(self, child: _Child) -> None:
        if child.process is not None and _has_ended(child.process.pid):
            self._reap(child, child.process)
        if child.process is None:
            if self._stopping:
                del self._children[child.program.name]
            elif child.restart_at <= time.monotonic():
                self._restart(child)
            self._record()

    def _reap(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        # As long as it is not waited for, the dead leader keeps its number: the group is certainly ours.
        processes.kill_group(process.pid)
        code = process.wait()
        self._read_rest(child, process)
        child.process = None
        if not self._stopping:
            self._plan_restart(child, _ending(code))

    def _plan_restart(self, child: _Child, ending: str) -> None:
        lived_s = time.monotonic() - child.started_at
        child.failures = 1 if lived_s >= _HEALTHY_S else child.failures + 1
        pause_s = backoff_s(child.failures)
        child.restart_at = time.monotonic() + pause_s
        self._output(child.program.name, f"{ending}; starting again in {pause_s:.1f} s")

    def _restart(self, child: _Child) -> None:
        try:
            self._begin(child)
        except (OSError, EmbeddedError) as error:
            child.started_at = time.monotonic()
            self._plan_restart(child, f"could not be started: {error}")

    def _advance_stop(self) -> None:
        """Take the steps that are due against the highest stage still running."""
        hurried = self._hurries_asked > self._hurries_served
        self._hurries_served = self._hurries_asked
        highest = max((child.program.stage for child in self._children.values()), default=0)
        for child in self._children.values():
            due = hurried or child.next_step_at <= time.monotonic()
            if child.process is not None and child.program.stage == highest and due:
                _take_step(child, child.process.pid)

    def _record(self) -> None:
        children = self._children.values()
        living = {child.process.pid: child.program for child in children if child.process is not None}
        if living.keys() != self._recorded:
            self._run_file.record(living)
            self._recorded = set(living)

    def _read_output(self, timeout_s: float) -> None:
        if not self._pipes.get_map():
            time.sleep(timeout_s)
            return
        for key, _ in self._pipes.select(timeout_s):
            if not self._read_chunk(key.data, key.fd):
                self._pipes.unregister(key.fileobj)

    def _read_chunk(self, child: _Child, descriptor: int) -> bool:
        """Pass on what has been written; False at the end of the stream."""
        try:
            chunk = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return True
        *lines, rest = (child.unfinished_line + chunk).split(b"\n")
        if len(rest) > _CHUNK_BYTES or (rest and not chunk):
            lines, rest = [*lines, rest], b""
        child.unfinished_line = rest
        for line in lines:
            self._output(child.program.name, line.decode("utf-8", "replace"))
        return bool(chunk)

    def _read_rest(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        with suppress(KeyError):  # Unregistered already, if the stream ended before the process.
            self._pipes.unregister(process.stdout)
            self._drain(child, process.stdout.fileno())
        process.stdout.close()

    def _drain(self, child: _Child, descriptor: int) -> None:
        """Read to the end, or until nothing is left: a grandchild may still have the other end open."""
        with selectors.DefaultSelector() as pipe:
            pipe.register(descriptor, selectors.EVENT_READ)
            while pipe.select(0) and self._read_chunk(child, descriptor):
                pass


def _has_ended(pid: int) -> bool:
    """Whether our child has ended; it keeps its number until it is waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _take_step(child: _Child, pid: int) -> None:
    if child.steps_taken >= len(child.program.stop_steps):
        processes.kill_group(pid)
        child.next_step_at = time.monotonic() + 1.0
        return
    step, wait_s = child.program.stop_steps[child.steps_taken]
    os.kill(pid, step)
    child.steps_taken += 1
    child.next_step_at = time.monotonic() + wait_s


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    return f"killed by {signal.Signals(-code).name}"
