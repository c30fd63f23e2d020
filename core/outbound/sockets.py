"""Sockets that keep to one deadline, and connect only where they may.

The time-outs of ``requests`` count per operation, so a peer that sends a byte now and then holds a
caller forever; and a name checked before the request may resolve to something else during it.
Both are decided here, at the socket: every wait (connect, handshake, send, header, body) ends at
the one deadline of the :class:`Exchange`, and each address is judged at the moment it is connected.

Works on plain and on gevent-patched sockets: they are non-blocking, and the waiting is done here.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import certifi
from urllib3.util.wait import wait_for_read, wait_for_write

from core.outbound.exchange import (
    Exchange,
    ForbiddenAddressError,
    NotConnectedError,
    OutOfTimeError,
    current,
    resolve_in_time,
)
from core.outbound.urls import Origin

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SEND_SLICE_BYTES = 64 * 1024
# A peer that sends faster than we read never makes a read wait, so the other greenlets are let in after so many reads.
_READS_IN_A_ROW = 8
_CHUNKS_IN_A_ROW = 256


def _await_readable(sock: socket.socket, exchange: Exchange) -> None:
    if not wait_for_read(sock, timeout=exchange.left_s(exchange.silence_s)):
        raise OutOfTimeError("silence")


def _await_writable(sock: socket.socket, exchange: Exchange) -> None:
    if not wait_for_write(sock, timeout=exchange.left_s(exchange.silence_s)):
        raise OutOfTimeError("peer does not read")


class TimedReader(io.RawIOBase):
    """The receiving side of a socket, every read bounded by the exchange."""

    def __init__(self, sock: socket.socket, holder: io.RawIOBase, exchange: Exchange) -> None:
        self._sock = sock
        self._holder = holder  # keeps the socket open while the answer is being read
        self._exchange = exchange
        self._reads = 0
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what is there, at least one byte before the end. Raises OutOfTimeError, FloodError, OSError."""
        self._reads += 1
        if self._reads % _READS_IN_A_ROW == 0:
            time.sleep(0)
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


class TimedResponse(http.client.HTTPResponse):
    """A response that is read within the time of its exchange."""

    def __init__(self, sock: socket.socket, *args: Any, exchange: Exchange, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        holder = self.fp.detach()
        self._exchange = exchange
        exchange.expect_head()
        self._reader = TimedReader(sock, holder, exchange)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        """Read the header, and the interim answers before it. Raises IncompleteRead where the stream ends within it,
        FloodError where it does not end."""
        super().begin()
        self._exchange.expect_body()
        if self._reader.ended:  # the parser takes the end of the stream for the end of the header
            raise http.client.IncompleteRead(b"")

    # The two steps of http.client's reader that the body's length says nothing about.

    def _read_next_chunk_size(self) -> int:
        self._exchange.took_chunk()
        if self._exchange.chunks % _CHUNKS_IN_A_ROW == 0:
            time.sleep(0)
        return int(super()._read_next_chunk_size())  # type: ignore[misc]

    def _read_and_discard_trailer(self) -> None:
        self._exchange.expect_head()
        super()._read_and_discard_trailer()  # type: ignore[misc]


def send_all(sock: socket.socket, data: bytes, exchange: Exchange) -> None:
    """Send all of ``data``. Raises OutOfTimeError, OSError."""
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
        if sent_bytes == 0:  # how gevent's TLS socket says "not now"
            _await_writable(sock, exchange)
        rest = rest[sent_bytes:]


class _TimedTls(ssl.SSLContext):
    """Does the handshake within the exchange's time, so that a slowly sent certificate cannot block it."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        kwargs["do_handshake_on_connect"] = False
        wrapped = super().wrap_socket(sock, *args, **kwargs)
        try:
            _shake_hands(wrapped, current.get())
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
    """The verifying TLS context of clients, built once: reading the bundle takes tens of milliseconds."""
    context = _TimedTls(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=ca_file or certifi.where())
    return context


def connect(origin: Origin, exchange: Exchange) -> socket.socket:
    """A connected socket to one of the origin's addresses, all of which are judged first.

    Raises: NotConnectedError; ForbiddenAddressError where one of them may not be reached.
    """
    try:
        addresses = resolve_in_time(exchange, origin)
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
