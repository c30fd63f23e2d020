"""A TCP proxy that can be spoiled, between our processes and Redis or PostgreSQL."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

_CHUNK_BYTES = 65_536


class Mode(Enum):
    OPEN = "open"
    CUT = "cut"  # connections end at once, new ones too
    BLACK_HOLE = "black hole"  # existing connections swallow everything from then on; new ones work
    SILENT = "silent"  # everything is swallowed, old and new, until healed


@dataclass(eq=False)
class _Line:
    """A connection with two ends. A lost one stays open and carries nothing, as when packets are dropped silently."""

    near: socket.socket
    far: socket.socket
    lost: bool = False

    def other(self, end: socket.socket) -> socket.socket:
        return self.far if end is self.near else self.near


class Proxy:
    """Listens on a free port of the loopback and passes on to one address. One thread each way in, none per byte."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._mode = Mode.OPEN
        self._lines: set[_Line] = set()
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, name=f"proxy {port}", daemon=True).start()

    def spoil(self, mode: Mode) -> None:
        """Apply ``mode`` to existing connections and, except for the black hole, to new ones."""
        with self._lock:
            self._mode = Mode.OPEN if mode is Mode.BLACK_HOLE else mode
            lines = list(self._lines)
        for line in lines:
            if mode is Mode.CUT:
                self._end(line)
            else:
                line.lost = True

    def heal(self) -> None:
        """New connections work. Lost ones stay lost: those who wait for them must notice by themselves."""
        with self._lock:
            self._mode = Mode.OPEN

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        for line in list(self._lines):
            self._end(line)

    def _accept(self) -> None:
        while not self._closed:
            with suppress(OSError):
                near, _ = self._listener.accept()
                self._open(near)

    def _open(self, near: socket.socket) -> None:
        if self._mode is Mode.CUT:
            near.close()
            return
        try:
            far = socket.create_connection(self._to, timeout=5)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(None)
        line = _Line(near, far, lost=self._mode is Mode.SILENT)
        with self._lock:
            self._lines.add(line)
        threading.Thread(target=self._carry, args=(line,), name="line", daemon=True).start()

    def _carry(self, line: _Line) -> None:
        with suppress(OSError, ValueError), selectors.DefaultSelector() as ready:
            for end in (line.near, line.far):
                ready.register(end, selectors.EVENT_READ, end)
            open_still = True
            while open_still:
                open_still = all(_pass_on(line, key.data) for key, _ in ready.select(timeout=5))
        self._end(line)

    def _end(self, line: _Line) -> None:
        with self._lock:
            self._lines.discard(line)
        for end in (line.near, line.far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _pass_on(line: _Line, end: socket.socket) -> bool:
    """Pass one piece on; False at the end of the stream. What arrives on a lost connection is dropped."""
    piece = end.recv(_CHUNK_BYTES)
    if line.lost:
        # The other side learns nothing, not even that this one has closed.
        return bool(piece)
    if piece:
        line.other(end).sendall(piece)
    return bool(piece)
