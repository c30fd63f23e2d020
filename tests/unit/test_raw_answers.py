"""An upstream's own answer as it is kept: whatever it holds, no key, no bytes and no signature come through."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from providers.errors import NotRun
from providers.http import answers
from providers.http.client import UpstreamSession, WireRequest
from providers.shared import raw_answers
from providers.shared.reading import json_object

OUR_KEY = "zebra-crossing"  # of no known shape
PLANTED = {
    "sk-abcdef0123456789abcdef",
    "r8_abcdefghijklmnop",
    "AIzaSyA0123456789abcdefghijk",
    "hunter2-hunter2",
    "0123456789abcdef0123456789abcdef01234567",
    "X-Amz-Signature=feedface",
    "someone@example.org",
    "hooktoken99",
    "pw:secret@",
    OUR_KEY,
}
IMAGE = base64.b64encode(os.urandom(3000)).decode()
LEAKY = {
    "id": "task_17",
    "usage": {"input_tokens": 12, "output_tokens": 1056},
    "input": {"prompt": f"a fox, {OUR_KEY}", "seed": 7, "api_key": "hunter2-hunter2"},
    "debug": {
        "headers": {"Authorization": "Bearer sk-abcdef0123456789abcdef", "X-Api-Key": ["hunter2-hunter2"]},
        "log": f"used r8_abcdefghijklmnop and AIzaSyA0123456789abcdefghijk for someone@example.org with {OUR_KEY}",
        "accessToken": "hunter2-hunter2",
        "hash": "0123456789abcdef0123456789abcdef01234567",
        OUR_KEY: True,
    },
    "webhook": "https://ours.example/hooks/replicate/call_1/hooktoken99",
    "webhookUrl": "https://ours.example/hooks/replicate/call_1/hooktoken99",
    "output": [
        "https://cdn.example/a/b.png?X-Amz-Signature=feedface&x=1",
        "https://user:pw:secret@cdn.example/c.png",
        f"data:image/png;base64,{IMAGE}",
        {"b64_json": IMAGE},
    ],
}


@pytest.fixture
def upstream() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that answers what ``said`` holds: status, type, body."""
    said: dict[str, Any] = {"status": 200, "type": "application/json", "body": b"{}"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(said["status"])
            self.send_header("Content-Type", said["type"])
            self.send_header("Content-Length", str(len(said["body"])))
            self.end_headers()
            self.wfile.write(said["body"])

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", said
    server.shutdown()
    server.server_close()


def asked(url: str, *, reads: bool = False) -> dict[str, Any] | None:
    session = UpstreamSession(url, {"Authorization": f"Bearer {OUR_KEY}", "X-Client-Name": "darkroom"})
    with answers.listening() as heard:
        answer = session.send(WireRequest("GET", "/x"), total_s=5, max_bytes=10_000_000)
        if reads:
            json_object(answer.body)
    return raw_answers.document(heard)


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("status", [200, 400])
def test_no_planted_secret_and_no_image_comes_through(
    upstream: tuple[str, dict[str, Any]], status: int, *, reads: bool
) -> None:
    url, said = upstream
    said.update(status=status, body=json.dumps(LEAKY).encode())
    found = asked(url, reads=reads)
    assert found is not None
    text = json.dumps(found)
    assert [secret for secret in PLANTED if secret in text] == []
    assert IMAGE[:40] not in text
    body = found["body"]
    assert (found["status"], body["id"], body["usage"]) == (status, "task_17", LEAKY["usage"])
    assert body["input"]["prompt"] == "a fox, [redacted]"
    assert body["output"][0] == "https://cdn.example/a/b.png?[redacted]"
    assert body["output"][2].startswith("[image/png, ")


@pytest.mark.parametrize(
    ("media_type", "body", "shown"),
    [
        ("image/png", b"\x89PNG" + bytes(500), "[image/png, 504 bytes]"),
        ("text/html", b"<h1>502</h1> Bearer abcdefghijkl", "<h1>502</h1> Bearer [redacted]"),
        ("application/json", b"not json", "not json"),
        ("", b"", None),
    ],
)
def test_what_is_no_json_says_what_it_was(
    upstream: tuple[str, dict[str, Any]], media_type: str, body: bytes, shown: str | None
) -> None:
    url, said = upstream
    said.update(type=media_type, body=body)
    found = asked(url)
    assert found is not None
    assert found["body"] == shown


def test_what_no_database_takes_is_left_out() -> None:
    odd = {"a\x00b": "x\x00\ud800y", "n": float("nan"), "i": float("-inf"), "long": 10**30, "deep": nested(50)}
    shown = raw_answers.of_json(odd, status=200)["body"]
    assert (shown["ab"], shown["n"], shown["i"], shown["long"]) == ("xy", None, None, "[redacted]")
    assert "[left out]" in json.dumps(shown, allow_nan=False)
    json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()


def nested(depth: int) -> Any:
    return {"in": nested(depth - 1)} if depth else 1


def test_an_answer_of_any_size_is_kept_small() -> None:
    words = "these are plain words. "
    huge = {f"member {n}": words * 1000 for n in range(1000)}
    shown = raw_answers.of_json(huge, status=200)
    assert len(json.dumps(shown)) <= raw_answers.MAX_BYTES
    assert shown["body"].endswith("bytes of JSON]")
    many = raw_answers.of_json({"list": list(range(1000)), **{f"k{n}": n for n in range(500)}}, status=200)["body"]
    assert many["list"][-1] == "[800 more]"
    assert many["[left out]"] == "301 members"


def test_an_answer_before_a_request_that_failed_is_no_answer_to_it(upstream: tuple[str, dict[str, Any]]) -> None:
    url, _ = upstream
    with answers.listening() as heard:
        UpstreamSession(url, {}).send(WireRequest("GET", "/x"), total_s=5, max_bytes=1000)
        assert raw_answers.document(heard) is not None
        with pytest.raises(NotRun):
            UpstreamSession("http://127.0.0.1:1", {}).send(WireRequest("GET", "/x"), total_s=5, max_bytes=1000)
    assert raw_answers.document(heard) is None
