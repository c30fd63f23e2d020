"""The load generator: raw sockets, keep-alive, the minimum of parsing; in its own process.

``python -m bench.load`` reads one order per line of its input (JSON, see :class:`LoadPlan`) and writes
one result per line, so that its start-up is paid once.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

import gevent
from gevent import socket

from bench.rounds import percentile

RECEIVE_BYTES = 65_536
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Send ``requests`` (whole HTTP/1.1 requests, in turn) for ``seconds``, or ``count`` of them."""

    port: int
    requests: Sequence[str]
    connections: int = 32
    seconds: float | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """``statuses`` maps HTTP statuses to how often they came."""

    count: int
    seconds: float
    statuses: dict[str, int]
    p50_ms: float
    p95_ms: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


class UnexpectedAnswersError(Exception):
    """The server refused requests, so that the figures would mean nothing."""


class Load:
    """The generator's process, to be used in a ``with`` block."""

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def send(self, order: LoadPlan, *, expected: int) -> Result:
        """Raises UnexpectedAnswersError when any answer has another status."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        result = Result(**json.loads(self._process.stdout.readline()))
        if set(result.statuses) != {str(expected)}:
            raise UnexpectedAnswersError(f"wanted {expected} throughout, got {result.statuses}")
        return result


def request(method: str, path: str, *, key: str = "", body: Any = None) -> str:
    """One HTTP/1.1 request as it goes over the wire."""
    data = "" if body is None else json.dumps(body)
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "Accept: application/json"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(data.encode())}"] if data else []
    return "\r\n".join([*lines, "", data])


@dataclass
class _Tally:
    order: LoadPlan
    until: float
    requests: Iterator[bytes]
    left: Iterator[int]
    statuses: Counter[str] = field(default_factory=Counter)
    took_ms: list[float] = field(default_factory=list)


def run(order: LoadPlan) -> Result:
    """Each connection sends its next request when it has the response (a closed loop)."""
    began = time.monotonic()
    tally = _Tally(
        order=order,
        until=began + (order.seconds if order.seconds is not None else float("inf")),
        requests=itertools.cycle([text.encode() for text in order.requests]),
        left=iter(range(order.count)) if order.count is not None else itertools.count(),
    )
    gevent.joinall([gevent.spawn(_talk, tally) for _ in range(order.connections)], raise_error=True)
    return Result(
        count=len(tally.took_ms),
        seconds=time.monotonic() - began,
        statuses=dict(tally.statuses),
        p50_ms=percentile(tally.took_ms, 0.5),
        p95_ms=percentile(tally.took_ms, 0.95),
    )


def _talk(tally: _Tally) -> None:
    connection = socket.create_connection(("127.0.0.1", tally.order.port), timeout=TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while time.monotonic() < tally.until and next(tally.left, None) is not None:
            sent_at = time.monotonic()
            connection.sendall(next(tally.requests))
            tally.statuses[_status(connection)] += 1
            tally.took_ms.append((time.monotonic() - sent_at) * 1000)


def _status(connection: Any) -> str:
    """Read one answer to its end; its status."""
    data = connection.recv(RECEIVE_BYTES)
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    missing = content_length(head) - len(body)
    while missing > 0:
        missing -= len(_more(connection))
    return str(head[9:12], "ascii")


def _more(connection: Any) -> bytes:
    data = connection.recv(RECEIVE_BYTES)
    if not data:
        raise ConnectionError("the server closed the connection within an answer")
    return bytes(data)


def content_length(head: bytes) -> int:
    """From an answer's head; our servers always send it."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("an answer without Content-Length")


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(asdict(run(LoadPlan(**json.loads(line))))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
