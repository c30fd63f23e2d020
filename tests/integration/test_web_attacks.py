"""Attacks on the real web process over real sockets: what is no HTTP, what never ends, and too many at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
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
PER_ADDRESS = 12
BODY_S = 1.0
ANSWERS_WITHIN_S = 20.0
JSON = "Content-Type: application/json\r\n"
FORM = "Content-Type: multipart/form-data; boundary=b\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True)
class Web:
    """The web process, and the key of an account."""

    port: int
    token: str
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=ANSWERS_WITHIN_S)

    def head(self, headers: str, *, path: str = "/api/images/generate", method: str = "POST") -> bytes:
        return f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n{headers}\r\n".encode()

    def answer(self, *pieces: bytes) -> tuple[HTTPResponse, dict[str, object]]:
        """Send the pieces as they are, all of them before anything is read; the answer and its JSON body."""
        with self.connect() as client:
            for piece in pieces:
                client.sendall(piece)
            response = HTTPResponse(client)
            response.begin()
            return response, json.loads(response.read())


@pytest.fixture(scope="module")
def web(postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    name = "web_attacks"
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template_darkroom"))
    engine.dispose()
    database_url = postgres_url.rsplit("/", 1)[0] + f"/{name}"
    token = _customer(database_url)
    with _served(database_url, redis_url, tmp_path_factory.mktemp("web"), token) as running:
        yield running


def _customer(database_url: str) -> str:
    database = Database(make_engine(database_url))
    with database.transaction() as connection:
        account = create_account(connection, "attacked")
        ledger.grant(connection, account.id, 100_000_000)
        token = create_key(connection, account.id, name="k", scopes=("jobs:write", "jobs:read")).token
    database.dispose()
    return token


@contextmanager
def _served(database_url: str, redis_url: str, var: Path, token: str) -> Iterator[Web]:
    port = free_ports(1)[0]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DARKROOM_", "OPENAI_"))}
    environ |= {
        "DATABASE_URL": database_url.replace("postgresql+psycopg://", "postgresql://"),
        "REDIS_URL": redis_url,
        "DARKROOM_VAR": str(var),
        "DARKROOM_PORT": str(port),
        "DARKROOM_BODY_TIMEOUT_S": str(BODY_S),
        "DARKROOM_CONNECTIONS_PER_ADDRESS": str(PER_ADDRESS),
        "OPENAI_API_KEY": "sk-never-used",
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:app.gunicorn_conf", "app.wsgi:app"]
    with (var / "web.log").open("ab") as log:
        process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    web = Web(port, token, process.pid)
    try:
        _until_ready(web)
        yield web
    finally:
        process.kill()
        process.wait(20)


def _until_ready(web: Web) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(requests.RequestException):
            if requests.get(f"{web.url}/healthz", timeout=5).ok:
                return
        time.sleep(0.05)
    raise AssertionError("the web process does not answer")


# ---------------------------------------------------------------- what is no HTTP


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"2;a=\x01\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}xx0\r\n\r\n",
        b"2\r\n{}\r\n0\r\nAuthorization: x\r\n\r\n",
        b"2\r\n{}\r\n0\r\nContent-Length: 3\r\n\r\n",
    ],
    ids=["size", "extension", "no end", "trailer Authorization", "trailer Content-Length"],
)
def test_a_broken_chunk_is_the_callers_fault(web: Web, chunks: bytes) -> None:
    response, body = web.answer(web.head(JSON + CHUNKED), chunks)
    assert (response.status, body["code"]) == (400, "bad_request")
    assert response.headers["Connection"] == "close"  # where the next request begins is unknown


def test_trailers_beyond_the_limit_of_headers_are_431(web: Web) -> None:
    chunks = b"2\r\n{}\r\n0\r\n" + b"A: " + b"x" * 20_000 + b"\r\n\r\n"
    response, body = web.answer(web.head(JSON + CHUNKED), chunks)
    assert (response.status, body["code"]) == (431, "headers_too_large")


def test_a_body_has_so_many_chunks_and_no_more(web: Web) -> None:
    """A million chunks of one byte took the hub for two seconds."""
    response, body = web.answer(web.head(JSON + CHUNKED), b"1\r\nx\r\n" * 100_000)
    assert (response.status, body["code"]) == (400, "bad_request")
    assert "chunks" in str(body["detail"])


def test_others_are_answered_between_requests_sent_in_advance(web: Web) -> None:
    """No key is needed for these, and all that the process reads of them is there already."""
    flood = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 3_000
    answered, done = 0, threading.Event()

    def send() -> None:
        with web.connect() as client, suppress(OSError):
            reading = threading.Thread(target=_read_all, args=(client,))
            reading.start()
            client.sendall(flood)
            client.shutdown(socket.SHUT_WR)
            reading.join(ANSWERS_WITHIN_S)
        done.set()

    sending = threading.Thread(target=send)
    with requests.Session() as session:
        session.get(f"{web.url}/healthz", timeout=ANSWERS_WITHIN_S)
        sending.start()
        while not done.is_set():
            session.get(f"{web.url}/healthz", timeout=ANSWERS_WITHIN_S)
            answered += 1
    sending.join()
    assert answered >= 10


def _read_all(client: socket.socket) -> None:
    with suppress(OSError):
        while client.recv(1 << 20):
            pass


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: 1\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
        (b"GARBAGE\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd\r\n\r\n", 400, "bad_request"),
    ],
)
def test_what_is_no_request_gets_our_own_error(web: Web, request_bytes: bytes, status: int, code: str) -> None:
    response, body = web.answer(request_bytes)
    assert (response.status, body["code"], body["status"]) == (status, code, status)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert body["request_id"] == response.headers["X-Request-Id"]
    assert "GARBAGE" not in json.dumps(body)


# ---------------------------------------------------------------- what never ends


@pytest.mark.parametrize("framing", ["chunked", "announced"])
def test_a_body_over_the_limit_is_413_and_the_answer_arrives(web: Web, framing: str) -> None:
    piece = b"x" * 0x100000
    if framing == "chunked":
        pieces = [web.head(JSON + CHUNKED), *[b"100000\r\n" + piece + b"\r\n"] * 20, b"0\r\n\r\n"]
    else:
        pieces = [web.head(f"{JSON}Content-Length: {20 * len(piece)}\r\n"), *[piece] * 20]
    response, body = web.answer(*pieces)
    assert (response.status, body["code"]) == (413, "request_too_large")


def test_a_slow_body_is_408(web: Web) -> None:
    response, body = web.answer(web.head(f"{JSON}Content-Length: 100\r\n"), b"{")
    assert (response.status, body["code"]) == (408, "request_timeout")
    assert response.headers["Connection"] == "close"


def test_a_body_that_drips_does_not_move_its_deadline(web: Web) -> None:
    """One byte at a time, each well within any time-out of a single read."""
    with web.connect() as client:
        client.sendall(web.head(f"{JSON}Content-Length: 100000\r\n"))
        sent, began = 0, time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < ANSWERS_WITHIN_S:
                client.sendall(b" ")
                sent += 1
                client.settimeout(0.05)
                with suppress(TimeoutError):
                    assert client.recv(12) == b"HTTP/1.1 408"
                    break
        assert 0 < sent < 200


def test_a_body_of_which_no_one_knows_the_caller_ends_as_well(web: Web) -> None:
    """The refusal comes first; the rest of the body is read for a while and then no more."""
    with web.connect() as client:
        client.sendall(b"POST /api/images/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        received = b""
        while data := client.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 401")


def test_the_connection_goes_on_after_a_body_that_was_not_asked_for(web: Web) -> None:
    with requests.Session() as session:
        refused = session.post(f"{web.url}/api/images/generate", data=b"x" * 200_000)
        assert refused.status_code == 401
        assert session.get(f"{web.url}/healthz").ok


# ---------------------------------------------------------------- too many at once


def test_an_address_holds_so_many_connections_and_no_more(web: Web) -> None:
    with ExitStack() as held:
        for _ in range(PER_ADDRESS):
            client = held.enter_context(web.connect())
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"  # and it stays open, idle
        response, body = web.answer(b"")
        assert (response.status, body["code"]) == (429, "rate_limited")
        assert int(response.headers["Retry-After"]) > 0
    _until_ready(web)  # they have left, and there is room again


# ---------------------------------------------------------------- too much in one body


@pytest.mark.parametrize(
    "order",
    [
        {f"f{number}": 1 for number in range(89_999)},
        {"images": [1] * 90_000},
        {"extra": {f"a{at}": {f"b{number}": [0] * 100 for number in range(100)} for at in range(9)}},
    ],
    ids=["fields", "images", "a tree"],
)
def test_members_without_end_get_a_short_answer(web: Web, order: dict[str, object]) -> None:
    answer = requests.post(f"{web.url}/api/images/estimate", json=order, headers=web.headers, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")
    assert len(answer.content) < 2_000


def test_fifty_faults_are_told_and_the_number_of_the_others(web: Web) -> None:
    order = {"prompt": "x", "images": [1] * 120}
    body = requests.post(f"{web.url}/api/images/edit", json=order, headers=web.headers, timeout=30).json()
    assert len(body["errors"]) == 50
    assert body["more_errors"] >= 70
    assert body["detail"].endswith(f"and {body['more_errors']} more")


def test_extra_has_a_limit_and_no_list_carries_it(web: Web) -> None:
    def ordered(extra: object) -> requests.Response:
        order = {"prompt": "x", "model": "gpt-image-2", "extra": extra}
        return requests.post(f"{web.url}/api/images/generate", json=order, headers=web.headers, timeout=30)

    deep: object = 1
    for _ in range(12):
        deep = [deep]
    for extra, code in (
        ({"a": "x" * 15_000_000}, "too_long"),
        ({"a": deep}, "out_of_range"),
        ({f"a{at}": [0] * 50 for at in range(20)}, "too_many"),
    ):
        answer = ordered(extra)
        assert answer.status_code == 422
        assert [(fault["field"], fault["code"]) for fault in answer.json()["errors"]] == [("extra", code)]
    accepted = ordered({"user": "x" * 60_000})
    assert accepted.status_code == 202, accepted.text
    listed = requests.get(f"{web.url}/api/images/tasks", headers=web.headers, timeout=30)
    assert [task["id"] for task in listed.json()["data"]] == [accepted.json()["id"]]
    assert len(listed.content) < 5_000
    whole = requests.get(f"{web.url}/api/images/tasks/{accepted.json()['id']}", headers=web.headers, timeout=30)
    assert len(whole.json()["request"]["extra"]["user"]) == 60_000


# ---------------------------------------------------------------- forms


def _form(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(b"--b\r\n%s\r\n\r\n%s\r\n" % (head.encode(), content) for head, content in parts) + b"--b--\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [("Content-Disposition: form-data", b"x")],
        [('Content-Disposition: form-data; filename="a.png"', b"x")],
        [('Content-Disposition: form-data; name="prompt"', b"a \xff\xfe fox")],
        [('Content-Disposition: form-data; name="prompt"\r\nContent-Type: text/plain; charset=iso-8859-1', b"\xe9")],
        [("Content-Type: text/plain", b"x")],
    ],
    ids=["no name", "a file without a name", "no UTF-8", "another charset", "no disposition"],
)
def test_a_broken_part_is_the_callers_fault(web: Web, parts: Sequence[tuple[str, bytes]]) -> None:
    form = _form(*parts)
    response, body = web.answer(web.head(f"{FORM}Content-Length: {len(form)}\r\n"), form)
    assert (response.status, body["code"]) == (400, "malformed_form")


def test_a_form_in_utf8_says_what_json_says(web: Web) -> None:
    name = 'Content-Disposition: form-data; name="{}"'
    parts = [(name.format("prompt"), "ein Füchslein \ufffd".encode()), (name.format("model"), b"gpt-image-2")]
    form = _form(*parts)
    response, body = web.answer(web.head(f"{FORM}Content-Length: {len(form)}\r\n"), form)
    assert response.status == 202
    assert body["request"]["prompt"] == "ein Füchslein \ufffd"  # type: ignore[index]
