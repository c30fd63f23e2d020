"""What we have started, on disk, so that the next start can end what a crash left behind.

A list of ``{"name", "pid", "born_ticks", "boot_id", "stop_signal"}``. A process is ended only while number
and moment of birth agree, in the boot that wrote them: never a stranger who got the number later.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.embedded import folders, processes
from core.embedded.processes import Identity, Program

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_GRACE_S = 5.0


class RunFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, running: Mapping[int, Program]) -> None:
        """Replace the list by ``running``: process ids and what they run."""
        entries = [
            _entry(identity, program)
            for pid, program in running.items()
            if (identity := processes.identify(pid))
        ]
        folders.write_private(self.path, json.dumps(entries, indent=1) + "\n")

    def end_leftovers(self) -> list[str]:
        """End what is still running from last time, and forget it; returns the names found alive."""
        found = [entry for entry in self._entries() if processes.identify(entry["pid"]) == _identity(entry)]
        for entry in found:
            steps = ((signal.Signals(entry["stop_signal"]), _GRACE_S),)
            processes.end_strangers([_identity(entry)], steps)
        self.path.unlink(missing_ok=True)
        return [entry["name"] for entry in found]

    def _entries(self) -> list[dict[str, Any]]:
        with suppress(OSError, ValueError):  # None yet, or not ours: then there is nothing we may end.
            return [entry for entry in json.loads(self.path.read_text()) if entry["boot_id"] == _boot_id()]
        return []


def _entry(identity: Identity, program: Program) -> dict[str, Any]:
    return {
        "name": program.name,
        "pid": identity.pid,
        "born_ticks": identity.born_ticks,
        "boot_id": _boot_id(),
        "stop_signal": int(program.stop_steps[0][0]),
    }


def _identity(entry: Mapping[str, Any]) -> Identity:
    return Identity(entry["pid"], entry["born_ticks"])


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
