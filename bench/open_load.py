"""Calls that arrive at a steady rate, whatever becomes of those before them (an open loop), each on its own connection.

``python -m bench.open_load`` reads one plan per line of its input (JSON, see :class:`OpenPlan`) and writes one result
per line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType

import gevent
from gevent import socket

from bench.load import RECEIVE_BYTES, UnexpectedAnswersError, content_length

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """Send ``request`` (a whole HTTP/1.1 request) ``per_second`` times a second for ``seconds``."""

    port: int
    request: str
    per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class OpenResult:
    """``took_ms`` has one entry a call, from before its connection was opened to the last byte of its answer."""

    took_ms: Sequence[float]
    statuses: dict[str, int]


class OpenLoad:
    """The generator's process, to be used in a ``with`` block."""

    def __enter__(self) -> OpenLoad:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.open_load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def send(self, plan: OpenPlan) -> OpenResult:
        """Raises UnexpectedAnswersError when any answer has another status than 200."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asdict(plan)) + "\n")
        self._process.stdin.flush()
        result = OpenResult(**json.loads(self._process.stdout.readline()))
        if set(result.statuses) != {"200"}:
            raise UnexpectedAnswersError(f"wanted 200 throughout, got {result.statuses}")
        return result


def run(plan: OpenPlan) -> OpenResult:
    took_ms: list[float] = []
    statuses: Counter[str] = Counter()
    data = plan.request.encode()

    def call() -> None:
        began = time.monotonic()
        try:
            statuses[_call(plan.port, data)] += 1
        except OSError as error:
            statuses[type(error).__name__] += 1
        took_ms.append((time.monotonic() - began) * 1000)

    calls, began = [], time.monotonic()
    for number in range(round(plan.per_second * plan.seconds)):
        gevent.sleep(max(0.0, began + number / plan.per_second - time.monotonic()))
        calls.append(gevent.spawn(call))
    gevent.joinall(calls, raise_error=True)
    return OpenResult(took_ms, dict(statuses))


def _call(port: int, data: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += _more(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        missing = content_length(head) - len(body)
        while missing > 0:
            missing -= len(_more(connection))
        return str(head[9:12], "ascii")


def _more(connection: socket.socket) -> bytes:
    if not (data := connection.recv(RECEIVE_BYTES)):
        raise ConnectionError("the server closed the connection within an answer")
    return bytes(data)


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(asdict(run(OpenPlan(**json.loads(line))))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
