"""One request and its answer: where it may go, and the clock that all its waits keep to."""

from __future__ import annotations

import http.client
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from time import monotonic

from core.outbound.urls import Origin

Resolver = Callable[[str, int], list[str]]


class NotConnectedError(Exception):
    """No connection was made, so no byte of the request was sent.

    Not an ``OSError``, so that urllib3 neither wraps nor swallows it.
    """


class ForbiddenAddressError(NotConnectedError):
    """The name resolves to an address that this exchange may not reach."""


class OutOfTimeError(TimeoutError):
    """The exchange used up its time, the peer was silent too long, or slower than allowed."""


class FloodError(http.client.HTTPException):
    """More header, interim answers, chunk framing or trailer than any server sends in earnest."""


# What an answer may hold besides its body: status line, header, interim answers (1xx), framing of chunks, trailer.
OVERHEAD_BYTES = 64 * 1024
# The smallest chunks that servers send in earnest, on average; each costs microseconds however little it holds.
LEAST_CHUNK_BYTES = 256
MIN_CHUNKS = 10_000


def resolve(host: str, port: int) -> list[str]:
    """Numeric addresses of a name, in the system's order. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(slots=True)
class Exchange:
    """The rules and the clock of one request and its answer.

    ``may_reach`` judges an address of an origin; it is asked about every address before the first one is
    tried. ``sent`` becomes true just before the first byte of the request is sent: until then an error
    proves that nothing ran. ``max_body_bytes`` is the longest body that will be read: together with
    :data:`OVERHEAD_BYTES` it bounds everything that is received, and by itself the number of chunks.
    """

    deadline_at: float  # monotonic clock
    connect_s: float
    silence_s: float  # longest wait for the next byte
    may_reach: Callable[[Origin, str], bool]
    resolve: Resolver = resolve
    least_bytes_per_s: int = 0
    grace_s: float = 5.0  # before the rate counts
    max_body_bytes: int = 0
    lookups: threading.Semaphore | None = None  # names resolved at once by all exchanges that share it
    sent: bool = False
    received_bytes: int = 0
    first_byte_at: float | None = None
    allowed_bytes: int = OVERHEAD_BYTES
    chunks: int = 0

    def left_s(self, at_most_s: float) -> float:
        """Seconds the next wait may take. Raises OutOfTimeError."""
        left = self.deadline_at - monotonic()
        if left <= 0:
            raise OutOfTimeError("deadline")
        return min(left, at_most_s)

    def took(self, size_bytes: int) -> None:
        """Count received bytes. Raises OutOfTimeError: they arrive too slowly; FloodError: too many."""
        now = monotonic()
        self.first_byte_at = self.first_byte_at or now
        self.received_bytes += size_bytes
        if self.received_bytes > self.allowed_bytes:
            raise FloodError(f"more than {self.allowed_bytes} bytes")
        age_s = now - self.first_byte_at
        if age_s > self.grace_s and self.received_bytes < self.least_bytes_per_s * age_s:
            raise OutOfTimeError("too slow")

    def expect_head(self) -> None:
        """From here on comes no body, but a header or a trailer."""
        self.allowed_bytes = self.received_bytes + OVERHEAD_BYTES

    def expect_body(self) -> None:
        """From here on comes the body."""
        # Its chunks' framing adds less than an eighth.
        self.allowed_bytes += self.max_body_bytes + self.max_body_bytes // 8

    def took_chunk(self) -> None:
        """Count a chunk of the body. Raises FloodError: too many."""
        self.chunks += 1
        if self.chunks > max(MIN_CHUNKS, self.max_body_bytes // LEAST_CHUNK_BYTES):
            raise FloodError(f"more than {self.chunks - 1} chunks")


def resolve_in_time(exchange: Exchange, origin: Origin) -> list[str]:
    """The addresses of an origin, as long as the exchange has time. Raises OSError, UnicodeError, OutOfTimeError.

    A resolver cannot be interrupted, so it runs in a thread of its own, which is left behind when it is late, and
    keeps its place in ``exchange.lookups`` until it ends.
    """
    if is_numeric(origin.host):
        return exchange.resolve(origin.host, origin.port)
    places = exchange.lookups
    if places is not None and not places.acquire(timeout=exchange.left_s(exchange.connect_s)):
        raise OutOfTimeError("too many names are being resolved")
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(exchange.resolve(origin.host, origin.port))
        except Exception as error:  # noqa: BLE001 (raised again by the caller)
            answers.put(error)
        finally:
            if places is not None:
                places.release()

    left_s = min(exchange.connect_s, max(0.0, exchange.deadline_at - monotonic()))
    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answers.get(timeout=left_s)
    except queue.Empty:
        raise OutOfTimeError("the name is not resolved in time") from None
    if isinstance(found, Exception):
        raise found
    return found


def is_numeric(host: str) -> bool:
    """Whether a host is an address and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


# urllib3 passes only numbers to a pooled connection, so the exchange is a context variable.
current: ContextVar[Exchange] = ContextVar("exchange")


@contextmanager
def during(exchange: Exchange) -> Iterator[None]:
    """Connections that are used inside find ``exchange`` in :data:`current`."""
    token = current.set(exchange)
    try:
        yield
    finally:
        current.reset(token)
