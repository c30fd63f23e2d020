"""Brokers that answer wrongly: a listening socket that sends a few prepared bytes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Method = tuple[int, int]  # class and method of AMQP 0-9-1

METHOD, BODY = 1, 3  # kinds of frames


def _frame(channel: int, method: Method, arguments: bytes) -> bytes:
    payload = struct.pack(">HH", *method) + arguments
    return struct.pack(">BHI", METHOD, channel, len(payload)) + payload + b"\xce"


def _long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


_START = _frame(0, (10, 10), b"\x00\x09" + _long(b"") + _long(b"PLAIN") + _long(b"en_US"))
# What RabbitMQ answers until a client has connected, asked for confirms and declared its queue.
_ANSWERS: dict[Method, tuple[Method, bytes]] = {
    (10, 11): ((10, 30), struct.pack(">HIH", 2047, 131072, 0)),
    (10, 40): ((10, 41), b"\x00"),
    (20, 10): ((20, 11), _long(b"")),
    (85, 10): ((85, 11), b""),
    (40, 10): ((40, 11), b""),
    (50, 10): ((50, 11), b"\x06openai" + struct.pack(">II", 0, 0)),
    (50, 20): ((50, 21), b""),
}
_REASON = b"broker forced connection closure"
LEAVES = _frame(0, (10, 50), struct.pack(">HB", 320, len(_REASON)) + _REASON + struct.pack(">HH", 0, 0))
IS_FULL = _frame(1, (60, 120), struct.pack(">QB", 1, 0))  # a nack, as a queue with a length limit gives


def _rabbit(client: socket.socket, to_a_message: bytes) -> None:
    client.recv(8, socket.MSG_WAITALL)
    client.sendall(_START)
    while True:
        kind, channel, size = struct.unpack(">BHI", client.recv(7, socket.MSG_WAITALL))
        body = client.recv(size + 1, socket.MSG_WAITALL)
        if kind == BODY:
            client.sendall(to_a_message)
        elif kind == METHOD and (method := struct.unpack(">HH", body[:4])) in _ANSWERS:
            client.sendall(_frame(channel, *_ANSWERS[method]))


def _rubbish(client: socket.socket) -> None:
    client.recv(8)
    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
    client.recv(65536)


@contextmanager
def _serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    def attend(client: socket.socket) -> None:
        with client, suppress(OSError, struct.error):
            client.settimeout(5)
            answer(client)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    threading.Thread(target=attend, args=(client,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@contextmanager
def rubbish() -> Iterator[int]:
    """The port of a server that is no broker."""
    with _serving(_rubbish) as port:
        yield port


@contextmanager
def rabbit(to_a_message: bytes) -> Iterator[int]:
    """The port of a RabbitMQ as far as a publisher sees it, which ``LEAVES`` or ``IS_FULL`` at each message."""
    with _serving(lambda client: _rabbit(client, to_a_message)) as port:
        yield port
