"""The connections of urllib3 and the transport of requests, made to keep to an :class:`Exchange`."""

from __future__ import annotations

import functools
import http.client
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from core.outbound.exchange import Exchange, NotConnectedError, current, during
from core.outbound.sockets import TimedResponse, connect, send_all, tls_context
from core.outbound.urls import Origin

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

USER_AGENT = "darkroom"


class _PlainConnection(HTTPConnection):
    """A connection that asks the current exchange where it may go and how long it may take."""

    scheme = "http"
    reuse_idle_s = 1.0
    _used_at = 0.0

    def _new_conn(self) -> socket.socket:
        return connect(Origin(self.scheme, self.host, self.port or 0), current.get())

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
        # A server may close an idle connection just as a request is sent on it, and then no one can tell
        # whether the request ran. Most servers wait for seconds; this connection is reused for one.
        return monotonic() - self._used_at < self.reuse_idle_s and super().is_connected

    def send(self, data: Any) -> None:
        exchange = current.get()
        if self.sock is None:
            self.connect()
        exchange.sent = True
        send_all(self.sock, data, exchange)

    def getresponse(self) -> Any:
        timed = functools.partial(TimedResponse, exchange=current.get())
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


class Transport(HTTPAdapter):
    """Sends one prepared request by the rules of an exchange. No retry, redirect, proxy or cookie.

    ``fresh`` opens a new connection for every request: for calls that must never use a connection that the
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
        """Nothing to do: the TLS context verifies, and it loads its bundle once instead of per connection."""

    def transmit(self, request: PreparedRequest, exchange: Exchange) -> Response:
        """Send, and return once the header of the answer has arrived; the body is left to read.

        Raises: NotConnectedError, or what requests raises; ``exchange.sent`` says which it means.
        """
        with during(exchange):
            return self.send(request, stream=True, timeout=exchange.left_s(exchange.silence_s))
