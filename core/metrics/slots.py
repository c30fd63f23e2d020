"""Where a process keeps what it counts: in memory, and every few seconds in the file of its slot, which outlives it.

The processes of a machine that share a folder take its slots (``web-0``, ``worker-0``, ``worker-1``), each by a lock
that ends with its process. Who takes a slot after another goes on with its counters: they do not fall at a restart,
and there are never more files than there were processes at a time.

The files are written whole and renamed. Memory mapped ones, as prometheus-client has for several processes, would end
the process with SIGBUS when the disk is full, which is when it is needed most.
"""

from __future__ import annotations

import atexit
import fcntl
import itertools
import re
import shutil
import socket
import time
from pathlib import Path
from typing import IO, Final

import structlog

from core.metrics import snapshots
from core.metrics.families import FAMILIES, kept
from core.metrics.snapshots import Snapshot

log = structlog.get_logger(__name__)

# Of a machine that is gone, or a container that was replaced.
FORGOTTEN_AFTER_S: Final = 7 * 86_400.0


class Slot:
    """The slot of a process: its name, and what earlier processes have counted in it."""

    def __init__(self, folder: Path, name: str, lock: IO[bytes]) -> None:
        self.folder, self.name, self._lock = folder, name, lock
        self._path = folder / f"{name}.json"
        self._before = snapshots.without_gauges(snapshots.read(self._path))
        self._failing = False

    def now(self) -> Snapshot:
        """What this process and those before it have counted."""
        return snapshots.merged([self._before, snapshots.taken(kept())])

    def save(self) -> None:
        """Write it down; a disk that is full costs the file, and a line in the log. Never raises."""
        try:
            snapshots.write(self._path, self.now())
        except OSError as error:
            if not self._failing:
                log.warning("metrics_not_written", reason=error.strerror)
            self._failing = True
        else:
            self._failing = False

    def others(self) -> list[Snapshot]:
        """What the other slots of the machine have, the gauges of processes that live among it."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            if path != self._path:
                snapshot = snapshots.read(path)
                found.append(snapshot if _lives(path.with_suffix(".lock")) else snapshots.without_gauges(snapshot))
        return found


class _Own:
    """The slot of this process, once it has one."""

    slot: Slot | None = None


def folder_of(var: Path) -> Path:
    """The folder that the processes of this machine share, below ``DARKROOM_VAR``."""
    return var / "run" / "metrics" / re.sub(r"[^\w.-]", "-", socket.gethostname())


def join(var: Path, kind: str) -> str:
    """Take a slot of this machine's folder for this process, whose ``kind`` is letters; return the slot's name.

    Where the folder cannot be written, the values stay in memory, and the name is empty.
    """
    folder = folder_of(var)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _forget_others(folder)
        _Own.slot = _take(folder, kind)
    except OSError as error:
        log.warning("metrics_stay_in_memory", reason=error.strerror)
        return ""
    atexit.register(_Own.slot.save)
    return _Own.slot.name


def save() -> None:
    """Write down what this process has counted, if it has a slot."""
    if _Own.slot is not None:
        _Own.slot.save()


def collect() -> Snapshot:
    """What all processes of this machine have counted; without a slot, what this one has."""
    slot = _Own.slot
    found = snapshots.taken(kept()) if slot is None else snapshots.merged([slot.now(), *slot.others()])
    return {name: each for name, each in found.items() if _is_current(name, each.labels)}


def _take(folder: Path, kind: str) -> Slot:
    for number in itertools.count():
        name = f"{kind}-{number}"
        lock = (folder / f"{name}.lock").open("ab")
        if _locked(lock, fcntl.LOCK_EX):
            return Slot(folder, name, lock)
        lock.close()
    raise AssertionError("the numbers do not end")


def _locked(lock: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(path: Path) -> bool:
    """Whether a process holds the lock of a slot."""
    try:
        with path.open("rb") as lock:
            return not _locked(lock, fcntl.LOCK_SH)
    except OSError:
        return False


def _forget_others(folder: Path) -> None:
    """Delete the folders of machines that have written nothing for long."""
    for other in folder.parent.iterdir():
        times = [each.stat().st_mtime for each in other.glob("*")] if other != folder and other.is_dir() else []
        if times and time.time() - max(times) > FORGOTTEN_AFTER_S:
            shutil.rmtree(other, ignore_errors=True)


def _is_current(name: str, labels: tuple[str, ...]) -> bool:
    """Whether a family is as this version declares it. One that the modules of this process do not declare is
    another process's."""
    family = FAMILIES.get(name)
    return family is None or family.labels == labels
