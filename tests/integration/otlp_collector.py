"""A small collector: it takes spans by OTLP over HTTP, as protobuf, and keeps them. It can be slow, or away."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Got:
    """A span as it arrived; ids as hex digits, ``parent`` empty for the first of a tree."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    attributes: dict[str, Any]
    process: dict[str, Any]  # attributes of the resource
    began_ns: int
    ended_ns: int


@dataclass
class Collector:
    """``answering`` cleared: requests are taken and not answered. ``asked``: paths and content types, as they came."""

    url: str = ""
    spans: list[Got] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)

    def of(self, trace: str) -> list[Got]:
        return [each for each in self.spans if each.trace == trace]


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector that listens on this machine."""
    found = Collector()
    found.answering.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked.append((self.path, self.headers["Content-Type"]))
            found.answering.wait(30)
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.answering.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Got]:
    for of_process in request.resource_spans:
        process = _attributes(of_process.resource.attributes)
        for scope in of_process.scope_spans:
            for span in scope.spans:
                yield Got(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    _attributes(span.attributes),
                    process,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in pairs}
