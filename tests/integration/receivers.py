"""A receiver of callbacks on this machine: it keeps what it was sent and answers by a script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sqlalchemy import Connection

from app import callbacks
from core.db import Database
from core.outbound.untrusted import Policy
from jobs.abuse import events as abuse_events
from jobs.reads.batches import told_of
from jobs.reads.tasks import Task, find_task
from webhooks import operator
from webhooks.receivers import policy
from webhooks.sender import Sender


@dataclass(frozen=True)
class Got:
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def type(self) -> str:
        return str(self.document["type"])


@dataclass
class Receiver:
    """``answer`` returns status and headers for a request; it may wait before it does. ``body`` goes with each."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answer: Callable[[Got], tuple[int, dict[str, str]]] = lambda _got: (204, {})
    body: bytes = b""

    def statuses(self, *statuses: int, **headers: str) -> None:
        """Answer with these statuses in turn, with the last one from then on."""
        left = list(statuses)
        self.answer = lambda _got: (left.pop(0) if len(left) > 1 else left[0], headers)

    def types(self) -> list[str]:
        return [each.type for each in self.got]


KEYS = {"k1": b"s" * 32}
BASE = "https://images.example"


def make_sender(
    database: Database, rules: Policy | None = None, *, operators: operator.Receivers | None = None
) -> Sender[Task]:
    """The sender of a worker, which may reach this machine unless ``rules`` say otherwise."""

    def find(connection: Connection, account_id: str, job_id: str) -> Task:
        return find_task(connection, account_id, job_id)

    return Sender(
        database,
        forms={"standard": callbacks.standard_form(BASE, KEYS, max_wait_s=3600)},
        find=find,
        links=callbacks.signed_links(BASE, KEYS),
        policy=rules or policy(["127.0.0.1"], attempt_s=10),
        find_batch=told_of,
        operators=operators,
        find_told=abuse_events.told_of,
    )


@contextmanager
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got = Got(self.path, {name.lower(): value for name, value in self.headers.items()}, body, time.monotonic())
            found.got.append(got)
            status, headers = found.answer(got)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

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
        server.shutdown()
        server.server_close()
        thread.join()
