"""Lines of many processes on one stream: ``web      | ...``, in colour on a terminal, or JSON objects."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any, TextIO

from core.log_streams import moment, output_line, raw_of
from core.logging import redact

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_WIDTH = 9
# What PostgreSQL says of each connection that it refuses while it starts or stops: dozens a second.
_REFUSALS = re.compile(r"FATAL:  (the database system is|terminating connection)")
_AGAIN_AFTER_S = 10.0


class Prefixed:
    """Writes ``name | line``; one colour per name, in order of appearance.

    When the reader is gone (``darkroom up | head``) the writing ends, not the service.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._coloured = stream.isatty()
        self._colours: dict[str, int] = {}
        self._lock = threading.Lock()
        self._reader_gone = False
        self._refused_at: dict[str, float] = {}

    def __call__(self, name: str, line: str) -> None:
        if not self._repeats(line):
            self.plain(f"{self._prefix(name)} {line}")

    def plain(self, text: str) -> None:
        """Write ``text`` without a prefix, between two lines of others."""
        with self._lock:
            if self._reader_gone:
                return
            try:
                self._stream.write(f"{text}\n")
                self._stream.flush()
            except (OSError, ValueError):  # A broken pipe, a hung-up terminal; a closed stream.
                self._reader_gone = True

    def _repeats(self, line: str) -> bool:
        """Whether PostgreSQL has refused a connection in the same words just now."""
        if not _REFUSALS.match(line):
            return False
        now = time.monotonic()
        if now - self._refused_at.get(line, -_AGAIN_AFTER_S) < _AGAIN_AFTER_S:
            return True
        self._refused_at[line] = now
        return False

    def _prefix(self, name: str) -> str:
        text = f"{name:<{_WIDTH}}|"
        if not self._coloured:
            return text
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        return f"\x1b[{colour}m{text}\x1b[0m"


class JsonLines(Prefixed):
    """Writes one JSON object a line, with the name as ``process``: a line that is none becomes one."""

    def __call__(self, name: str, line: str) -> None:
        if line.strip() and not self._repeats(line):
            super().plain(json.dumps({"process": name, **_as_object(line)}))

    def plain(self, text: str) -> None:
        for line in text.splitlines():
            self("up", line)


def writer(stream: TextIO, log_format: str) -> Prefixed:
    """The writer of a log's format, ``text`` or ``json``."""
    return JsonLines(raw_of(stream)) if log_format == "json" else Prefixed(stream)


def _as_object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found if "timestamp" in found else {**found, "timestamp": moment()}
    return dict(json.loads(output_line(redact(line.rstrip()))))
