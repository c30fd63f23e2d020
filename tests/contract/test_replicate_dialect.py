"""Replicate's own Python package against our emulator, and our adapter against it, over real HTTP."""

from __future__ import annotations

import io
import json
import queue
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
import replicate
from PIL import Image
from replicate.exceptions import ModelError, ReplicateError
from replicate.webhook import Webhooks, WebhookSigningSecret

from providers.base import Accepted, CallRef, Finished, InputImage, ResultImage, Running, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
)
from providers.http.client import Outgoing
from providers.registry import load
from providers.shared.signatures import TOLERANCE_S, is_genuine
from providers.upstreams.replicate.adapter import Replicate
from sandbox.testing import Sandbox, running_sandbox

MODELS = [model for model in catalog.load().models.values() if model.provider == "replicate" and model.live]
SCHNELL = next(model for model in MODELS if model.id == "replicate-flux-schnell")
FLUX_2 = next(model for model in MODELS if model.id == "replicate-flux-2-pro")
SDXL = next(model for model in MODELS if model.id == "replicate-sdxl")
BRIEFLY = httpx.Timeout(10.0)


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    # Callback addresses here lead nowhere: deliveries have their own tests.
    with running_sandbox(prepared=True, hold_webhooks=True) as sandbox:
        yield sandbox


@pytest.fixture
def emulator(running: Sandbox) -> Sandbox:
    running.reset()
    running.settings(latency_s=0.0, hold_webhooks=True)
    return running


@pytest.fixture
def client(emulator: Sandbox) -> replicate.Client:
    """The vendor's client; it adds ``/v1`` by itself."""
    return replicate.Client(api_token="r8_any", base_url=emulator.replicate_url, timeout=BRIEFLY)


def adapter(emulator: Sandbox, key: str = "r8_any") -> Replicate:
    [made] = Replicate.from_env({"REPLICATE_API_TOKEN": key, "REPLICATE_BASE_URL": emulator.replicate_url}, Outgoing())
    return made


def sample_image(size: tuple[int, int] = (64, 48), *, mode: str = "RGB", noise: int | None = None) -> InputImage:
    """A large image: noise cannot be compressed."""
    blank = Image.new(mode, size, 255 if mode == "L" else "navy")
    if noise is not None:
        blank = Image.frombytes("RGB", size, random.Random(noise).randbytes(size[0] * size[1] * 3))
    out = io.BytesIO()
    blank.save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", *size)


def order(model: Any = SCHNELL, prompt: str = "a red kite", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(**{"operation": model.operation, "model": model, "prompt": prompt, **facts})


def ref(accepted: Finished | Accepted) -> CallRef:
    assert isinstance(accepted, Accepted)
    return CallRef("c1", "k1", "m", upstream_id=accepted.upstream_id)


def made_by(provider: Replicate, asked: UpstreamOrder) -> list[ResultImage]:
    done = provider.check(ref(provider.submit(asked, dedupe_key="k1")))
    assert isinstance(done, Finished)
    return list(done.images)


def tally(emulator: Sandbox) -> dict[str, Any]:
    return dict(emulator.counts()["replicate"])


def last_body(emulator: Sandbox) -> dict[str, Any]:
    creates = [entry for entry in emulator.requests("replicate") if entry["path"].endswith("/predictions")]
    return dict([entry for entry in creates if entry["method"] == "POST"][-1]["fields"])


# ---------------------------------------------------------------- the vendor's package


def test_the_vendors_client_runs_a_model(client: replicate.Client) -> None:
    [file] = client.run("black-forest-labs/flux-schnell", input={"prompt": "a red kite"})
    assert Image.open(io.BytesIO(file.read())).size == (1024, 1024)


def test_the_vendors_client_makes_looks_waits_and_cancels(client: replicate.Client, emulator: Sandbox) -> None:
    emulator.settings(latency_s=60.0)
    prediction = client.predictions.create(version="black-forest-labs/flux-schnell", input={"prompt": "a kite"})
    assert prediction.status == "starting"
    emulator.advance_clock(40)
    prediction.reload()
    assert (prediction.status, prediction.progress is not None) == ("processing", True)
    emulator.advance_clock(60)
    prediction.wait()
    assert prediction.status == "succeeded"
    assert httpx.get(prediction.output[0]).status_code == 200
    other = client.models.predictions.create("black-forest-labs/flux-1.1-pro", {"prompt": "a kite"})
    other.cancel()
    assert other.status == "canceled"
    assert [each.id for each in client.predictions.list()] == [other.id, prediction.id]


def test_the_vendors_client_pages_through_predictions(client: replicate.Client, emulator: Sandbox) -> None:
    for _ in range(101):
        adapter(emulator).submit(order(), dedupe_key="k")
    first = client.predictions.list()
    assert first.next is not None
    assert len(client.predictions.list(first.next).results) == 1


def test_the_vendors_client_uploads_files(client: replicate.Client) -> None:
    given = {"prompt": "snow", "input_images": [io.BytesIO(sample_image().data)], "output_format": "png"}
    prediction = client.models.predictions.create("black-forest-labs/flux-2-pro", given)
    prediction.wait()
    assert Image.open(io.BytesIO(httpx.get(prediction.output).content)).size == (64, 48)
    [file] = client.files.list()
    assert client.files.delete(file.id)


def test_the_vendors_client_reads_account_models_and_errors(client: replicate.Client, emulator: Sandbox) -> None:
    assert client.accounts.current().type == "organization"
    version = client.models.get("stability-ai/sdxl").latest_version
    assert version is not None
    assert "prompt_strength" in version.openapi_schema["components"]["schemas"]["Input"]["properties"]
    with pytest.raises(ModelError, match="E005"):
        client.run("black-forest-labs/flux-schnell", input={"prompt": "a kite [sandbox:refuse]"})
    with pytest.raises(ReplicateError) as caught:
        client.run("black-forest-labs/flux-schnell", input={"prompt": "a kite", "num_outputs": 9})
    assert (caught.value.status, caught.value.title) == (422, "Input validation failed")
    stranger = replicate.Client(api_token="bad-key", base_url=emulator.replicate_url)
    with pytest.raises(ReplicateError) as caught:
        stranger.accounts.current()
    assert caught.value.title == "Unauthenticated"


def test_the_vendors_verifier_takes_the_delivery_our_order_asked_for(
    client: replicate.Client, emulator: Sandbox
) -> None:
    taken: queue.Queue[tuple[dict[str, str], str]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            taken.put((dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as receiver:
        threading.Thread(target=receiver.serve_forever, args=(0.01,), daemon=True).start()
        emulator.settings(hold_webhooks=False)
        call = ref(
            adapter(emulator).submit(order(callback_url=f"http://127.0.0.1:{receiver.server_port}/h"), dedupe_key="k")
        )
        headers, body = taken.get(timeout=5)
        receiver.shutdown()
    told = json.loads(body)
    assert (told["id"], told["status"]) == (call.upstream_id, "succeeded")
    secret = client.webhooks.default.secret()
    Webhooks.validate(headers=headers, body=body, secret=secret)
    assert is_genuine("replicate", headers, body.encode(), secret=secret.key) is (abs(_age_s(headers)) < TOLERANCE_S)
    with pytest.raises(ValueError, match="signature"):
        Webhooks.validate(headers=headers, body=body + " ", secret=WebhookSigningSecret(key=secret.key))


def _age_s(headers: dict[str, str]) -> float:
    """The emulator's own time, which tests move forward."""
    return time.time() - int(headers["webhook-timestamp"])


# ---------------------------------------------------------------- our adapter: every model


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_every_live_model_makes_an_image(emulator: Sandbox, model: Any) -> None:
    images = [sample_image()] if model.inputs.image_fields else []
    provider = adapter(emulator)
    seeded = {"seed": 7} if "seed" in model.params else {}
    [image] = made_by(provider, order(model, images=images, params=seeded))
    assert image.seed == 7 or not seeded
    assert image.url is not None
    Image.open(io.BytesIO(provider.download(image.url))).load()
    assert "400" not in tally(emulator)["statuses"]  # no token went to the host of the files


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_every_setting_of_the_catalogue_is_taken(emulator: Sandbox, model: Any) -> None:
    """Each at its default, least and most, and every value of a list: the emulator has the contract's own tables."""
    provider = adapter(emulator)
    for name, spec in model.params.items():
        values = [value for value in (spec.default, spec.min, spec.max, *spec.enum) if value is not None]
        for value in values if name != "n" else []:
            provider.submit(order(model, params={name: value}), dedupe_key="k")


def test_each_ratio_and_pixel_size_is_taken(emulator: Sandbox) -> None:
    provider = adapter(emulator)
    for model in MODELS:
        for ratio in getattr(model.size.get("aspect_ratio"), "enum", ()):
            provider.submit(order(model, size={"aspect_ratio": ratio}), dedupe_key="k")
    pro = next(model for model in MODELS if model.id == "replicate-flux-1.1-pro")
    [image] = made_by(provider, order(pro, size={"aspect_ratio": "custom", "width": 512, "height": 256}))
    assert Image.open(io.BytesIO(provider.download(image.url or ""))).size == (512, 256)


def test_several_images_in_one_call(emulator: Sandbox) -> None:
    images = made_by(adapter(emulator), order(n=3))
    assert len({image.url for image in images}) == 3
    assert last_body(emulator)["input"] == {"prompt": "a red kite", "num_outputs": 3}


def test_a_mask_is_sent_in_the_models_polarity(emulator: Sandbox) -> None:
    asked = order(SDXL, operation="inpaint", images=[sample_image()], mask=sample_image(mode="L"))
    assert made_by(adapter(emulator), asked)


def test_large_images_are_uploaded_and_named_by_their_links(emulator: Sandbox) -> None:
    asked = order(FLUX_2, images=[sample_image((300, 300), noise=1), sample_image()], params={"output_format": "png"})
    provider = adapter(emulator)
    [image] = made_by(provider, asked)
    assert Image.open(io.BytesIO(provider.download(image.url or ""))).size == (300, 300)
    links = last_body(emulator)["input"]["input_images"]
    assert [link.startswith(f"{emulator.replicate_url}/v1/files/") for link in links] == [True, True]
    uploads = [entry for entry in emulator.requests("replicate") if entry["path"].endswith("/files")]
    assert [part["content_type"] for entry in uploads for part in entry["parts"]] == ["image/png"] * 2


def test_outputs_in_every_form_are_read(emulator: Sandbox) -> None:
    for form in ("object", "one", "list"):
        assert made_by(adapter(emulator), order(prompt=f"a kite [sandbox:form={form}]"))


# ---------------------------------------------------------------- our adapter: what goes wrong


@pytest.mark.parametrize(
    ("marker", "error", "wait_s"),
    [
        ("429", NotRun, 30),
        ("429 retry_after=3", NotRun, 3),
        ("quota", OutOfCredit, None),
        ("401", BadCredentials, None),
        ("422", RequestRefused, None),
        ("500", Uncertain, None),
        ("503", Uncertain, None),
    ],
)
def test_refused_submits_bought_nothing(
    emulator: Sandbox, marker: str, error: type[ProviderError], wait_s: float | None
) -> None:
    with pytest.raises(error) as caught:
        adapter(emulator).submit(order(prompt=f"a kite [sandbox:{marker}]"), dedupe_key="k")
    assert caught.value.retry_after_s == wait_s
    assert (tally(emulator)["submits"], tally(emulator)["accepted"]) == (1, 0)


def test_a_bad_token_is_named_and_not_shown(emulator: Sandbox) -> None:
    with pytest.raises(BadCredentials) as caught:
        adapter(emulator, "bad-key").submit(order(), dedupe_key="k")
    assert "bad-key" not in str(caught.value)


@pytest.mark.parametrize(
    "marker", ["drop", "drop=reset", "cut", "garbage", "garbage=empty", "garbage=html", "garbage=types", "wrong_type"]
)
def test_a_lost_answer_is_uncertain_and_the_prediction_is_found(emulator: Sandbox, marker: str) -> None:
    provider, asked = adapter(emulator), order(prompt=f"a lost kite [sandbox:{marker}]")
    with pytest.raises(Uncertain):
        provider.submit(asked, dedupe_key="k1")
    lost = CallRef("c1", "k1", SCHNELL.id)
    found = provider.lookup(lost, datetime.now(UTC) - timedelta(seconds=30), asked)
    assert len(found) == 1
    assert isinstance(provider.check(ref(found[0])), Finished)
    assert (tally(emulator)["submits"], tally(emulator)["accepted"]) == (1, 1)


def test_a_lost_call_is_recognised_by_its_callback_url(emulator: Sandbox) -> None:
    provider, since = adapter(emulator), datetime.now(UTC) - timedelta(seconds=30)
    first, second = (order(callback_url=f"https://darkroom.example/hooks/{name}") for name in "ab")
    accepted = [provider.submit(each, dedupe_key="k") for each in (first, second)]
    assert [provider.lookup(CallRef("c", "k", "m"), since, each) for each in (first, second)] == [
        [each] for each in accepted
    ]
    assert last_body(emulator)["webhook_events_filter"] == ["completed"]


def test_equal_words_give_every_candidate_and_other_images_none(emulator: Sandbox) -> None:
    provider, since = adapter(emulator), datetime.now(UTC) - timedelta(seconds=30)
    one, other = (order(FLUX_2, images=[sample_image((300, 300), noise=number)]) for number in (1, 2))
    accepted = [provider.submit(each, dedupe_key="k") for each in (one, other, one)]
    found = provider.lookup(CallRef("c", "k", "m"), since, one)
    assert sorted(each.upstream_id for each in found) == sorted(
        each.upstream_id for each in (accepted[0], accepted[2]) if isinstance(each, Accepted)
    )
    small = order(FLUX_2, images=[sample_image()])
    assert provider.lookup(CallRef("c", "k", "m"), since, small) == []
    assert provider.lookup(CallRef("c", "k", "m"), datetime.now(UTC) + timedelta(days=365), one) == []


def test_content_is_refused_by_a_prediction_that_fails(emulator: Sandbox) -> None:
    for marker in ("refuse", "fail=nsfw", "fail=policy", "empty"):
        provider = adapter(emulator)
        call = ref(provider.submit(order(prompt=f"a kite [sandbox:{marker}]"), dedupe_key="k"))
        with pytest.raises(ContentRefused):
            provider.check(call)


@pytest.mark.parametrize(
    ("marker", "retryable"), [("fail", False), ("timeout", True), ("restart", True), ("flip", None)]
)
def test_how_a_prediction_ends(emulator: Sandbox, marker: str, retryable: bool | None) -> None:
    provider = adapter(emulator)
    call = ref(provider.submit(order(prompt=f"a kite [sandbox:{marker}]"), dedupe_key="k"))
    if retryable is None:
        assert isinstance(provider.check(call), Finished)
        return
    with pytest.raises(Failed) as caught:
        provider.check(call)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize("marker", ["404 at=check times=1", "500 at=check times=1", "drop at=check times=1"])
def test_a_look_that_failed_once_is_followed_by_one_that_does_not(emulator: Sandbox, marker: str) -> None:
    provider = adapter(emulator)
    call = ref(provider.submit(order(prompt=f"a kite [sandbox:{marker}]"), dedupe_key="k"))
    assert isinstance(provider.check_many([call])["c1"], NotRun | Uncertain)
    assert isinstance(provider.check_many([call])["c1"], Finished)


@pytest.mark.parametrize("marker", ["garbage at=check", "wrong_id at=check", "garbage=types at=check", "cut at=check"])
def test_a_broken_look_never_ends_a_call(emulator: Sandbox, marker: str) -> None:
    provider = adapter(emulator)
    call = ref(provider.submit(order(prompt=f"a kite [sandbox:{marker}]"), dedupe_key="k"))
    with pytest.raises(Uncertain):
        provider.check(call)


def test_progress_an_unknown_word_and_a_cancel(emulator: Sandbox) -> None:
    emulator.settings(latency_s=60.0)
    provider = adapter(emulator)
    call = ref(provider.submit(order(prompt="a kite [sandbox:word=queued, latency=60]"), dedupe_key="k"))
    assert provider.check(call) == Running(step="queued")
    emulator.advance_clock(33)
    said = provider.check(call)
    assert isinstance(said, Running)
    assert said.progress == 0.5
    assert provider.cancel(call) == UpstreamCancel.STOPPED
    with pytest.raises(Failed) as caught:
        provider.check(call)
    assert caught.value.code == "upstream_cancelled"


def test_a_deadline_at_the_upstream_bounds_what_is_lost(emulator: Sandbox) -> None:
    provider = adapter(emulator)
    call = ref(provider.submit(order(prompt="a kite [sandbox:latency=1e6]"), dedupe_key="k"))
    emulator.advance_clock(1801)
    with pytest.raises(Failed) as caught:
        provider.check(call)
    assert (caught.value.code, caught.value.retryable) == ("upstream_timeout", True)  # aborted before it began


def test_a_cancel_of_what_has_ended_comes_too_late(emulator: Sandbox) -> None:
    provider = adapter(emulator)
    assert provider.cancel(ref(provider.submit(order(), dedupe_key="k"))) == UpstreamCancel.TOO_LATE


def test_after_an_hour_the_result_is_lost_and_not_bought_again(emulator: Sandbox) -> None:
    provider = adapter(emulator)
    call = ref(provider.submit(order(), dedupe_key="k"))
    done = provider.check(call)
    assert isinstance(done, Finished)
    emulator.advance_clock(3601)
    for ask in (lambda: provider.check(call), lambda: provider.download(done.images[0].url or "")):
        with pytest.raises(Failed) as caught:
            ask()
        assert (caught.value.code, caught.value.retryable, caught.value.billed) == ("result_gone", False, True)


def test_a_dead_link_is_gone(emulator: Sandbox) -> None:
    provider = adapter(emulator)
    [image] = made_by(provider, order(prompt="a kite [sandbox:dead_link]"))
    with pytest.raises(Failed):
        provider.download(image.url or "")


def test_the_registry_builds_an_adapter_for_each_account(emulator: Sandbox) -> None:
    env = {"REPLICATE_API_TOKEN": "r8_a", "REPLICATE_API_TOKEN_2": "r8_b", "REPLICATE_BASE_URL": emulator.replicate_url}
    assert [each.credential_id for each in load(env).of("replicate")] == ["replicate/default", "replicate/2"]
