"""HTTP over real sockets: what may have run, what cannot have run, and where a URL may lead."""

from __future__ import annotations

import gzip
import io
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.serving.worker import THREADS
from core.outbound import untrusted
from core.outbound.exchange import OVERHEAD_BYTES, Exchange, FloodError, OutOfTimeError
from core.outbound.sockets import TimedReader
from core.outbound.untrusted import Policy, fetch, put
from core.outbound.urls import UnsafeUrlError, origin_of
from providers.errors import Failed, NotRun, Uncertain
from providers.http.client import FilePart, UpstreamSession, WireRequest
from providers.shared import results

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Script = Callable[[socket.socket, bytes], None]


@dataclass
class Upstream:
    """A server that passes each request to a script. ``requests`` are the bytes as received."""

    script: Script
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                conn, _peer = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(conn,), daemon=True).start()

    def _talk(self, conn: socket.socket) -> None:
        try:
            with self.tls.wrap_socket(conn, server_side=True) if self.tls else conn as wrapped:
                while request := _read_request(wrapped):
                    self.requests.append(request)
                    self.script(wrapped, request)
        except OSError:
            pass


def _read_request(conn: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = conn.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while lengths and len(body) < lengths[0]:
        body += conn.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def upstream(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[Upstream]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Upstream(script, listener.getsockname()[1], tls=tls)
    thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def answers(*parts: bytes) -> Script:
    def script(conn: socket.socket, _request: bytes) -> None:
        for part in parts:
            conn.sendall(part)

    return script


def closes(*parts: bytes) -> Script:
    def script(conn: socket.socket, _request: bytes) -> None:
        for part in parts:
            conn.sendall(part)
        conn.shutdown(socket.SHUT_RDWR)

    return script


def resets(conn: socket.socket, _request: bytes) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\n")
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def drips(head: bytes, server_stops: Callable[[], bool]) -> Script:
    """One byte each 20 ms, forever: each read succeeds, so only a total deadline ends it."""

    def script(conn: socket.socket, _request: bytes) -> None:
        conn.sendall(head)
        while not server_stops():
            conn.sendall(b"x")
            time.sleep(0.02)

    return script


def session(server: Upstream, **options: bool) -> UpstreamSession:
    return UpstreamSession(f"{server.url}/v1", {"Authorization": "Bearer secret"}, **options)


POST = WireRequest("POST", "/images", json={"prompt": "a fox"})


def ask(server: Upstream, *, total_s: float = 5.0, max_bytes: int = 1000) -> bytes:
    return session(server).send(POST, total_s=total_s, max_bytes=max_bytes).body


# ---------------------------------------------------------------- how a request is written


def test_a_form_without_a_file_is_multipart_only_on_request() -> None:
    with upstream(answers(OK)) as server:
        for multipart in (False, True):
            asked = WireRequest("POST", "/forms", form=[("prompt", "ein Füchslein")], multipart=multipart)
            session(server).send(asked, total_s=5, max_bytes=10)
        plain, parts = server.requests
    assert b"application/x-www-form-urlencoded" in plain
    assert b"multipart/form-data; boundary=" in parts
    assert b'form-data; name="prompt"\r\n' in parts  # no filename, or it would be a file
    assert "ein Füchslein".encode() in parts


def test_a_requests_own_headers_never_replace_the_sessions() -> None:
    with upstream(answers(OK)) as server:
        asked = WireRequest("GET", "/look", headers={"Accept": "image/*", "Authorization": "Bearer other"})
        session(server).send(asked, total_s=5, max_bytes=10)
        [seen] = server.requests
    assert b"Accept: image/*" in seen
    assert b"Authorization: Bearer secret" in seen
    assert b"other" not in seen


# ---------------------------------------------------------------- what ran and what did not


def test_a_request_carries_the_credential_and_asks_for_no_compression() -> None:
    with upstream(answers(OK)) as server:
        assert ask(server) == b"ok"
    [request] = server.requests
    assert request.startswith(b"POST /v1/images HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in request
    assert b"Accept-Encoding: identity\r\n" in request
    assert b"python-requests" not in request


def test_a_refused_connection_did_not_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NotRun) as caught:
        UpstreamSession(f"http://127.0.0.1:{port}", {}).send(POST, total_s=5, max_bytes=10)
    assert caught.value.code == "upstream_unreachable"


def test_an_unknown_host_did_not_run() -> None:
    with pytest.raises(NotRun):
        UpstreamSession("http://no-such-host.invalid", {}).send(POST, total_s=5, max_bytes=10)


def test_a_failed_handshake_did_not_run() -> None:
    with upstream(answers(OK)) as server:  # speaks plain HTTP where TLS is expected
        secure = UpstreamSession(server.url.replace("http", "https"), {})
        with pytest.raises(NotRun):
            secure.send(POST, total_s=0.5, max_bytes=10)
    assert server.requests == []


def test_a_silent_handshake_ends_at_the_deadline_and_did_not_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # connects, and sends nothing
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        begun_at = time.monotonic()
        with pytest.raises(NotRun):
            UpstreamSession(url, {}).send(POST, total_s=0.3, max_bytes=10)
        assert time.monotonic() - begun_at < 4


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(closes(), id="closed without an answer"),
        pytest.param(closes(b"HTTP/1.1 200 OK\r\nContent-Le"), id="cut in the header"),
        pytest.param(closes(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour"), id="cut in the body"),
        pytest.param(closes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n"), id="cut in chunks"),
        pytest.param(resets, id="reset"),
    ],
)
def test_a_connection_that_breaks_is_uncertain_and_no_unreadable_answer(script: Script) -> None:
    with upstream(script) as server, pytest.raises(Uncertain) as caught:
        ask(server)
    assert caught.value.code == "upstream_connection_lost"
    assert len(server.requests) == 1  # never sent again by itself


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(closes(b"\x00\x01garbage\r\n\r\n"), id="not HTTP"),
        pytest.param(
            closes(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
            id="not gzip",
        ),
    ],
)
def test_a_broken_answer_is_uncertain(script: Script) -> None:
    with upstream(script) as server, pytest.raises(Uncertain) as caught:
        ask(server)
    assert caught.value.code == "upstream_broken_answer"
    assert len(server.requests) == 1  # never sent again by itself


def test_silence_is_uncertain_at_the_deadline() -> None:
    released = threading.Event()
    with upstream(lambda _conn, _request: released.wait(5) and None) as server:
        with pytest.raises(Uncertain) as caught:
            ask(server, total_s=0.2)
        released.set()
    assert caught.value.code == "upstream_no_answer"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["header", "body"])
def test_slow_bytes_do_not_outlive_the_deadline(head: bytes) -> None:
    stop = threading.Event()
    with upstream(drips(head, stop.is_set)) as server:
        begun_at = time.monotonic()
        with pytest.raises(Uncertain) as caught:
            ask(server, total_s=0.3, max_bytes=10**6)
        stop.set()
    assert caught.value.code == "upstream_no_answer"
    assert time.monotonic() - begun_at < 4


def test_a_peer_that_does_not_read_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = UpstreamSession(f"http://127.0.0.1:{listener.getsockname()[1]}", {})
        big = FilePart("image", "a.png", "image/png", bytes(32 * 1024 * 1024))
        with pytest.raises(Uncertain) as caught:
            here.send(WireRequest("POST", "/edits", files=[big]), total_s=0.3, max_bytes=10)
    assert caught.value.code == "upstream_no_answer"


def test_an_announced_and_an_endless_body_are_capped() -> None:
    announced = b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n"
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000
    for script in (closes(announced), closes(endless)):
        with upstream(script) as server, pytest.raises(Uncertain) as caught:
            ask(server)
        assert caught.value.code == "upstream_answer_too_large"


def test_the_cap_counts_decoded_bytes() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    with upstream(closes(head, bomb)) as server, pytest.raises(Uncertain) as caught:
        ask(server, max_bytes=100_000)
    assert caught.value.code == "upstream_answer_too_large"


def test_a_redirect_is_an_answer_and_the_credential_is_not_sent_on() -> None:
    with upstream(answers(OK)) as elsewhere:
        away = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n".encode()
        with upstream(answers(away)) as server:
            assert session(server).send(POST, total_s=5, max_bytes=10).status == 307
    assert elsewhere.requests == []


def test_a_path_cannot_leave_the_origin() -> None:
    with upstream(answers(OK)) as server:
        root = UpstreamSession(server.url, {"Authorization": "Bearer secret"})
        with pytest.raises(ValueError):
            root.send(WireRequest("GET", "@example.com/"), total_s=5, max_bytes=10)


def test_connections_are_reused_unless_asked_to_be_fresh() -> None:
    with upstream(answers(OK)) as server:
        pooled = session(server)
        for _ in range(3):
            pooled.send(POST, total_s=5, max_bytes=10)
        assert server.connections == 1
        fresh = session(server, fresh=True)
        for _ in range(3):
            fresh.send(POST, total_s=5, max_bytes=10)
        assert server.connections == 4


def test_a_connection_that_idled_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    with upstream(answers(OK)) as server:
        pooled = session(server)
        pooled.send(POST, total_s=5, max_bytes=10)
        monkeypatch.setattr("core.outbound.connections._PlainConnection.reuse_idle_s", 0.0)
        pooled.send(POST, total_s=5, max_bytes=10)
        assert server.connections == 2


def test_a_killed_reader_leaves_no_half_read_connection() -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with upstream(answers(body)) as server:
        pooled = session(server)
        streamed = iter(pooled.stream(POST, total_s=5, max_bytes=1000))
        assert next(streamed) == b"half"
        with pytest.raises(KeyboardInterrupt):
            streamed.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
        server.script = answers(OK)
        assert pooled.send(POST, total_s=5, max_bytes=10).body == b"ok"
        assert server.connections == 2


def test_an_interrupted_read_hangs_up_at_once() -> None:
    hung_up = threading.Event()

    def script(conn: socket.socket, _request: bytes) -> None:
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        if conn.recv(1) == b"":
            hung_up.set()

    with upstream(script) as server:
        answer = session(server).stream(POST, total_s=5, max_bytes=1000)
        streamed = iter(answer)
        next(streamed)
        with pytest.raises(KeyboardInterrupt):
            streamed.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
        assert hung_up.wait(5)  # although the answer is still referenced here
        assert answer.status == 200


def test_bytes_that_keep_coming_do_not_outrun_the_deadline() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"always something to read")
        past = Exchange(time.monotonic() - 1, 5, 5, may_reach=lambda _origin, _address: True)
        reader = TimedReader(here, io.BytesIO(), past)
        with pytest.raises(OutOfTimeError):
            reader.readinto(bytearray(1))


def test_a_stream_yields_bytes_as_they_arrive() -> None:
    read = threading.Event()

    def script(conn: socket.socket, _request: bytes) -> None:
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        read.wait(5)
        conn.sendall(b"3\r\ntwo\r\n0\r\n\r\n")

    with upstream(script) as server:
        chunks = iter(session(server).stream(POST, total_s=5, max_bytes=100))
        assert next(chunks) == b"one"
        read.set()
        assert list(chunks) == [b"two"]


def test_no_secret_and_no_prompt_in_reprs_and_errors() -> None:
    with upstream(closes()) as server, pytest.raises(Uncertain) as caught:
        ask(server)
    shown = repr(session(server)) + repr(POST) + repr(caught.value) + str(caught.value)
    assert "secret" not in shown
    assert "fox" not in shown


# ---------------------------------------------------------------- URLs from outside


USER = Policy.user(max_bytes=1000)


@pytest.mark.parametrize(
    "url",
    [
        "http://93.184.216.34/a.png",
        "https://93.184.216.34:8443/a.png",
        "https://user:secret@example.com/a.png",
        "https://user@example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "//example.com/a.png",
        "a.png",
        "",
        "https://",
        "https://exa mple.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/\r\nX-Injected: 1",
        "https://example.com:99999/",
        "https://[fe80::1%25eth0]/",
        "https://example.com/" + "a" * 3000,
        # Every one of these reaches this machine, the local network or a cloud's metadata.
        "https://127.0.0.1/",
        "https://localhost/",
        "https://localhost./",
        "https://127.1/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://2130706433/",
        "https://0/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://168.63.129.16/",
        "https://100.100.100.200/",
    ],
)
def test_a_users_url_to_a_forbidden_address_is_refused(url: str) -> None:
    with pytest.raises(UnsafeUrlError) as caught:
        fetch(url, USER)
    assert caught.value.code == "url_not_allowed"


def test_a_name_is_refused_when_any_of_its_addresses_is_private() -> None:
    mixed = replace(USER, resolve=lambda _host, _port: ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(UnsafeUrlError) as caught:
        fetch("https://rebind.example/a.png", mixed)
    assert caught.value.code == "url_not_allowed"


def test_the_address_that_was_judged_is_the_one_that_is_connected() -> None:
    """A second look-up of a rebinding name would answer with this machine; there is no second one."""
    asked: list[str] = []

    def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"] if len(asked) > 1 else ["127.0.0.1"]

    with upstream(answers(OK)) as server:
        named = f"http://images.example:{server.port}"
        policy = replace(Policy.result([origin_of(named)], max_bytes=100), resolve=rebinding)
        assert fetch(f"{named}/a.png", policy).data == b"ok"
    assert asked == ["images.example"]
    assert b"Host: images.example:%d\r\n" % server.port in server.requests[0]


def test_a_trusted_origin_is_exempt_and_only_exactly_that_one() -> None:
    with upstream(answers(OK)) as server, upstream(answers(OK)) as other:
        policy = Policy.result([origin_of(server.url)], max_bytes=100)
        assert fetch(f"{server.url}/a.png", policy).data == b"ok"
        for url in (
            f"{other.url}/a.png",
            f"https://127.0.0.1:{server.port}/",
            f"http://localhost:{server.port}/",
        ):
            with pytest.raises(UnsafeUrlError) as caught:
                fetch(url, policy)
            assert caught.value.code == "url_not_allowed"
    assert other.requests == []


def redirects_to(location: str) -> Script:
    return answers(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{other}/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://user:pass@example.com/",
        "file:///etc/passwd",
    ],
)
def test_each_redirect_is_judged_again(target: str) -> None:
    with upstream(answers(OK)) as other, upstream(redirects_to(target.format(other=other.port))) as server:
        policy = Policy.result([origin_of(server.url)], max_bytes=100)
        with pytest.raises(UnsafeUrlError) as caught:
            fetch(server.url, policy)
    assert caught.value.code == "url_not_allowed"
    assert other.connections == 0


def test_three_redirects_are_followed_and_a_loop_is_not() -> None:
    with upstream(answers(OK)) as server:

        def script(conn: socket.socket, request: bytes) -> None:
            step = int(request.split(b" ")[1].strip(b"/"))
            redirects_to(f"/{step - 1}")(conn, request) if step else conn.sendall(OK)

        server.script = script
        policy = Policy.result([origin_of(server.url)], max_bytes=100)
        assert fetch(f"{server.url}/3", policy).url == f"{server.url}/0"
        with pytest.raises(UnsafeUrlError) as caught:
            fetch(f"{server.url}/4", policy)
    assert caught.value.code == "url_redirects"


def test_headers_do_not_follow_to_another_origin() -> None:
    with upstream(answers(OK)) as other, upstream(redirects_to(f"{other.url}/b")) as server:
        policy = Policy.result([origin_of(server.url), origin_of(other.url)], max_bytes=100)
        fetch(f"{server.url}/a", policy, headers={"Authorization": "Bearer secret"})
    assert b"Bearer secret" in server.requests[0]
    assert b"Bearer secret" not in other.requests[0]


def test_a_fetch_ends_for_slow_large_and_dead_links() -> None:
    stop = threading.Event()
    cases = {
        "url_too_slow": drips(b"HTTP/1.1 200 OK\r\n\r\n", stop.is_set),
        "url_too_large": closes(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000),
        "url_unreachable": answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    }
    for code, script in cases.items():
        with upstream(script) as server:
            policy = Policy.result([origin_of(server.url)], max_bytes=1000)
            # Far from its deadline: the least rate ends it.
            impatient = replace(policy, grace_s=0.1, least_bytes_per_s=100_000, total_s=30)
            begun_at = time.monotonic()
            with pytest.raises(UnsafeUrlError) as caught:
                fetch(f"{server.url}/a.png", impatient)
            assert caught.value.code == code
            assert time.monotonic() - begun_at < 5
    stop.set()


@pytest.mark.parametrize(
    ("script", "code", "error"),
    [
        (closes(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000), "result_too_large", Failed),
        (redirects_to("http://10.255.255.1/a"), "result_url_refused", Failed),
        (answers(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"), "result_gone", Failed),
        (answers(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), "result_unreachable", NotRun),
        (answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "result_unreachable", NotRun),
    ],
)
def test_a_result_that_cannot_be_read_was_billed_and_is_not_bought_again(
    script: Script, code: str, error: type[Exception]
) -> None:
    with upstream(script) as server, pytest.raises(error) as caught:
        results.download(f"{server.url}/a.png", Policy.result([origin_of(server.url)], max_bytes=1000))
    found: Any = caught.value
    assert found.code == code
    if error is Failed:
        assert (found.retryable, found.billed) == (False, True)


def test_what_comes_before_the_body_does_not_count_as_body() -> None:
    exchange = Exchange(time.monotonic() + 60, 5, 5, lambda _origin, _address: True, max_body_bytes=10_000_000)
    exchange.took(OVERHEAD_BYTES)
    with pytest.raises(FloodError):
        exchange.took(1)
    exchange.expect_body()
    exchange.took(10_000_000)
    with pytest.raises(FloodError):
        exchange.took(10_000_000)


def test_a_put_carries_its_own_headers_and_follows_no_redirect() -> None:
    created = answers(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    with upstream(created) as server, upstream(redirects_to(server.url)) as moved, upstream(answers(OK)) as stranger:
        policy = Policy.result([origin_of(server.url), origin_of(moved.url)], max_bytes=100)
        put(f"{server.url}/a?signature=x", b"image", policy, headers={"x-token": "t"})
        for url, code in ((moved.url, "url_unreachable"), (stranger.url, "url_not_allowed")):
            with pytest.raises(UnsafeUrlError) as caught:
                put(f"{url}/a", b"image", policy, headers={})
            assert caught.value.code == code
    [request] = server.requests
    assert request.startswith(b"PUT /a?signature=x HTTP/1.1\r\n")
    assert b"x-token: t\r\n" in request
    assert request.endswith(b"\r\n\r\nimage")
    assert stranger.requests == []


@pytest.mark.parametrize(
    "url", ["http://store.example/a", "https://store.example:8443/a", "https://u:p@store.example/a"]
)
def test_a_put_keeps_to_https_and_its_port_before_any_name_is_looked_up(url: str) -> None:
    def unresolved(_host: str, _port: int) -> list[str]:
        raise AssertionError("looked up")

    with pytest.raises(UnsafeUrlError) as caught:
        put(url, b"x", replace(Policy.result([], max_bytes=9), resolve=unresolved), headers={})
    assert caught.value.code == "url_not_allowed"


@pytest.mark.parametrize("header", [{"x-token": "a\r\nx-more: b"}, {"x token": "b\n"}])
def test_a_put_with_impossible_headers_is_not_sent(header: dict[str, str]) -> None:
    with upstream(answers(OK)) as server, pytest.raises(UnsafeUrlError):
        put(f"{server.url}/a", b"x", Policy.result([origin_of(server.url)], max_bytes=9), headers=header)
    assert server.requests == []


# ---------------------------------------------------------------- floods


def floods(head: bytes, piece: bytes, server_stops: Callable[[], bool], sent: list[int]) -> Script:
    """``piece`` without end, as fast as the socket takes it; ``sent`` grows by the bytes of each."""

    def script(conn: socket.socket, _request: bytes) -> None:
        conn.sendall(head)
        while not server_stops():
            conn.sendall(piece)
            sent.append(len(piece))

    return script


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
FLOODS = {
    "interim answers": (b"", INTERIM * 400),
    "header": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 90 + b"X-B: " + b"c" * 60_000 + b"\r\n"),
    "trailer": (CHUNKED, b"X-A: b\r\n" * 1000),
    "chunks of one byte": (CHUNKED.removesuffix(b"0\r\n"), b"1\r\nx\r\n" * 1000),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_what_is_no_body_counts_too(kind: str) -> None:
    """A server that never comes to the body, or to the end after it, is left after little more than the limit."""
    sent: list[int] = []
    head, piece = FLOODS[kind]
    with upstream(answers(OK)) as server:
        server.script = floods(head, piece, server.stopping.is_set, sent)
        policy = Policy.result([origin_of(server.url)], max_bytes=100_000, total_s=30)
        with pytest.raises(UnsafeUrlError) as caught:
            fetch(server.url, policy)
        assert caught.value.code == "url_unreachable"
        with pytest.raises(Uncertain) as unsure:
            UpstreamSession(server.url, {}).send(WireRequest("GET", "/"), total_s=30, max_bytes=100_000)
    assert unsure.value.code == "upstream_broken_answer"
    # Twice what is read at most, and what the two sockets hold.
    assert sum(sent) < 2 * (65_536 + 112_500) + 2 * 6_000_000


@pytest.mark.parametrize(
    ("head", "piece", "most_bytes"),
    [
        (b"", INTERIM * 400, 65_536),
        (CHUNKED, b"X-A: b\r\n" * 1000, 65_536),
        (CHUNKED.removesuffix(b"0\r\n"), b"1\r\nx\r\n" * 1000, 65_536 + 6 * 10_000_000 // 256),
    ],
    ids=["interim answers after a redirect", "trailer", "chunks of one byte"],
)
def test_a_large_body_allows_no_larger_flood(
    head: bytes, piece: bytes, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not the body is bounded by itself: each of these bytes costs far more than one of a body."""
    with upstream(answers(OK)) as server:
        flood = floods(head, piece, server.stopping.is_set, [])
        exchanges: list[Exchange] = []

        def script(conn: socket.socket, _request: bytes) -> None:
            server.script = flood
            conn.sendall(b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n")

        server.script = script
        exchange_of = untrusted._exchange
        monkeypatch.setattr(
            untrusted, "_exchange", lambda policy: exchanges.append(exchange_of(policy)) or exchanges[-1]
        )
        policy = Policy.result([origin_of(server.url)], max_bytes=10_000_000, total_s=30)
        with pytest.raises(UnsafeUrlError) as caught:
            fetch(server.url, policy)
    assert caught.value.code == "url_unreachable"
    assert sum(each.received_bytes for each in exchanges) < most_bytes + 30_000


def test_a_peer_that_is_always_ready_lets_others_run() -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
    theirs.setblocking(False)
    size_bytes = 0
    with suppress(BlockingIOError):
        while True:
            size_bytes += theirs.send(b"x" * 8192)
    turns: list[int] = []
    done = threading.Event()

    def other() -> None:
        while not done.is_set():
            turns.append(1)
            time.sleep(0)

    exchange = Exchange(time.monotonic() + 30, 5, 5, lambda _origin, _address: True, max_body_bytes=10**9)
    exchange.expect_body()
    reader = TimedReader(ours, io.RawIOBase(), exchange)
    thread = threading.Thread(target=other)
    thread.start()
    buffer = bytearray(1024)
    while exchange.received_bytes < size_bytes:
        reader.readinto(buffer)
    seen = len(turns)
    done.set()
    thread.join()
    ours.close()
    theirs.close()
    assert size_bytes > 100_000
    assert seen >= size_bytes // 1024 // 16


def test_names_of_callers_share_so_many_lookups_and_late_ones_keep_their_place() -> None:
    """A lookup goes on after its exchange has given up, and under gevent every lookup needs one of a few threads."""
    answered, asked = threading.Event(), []

    def stuck(host: str, _port: int) -> list[str]:
        asked.append(host)
        answered.wait(60)
        return ["127.0.0.1"]

    policy = replace(Policy.user(max_bytes=9), resolve=stuck, connect_s=0.05, lookups=threading.Semaphore(2))
    for number in range(5):
        with pytest.raises(UnsafeUrlError) as caught:
            fetch(f"https://slow{number}.example/a", policy)
        assert caught.value.code == "url_unreachable"
    assert asked == ["slow0.example", "slow1.example"]
    answered.set()
    with pytest.raises(UnsafeUrlError):
        fetch("https://later.example/a", replace(policy, connect_s=30))
    assert asked[2:] == ["later.example"]
    assert untrusted.LOOKUPS_AT_ONCE < THREADS
    assert Policy.user(max_bytes=1).lookups is Policy.user(max_bytes=2).lookups is not None


def test_a_name_that_does_not_resolve_in_time_is_given_up() -> None:
    """The system's resolver may take half a minute, and cannot be interrupted."""
    answered = threading.Event()

    def stuck(_host: str, _port: int) -> list[str]:
        answered.wait(60)
        return ["93.184.216.34"]

    begun_at = time.monotonic()
    with pytest.raises(UnsafeUrlError) as caught:
        fetch("https://slow.example/a.png", replace(USER, resolve=stuck, connect_s=0.2))
    assert not answered.is_set()
    assert time.monotonic() - begun_at < 30
    answered.set()
    assert caught.value.code == "url_unreachable"


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of ``images.example``, its own authority."""
    path = tmp_path_factory.mktemp("tls") / "images.pem"
    names = "subjectAltName=DNS:images.example"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += [
        "-subj",
        "/CN=images.example",
        "-addext",
        names,
        "-days",
        "2",
        "-keyout",
        str(path),
        "-out",
        "-",
    ]
    try:
        made = subprocess.run(command, capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    path.write_bytes(path.read_bytes() + made.stdout)
    return path


def _pinned(host: str, port: int, certificate: Path) -> Policy:
    policy = Policy.result([origin_of(f"https://{host}:{port}")], max_bytes=100_000, total_s=5)
    return replace(policy, resolve=lambda _host, _port: ["127.0.0.1"], ca_file=str(certificate))


def test_a_pinned_address_still_shows_and_proves_the_name(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    shown: list[str] = []
    context.sni_callback = lambda _sock, name, _context: shown.append(name)  # type: ignore[assignment]
    long = b"x" * 90_000
    with upstream(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n", long), tls=context) as server:
        good = _pinned("images.example", server.port, certificate)
        assert fetch(f"https://images.example:{server.port}/a", good).data == long
        with pytest.raises(UnsafeUrlError) as caught:  # same machine, same certificate, other name
            fetch(f"https://other.example:{server.port}/a", _pinned("other.example", server.port, certificate))
        assert caught.value.code == "url_unreachable"
        with pytest.raises(UnsafeUrlError):  # not signed by an authority we know
            fetch(f"https://images.example:{server.port}/a", replace(good, ca_file=None))
    assert shown == ["images.example", "other.example", "images.example"]
    assert len(server.requests) == 1


# ---------------------------------------------------------------- gevent


@pytest.mark.skipif("UNDER_GEVENT" in os.environ, reason="this is the inner run")
def test_all_of_this_holds_on_gevents_sockets() -> None:
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, pytest\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {__file__!r}]))"
    )
    env = {
        **os.environ,
        "UNDER_GEVENT": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
