"""Replicate's own package for Python, and our adapter for Replicate, against the running service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput

from providers.base import Accepted, CallRef, Finished, UpstreamCancel, UpstreamOrder
from providers.catalog.catalog import load
from providers.upstreams.replicate.adapter import Config, Replicate
from tests.e2e.conftest import Service, until

SCHNELL = "black-forest-labs/flux-schnell"


@pytest.fixture
def client(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("REPLICATE_POLL_INTERVAL", "0.1")
    token = str(service.http.headers["Authorization"]).removeprefix("Bearer ")
    yield Client(api_token=token, base_url=service.running.url)


def test_the_package_runs_polls_lists_and_reads_files(client: Client) -> None:
    links: Any = client.run(SCHNELL, input={"prompt": "a red fox", "num_outputs": 2, "lora": "x"})
    assert [FileOutput(link, client).read()[8:12] for link in links] == [b"WEBP", b"WEBP"]
    prediction = client.predictions.create(version=SCHNELL, input={"prompt": "a red fox, polled", "lora": "x"})
    assert (prediction.status, prediction.input) == ("starting", {"prompt": "a red fox, polled", "lora": "x"})
    prediction.wait()
    assert (prediction.status, "input.lora was left out" in (prediction.logs or "")) == ("succeeded", True)
    assert prediction.id in [each.id for each in client.predictions.list()]
    model = client.models.get("black-forest-labs/flux-1.1-pro")
    assert model.latest_version
    link: Any = client.run(f"{model.id}:{model.latest_version.id}", input={"prompt": "a red fox, by version"})
    assert FileOutput(link, client).read()
    assert client.accounts.current().username


def test_the_package_streams_and_waits_without_blocking(client: Client) -> None:
    told = [(event.event.value, event.data) for event in client.stream(SCHNELL, input={"prompt": "a red fox, told"})]
    assert [name for name, _ in told if name != "logs"] == ["output", "done"]

    async def both() -> list[Any]:
        runs = (client.async_run(SCHNELL, input={"prompt": f"a red fox, {number}"}) for number in range(2))
        return await asyncio.gather(*runs)

    assert [len(links) for links in asyncio.run(both())] == [1, 1]


def test_the_package_understands_cancels_failures_and_refusals(client: Client, service: Service) -> None:
    stopped = client.predictions.create(version=SCHNELL, input={"prompt": "a red fox, stopped [sandbox:never]"})
    stopped.cancel()
    until(lambda: client.predictions.get(stopped.id).status == "canceled", 20, "the cancel")
    with pytest.raises(ModelError, match="flagged as sensitive"):
        client.run(SCHNELL, input={"prompt": "a red fox [sandbox:refuse]"})
    with pytest.raises(ReplicateError, match=f"did you mean {SCHNELL}"):
        client.run("black-forest-labs/flux-schnel", input={"prompt": "a red fox"})
    with pytest.raises(ReplicateError, match=r"input\.num_outputs"):
        client.run(SCHNELL, input={"prompt": "a red fox", "num_outputs": 99})
    with pytest.raises(ReplicateError, match="Unauthenticated"):
        Client(api_token="dk_none", base_url=service.running.url).predictions.list()


def test_our_own_adapter_for_replicate_takes_us_for_it(client: Client, service: Service) -> None:
    token = str(service.http.headers["Authorization"]).removeprefix("Bearer ")
    upstream = Replicate(Config(api_token=SecretStr(token), base_url=service.running.url))
    model = load().models["replicate-flux-schnell"]
    order = UpstreamOrder(operation="generate", model=model, prompt="a red fox, by our own adapter")
    since = datetime.now(UTC) - timedelta(minutes=1)
    accepted = upstream.submit(order, dedupe_key="unused")
    assert isinstance(accepted, Accepted)
    call = CallRef("call_1", "unused", model.id, upstream_id=accepted.upstream_id)
    found = until(lambda: isinstance(state := upstream.check(call), Finished) and state, 20, "the image")
    assert upstream.download(found.images[0].url)[8:12] == b"WEBP"
    assert [each.upstream_id for each in upstream.lookup(call, since, order)] == [accepted.upstream_id]
    assert upstream.cancel(call) is UpstreamCancel.TOO_LATE
