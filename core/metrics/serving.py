"""What a process does for its metrics by the side: gauges noted every few seconds, and the port of their own.

One process of those that share an address serves the port, for all of its machine; where it ends, another takes over.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from core.metrics import slots
from core.metrics.exposition import CONTENT_TYPE, Exposition

log = structlog.get_logger(__name__)

NOTE_EVERY_S = 5.0
REQUEST_TIMEOUT_S = 10.0


def may_read(token: str | None, header: str | None) -> bool:
    """Whether an Authorization header carries the token; False where there is no token."""
    scheme, _, given = (header or "").partition(" ")
    return (
        bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), str(token).encode())
    )


class Upkeep:
    """Notes gauges and serves the port, on a thread of its own (a greenlet where gevent has patched them).

    ``notes`` set gauges; one that raises is logged. ``address`` None: no port. ``token`` None: the port is open to
    all who can reach it.
    """

    def __init__(
        self,
        exposition: Exposition,
        notes: Sequence[Callable[[], None]],
        *,
        address: tuple[str, int] | None,
        token: str | None,
    ) -> None:
        self._exposition, self._notes, self._address, self._token = exposition, notes, address, token
        self._server: ThreadingHTTPServer | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _run(self) -> None:
        while True:
            self.once()
            if self._stop.wait(NOTE_EVERY_S):
                return

    def once(self) -> None:
        """Note every gauge, write down what was counted, and take the port if no one has it. Never raises."""
        for note in self._notes:
            try:
                note()
            except Exception:
                log.exception("gauge_not_noted", note=getattr(note, "__name__", ""))
        slots.save()
        if self._address is not None and self._server is None:
            self._serve(self._address)

    def _serve(self, address: tuple[str, int]) -> None:
        try:
            self._server = _Server(address, _handler(self._exposition, self._token))
        except OSError as error:
            log.debug("metrics_port_taken", reason=error.strerror)
            return
        log.info("metrics_served", host=address[0], port=self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="metrics-port", daemon=True).start()

    @property
    def port(self) -> int | None:
        """The port that this process serves; None where it serves none."""
        return int(self._server.server_address[1]) if self._server is not None else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error of ours."""


def _handler(exposition: Exposition, token: str | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S
        server_version, sys_version = "darkroom", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._answer(404, b"ask for /metrics\n", "text/plain")
            elif token and not may_read(token, self.headers.get("Authorization")):
                self._answer(401, b"send Authorization: Bearer <DARKROOM_METRICS_TOKEN>\n", "text/plain")
            else:
                self._answer(200, exposition.text(), CONTENT_TYPE)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class names it
            """Scrapes are not logged."""

    return Handler
