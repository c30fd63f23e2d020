"""gunicorn's gevent worker, with what it lacks against slow and broken clients.

It bounds the connections of one address, the time of a body and of an answer that no one reads; it answers what is no
request with the service's own error body; and it closes a connection only after its client could read the answer.
The head of a request has to arrive within ``keepalive`` seconds, which gunicorn itself sees to.
"""

from __future__ import annotations

import errno
import json
import socket
import time
from collections import Counter
from typing import Any

import gevent
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from app.serving.addresses import block_of
from app.serving.bodies import TimedReader, bound_chunks
from core.ids import new_id
from core.settings import load

SEND_S = 60.0  # for each piece of an answer, at most 64 kB
LINGER_S = 5.0
LINGER_BYTES = 32 * 1024 * 1024
REFUSED_LINGER_S = 1.0
RETRY_AFTER_S = 5
PIECE_BYTES = 64 * 1024
THREADS = 48  # well above core.outbound.untrusted.LOOKUPS_AT_ONCE

_PHRASES = {400: "Bad Request", 414: "URI Too Long", 429: "Too Many Requests", 431: "Request Header Fields Too Large"}


class WebWorker(GeventWorker):  # type: ignore[misc]
    """What ``app/gunicorn_conf.py`` names as ``worker_class``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = load()
        self._body_s = settings.body_timeout_s
        # Behind a proxy every connection has the proxy's address, and the proxy counts its clients.
        self._most = 0 if settings.trusted_proxies else settings.connections_per_address
        self._open: Counter[str] = Counter()

    def run(self) -> None:
        """Serve until told to stop."""
        # They resolve names: those that callers name may take half a minute each, and must leave room for ours.
        gevent.get_hub().threadpool.maxsize = THREADS
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection, unless its address has too many."""
        block = block_of(addr[0]) if isinstance(addr, tuple) and addr else ""
        if block and self._most and self._open[block] >= self._most:
            self._refuse_connection(client, block)
            return
        self._open[block] += 1
        try:
            client.settimeout(SEND_S)
            # Not GeventWorker.handle, which would take the time-out off again.
            AsyncWorker.handle(self, listener, client, addr)
        finally:
            self._open[block] -= 1
            if not self._open[block]:
                del self._open[block]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Answer one request; what the app left unread of its body is read away, within bounds."""
        if req.req_number > 1:
            gevent.sleep(0)  # requests sent in advance are all there: reading them waits for nothing
        reader = req.body.reader
        if isinstance(reader, LengthReader) and reader.length == 0:
            return self._answered(listener_name, req, sock, addr)
        if isinstance(reader, ChunkedReader):
            bound_chunks(reader)
        req.body = Body(TimedReader(reader, base_s=self._body_s, failed=req.force_close))
        try:
            return self._answered(listener_name, req, sock, addr)
        finally:
            if not _read_away(req.body):
                req.force_close()
                _linger(sock, LINGER_S)

    def _answered(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        try:
            return super().handle_request(listener_name, req, sock, addr)
        except TimeoutError:
            # gunicorn logs a traceback for every other error of a socket.
            raise ConnectionResetError(errno.ECONNRESET, "the client does not read its answer") from None

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what gunicorn could not read as a request, or what broke on the way to the app."""
        address = addr[0] if isinstance(addr, tuple) and addr else ""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        # The exception's text quotes the request.
        self.log.warning("request refused: %s from %s", type(exc).__name__, address)
        code = _CODES.get(type(exc), "bad_request")
        _send(client, _answer(code, _WORDS.get(code, f"this is no HTTP/1.1 request ({type(exc).__name__})")))
        _linger(client, REFUSED_LINGER_S)

    def _refuse_connection(self, client: Any, block: str) -> None:
        self.log.warning("connection refused: %s has %s open", block, self._open[block])
        detail = f"at most {self._most} connections of one address at once"
        _send(client, _answer("rate_limited", detail, f"Retry-After: {RETRY_AFTER_S}\r\n"))
        _linger(client, REFUSED_LINGER_S)
        client.close()


_CODES: dict[type[BaseException], str] = {LimitRequestLine: "uri_too_long", LimitRequestHeaders: "headers_too_large"}
_WORDS = {
    "uri_too_long": "the address of the request is too long",
    "headers_too_large": "a header is too large, or there are too many",
}


def _answer(code: str, detail: str, headers: str = "") -> bytes:
    """An error as bytes on the wire, in the form of every other error of the service."""
    # Not above: the table of errors pulls in the database driver, which must be imported after gevent's patches.
    from app.http.errors import CODES, PROBLEM_JSON, document

    request_id, status = new_id("req"), CODES[code].status
    body = json.dumps(document(code, detail, instance="", request_id=request_id), ensure_ascii=False).encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Error')}\r\n{headers}"
        f"Content-Type: {PROBLEM_JSON}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\nX-Request-Id: {request_id}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _send(client: Any, data: bytes) -> None:
    try:
        client.settimeout(SEND_S)
        client.sendall(data)
    except OSError:
        pass  # the client has left


def _read_away(body: Any) -> bool:
    """Whether the rest of the body could be read: then the next request may follow on this connection."""
    ends_at = time.monotonic() + LINGER_S
    left = LINGER_BYTES
    try:
        while left > 0 and time.monotonic() < ends_at and not body.failed:
            with gevent.Timeout(LINGER_S, TimeoutError()):
                data = body.read(PIECE_BYTES)
            if not data:
                return not body.failed
            left -= len(data)
    except Exception:  # noqa: BLE001 - whatever it was, this connection ends
        return False
    return False


def _linger(client: Any, for_s: float) -> None:
    """Say that no more is coming, and read for a while: bytes left unread would reset the connection, and the client
    would lose the answer."""
    ends_at = time.monotonic() + for_s
    left = LINGER_BYTES
    try:
        client.shutdown(socket.SHUT_WR)
        while left > 0 and (left_s := ends_at - time.monotonic()) > 0:
            client.settimeout(left_s)
            data = client.recv(PIECE_BYTES)
            if not data:
                return
            left -= len(data)
    except OSError:
        pass  # the client has left, or goes on sending
