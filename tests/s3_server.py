"""A real S3 server in a process of its own, and a front before it that can be told to fail."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from queue import Empty, Queue

import boto3
import requests
from botocore.config import Config
from pydantic import SecretStr

from storage.s3_client import S3Options

START_S = 30.0
CUT, BREAK_OFF = "cut", "break off"
ACCESS_KEY_ID, SECRET_KEY = "AKIATESTS", "a-secret-no-one-may-see"
_numbers = count(1)


@contextmanager
def running_s3() -> Iterator[str]:
    """The URL of moto's server, listening on a free port of the loopback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _url_said(process)
    finally:
        process.kill()
        process.wait()


def _url_said(process: subprocess.Popen[str]) -> str:
    """It goes on reading: the server says a line per request, and a full pipe would stop it."""
    lines: Queue[str] = Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in process.stderr or ()], daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=START_S)
        except Empty:
            raise AssertionError("moto's server does not start") from None
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
            return found[1]


def s3_client(url: str) -> object:
    """boto3's own client, to look behind the store's back."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}),
    )


def new_bucket(url: str) -> str:
    bucket = f"bucket-{next(_numbers)}"
    s3_client(url).create_bucket(Bucket=bucket)
    return bucket


def options(url: str, bucket: str, **changed: object) -> S3Options:
    return S3Options(
        **{
            "bucket": bucket,
            "endpoint_url": url,
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY_ID,
            "secret_access_key": SecretStr(SECRET_KEY),
            **changed,
        }
    )


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Front:
    """Passes requests on to an S3 server, or answers them with a fault. ``url`` is the endpoint to give a store.

    Faults meet the next ``times`` requests of a method. ``fail`` answers for the server; ``cut`` lets it do the
    work and answers nothing; ``break_off`` lets it answer and ends the connection in the middle.
    """

    behind: str
    seen: list[Seen] = field(default_factory=list)
    _faults: list[tuple[str, str, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def fail(self, status: int, code: str, *, method: str, times: int) -> None:
        with self._lock:
            self._faults += [(method, code, status)] * times

    def cut(self, *, method: str, times: int) -> None:
        self.fail(0, CUT, method=method, times=times)

    def break_off(self, *, method: str, times: int) -> None:
        self.fail(0, BREAK_OFF, method=method, times=times)

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()

    def fault_for(self, method: str) -> tuple[str, int]:
        """Code and status of the fault to meet; none is ``("", 0)``."""
        with self._lock:
            found = next((fault for fault in self._faults if fault[0] == method), None)
            if found is None:
                return "", 0
            self._faults.remove(found)
            return found[1:]

    def methods(self) -> list[str]:
        return [each.method for each in self.seen]


@contextmanager
def running_front(behind: str) -> Iterator[Front]:
    front = Front(behind)

    class Handler(_Handler):
        owner = front

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Front
    protocol_version = "HTTP/1.1"  # boto3 waits a second for "100 Continue", which 1.0 does not know

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.owner.seen.append(Seen(self.command, self.path, dict(self.headers), body))
        code, status = self.owner.fault_for(self.command)
        if status:
            said = f"<Error><Code>{code}</Code><Message>{SECRET_KEY}</Message></Error>"
            self._answer(status, {}, said.encode())
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        url = self.owner.behind + self.path
        answer = requests.request(self.command, url, data=body, headers=headers, timeout=10)
        self.close_connection = bool(code)
        if code != CUT:
            half = len(answer.content) // 2
            self._answer(answer.status_code, answer.headers, answer.content[: half if code == BREAK_OFF else None])

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815 - http.server's names

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "content-length", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass
