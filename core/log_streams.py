"""What is written past the loggers, as JSON lines, too: prints, banners, warnings, crashes."""

from __future__ import annotations

import atexit
import io
import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

_crashes = logging.getLogger("crash")


class LineLog(io.TextIOBase):
    """A text stream that writes each line it is given to ``raw`` as a JSON object.

    It does not go through ``logging``, which itself writes to the standard streams when it fails.
    """

    def __init__(self, raw: TextIO, name: str, redact: Callable[[str], str]) -> None:
        self.raw = raw
        self._name = name
        self._redact = redact
        self._unfinished = ""
        # Re-entrant, because Celery prints in signal handlers.
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
            for line in lines:
                self._put(line)
        return len(text)

    def flush(self) -> None:
        self.raw.flush()

    def finish(self) -> None:
        """Write what has no end of line yet."""
        with self._lock:
            line, self._unfinished = self._unfinished, ""
            self._put(line)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def _put(self, line: str) -> None:
        if line.strip():
            self.raw.write(output_line(self._redact(line.rstrip()), stream=self._name) + "\n")
            self.raw.flush()


def output_line(text: str, **facts: str) -> str:
    """A printed line as JSON object: ``event: output`` and its text."""
    return json.dumps({"event": "output", "text": text, "level": "info", "timestamp": moment(), **facts})


def moment() -> str:
    """Now, as the lines of the log have it: UTC with a ``Z``."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def raw_of(stream: TextIO) -> TextIO:
    """The stream below, where it is one of ours."""
    return stream.raw if isinstance(stream, LineLog) else stream


def take_over(redact: Callable[[str], str]) -> None:
    """Replace the standard streams, and log warnings and every exception that no one catches."""
    sys.stdout = sys.__stdout__ = LineLog(raw_of(sys.stdout), "stdout", redact)  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = LineLog(raw_of(sys.stderr), "stderr", redact)  # type: ignore[misc,assignment]
    atexit.register(_finish)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda caught: _uncaught(caught.exc_type, caught.exc_value, caught.exc_traceback)
    sys.unraisablehook = lambda caught: _uncaught(caught.exc_type, caught.exc_value, caught.exc_traceback)
    hub: Any = sys.modules.get("gevent.hub")
    if hub is not None:
        hub.Hub.print_exception = lambda _hub, _context, kind, value, trace: _uncaught(kind, value, trace)


def _finish() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LineLog):
            stream.finish()


def release() -> None:
    """Give the standard streams and hooks back; for tests."""
    for name in ("stdout", "stderr"):
        stream = raw_of(getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", raw_of(getattr(sys, f"__{name}__")))
    logging.captureWarnings(capture=False)
    sys.excepthook = sys.__excepthook__
    threading.excepthook = threading.__excepthook__
    sys.unraisablehook = sys.__unraisablehook__


def _uncaught(kind: type[BaseException], value: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    _crashes.critical("uncaught_exception", exc_info=(kind, value or kind(), trace))
