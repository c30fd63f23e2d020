"""OpenAI's batches by OpenAI's own package, against the whole service: a file in, images and errors out."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Batch, FileObject, ImagesResponse
from PIL import Image

from tests.e2e.conftest import Service, until

ENDED = ("completed", "failed", "expired", "cancelled")
GENERATIONS = "/v1/images/generations"


@pytest.fixture
def client(service: Service) -> OpenAI:
    key = str(service.http.headers["Authorization"]).removeprefix("Bearer ")
    return OpenAI(base_url=service.url("/v1"), api_key=key, max_retries=0)


def strictly(kind: type[Any], found: Any) -> Any:
    """What the package has read, checked by its own types and without members that these do not have."""
    told = found.to_dict(mode="python")
    return kind.model_validate({name: told[name] for name in told if name in kind.model_fields}, strict=True)


def file_of(client: OpenAI, *lines: dict[str, Any]) -> str:
    data = "\n".join(json.dumps(line) for line in lines).encode()
    made = client.files.create(file=("orders.jsonl", data), purpose="batch")
    assert strictly(FileObject, made).purpose == "batch"
    return made.id


def line(name: str, **body: Any) -> dict[str, Any]:
    order = {"model": "gpt-image-2", "prompt": f"the batch of {name}", "size": "1024x1024", **body}
    return {"custom_id": name, "method": "POST", "url": GENERATIONS, "body": order}


def ended(client: OpenAI, batch_id: str) -> Batch:
    def now() -> Batch | None:
        found: Batch = strictly(Batch, client.batches.retrieve(batch_id))
        return found if found.status in ENDED else None

    found: Batch = until(now, 60, "the batch to end")
    return found


def lines_in(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    return {each["custom_id"]: each for each in map(json.loads, client.files.content(file_id).iter_lines())}


def test_a_batch_makes_its_images_and_tells_its_errors(service: Service, client: OpenAI) -> None:
    file_id = file_of(
        client, line("fox"), line("owl", response_format="url"), line("bad", size="huge"), line("none", model="nosuch")
    )
    batch = client.batches.create(
        input_file_id=file_id, endpoint=GENERATIONS, completion_window="24h", metadata={"shop": "7"}
    )
    assert strictly(Batch, batch).status == "validating" and batch.metadata == {"shop": "7"}
    done = ended(client, batch.id)
    assert done.status == "completed" and done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 4, "completed": 2, "failed": 2}
    made = lines_in(client, done.output_file_id)
    assert made.keys() == {"fox", "owl"} and {each["response"]["status_code"] for each in made.values()} == {200}
    for each in made.values():
        assert ImagesResponse.model_validate({**each["response"]["body"], "usage": None}).data
    [fox] = made["fox"]["response"]["body"]["data"]
    assert Image.open(io.BytesIO(base64.b64decode(fox["b64_json"]))).size == (1024, 1024)
    [owl] = made["owl"]["response"]["body"]["data"]
    assert service.http.get(owl["url"], timeout=30).headers["Content-Type"] == "image/png"
    errors = lines_in(client, done.error_file_id)
    told = {
        name: (each["response"]["status_code"], each["response"]["body"]["error"]["code"])
        for name, each in errors.items()
    }
    assert told == {"bad": (400, "invalid_value"), "none": (404, "model_not_found")}
    assert batch.id in [each.id for each in client.batches.list(limit=5)]
    listed = {each.id for each in client.files.list(purpose="batch_output")}
    assert {done.output_file_id, done.error_file_id} <= listed
    zipped = service.http.get(service.url(f"/api/images/batches/{batch.id}/results?format=zip"), timeout=30)
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        assert archive.testzip() is None and archive.namelist() == ["000000-fox-0.png", "000001-owl-0.png"]
        assert archive.read("000000-fox-0.png") == base64.b64decode(fox["b64_json"])
    assert service.audit()["clean"]


def test_a_batch_is_cancelled_and_one_that_is_none_fails(client: OpenAI) -> None:
    good = client.batches.create(
        input_file_id=file_of(client, *(line(f"c{number}") for number in range(150))),
        endpoint=GENERATIONS,
        completion_window="24h",
    )
    assert strictly(Batch, client.batches.cancel(good.id)).status == "cancelling"
    bad = client.batches.create(
        input_file_id=file_of(client, line("a"), line("a")), endpoint=GENERATIONS, completion_window="24h"
    )
    failed = ended(client, bad.id)
    assert failed.status == "failed" and failed.errors is not None and failed.errors.data is not None
    assert [(each.line, each.code) for each in failed.errors.data] == [(2, "duplicate_custom_id")]
    done = ended(client, good.id)
    assert done.status == "cancelled" and done.request_counts is not None and done.request_counts.total == 150
    assert len(lines_in(client, done.error_file_id)) == done.request_counts.failed
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(input_file_id="file-x", endpoint=GENERATIONS, completion_window="24h")
    assert refused.value.param == "input_file_id"
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_x")
