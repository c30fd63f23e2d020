"""Orders answered with an image, refused prompts adjusted, upstreams' answers, and chats, through every real part."""

from __future__ import annotations

import io
import json

import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.e2e.conftest import Service

REFUSED = "a duel [sandbox:refuse at=submit]"


@pytest.fixture(scope="module")
def client(service: Service) -> OpenAI:
    key = str(service.http.headers["Authorization"]).removeprefix("Bearer ")
    return OpenAI(api_key=key, base_url=service.url("/v1"), max_retries=0)


def test_one_request_is_an_image(service: Service) -> None:
    answer = service.http.post(
        service.url("/api/images/generate"),
        json={"prompt": "a pier", "model": "gpt-image-2", "size": "1024x1024"},
        headers={"Accept": "image/*", "Prefer": "wait=60"},
        timeout=90,
    )
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (1024, 1024)
    task = service.task(answer.headers["X-Task-Id"])
    assert answer.headers["X-Cost-Captured"] == task["price"]["captured"]
    again = service.http.get(service.url(answer.headers["Content-Location"]), timeout=30)
    assert again.content == answer.content


# Flux names a price when it takes a task and refuses at a look; the others refuse at the submit.
@pytest.mark.parametrize("model", ["flux-2-pro", "gpt-image-2", "stable-image-core", "replicate-flux-2-pro"])
def test_a_refused_prompt_is_adjusted_at_every_upstream(service: Service, model: str) -> None:
    task = service.wait_for("generate", prompt=REFUSED, model=model, safe_prompt=True)
    assert (task["status"], task["attempts"]) == ("succeeded", 2), task["warnings"]
    assert task["request"]["original_prompt"] == REFUSED
    raw = service.http.get(service.url(f"/api/images/tasks/{task['id']}"), params={"include": "raw"}, timeout=30).json()
    assert [call["outcome"] for call in raw["raw"]] == ["refused", "kept"]
    assert all(call["answer"] for call in raw["raw"])
    assert len(json.dumps(raw["raw"])) < 10_000  # no image among the words


def test_openais_client_finds_the_language_model_and_chats_with_it(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"gpt-image-2", "gpt-5.4-mini"} <= set(names)
    asked = [{"role": "user", "content": "a pier"}]
    whole = client.chat.completions.create(model="gpt-5.4-mini", messages=asked, temperature=0.2, max_tokens=99)  # type: ignore[arg-type]
    chunks = client.chat.completions.create(model="gpt-5.4-mini", messages=asked, temperature=0.2, stream=True)  # type: ignore[arg-type]
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text == whole.choices[0].message.content
    assert text.startswith("a pier")
    broken = [{"role": "user", "content": "a pier [sandbox:stream_error]"}]
    with pytest.raises(openai.APIError, match="upstream_failed"):
        list(client.chat.completions.create(model="gpt-5.4-mini", messages=broken, stream=True))  # type: ignore[arg-type]
