"""Streams of the real web process over real sockets: places, addresses, clients that leave, and a stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine, text

from accounts.accounts import create_account
from accounts.keys import create_key
from core.db import Database, make_engine
from core.embedded.ports import free_ports
from quota import ledger

ROOT = Path(__file__).resolve().parents[2]
PER_ADDRESS, PER_ACCOUNT = 4, 12
WITHIN_S = 30.0


@dataclass
class Web:
    """The web process, an account's key, and a task that stays in the queue: there is no worker."""

    environ: dict[str, str]
    port: int
    token: str
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)
    task: str = ""

    def start(self) -> None:
        command = ["sh", "-c", 'ulimit -Sn 300; exec "$@"', "sh", sys.executable]
        command += ["-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.wsgi:app"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=self.environ, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        _until_ready(self)
        self.task = self.http.post(self.url("/api/images/generate"), json={"prompt": "a fox"}).json()["id"]

    @property
    def http(self) -> requests.Session:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self.token}"
        return session

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def open(self, path: str) -> tuple[HTTPResponse, socket.socket]:
        """An answer whose head has come."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n\r\n".encode())
        response = HTTPResponse(client)
        response.begin()
        return response, client

    def stream(self) -> tuple[HTTPResponse, socket.socket]:
        return self.open(f"/api/images/tasks/{self.task}/events")


@pytest.fixture(scope="module")
def database_url(postgres_url: str) -> str:
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE web_streams TEMPLATE template_darkroom"))
    engine.dispose()
    return postgres_url.rsplit("/", 1)[0] + "/web_streams"


@pytest.fixture(scope="module")
def served(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    database = Database(make_engine(database_url))
    with database.transaction() as connection:
        account = create_account(connection, "follows")
        ledger.grant(connection, account.id, 100_000_000)
        token = create_key(connection, account.id, name="k", scopes=("jobs:write", "jobs:read")).token
    database.dispose()
    var, port = tmp_path_factory.mktemp("web"), free_ports(1)[0]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DARKROOM_", "OPENAI_"))}
    environ |= {
        "DATABASE_URL": database_url.replace("postgresql+psycopg://", "postgresql://"),
        "REDIS_URL": redis_url,
        "DARKROOM_VAR": str(var),
        "DARKROOM_PORT": str(port),
        "DARKROOM_CONNECTIONS_PER_ADDRESS": str(PER_ADDRESS),
        "DARKROOM_MAX_WAITING_PER_ACCOUNT": str(PER_ACCOUNT),
        "DARKROOM_LOG_LEVEL": "DEBUG",
        "OPENAI_API_KEY": "sk-never-used",
    }
    found = Web(environ, port, token, var / "web.log")
    try:
        found.start()
        yield found
    finally:
        found.process.kill()
        found.process.wait(20)


@pytest.fixture
def web(served: Web) -> Web:
    """The web process, started again after a test that has stopped it."""
    if served.process.poll() is not None:
        served.start()
    return served


def _until_ready(web: Web) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while time.monotonic() < ends_at:
        with suppress(requests.RequestException):
            if requests.get(web.url("/healthz"), timeout=5).ok:
                return
        time.sleep(0.05)
    raise AssertionError(web.log.read_text())


def test_the_process_may_open_as_many_files_as_the_system_allows(web: Web) -> None:
    [child] = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text().split()
    line = next(line for line in Path(f"/proc/{child}/limits").read_text().splitlines() if "open files" in line)
    soft, hard = line.split()[3:5]
    assert soft == hard != "300"
    assert "open_files_limit_raised" in web.log.read_text()


def test_streams_count_by_account_and_not_by_address(web: Web) -> None:
    """Three times as many as one address may have connections; a client that leaves gives its place back."""
    streams = [web.stream() for _ in range(PER_ACCOUNT)]
    assert {response.status for response, _ in streams} == {200}
    assert {response.headers["Content-Type"] for response, _ in streams} == {"text/event-stream"}
    refused, client = web.stream()
    assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
    client.close()
    for response, client in streams:
        response.close()  # it reads by a file of its own, which would keep the connection open
        client.close()
    ends_at = time.monotonic() + WITHIN_S
    while time.monotonic() < ends_at:
        again, client = web.stream()
        again_status = again.status
        again.close()
        client.close()
        if again_status == 200:
            return
        time.sleep(0.1)
    raise AssertionError("the places were not given back")


def test_a_stop_ends_streams_waits_and_idle_connections_at_once(web: Web) -> None:
    """gunicorn's own grace of 8 s is for answers that are being made, and these would last for ever."""
    idle = web.http
    idle.get(web.url(f"/api/images/tasks/{web.task}"))
    of_task, _ = web.stream()
    of_account, _ = web.open("/api/images/events")
    assert of_task.readline() == b"retry: 2000\n"
    assert of_account.readline() == b"retry: 2000\n"
    waiting = socket.create_connection(("127.0.0.1", web.port), timeout=WITHIN_S)
    path = f"/api/images/tasks/{web.task}?wait=60"
    waiting.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {web.token}\r\n\r\n".encode())
    # Answered on the same process, so that the waiting request has arrived before it.
    requests.get(web.url("/healthz"), timeout=WITHIN_S)

    web.process.send_signal(signal.SIGTERM)
    assert b"task.queued" in of_task.read()  # to its last chunk: the answer is complete
    of_account.read()
    answer = HTTPResponse(waiting)
    answer.begin()
    assert (answer.status, json.loads(answer.read())["status"]) == (200, "queued")
    web.process.wait(WITHIN_S)
    log = web.log.read_text()
    assert "Worker exiting" in log  # by itself: a worker that its master has to kill says nothing
    assert "SIGKILL" not in log
