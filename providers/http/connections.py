"""Sockets that keep to one clock, and connections that go only where they may.

The time-outs of ``requests`` count per operation, so a peer that sends a byte now and then holds a
caller for ever; and a name checked before the request may resolve to something else during it.
Both are decided here, at the socket: every wait (connect, handshake, send, header, body) ends at
the one deadline of the :class:`Exchange`, and each address is judged at the moment it is connected.

Works on plain and on gevent-patched sockets: they are kept non-blocking and we do the waiting.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import certifi
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.wait import wait_for_read, wait_for_write

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from requests import PreparedRequest, Response

_SEND_SLICE_BYTES = 64 * 1024

Resolver = Callable[[str, int], list[str]]


class Origin(NamedTuple):
    """Scheme, host (lower case, IDNA) and port: the unit in which trust is given."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class NotConnectedError(Exception):
    """No connection came about, so no byte of the request left.

    Not an ``OSError``, so that urllib3 neither wraps nor swallows it.
    """


class ForbiddenAddressError(NotConnectedError):
    """The name resolves to an address that this exchange may not reach."""


class OutOfTimeError(TimeoutError):
    """The exchange used up its time, fell silent, or was slower than allowed."""


def resolve(host: str, port: int) -> list[str]:
    """Numeric addresses of a name, in the system's order. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(slots=True)
class Exchange:
    """The rules and the clock of one request and its answer.

    ``may_reach`` judges an address of an origin; it is asked for every address before the first is
    tried. ``sent`` turns true just before the first byte of the request leaves: until then an error
    proves that nothing ran.
    """

    deadline_at: float  # monotonic clock
    connect_s: float
    silence_s: float  # longest wait for the next byte
    may_reach: Callable[[Origin, str], bool]
    resolve: Resolver = resolve
    least_bytes_per_s: int = 0
    grace_s: float = 5.0  # before the rate counts
    sent: bool = False
    received_bytes: int = 0
    first_byte_at: float | None = None

    def left_s(self, at_most_s: float) -> float:
        """Seconds the next wait may take. Raises OutOfTimeError."""
        left = self.deadline_at - monotonic()
        if left <= 0:
            raise OutOfTimeError("deadline")
        return min(left, at_most_s)

    def took(self, size_bytes: int) -> None:
        """Count received bytes. Raises OutOfTimeError when they drip."""
        now = monotonic()
        self.first_byte_at = self.first_byte_at or now
        self.received_bytes += size_bytes
        age_s = now - self.first_byte_at
        if age_s > self.grace_s and self.received_bytes < self.least_bytes_per_s * age_s:
            raise OutOfTimeError("too slow")


# urllib3 hands a pooled connection nothing but floats, so the exchange travels beside the call.
_current: ContextVar[Exchange] = ContextVar("exchange")


@contextmanager
def _during(exchange: Exchange) -> Iterator[None]:
    token = _current.set(exchange)
    try:
        yield
    finally:
        _current.reset(token)


def _await_readable(sock: socket.socket, exchange: Exchange) -> None:
    if not wait_for_read(sock, timeout=exchange.left_s(exchange.silence_s)):
        raise OutOfTimeError("silence")


def _await_writable(sock: socket.socket, exchange: Exchange) -> None:
    if not wait_for_write(sock, timeout=exchange.left_s(exchange.silence_s)):
        raise OutOfTimeError("peer does not read")


class _TimedReader(io.RawIOBase):
    """The receiving side of a socket, every read bounded by the exchange."""

    def __init__(self, sock: socket.socket, holder: io.RawIOBase, exchange: Exchange) -> None:
        self._sock = sock
        self._holder = holder  # keeps the socket open while the answer is being read
        self._exchange = exchange
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while True:
            self._exchange.left_s(0)  # data that keeps coming must not outrun the deadline
            self._sock.settimeout(0.0)
            try:
                size_bytes = self._sock.recv_into(buffer)
            except (BlockingIOError, ssl.SSLWantReadError):
                _await_readable(self._sock, self._exchange)
            except ssl.SSLWantWriteError:
                _await_writable(self._sock, self._exchange)
            else:
                self._exchange.took(size_bytes)
                self.ended = size_bytes == 0
                return size_bytes

    def close(self) -> None:
        self._holder.close()
        super().close()


class _TimedAnswer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, exchange: Exchange, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        holder = self.fp.detach()
        self._reader = _TimedReader(sock, holder, exchange)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        super().begin()
        if self._reader.ended:  # the parser takes the end of the stream for the end of the header
            raise http.client.IncompleteRead(b"")


def _send_all(sock: socket.socket, data: bytes, exchange: Exchange) -> None:
    rest = memoryview(data)
    sock.settimeout(0.0)
    while rest:
        try:
            sent_bytes = sock.send(rest[:_SEND_SLICE_BYTES])
        except ssl.SSLWantReadError:
            _await_readable(sock, exchange)
            continue
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent_bytes = 0
        if sent_bytes == 0:  # gevent's TLS socket says "not now" this way
            _await_writable(sock, exchange)
        rest = rest[sent_bytes:]


class _TimedTls(ssl.SSLContext):
    """Shakes hands under the exchange's clock, so that a drip-fed certificate cannot hold us."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        kwargs["do_handshake_on_connect"] = False
        wrapped = super().wrap_socket(sock, *args, **kwargs)
        try:
            _shake_hands(wrapped, _current.get())
        except BaseException:
            wrapped.close()
            raise
        return wrapped


def _shake_hands(sock: ssl.SSLSocket, exchange: Exchange) -> None:
    sock.settimeout(0.0)
    while True:
        try:
            return sock.do_handshake()
        except ssl.SSLWantReadError:
            _await_readable(sock, exchange)
        except ssl.SSLWantWriteError:
            _await_writable(sock, exchange)


@functools.cache
def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Verifying client context, built once: reading the bundle costs tens of milliseconds."""
    context = _TimedTls(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=ca_file or certifi.where())
    return context


def _connect(origin: Origin, exchange: Exchange) -> socket.socket:
    """A connected socket to one of the origin's addresses, all of which were judged first."""
    try:
        addresses = exchange.resolve(origin.host, origin.port)
    except (OSError, UnicodeError) as error:
        raise NotConnectedError(f"name: {type(error).__name__}") from error
    refused = [address for address in addresses if not exchange.may_reach(origin, address)]
    if refused or not addresses:
        raise ForbiddenAddressError(f"{origin.host} resolves to {', '.join(refused) or 'nothing'}")
    for position, address in enumerate(addresses, start=1):
        try:
            return _connect_to(address, origin.port, exchange)
        except OutOfTimeError as error:
            raise NotConnectedError("no time left to connect") from error
        except OSError as error:
            if position == len(addresses):
                raise NotConnectedError(f"connect: {type(error).__name__}") from error
    raise AssertionError("unreachable")


def _connect_to(address: str, port: int, exchange: Exchange) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.settimeout(exchange.left_s(exchange.connect_s))
        sock.connect((address, port))
        peer = sock.getpeername()[0]
        if ip_address(peer) != ip_address(address):
            raise ConnectionError(f"connected to {peer} instead of {address}")
        sock.settimeout(0.0)
    except BaseException:
        sock.close()
        raise
    return sock


class _PlainConnection(HTTPConnection):
    """A connection that asks the exchange where it may go and how long it may take."""

    scheme = "http"
    reuse_idle_s = 1.0
    _used_at = 0.0

    def _new_conn(self) -> socket.socket:
        return _connect(Origin(self.scheme, self.host, self.port or 0), _current.get())

    def connect(self) -> None:
        try:
            super().connect()
        except NotConnectedError:
            raise
        except (OSError, ValueError) as error:  # OutOfTimeError, TLS and certificate errors
            self.close()
            raise NotConnectedError(f"handshake: {type(error).__name__}") from error

    @property
    def is_connected(self) -> bool:
        # A server closes an idle connection just when we send on it, and then nobody can say
        # whether the request ran. Most wait for seconds; so we do not.
        return monotonic() - self._used_at < self.reuse_idle_s and super().is_connected

    def send(self, data: Any) -> None:
        exchange = _current.get()
        if self.sock is None:
            self.connect()
        exchange.sent = True
        _send_all(self.sock, data, exchange)

    def getresponse(self) -> Any:
        timed = functools.partial(_TimedAnswer, exchange=_current.get())
        self.response_class = cast("type[http.client.HTTPResponse]", timed)
        answer = super().getresponse()
        self._used_at = monotonic()
        return answer


class _TlsConnection(_PlainConnection, HTTPSConnection):
    scheme = "https"


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _FreshPlainPool(_PlainPool):
    def _put_conn(self, conn: Any) -> None:
        if conn:
            conn.close()


class _FreshTlsPool(_TlsPool):
    def _put_conn(self, conn: Any) -> None:
        if conn:
            conn.close()


class Wire(HTTPAdapter):
    """Sends one prepared request by the rules of an exchange. No retry, redirect, proxy, cookie.

    ``fresh`` connects anew for every request: for calls that must never meet a connection the
    server is about to close, and for URLs from outside, whose address is judged at each connect.
    """

    def __init__(self, *, pool_size: int, fresh: bool, ca_file: str | None = None) -> None:
        self._tls = tls_context(ca_file)
        self._pools = (_FreshPlainPool, _FreshTlsPool) if fresh else (_PlainPool, _TlsPool)
        super().__init__(pool_connections=8, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        plain, tls = self._pools
        self.poolmanager.pool_classes_by_scheme = {"http": plain, "https": tls}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing to do: our context verifies, and loads its bundle once, not per connection."""

    def transmit(self, request: PreparedRequest, exchange: Exchange) -> Response:
        """Send, and return when the header of the answer is there; the body is left to read.

        Raises: NotConnectedError, or what requests raises; ``exchange.sent`` says which it means.
        """
        with _during(exchange):
            return self.send(request, stream=True, timeout=exchange.left_s(exchange.silence_s))
