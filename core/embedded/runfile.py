"""The list of started processes, on disk, so that the next start can end what a crash left behind.

A process is ended only while its number and its start time agree with the list, in the boot that wrote it: never
another process that got the number later.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from core.embedded import folders, processes
from core.embedded.processes import Identity, Program

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_GRACE_S = 5.0


@dataclass(frozen=True)
class _Entry:
    name: str
    pid: int
    born_ticks: int
    boot_id: str
    stop_signal: int

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.born_ticks)

    def alive(self) -> bool:
        return self.boot_id == _boot_id() and processes.identify(self.pid) == self.identity


class RunFile:
    """A JSON list of ``{"name", "pid", "born_ticks", "boot_id", "stop_signal"}``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, running: Mapping[int, Program]) -> None:
        """Replace the list by ``running``: process ids and what they run."""
        known = [(processes.identify(pid), program) for pid, program in running.items()]
        entries = [_entry(identity, program) for identity, program in known if identity is not None]
        folders.write_private(self.path, json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")

    def end_leftovers(self) -> list[str]:
        """End what is still running from last time and delete the list. Returns the names of those found alive."""
        left = [entry for entry in self._entries() if entry.alive()]
        for entry in left:
            processes.end_others([entry.identity], ((signal.Signals(entry.stop_signal), _GRACE_S),))
        self.path.unlink(missing_ok=True)
        return [entry.name for entry in left]

    def _entries(self) -> list[_Entry]:
        with suppress(OSError, ValueError, TypeError):  # No list yet, or not ours: there is nothing that we may end.
            return [_Entry(**entry) for entry in json.loads(self.path.read_text())]
        return []


def _entry(identity: Identity, program: Program) -> _Entry:
    return _Entry(program.name, identity.pid, identity.born_ticks, _boot_id(), int(program.stop_steps[0][0]))


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
