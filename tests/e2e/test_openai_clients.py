"""OpenAI's own package against the whole service: its types, its retries, and what its calls cost while they wait."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import psutil
import pytest
import requests
from openai import OpenAI
from openai.types import ImageEditCompletedEvent, ImageGenCompletedEvent, ImagesResponse
from PIL import Image

from tests.e2e.conftest import Service, until

OURS = ("id", "task", "cost")


@pytest.fixture
def client(service: Service) -> OpenAI:
    key = str(service.http.headers["Authorization"]).removeprefix("Bearer ")
    return OpenAI(base_url=service.url("/v1"), api_key=key)


def strictly(kind: type[Any], found: Any) -> Any:
    """What the package has read, checked by its own types, which it does not do itself."""
    told = found.to_dict(mode="python")
    return kind.model_validate({name: told[name] for name in told if name not in OURS}, strict=True)


def png(width: int = 256, height: int = 256) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), os.urandom(width * height * 3)).save(file, "PNG")
    return file.getvalue()


def submits_of(service: Service, prompt: str) -> int:
    """How often the upstream was asked for this prompt."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    return int(service.counts()["openai"]["submits_by_prompt"].get(digest, 0))


def web_worker(service: Service) -> psutil.Process:
    """The one process that serves requests; another may just be taking its place."""
    master = psutil.Process(service.running.processes()["web"])
    [worker] = until(lambda: [each for each in master.children() if each.status() != "zombie"], 10, "a web worker")
    return worker


def test_images_are_made_edited_and_varied_in_the_packages_own_types(client: OpenAI) -> None:
    made = client.images.generate(prompt="a fox", model="gpt-image-2", size="1024x1024", quality="low", n=2)
    found = strictly(ImagesResponse, made)
    assert (found.size, found.quality, found.output_format, len(found.data)) == ("1024x1024", "low", "png", 2)
    assert found.usage.input_tokens + found.usage.output_tokens == found.usage.total_tokens > 0
    assert Image.open(io.BytesIO(base64.b64decode(found.data[0].b64_json))).size == (1024, 1024)

    reworded = client.images.generate(prompt="a hare", model="chatgpt2api-gpt-image-2")
    assert strictly(ImagesResponse, reworded).data[0].revised_prompt == "a hare"

    mask = io.BytesIO()
    Image.new("RGBA", (256, 256)).save(mask, "PNG")
    edited = client.images.edit(image=[png(), png()], mask=mask.getvalue(), prompt="a hat", response_format="url")
    [link] = strictly(ImagesResponse, edited).data
    assert requests.get(link.url, timeout=30).headers["Content-Type"] == "image/png"

    varied = client.post(
        "/images/variations", cast_to=ImagesResponse, files={"image": ("fox.png", png())}, body={"model": "dall-e-2"},
        options={"headers": {"Content-Type": "multipart/form-data"}},
    )  # fmt: skip
    assert strictly(ImagesResponse, varied).usage is None  # its upstream counts no tokens


def test_streams_end_with_the_packages_own_events(client: OpenAI) -> None:
    made = list(client.images.generate(prompt="a fox in a stream", stream=True, partial_images=2))
    edited = list(client.images.edit(image=png(), prompt="a hat in a stream", stream=True))
    assert strictly(ImageGenCompletedEvent, made[0]).usage.total_tokens > 0
    assert strictly(ImageEditCompletedEvent, edited[0]).b64_json
    with pytest.raises(openai.APIError, match="content policy"):
        list(client.images.generate(prompt="[sandbox:refuse, latency=1] a fox", stream=True))


def test_a_call_outlives_its_silence_and_a_late_refusal_is_raised(service: Service, client: OpenAI) -> None:
    assert client.images.generate(prompt="a slow fox [sandbox:latency=2]").data
    prompt = "a slow hare [sandbox:latency=2,fail=moderation]"
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt=prompt)
    assert refused.value.code == "moderation_blocked"
    assert submits_of(service, prompt) == 1


def test_without_chunks_a_late_refusal_resets_the_connection(service: Service) -> None:
    """As to a proxy that speaks HTTP/1.0, where a mere close would be the end of a good answer."""
    body = json.dumps({"prompt": "a hare by HTTP/1.0 [sandbox:latency=2,fail=moderation]"}).encode()
    head = [
        "POST /v1/images/generations HTTP/1.0",
        f"Authorization: {service.http.headers['Authorization']}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "x-stainless-retry-count: 0",
    ]
    address = urlsplit(service.running.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        client.sendall("\r\n".join([*head, "", ""]).encode() + body)
        with pytest.raises(ConnectionResetError):
            while client.recv(4096):
                pass


@pytest.mark.parametrize(("asked", "cancelled"), [("true", True), ("false", False)])
def test_leaving_cancels_only_where_it_was_asked_for(service: Service, asked: str, cancelled: bool) -> None:
    prompt = f"a fox left behind {asked} [sandbox:latency=2]"
    with pytest.raises(requests.Timeout):
        service.http.post(
            service.url("/v1/images/generations"), json={"prompt": prompt}, timeout=0.5,
            headers={"X-Darkroom-Cancel-On-Disconnect": asked},
        )  # fmt: skip
    [task] = service.http.get(service.url("/api/images/tasks?limit=1"), timeout=30).json()["data"]
    found = service.ended(task["id"])
    assert (found["request"]["prompt"], found["cancel"] is not None) == (prompt, cancelled)


@pytest.mark.parametrize("latency_s", [0.9, 3])
def test_a_killed_web_process_costs_no_second_image(service: Service, client: OpenAI, latency_s: float) -> None:
    """Killed in the silence, and after white space has gone out."""
    prompt = f"a fox that outlives {latency_s} [sandbox:latency={latency_s}]"
    begun = threading.Event()
    client = client.with_options(
        http_client=openai.DefaultHttpxClient(event_hooks={"response": [lambda _head: begun.set()]})
    )
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.images.generate, prompt=prompt)
        until(lambda: submits_of(service, prompt), 10, "the upstream to be asked")
        if latency_s > 1:
            assert begun.wait(10)
        web_worker(service).send_signal(signal.SIGKILL)
        assert answer.result(timeout=30).data
    assert submits_of(service, prompt) == 1


def test_waiting_edits_hold_no_bodies(service: Service) -> None:
    """Twelve of a megabyte each, at once."""
    worker = web_worker(service)
    image = png(590, 590)

    def edit(at: int) -> Callable[[], int]:
        answer = service.http.post(
            service.url("/v1/images/edits"), data={"prompt": f"hat {at} [sandbox:latency=3]"},
            files={"image": ("fox.png", image)}, stream=True, timeout=60,
        )  # fmt: skip
        return lambda: len(answer.json()["data"])

    edit(-1)()  # what the first call loads, it keeps
    before = worker.memory_info().rss
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(edit, range(12)))  # each has begun, and waits
        grown = worker.memory_info().rss - before
        assert [answer() for answer in answers] == [1] * 12
    assert grown < 6 * 2**20
