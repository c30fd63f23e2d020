"""A real S3 server in a process of its own, and a front before it that can be told to fail."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import boto3
import requests
from botocore.config import Config
from pydantic import SecretStr

from storage.s3 import S3Options

START_S = 30.0
ACCESS_KEY_ID, SECRET_KEY = "AKIATESTS", "a-secret-nobody-may-see"
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
    assert process.stderr is not None
    try:
        yield _url_said(process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _url_said(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said: list[str] = []
    while select.select([process.stderr], [], [], START_S)[0] and (line := process.stderr.readline()):
        said.append(line)
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
            # It says a line per request; a full pipe would stop it.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[1]
    raise AssertionError(f"moto's server does not start: {''.join(said)}")


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

    ``fail(status, code, method=..., times=...)``: the next so many requests of that method. ``cut`` ends the
    connection without an answer, after the server has done the work.
    """

    behind: str
    seen: list[Seen] = field(default_factory=list)
    _faults: list[tuple[str, int, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def fail(self, status: int, code: str, *, method: str, times: int) -> None:
        with self._lock:
            self._faults += [(method, status, code)] * times

    def cut(self, *, method: str, times: int) -> None:
        self.fail(0, "", method=method, times=times)

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()

    def fault_for(self, method: str) -> tuple[str, int, str] | None:
        with self._lock:
            found = next((fault for fault in self._faults if fault[0] == method), None)
            if found:
                self._faults.remove(found)
            return found

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

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.owner.seen.append(Seen(self.command, self.path, dict(self.headers), body))
        fault = self.owner.fault_for(self.command)
        if fault and fault[1]:
            self._answer(
                fault[1], {}, f"<Error><Code>{fault[2]}</Code><Message>{SECRET_KEY}</Message></Error>".encode()
            )
            return
        answer = requests.request(
            self.command, self.owner.behind + self.path, data=body, headers=dict(self.headers), timeout=10
        )
        if fault:
            self.close_connection = True
        else:
            self._answer(answer.status_code, answer.headers, answer.content)

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
