"""Lines of many processes on one stream: ``web      | ...``, in colour on a terminal."""

from __future__ import annotations

import threading
from typing import TextIO

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_WIDTH = 9


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

    def __call__(self, name: str, line: str) -> None:
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

    def _prefix(self, name: str) -> str:
        text = f"{name:<{_WIDTH}}|"
        if not self._coloured:
            return text
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        return f"\x1b[{colour}m{text}\x1b[0m"
