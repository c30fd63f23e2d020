"""The vendor's own package drives the WaveSpeed emulator: it must speak the vendor's dialect, not our idea of it."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any
from urllib.parse import quote

import pytest
import requests
from PIL import Image
from wavespeed import Client

from sandbox.testing import Sandbox, running_sandbox

MODEL = "wavespeed-ai/z-image/turbo"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(prepared=True) as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox) -> Client:
    sandbox.reset()
    return Client(api_key="wsk_any", base_url=sandbox.wavespeed_url, retry_interval=0.01)


def run(client: Client, prompt: str = "a red kite", model: str = MODEL, **given: Any) -> list[Any]:
    answer = client.run(model, {"prompt": prompt, "size": "256*256", **given}, poll_interval=0.01)
    return list(answer["outputs"])


def fetched(url: str) -> bytes:
    return requests.get(url, timeout=5).content


def test_it_generates(client: Client) -> None:
    [link] = run(client)
    assert Image.open(io.BytesIO(fetched(link))).size == (256, 256)


def test_it_uploads_and_edits(client: Client) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "navy").save(out, "PNG")
    out.seek(0)
    out.name = "kite.png"  # type: ignore[attr-defined]  # as a file has
    link = client.upload(out)
    assert fetched(link) == out.getvalue()
    [made] = client.run("bria/remove-background", {"image": link}, poll_interval=0.01)["outputs"]
    assert Image.open(io.BytesIO(fetched(made))).size == (64, 48)


def test_sync_mode_answers_with_the_result(client: Client) -> None:
    made = client.run(MODEL, {"prompt": "a kite"}, enable_sync_mode=True)
    assert len(made["outputs"]) == 1


def test_it_knows_a_sync_answer_that_ran_out_of_time(client: Client) -> None:
    late = client.run_no_throw(MODEL, {"prompt": "a kite [sandbox:never]"}, enable_sync_mode=True)
    assert late["status"] == "processing"
    assert client.get_result(late["task_id"])["data"]["status"] == "processing"


@pytest.mark.parametrize("fault", ["fail=moderation", "fail=cancelled", "fail=deleted", "timeout"])
def test_it_knows_every_failed_end(client: Client, fault: str) -> None:
    ended = client.run_no_throw(MODEL, {"prompt": f"a kite [sandbox:{fault}]"}, poll_interval=0.01)
    assert ended["status"] == "failed"
    assert ended["task_id"] != "unknown"


def test_it_asks_again_when_a_look_fails(client: Client, sandbox: Sandbox) -> None:
    assert run(client, "a kite [sandbox:503 at=check times=2]")
    assert sandbox.counts()["wavespeed"]["checks"] == 3


def test_it_never_submits_twice(client: Client, sandbox: Sandbox) -> None:
    with pytest.raises(RuntimeError, match="will not retry"):
        run(client, "a kite [sandbox:drop]")
    assert sandbox.counts()["wavespeed"]["accepted"] == 1


@pytest.mark.parametrize(("given", "words"), [({"steps": 4}, "steps"), ({"strength": 2}, "strength")])
def test_its_wrong_inputs_are_refused(client: Client, given: dict[str, Any], words: str) -> None:
    with pytest.raises(RuntimeError, match=f"HTTP 400.*{words}"):
        run(client, **given)


def test_its_bad_key_and_its_wrong_path_are_refused(client: Client, sandbox: Sandbox) -> None:
    with pytest.raises(RuntimeError, match="product not found"):
        run(client, model="wavespeed-ai/sdxl")
    stranger = Client(api_key="bad-key", base_url=sandbox.wavespeed_url)
    with pytest.raises(RuntimeError, match="HTTP 401"):
        run(stranger)
    with pytest.raises(RuntimeError, match="HTTP 401"):
        stranger.upload(io.BytesIO(b"image"))


# ---------------------------------------------------------------- webhooks, which the package leaves to others


@dataclass
class Listener:
    url: str
    heard: Queue[tuple[dict[str, str], bytes]]


@pytest.fixture
def listener() -> Iterator[Listener]:
    heard: Queue[tuple[dict[str, str], bytes]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield Listener(f"http://127.0.0.1:{running.server_port}/hooks?token=abc", heard)
        running.shutdown()


def asked(sandbox: Sandbox, method: str, path: str, body: object = None) -> Any:
    headers = {"Authorization": "Bearer wsk_any"}
    answer = requests.request(method, f"{sandbox.wavespeed_url}{path}", json=body, headers=headers, timeout=5)
    return answer.json()["data"]


@pytest.mark.parametrize(("prompt", "status"), [("a kite", "completed"), ("a kite [sandbox:fail=1200]", "failed")])
def test_a_webhook_is_signed_and_bare(
    sandbox: Sandbox, client: Client, listener: Listener, prompt: str, status: str
) -> None:
    task = asked(sandbox, "POST", f"/api/v3/{MODEL}?webhook={quote(listener.url, safe='')}", {"prompt": prompt})
    headers, body = listener.heard.get(timeout=10)
    told = json.loads(body)
    assert (told["id"], told["status"], told["input"]) == (task["id"], status, {"prompt": prompt})
    assert "data" not in told
    secret = asked(sandbox, "GET", "/api/v3/webhook/secret")["secret"].removeprefix("whsec_").encode()
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(secret, message, hashlib.sha256).hexdigest()
    assert headers["webhook-signature"] == f"v3,{digest}"
