"""Hugging Face: the huggingface_hub package and our adapter against the emulator, over real HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import requests
from huggingface_hub import InferenceClient, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.inference._providers import _common, fal_ai, hf_inference, wavespeed
from huggingface_hub.utils._http import default_client_factory
from listening import listening
from PIL import Image
from pydantic import SecretStr

from providers.base import Accepted, CallRef, Finished, InputImage, Running, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Recovery
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.http.client import Outgoing
from providers.upstreams.huggingface.adapter import Config, HuggingFace
from sandbox.testing import Sandbox, running_sandbox

CATALOG = catalog.load()
MODELS = CATALOG.models
OURS = [model.id for model in MODELS.values() if model.provider == "huggingface" and model.live]
ROUTES = {
    "hf-inference": "hf-sd3-medium",
    "nscale": "hf-flux-schnell",
    "fal-ai": "hf-flux-dev",
    "wavespeed": "hf-flux-2-dev-edit",
}
TASKS = ["hf-flux-dev", "hf-flux-2-dev-edit"]  # what fal-ai and wavespeed run as tasks


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(latency_s=0.0) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(sandbox: Sandbox) -> None:
    sandbox.reset()


def sample_image() -> InputImage:
    out = io.BytesIO()
    Image.new("RGB", (256, 320), "navy").save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", 256, 320)


def provider(sandbox: Sandbox, key: str = "hf_secret", **changed: Any) -> HuggingFace:
    url = sandbox.huggingface_url
    return HuggingFace(Config(token=SecretStr(key), base_url=url, hub_url=url, **changed))


def order(model: str = "hf-flux-dev", **facts: Any) -> UpstreamOrder:
    known = MODELS[model]
    sizes = {} if isinstance(known.size, str) else {"width": 256, "height": 320}
    if known.hf_provider == "nscale":
        sizes = {"size": "256x320"}
    images = [sample_image()] if known.operation == "edit" else []
    default = {"operation": known.operation, "prompt": "a kite", "size": sizes, "images": images}
    return UpstreamOrder(model=known, **{**default, **facts})


def call_of(taken: object, model: str = "hf-flux-dev") -> CallRef:
    assert isinstance(taken, Accepted)
    return CallRef("call", "key", model, upstream_id=taken.upstream_id, poll_url=taken.poll_url)


def finished(ours: HuggingFace, asked: UpstreamOrder) -> Finished:
    done = ours.submit(asked, dedupe_key="key")
    if isinstance(done, Accepted):
        found = ours.check(call_of(done, asked.model.id))
        assert isinstance(found, Finished)
        return found
    return done


def bytes_of(ours: HuggingFace, done: Finished) -> bytes:
    [image] = done.images
    return image.data if image.data is not None else ours.download(image.url or "")


def tally(sandbox: Sandbox) -> dict[str, Any]:
    return dict(sandbox.counts()["huggingface"])


# ---------------------------------------------------------------- the vendor's package


class ToSandbox(httpx2.HTTPTransport):
    """Sends requests for the router and the Hub to the emulator, while the package keeps its own hosts."""

    def __init__(self, emulator_url: str) -> None:
        super().__init__()
        self._emulator = httpx2.URL(emulator_url)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.host in ("router.huggingface.co", "huggingface.co"):
            emulator = self._emulator
            below = emulator.raw_path + request.url.raw_path
            request.url = request.url.copy_with(
                scheme=emulator.scheme, host=emulator.host, port=emulator.port, raw_path=below
            )
            request.headers["Host"] = emulator.netloc.decode()
        elif request.url.host != self._emulator.host:
            raise AssertionError(f"the package leaves for {request.url.host}")
        return super().handle_request(request)


@pytest.fixture
def _rerouted(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    transport = ToSandbox(sandbox.huggingface_url)
    set_client_factory(lambda: httpx2.Client(transport=transport, follow_redirects=True))
    for module in (fal_ai, wavespeed):
        monkeypatch.setattr(module, "_POLLING_INTERVAL", 0.01)
    for cached in (_common._fetch_inference_provider_mapping, hf_inference._check_supported_task):
        cached.cache_clear()
    yield
    set_client_factory(default_client_factory)


def client(name: str, key: str = "hf_secret") -> InferenceClient:
    return InferenceClient(provider=name, api_key=key)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_rerouted")
@pytest.mark.parametrize(
    ("name", "model", "settings"),
    [
        (
            "hf-inference",
            "stabilityai/stable-diffusion-3-medium-diffusers",
            {"num_inference_steps": 4, "guidance_scale": 2.5, "scheduler": "Euler"},
        ),
        ("fal-ai", "black-forest-labs/FLUX.1-dev", {"num_inference_steps": 4, "guidance_scale": 2.5}),
        ("fal-ai", "Qwen/Qwen-Image", {}),
        ("nscale", "black-forest-labs/FLUX.1-schnell", {"num_inference_steps": 4, "guidance_scale": 2.5}),
        ("wavespeed", "black-forest-labs/FLUX.1-dev", {"num_inference_steps": 4}),
    ],
)
def test_the_package_makes_images_of_text(name: str, model: str, settings: dict[str, Any]) -> None:
    common: dict[str, Any] = {"width": 256, "height": 320, "seed": 7}
    if (name, model) != ("fal-ai", "black-forest-labs/FLUX.1-dev"):  # fal.ai's FLUX.1 takes none
        common["negative_prompt"] = "blurry"
    made = client(name).text_to_image("a kite", model=model, **common, **settings)
    assert made.size == (256, 320)
    assert made.tobytes() == client(name).text_to_image("a kite", model=model, **common, **settings).tobytes()


@pytest.mark.usefixtures("_rerouted")
@pytest.mark.parametrize(
    ("name", "model"),
    [("fal-ai", "black-forest-labs/FLUX.2-klein-9B"), ("wavespeed", "black-forest-labs/FLUX.2-dev")],
)
@pytest.mark.parametrize("prompt", ["snow", "snow [sandbox:latency=0.1]"])
def test_the_package_edits_images(name: str, model: str, prompt: str) -> None:
    assert client(name).image_to_image(sample_image().data, prompt=prompt, model=model).size == (256, 320)


@pytest.mark.usefixtures("_rerouted")
@pytest.mark.parametrize(
    ("token", "prompt", "status"),
    [
        ("bad-key", "a kite", 401),
        ("no-quota", "a kite", 402),
        ("hf_secret", "a kite [sandbox:429]", 429),
        ("hf_secret", "a kite [sandbox:503]", 503),
    ],
)
def test_the_package_knows_the_errors(token: str, prompt: str, status: int) -> None:
    model = "stabilityai/stable-diffusion-3-medium-diffusers"
    with pytest.raises(HfHubHTTPError) as caught:
        client("hf-inference", token).text_to_image(prompt, model=model)
    assert caught.value.response.status_code == status
    assert caught.value.response.headers["x-request-id"].startswith("Root=1-")


@pytest.mark.usefixtures("_rerouted")
def test_the_package_and_the_adapter_buy_the_same_image(sandbox: Sandbox) -> None:
    settings = {"seed": 7, "steps": 4, "guidance": 2.5, "negative_prompt": "blurry"}
    wire = {"seed": 7, "num_inference_steps": 4, "guidance_scale": 2.5, "negative_prompt": "blurry"}
    for name, ours in (("hf-inference", "hf-sd3-medium"), ("fal-ai", "hf-qwen-image")):
        asked = order(ours, params=settings)
        theirs = client(name).text_to_image("a kite", model=asked.model.path, width=256, height=320, **wire)
        adapter = provider(sandbox)
        data = bytes_of(adapter, finished(adapter, asked))
        assert Image.open(io.BytesIO(data)).tobytes() == theirs.tobytes()
        first, second = [seen for seen in sandbox.requests("huggingface") if seen["method"] == "POST"][-2:]
        assert first["fields"] == second["fields"]


# ---------------------------------------------------------------- our adapter: images


@pytest.mark.parametrize("model", OURS)
def test_every_model(sandbox: Sandbox, model: str) -> None:
    params = {name: {"int": 7, "float": 2.5, "str": "blurry"}[spec.type] for name, spec in MODELS[model].params.items()}
    ours = provider(sandbox)
    for settings in ({}, params):
        data = bytes_of(ours, finished(ours, order(model, params=settings)))
        assert Image.open(io.BytesIO(data)).size == (256, 320)
    seen = tally(sandbox)
    assert (seen["submits"], seen["accepted"]) == (2, 2)
    assert 400 not in seen["statuses"]


def test_the_seed_of_fal_is_kept(sandbox: Sandbox) -> None:
    [image] = finished(provider(sandbox), order(params={"seed": 7})).images
    assert image.seed == 7


@pytest.mark.parametrize(
    ("model", "steps"),
    [("hf-flux-dev", ["in_queue", "in_progress"]), ("hf-flux-2-dev-edit", ["created", "processing"])],
)
def test_a_task_is_followed_to_its_end(sandbox: Sandbox, model: str, steps: list[str]) -> None:
    ours = provider(sandbox)
    call = call_of(ours.submit(order(model, prompt="a kite [sandbox:latency=60]"), dedupe_key="key"), model)
    for step in steps:
        assert ours.check(call) == Running(step=step)
        sandbox.advance_clock(30)
    assert isinstance(ours.check_many([call])["call"], Finished)
    assert ours.cancel(call) is UpstreamCancel.UNSUPPORTED


def test_an_id_of_the_mapping_is_asked_for_once(sandbox: Sandbox) -> None:
    ours = provider(sandbox)
    for _ in range(2):
        finished(ours, order("hf-qwen-image"))
    finished(ours, order("hf-flux-dev"))
    asked = [seen for seen in sandbox.requests("huggingface") if seen["path"].startswith("/huggingface/api/models")]
    assert [seen["path"] for seen in asked] == ["/huggingface/api/models/Qwen/Qwen-Image"]


def test_the_token_reaches_only_the_router(sandbox: Sandbox) -> None:
    mapping = {"fal-ai": {"status": "live", "providerId": "fal-ai/flux/dev", "task": "text-to-image"}}
    with listening(json.dumps({"inferenceProviderMapping": mapping}).encode()) as hub:
        ours = HuggingFace(Config(token=SecretStr("hf_secret"), base_url=sandbox.huggingface_url, hub_url=hub.url))
        assert finished(ours, order("hf-qwen-image"))
    [headers] = hub.headers
    assert "authorization" not in headers
    assert "hf_secret" not in str(headers)


def test_a_paid_call_never_uses_a_connection_that_waits_to_be_closed() -> None:
    with listening(b"{}") as router:
        ours = HuggingFace(Config(token=SecretStr("hf_secret"), base_url=router.url))
        for _ in range(2):
            with pytest.raises(Uncertain):
                ours.submit(order(), dedupe_key="key")
    assert len(router.connections) == 2
    assert {headers["authorization"] for headers in router.headers} == {"Bearer hf_secret"}


@pytest.mark.parametrize("fault", ["500", "429", "drop", "garbage", "hang=0.1"])
def test_a_hub_that_is_away_costs_nothing(sandbox: Sandbox, fault: str) -> None:
    ours = provider(sandbox)
    sandbox.add_fault(fault, provider="huggingface", route="models", count=1)
    with pytest.raises(NotRun):
        ours.submit(order("hf-qwen-image"), dedupe_key="key")
    assert tally(sandbox)["submits"] == 0
    assert finished(ours, order("hf-qwen-image"))


def test_the_payer_is_named_where_configured(sandbox: Sandbox) -> None:
    url = sandbox.huggingface_url
    env = {"HF_TOKEN": "hf_x", "HF_ROUTER_BASE_URL": url, "HF_ENDPOINT": url, "HF_TOKEN_2": "hf_y"}
    ours = HuggingFace.from_env(env, Outgoing())
    assert [each.credential_id for each in ours] == ["huggingface/default", "huggingface/2"]
    assert "hf_x" not in repr(ours)
    assert isinstance(ours[1].submit(order("hf-sd3-medium"), dedupe_key="key"), Finished)


# ---------------------------------------------------------------- our adapter: faults


@pytest.mark.parametrize("route", ["hf-inference", "wavespeed"])
@pytest.mark.parametrize(
    ("marker", "error"),
    [
        ("400", RequestRefused),
        ("401", BadCredentials),
        ("402", OutOfCredit),
        ("403", BadCredentials),
        ("404", UnknownModel),
        ("410", UnknownModel),
        ("413", RequestRefused),
        ("422", RequestRefused),
        ("429", NotRun),
        ("500", Uncertain),
        ("502", Uncertain),
        ("504", Uncertain),
        ("quota", OutOfCredit),
        ("drop", Uncertain),
        ("drop=reset", Uncertain),
        ("cut", Uncertain),
        ("garbage=empty", Uncertain),
        ("redirect", ProviderError),
    ],
)
def test_each_way_of_failing(sandbox: Sandbox, route: str, marker: str, error: type[ProviderError]) -> None:
    with pytest.raises(error):
        provider(sandbox).submit(order(ROUTES[route], prompt=f"a kite [sandbox:{marker}]"), dedupe_key="key")
    seen = tally(sandbox)
    assert (seen["submits"], seen["accepted"]) == (1, 0 if marker[0].isdigit() or marker == "quota" else 1)


@pytest.mark.parametrize("route", ["nscale", "fal-ai", "wavespeed"])
@pytest.mark.parametrize("marker", ["garbage", "garbage=html", "garbage=types", "garbage=null", "wrong_type"])
def test_a_broken_answer_is_uncertain(sandbox: Sandbox, route: str, marker: str) -> None:
    with pytest.raises(Uncertain):
        provider(sandbox).submit(order(ROUTES[route], prompt=f"a kite [sandbox:{marker}]"), dedupe_key="key")
    assert tally(sandbox)["accepted"] == 1


@pytest.mark.parametrize("marker", ["wrong_type", "empty"])
def test_what_is_not_an_image_does_not_count(sandbox: Sandbox, marker: str) -> None:
    with pytest.raises(Uncertain):
        provider(sandbox).submit(order("hf-sd3-medium", prompt=f"a kite [sandbox:{marker}]"), dedupe_key="key")


@pytest.mark.parametrize("route", ["fal-ai", "wavespeed"])
def test_a_refused_prompt_is_reported_where_the_provider_says_so(sandbox: Sandbox, route: str) -> None:
    with pytest.raises(ContentRefused):
        provider(sandbox).submit(order(ROUTES[route], prompt="a kite [sandbox:refuse]"), dedupe_key="key")


@pytest.mark.parametrize(("marker", "wait_s"), [("429", 56), ("429 retry_after=7", 7), ("503", 20)])
def test_how_long_to_wait(sandbox: Sandbox, marker: str, wait_s: float) -> None:
    with pytest.raises(NotRun) as caught:
        provider(sandbox).submit(order("hf-sd3-medium", prompt=f"a kite [sandbox:{marker}]"), dedupe_key="key")
    assert caught.value.retry_after_s == wait_s


def test_a_model_that_loads_is_ready_later(sandbox: Sandbox) -> None:
    asked = order("hf-sd3-medium", prompt="a kite [sandbox:503 times=2]")
    ours = provider(sandbox)
    for _ in range(2):
        with pytest.raises(NotRun):
            ours.submit(asked, dedupe_key="key")
    assert isinstance(ours.submit(asked, dedupe_key="key"), Finished)


def test_a_503_elsewhere_is_an_outage(sandbox: Sandbox) -> None:
    with pytest.raises(Uncertain):
        provider(sandbox).submit(order(prompt="a kite [sandbox:503]"), dedupe_key="key")


@pytest.mark.parametrize(
    ("model", "marker", "error"),
    [
        ("hf-flux-dev", "fail", Failed),
        ("hf-flux-dev", "timeout", Failed),
        ("hf-flux-dev", "fail=policy", ContentRefused),
        ("hf-flux-dev", "fail=nsfw", ContentRefused),
        ("hf-flux-dev", "empty", Failed),
        ("hf-flux-dev", "expire", NotRun),
        ("hf-flux-2-dev-edit", "fail", Failed),
        ("hf-flux-2-dev-edit", "fail=nsfw", ContentRefused),
        ("hf-flux-2-dev-edit", "empty", Failed),
        ("hf-flux-2-dev-edit", "expire", NotRun),
    ],
)
def test_how_a_task_fails(sandbox: Sandbox, model: str, marker: str, error: type[ProviderError]) -> None:
    ours = provider(sandbox)
    call = call_of(ours.submit(order(model, prompt=f"a kite [sandbox:{marker}]"), dedupe_key="key"), model)
    with pytest.raises(error):
        ours.check(call)


@pytest.mark.parametrize("model", TASKS)
def test_a_failed_look_ends_nothing(sandbox: Sandbox, model: str) -> None:
    ours = provider(sandbox)
    call = call_of(ours.submit(order(model), dedupe_key="key"), model)
    for fault in ("401", "402", "404", "422", "429", "500", "502", "503", "drop", "garbage", "garbage=types"):
        sandbox.add_fault(fault, provider="huggingface", route="check", count=1)
        with pytest.raises((NotRun, Uncertain)):
            ours.check(call)
    assert isinstance(ours.check(call), Finished)
    assert tally(sandbox)["accepted"] == 1


@pytest.mark.parametrize("route", ROUTES)
def test_a_lost_answer_is_never_bought_again(sandbox: Sandbox, route: str) -> None:
    ours = provider(sandbox)
    with pytest.raises(Uncertain):
        ours.submit(order(ROUTES[route], prompt="a kite [sandbox:drop]"), dedupe_key="key")
    with pytest.raises(Uncertain):
        ours.check(CallRef("call", "key", ROUTES[route]))
    assert (CATALOG.providers["huggingface"].recovery, tally(sandbox)["accepted"]) == (Recovery.NEVER, 1)


def test_links_are_fetched_without_the_token(sandbox: Sandbox) -> None:
    ours = provider(sandbox)
    done = finished(ours, order())
    assert bytes_of(ours, done)
    assert tally(sandbox)["downloads"] == 1
    leaked = requests.get(done.images[0].url or "", headers={"Authorization": "Bearer hf_secret"}, timeout=10)
    assert leaked.status_code == 400
    with pytest.raises(Failed) as dead:
        bytes_of(ours, finished(ours, order(prompt="a kite [sandbox:dead_link]")))
    assert (dead.value.code, dead.value.billed) == ("result_gone", True)
