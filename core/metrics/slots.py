"""Where a process keeps what it counts: in files of its slot, which outlive it.

The processes of a machine that share a folder take its slots (``web-0``, ``worker-0``, ``worker-1``), each by a lock
that ends with its process. Who takes a slot after another goes on with its counters: they do not fall at a restart,
and there are never more files than there were processes at a time.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import structlog
from prometheus_client import values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from core.metrics.families import FAMILIES

log = structlog.get_logger(__name__)

# Of a machine that is gone, or a container that was replaced.
FORGOTTEN_AFTER_S = 7 * 86_400.0


class _Slot:
    """The slot of this process, once it has one."""

    folder: Path | None = None
    lock: IO[bytes] | None = None


def folder_of(var: Path) -> Path:
    """The folder that the processes of this machine share, below ``DARKROOM_VAR``."""
    return var / "run" / "metrics" / re.sub(r"[^\w.-]", "-", socket.gethostname())


def join(var: Path, kind: str) -> str:
    """Take a slot of this machine's folder for this process, whose ``kind`` is letters; return the slot's name.

    Comes before anything is counted. Where the folder cannot be written, the values stay in memory, and the name is
    empty.
    """
    folder = folder_of(var)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _forget_others(folder)
        name, lock = _take(folder, kind)
    except OSError as error:
        log.warning("metrics_stay_in_memory", reason=error.strerror)
        return ""
    _Slot.folder, _Slot.lock = folder, lock
    for stale in folder.glob(f"gauge_*_{name}.db"):
        stale.unlink(missing_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    make: Callable[..., Any] = values.MultiProcessValue
    values.ValueClass = make(lambda: name)
    return name


def _take(folder: Path, kind: str) -> tuple[str, IO[bytes]]:
    for number in itertools.count():
        name = f"{kind}-{number}"
        lock = (folder / f"{name}.lock").open("ab")
        if _locked(lock, fcntl.LOCK_EX):
            return name, lock
        lock.close()
    raise AssertionError("the numbers do not end")


def _locked(lock: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _forget_others(folder: Path) -> None:
    """Delete the folders of machines that have written nothing for long."""
    for other in folder.parent.iterdir():
        times = [each.stat().st_mtime for each in other.glob("*")] if other != folder and other.is_dir() else []
        if times and time.time() - max(times) > FORGOTTEN_AFTER_S:
            shutil.rmtree(other, ignore_errors=True)


def collect() -> Iterable[Metric]:
    """What all processes of this machine have counted; without a slot, what this one has."""
    if _Slot.folder is None:
        return [each for family in _kept() for each in family.collect()]
    live = {lock.stem for lock in _Slot.folder.glob("*.lock") if _lives(lock)}
    files = [
        str(path)
        for path in sorted(_Slot.folder.glob("*.db"))
        if not path.name.startswith("gauge_") or path.stem.rsplit("_", 1)[-1] in live
    ]
    merge: Callable[[list[str]], Iterable[Metric]] = MultiProcessCollector.merge
    return [_as_declared(each) for each in merge(files)]


def _kept() -> list[Any]:
    return [family for family in FAMILIES.values() if hasattr(family, "collect")]


def _lives(path: Path) -> bool:
    """Whether a process holds the lock of the slot."""
    try:
        with path.open("rb") as lock:
            return not _locked(lock, fcntl.LOCK_SH)
    except OSError:
        return False


def _as_declared(metric: Metric) -> Metric:
    """The family without series of an earlier version that named the labels differently.

    A family that the modules of this process do not declare is another process's, and stays as it is.
    """
    family = FAMILIES.get(f"{metric.name}_total" if metric.type == "counter" else metric.name)
    if family is not None:
        named = set(family.labels)
        metric.samples = [each for each in metric.samples if set(each.labels) - {"le"} == named]
    return metric
