"""Serving under gevent: thousands of waiting connections, and a stop that waits for none of them."""

import json
import logging
import os
import signal
import socket
import sys
from datetime import UTC, datetime
from typing import Any

import gevent
from gevent.event import Event
from gevent.pywsgi import WSGIHandler, WSGIServer

from sandbox.misbehave import SOCKET_KEY

# Connections still open when a stop is asked for get this long.
STOP_S = 0.3
BACKLOG = 2048


class ShowingHandler(WSGIHandler):  # type: ignore[misc]  # gevent ships no types
    """Puts the connection's socket into the environment, so that a fault can cut it."""

    def handle(self) -> None:
        """Serve one connection. Head and body go out apart: without this the second waits 40 ms for an ACK."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle()

    def get_environ(self) -> dict[str, Any]:
        """The WSGI environment of one request."""
        environ: dict[str, Any] = super().get_environ()
        environ[SOCKET_KEY] = self.socket
        return environ

    def handle_error(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """A connection we cut ourselves, or a caller who left, is not worth a traceback."""
        if issubclass(kind, (OSError, gevent.GreenletExit)):
            self.close_connection = True
            return
        super().handle_error(kind, error, trace)


def as_json() -> bool:
    """Whether each line of output shall be a JSON object, by the variable that Darkroom's own processes read."""
    return os.environ.get("DARKROOM_LOG_FORMAT", "").strip() == "json"


class JsonFormatter(logging.Formatter):
    """A record as one JSON object, with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {"logger": record.name}
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return _object(record.getMessage(), record.levelname.lower(), **facts)


def _object(event: str, level: str, **facts: str) -> str:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"event": event, "level": level, "timestamp": at, **facts})


def log_as_json() -> None:
    """Write what is logged, warned of or not caught as JSON objects."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(capture=True)
    crashes = logging.getLogger("crash")
    sys.excepthook = lambda kind, error, trace: crashes.critical("uncaught_exception", exc_info=(kind, error, trace))


def serve(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. The one line on stdout says that connections are accepted, and where."""
    if as_json():
        log_as_json()

    from sandbox.wsgi import app

    server = WSGIServer(
        (host, port),
        app,
        handler_class=ShowingHandler,
        log=None,
        error_log=logging.getLogger("sandbox"),
        backlog=BACKLOG,
    )
    server.init_socket()
    stopping = Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(signum, stopping.set)
    server.start()
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{server.server_port}"
    line = _object("sandbox ready", "info", url=url) if as_json() else f"sandbox ready {url}"
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    stopping.wait()
    server.stop(timeout=STOP_S)
