"""Clients of the services that this one replaces, against the running service: their own words, their own tokens."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from joserfc import jwk
from joserfc import jwt as foreign
from PIL import Image
from pydantic import SecretStr

from providers.base import Accepted, CallRef, Finished, InputImage, Missing, UpstreamOrder
from providers.catalog import catalog
from providers.errors import ContentRefused, UnknownModel
from providers.upstreams.chatgpt2api.adapter import ChatGpt2Api, Config
from tests.e2e.conftest import JWT_SECRET, Service, until

MODEL = catalog.load().models["chatgpt2api-gpt-image-2"]


def size_of(blob: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(blob)) as image:
        image.load()
        return image.size


# ---------------------------------------------------------------- chatgpt2api: our own adapter is the client


@pytest.fixture
def gateway(service: Service) -> ChatGpt2Api:
    key = str(service.http.headers["Authorization"]).removeprefix("Bearer ")
    return ChatGpt2Api(Config(base_url=f"{service.running.url}/v1", api_key=SecretStr(key)))


def order(prompt: str, path: str = "gpt-image-2", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(operation="generate", model=MODEL.model_copy(update={"path": path}), prompt=prompt, **facts)


def finished(gateway: ChatGpt2Api, dedupe_key: str) -> bytes:
    call = CallRef(id="call-1", dedupe_key=dedupe_key, model=MODEL.id)

    def look() -> Finished | None:
        found = gateway.check(call)
        return found if isinstance(found, Finished) else None

    done: Finished = until(look, 30, f"{dedupe_key} to be made")
    [image] = done.images
    assert image.url
    return gateway.download(image.url)


def test_our_adapter_of_chatgpt2api_makes_an_image_through_this_service(gateway: ChatGpt2Api, service: Service) -> None:
    made = gateway.submit(order("a kite through two houses", size={"size": "1024x1536"}), dedupe_key="kite-1")
    assert made == Accepted("kite-1")
    assert size_of(finished(gateway, "kite-1")) == (1024, 1536)
    before = service.counts()
    again = gateway.submit(order("other words under the same id"), dedupe_key="kite-1")
    assert isinstance(again, Finished)
    assert service.counts() == before
    assert gateway.check(CallRef(id="c", dedupe_key="never-sent", model=MODEL.id)) == Missing()


def test_an_edit_brings_its_images_along(gateway: ChatGpt2Api) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    image = InputImage(file.getvalue(), "image/png", 64, 64)
    gateway.submit(order("make both blue", images=[image, image], mask=None), dedupe_key="edit-1")
    assert finished(gateway, "edit-1").startswith(b"\x89PNG")


def test_what_this_service_refuses_the_adapter_understands(gateway: ChatGpt2Api) -> None:
    with pytest.raises(UnknownModel):
        gateway.submit(order("a kite", path="gpt-imagine-9"), dedupe_key="unknown-1")
    gateway.submit(order("a kite [sandbox:refuse]"), dedupe_key="refused-1")
    call = CallRef(id="call-1", dedupe_key="refused-1", model=MODEL.id)

    def refused() -> bool:
        try:
            gateway.check(call)
        except ContentRefused:
            return True
        return False

    until(refused, 30, "the refusal")


# ---------------------------------------------------------------- POST /image/generate, by token


def token(customer: int) -> dict[str, str]:
    said = {"customer_id": customer, "exp": int(time.time()) + 300}
    return {"Authorization": f"Bearer {foreign.encode({'alg': 'HS256'}, said, jwk.OctKey.import_key(JWT_SECRET))}"}


def generate(service: Service, customer: int, **body: Any) -> requests.Response:
    return requests.post(
        service.url("/image/generate"),
        json={"prompt": "a fox", "customer_id": customer, **body},
        headers=token(customer),
        timeout=60,
    )


def test_a_customer_makes_an_image_by_a_token_alone(service: Service) -> None:
    image = {"model": "gpt-image-2", "width": 1024, "height": 1024, "quality": "low"}
    answer = generate(service, 4711, settings={"image": image}, save_to_db=True)
    said = answer.json()
    assert (answer.status_code, said["success"], said["code"]) == (200, True, 200), said
    assert said["data"]["settings"]["image"] == image
    assert (said["data"]["provider"], said["data"]["model"]) == ("openai", "gpt-image-2")
    assert size_of(requests.get(said["data"]["image_url"], timeout=30).content) == (1024, 1024)
    mine = requests.get(
        service.url("/api/images/tasks?metadata.customer_id=4711"), headers=token(4711), timeout=30
    ).json()
    assert [each["id"] for each in mine["data"]] == [said["task_id"]]
    assert (
        requests.get(service.url(f"/api/images/tasks/{said['task_id']}"), headers=token(4712), timeout=30).status_code
        == 404
    )


def test_what_is_not_saved_comes_as_a_data_url(service: Service) -> None:
    said = generate(service, 4711, save_to_db=False).json()
    head, _, payload = said["data"]["image_url"].partition(",")
    assert head == "data:image/png;base64"
    assert size_of(base64.b64decode(payload))


def test_what_a_provider_refuses_is_the_orders_fault(service: Service) -> None:
    answer = generate(service, 4711, prompt="a fox [sandbox:refuse]")
    assert (answer.status_code, answer.json()["code"], answer.json()["success"]) == (400, 400, False)


# ---------------------------------------------------------------- /api/generation


def events(service: Service, url: str, **how: Any) -> Iterator[dict[str, Any]]:
    with requests.get(url, stream=True, timeout=60, **how) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream"), answer.text
        for line in answer.iter_lines(decode_unicode=True):
            assert not line.startswith("event:")
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_a_generation_is_followed_until_it_has_ended(service: Service) -> None:
    body = {
        "prompt": "a fox",
        "width": 1024,
        "height": 1024,
        "numOutputs": 2,
        "negativePrompt": "dogs",
        "seed": 7,
        "steps": 4,
        "provider": "replicate",
    }
    begun = service.http.post(service.url("/api/generation"), json=body, timeout=30).json()
    assert begun["metadata"]["providerId"] == "replicate", begun
    query = f"?sessionId={begun['id']}&providerId=replicate"
    seen = list(events(service, service.url(f"/api/generation{query}"), headers=service.http.headers))
    assert {each["id"] for each in seen} == {begun["id"]}
    assert seen[-1]["status"] == "succeeded"
    assert len(seen[-1]["output"]) == 2
    assert all(size_of(requests.get(url, timeout=30).content) for url in seen[-1]["output"])
    # A browser's EventSource sends no key; it follows the signed address.
    [last] = events(service, begun["metadata"]["streamUrl"])
    assert last["status"] == "succeeded"
