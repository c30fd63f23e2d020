"""Start a program so that it cannot outlive us, stop it in steps, and find what a crash left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from core.embedded.users import User

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL_S = 0.02

# What to send, and how many seconds to wait before the next; SIGKILL to the whole group comes last.
StopSteps = tuple[tuple[signal.Signals, float], ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """How to run one process, and how to end it.

    ``environ`` is the whole environment. Programs of a higher ``stage`` are stopped before those
    of a lower one. ``before_start`` runs before every start, also before a restart.
    """

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)
    cwd: Path | None = None
    user: User | None = None
    reach: Sequence[Path] = ()
    stop_steps: StopSteps = ((signal.SIGTERM, 5.0),)
    death_signal: signal.Signals = signal.SIGKILL
    stage: int = 0
    before_start: Callable[[], None] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Identity:
    """One particular process: numbers are used again, start times (in clock ticks) are not."""

    pid: int
    born_ticks: int


def spawn(program: Program, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start ``program`` in its own session, to die with the calling thread. Output is both streams.

    Call it from a thread that lives as long as the program should: the kernel watches that thread.
    """
    if program.before_start is not None:
        program.before_start()
    return subprocess.Popen(
        launch_line(program),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(program.environ),
        cwd=program.cwd,
        start_new_session=True,
    )


def launch_line(program: Program) -> list[str]:
    """The argument list that starts ``program`` through ``launch.py``."""
    line = [sys.executable, "-I", "-S", str(_LAUNCHER), "--parent", str(os.getpid())]
    line += ["--death-signal", str(int(program.death_signal))]
    if program.user is not None:
        line += ["--uid", str(program.user.uid), "--gid", str(program.user.gid)]
    for path in program.reach:
        line += ["--reach", str(path)]
    return [*line, "--", *program.argv]


def stop(process: subprocess.Popen[bytes], steps: StopSteps) -> None:
    """End ``process`` step by step, its whole group as the last step; returns when it has ended."""
    for step, wait_s in steps:
        if process.poll() is None:
            process.send_signal(step)
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
    if process.poll() is None:
        kill_group(process.pid)
        process.wait()


def kill_group(leader_pid: int) -> None:
    """SIGKILL for every process of a group, if there are any."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)


def identify(pid: int) -> Identity | None:
    """The process that has ``pid`` now; None if there is none, or only a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in brackets may contain anything, even brackets and spaces; what follows the last one is plain.
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else Identity(pid, int(rest[18]))


def running_in(folder: Path, program: str) -> list[Identity]:
    """Every process of the executable named ``program`` whose working folder is ``folder``."""
    wanted = str(folder.resolve())
    found = (_at_work(pid, wanted, program) for pid in _pids())
    return [identity for identity in found if identity is not None]


def works_elsewhere(pid: int, folder: Path, program: str) -> bool:
    """Whether ``pid`` lives and certainly is not the executable named ``program`` working in ``folder``.

    False as well where the process cannot be examined; ``running_in`` does not find such a process.
    """
    if identify(pid) is None:
        return False
    try:
        # The folder itself instead of its path, which may differ in the process's mount namespace.
        return _executable_name(pid) != program or not os.path.samefile(f"/proc/{pid}/cwd", folder)  # noqa: PTH121
    except OSError:
        return _name(pid) not in ("", program)


def _executable_name(pid: int) -> str:
    """The file name of its executable. Raises OSError when it has ended or we may not look at it."""
    executable = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
    return executable.removesuffix(" (deleted)").rpartition("/")[2]


def _name(pid: int) -> str:
    """The process's own name, at most 15 bytes; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208


def _at_work(pid: int, folder: str, program: str) -> Identity | None:
    identity = identify(pid)
    try:
        here = os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115
        named = _executable_name(pid)
    except OSError:
        return None
    return identity if here == folder and named == program else None


def end_others(identities: Iterable[Identity], steps: StopSteps) -> None:
    """End processes that are not our children, each only while it is still the same process."""
    left = list(identities)
    for step, wait_s in (*steps, (signal.SIGKILL, 2.0)):
        left = [identity for identity in left if identify(identity.pid) == identity]
        for identity in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(identity.pid, step)
        _await_gone(left, wait_s)


def _await_gone(identities: Sequence[Identity], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and any(identify(one.pid) == one for one in identities):
        time.sleep(_POLL_S)
