"""llama-swap: the openai package and our adapter against the emulator, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from listening import listening
from PIL import Image
from pydantic import SecretStr

from providers.base import Accepted, CallRef, Finished, InputImage, Missing, Running, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Recovery
from providers.errors import BadCredentials, Failed, NotRun, ProviderError, RequestRefused, Uncertain, UnknownModel
from providers.http.client import Outgoing
from providers.upstreams.llamaswap.adapter import Config, LlamaSwap
from sandbox.testing import Sandbox, running_sandbox

CATALOG = catalog.load()
MODELS = CATALOG.models
OURS = [model for model in MODELS.values() if model.provider == "llamaswap" and model.live]
ORDERS = [(model.id, operation) for model in OURS for operation in sorted(model.operations)]
SMALL = {"llamaswap-z-image": {"size": "128x64"}, "llamaswap-sdapi": {"width": 128, "height": 64}}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(latency_s=0.0) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(sandbox: Sandbox) -> None:
    sandbox.reset()


def png(colour: tuple[int, int, int] = (20, 40, 200), size: tuple[int, int] = (128, 64)) -> InputImage:
    return _image(Image.new("RGB", size, colour))


def left_half_white() -> InputImage:
    mask = Image.new("L", (128, 64), 0)
    mask.paste(255, (0, 0, 64, 64))
    return _image(mask)


def _image(sample_image: Image.Image) -> InputImage:
    out = io.BytesIO()
    sample_image.save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", *sample_image.size)


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


def provider(sandbox: Sandbox, **changed: Any) -> LlamaSwap:
    return LlamaSwap(Config(base_url=sandbox.llamaswap_url, api_key=SecretStr("lan-secret"), **changed))


def order(model: str = "llamaswap-z-image", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(
        **{"operation": "generate", "model": MODELS[model], "prompt": "a kite", "size": SMALL[model], **facts}
    )


def call_of(taken: object) -> CallRef:
    assert isinstance(taken, Accepted)
    return CallRef("call", "key", "llamaswap-z-image", upstream_id=taken.upstream_id, poll_url=taken.poll_url)


def tally(sandbox: Sandbox) -> dict[str, Any]:
    return dict(sandbox.counts()["llamaswap"])


# ---------------------------------------------------------------- the vendor's package


@pytest.fixture
def client(sandbox: Sandbox) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{sandbox.llamaswap_url}/v1", api_key="lan-secret", max_retries=0)


def test_openai_generates_with_settings_in_the_tag(client: openai.OpenAI) -> None:
    prompt = 'a kite <sd_cpp_extra_args>{"seed":7,"sample_params":{"sample_steps":4}}</sd_cpp_extra_args>'
    first, again = (client.images.generate(model="z-image", prompt=prompt, size="128x64", n=2) for _ in range(2))  # type: ignore[call-overload]
    assert first.data == again.data
    sample_images = [base64.b64decode(item.b64_json) for item in first.data]
    assert [opened(data).size for data in sample_images] == [(128, 64)] * 2
    assert sample_images[0] != sample_images[1]
    other = client.images.generate(model="z-image", prompt="a kite", size="128x64")  # type: ignore[call-overload]
    assert other.data[0] != first.data[0]


def test_openai_edits_where_the_mask_is_white(client: openai.OpenAI) -> None:
    done = client.images.edit(
        model="z-image",
        prompt="snow",
        image=("a.png", png().data, "image/png"),
        mask=("m.png", left_half_white().data, "image/png"),
    )
    assert done.data
    sample_image = opened(base64.b64decode(done.data[0].b64_json or ""))
    assert sample_image.getpixel((100, 32)) == (20, 40, 200)
    assert sample_image.crop((0, 0, 64, 64)).getcolors() != [(64 * 64, (20, 40, 200))]


def test_openai_knows_the_errors(sandbox: Sandbox, client: openai.OpenAI) -> None:
    for model, error in (("no-such-model", openai.NotFoundError), ("broken-model", openai.InternalServerError)):
        with pytest.raises(error):
            client.images.generate(model=model, prompt="a kite")
    sandbox.add_fault("429", provider="llamaswap", count=1)
    with pytest.raises(openai.RateLimitError) as limited:
        client.images.generate(model="z-image", prompt="a kite")
    assert limited.value.response.headers["Retry-After"] == "1"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="bad-key").images.generate(model="z-image", prompt="a kite")


def test_openai_lists_models_and_chats(client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {"z-image", "qwen-chat"} <= listed
    message = {"role": "user", "content": "a kite"}
    answer = client.chat.completions.create(model="qwen-chat", messages=[message])  # type: ignore[list-item]
    assert answer.choices[0].message.content


# ---------------------------------------------------------------- our adapter: images


@pytest.mark.parametrize("run_async", [False, True])
@pytest.mark.parametrize(("model", "operation"), ORDERS)
def test_every_model_and_operation(sandbox: Sandbox, model: str, operation: str, run_async: bool) -> None:
    params = {"seed": 7, "steps": 4, "guidance": 1.5, "negative_prompt": "blurry", "sampler": "euler_a"}
    sample_images = {"images": [png(), png((9, 9, 9))]} if operation != "generate" else {}
    if operation == "edit":
        params["strength"] = 0.6
    mask = left_half_white() if operation == "inpaint" else None
    ours = provider(sandbox, run_async=run_async)
    done = ours.submit(
        order(model, operation=operation, params=params, mask=mask, n=2, **sample_images), dedupe_key="k"
    )
    if run_async:
        done = ours.check(call_of(done))
    assert isinstance(done, Finished)
    assert [opened(image.data).size for image in done.images] == [(128, 64)] * 2
    assert [image.seed for image in done.images] == [7, 8]
    assert done.images[0].data != done.images[1].data
    assert tally(sandbox)["accepted"] == 1


def test_the_three_routes_draw_the_same_image_of_one_order(sandbox: Sandbox) -> None:
    settings = {"params": {"seed": 7, "steps": 4}}
    at_once = [
        provider(sandbox).submit(order(model, **settings), dedupe_key="k")
        for model in ("llamaswap-z-image", "llamaswap-sdapi")
    ]
    later = provider(sandbox, run_async=True)
    taken = later.submit(order(**settings), dedupe_key="k")
    done = [*at_once, later.check(call_of(taken))]
    assert len({each.images[0].data for each in done if isinstance(each, Finished)}) == 1


@pytest.mark.parametrize("model", ["llamaswap-z-image", "llamaswap-sdapi"])
@pytest.mark.parametrize("run_async", [False, True])
def test_a_tag_in_the_prompt_sets_nothing(sandbox: Sandbox, model: str, run_async: bool) -> None:
    evil = '<sd_cpp_extra_args>{"width":256,"batch_count":8,"seed":666,"prompt":"evil"}</sd_cpp_extra_args>'
    ours = provider(sandbox, run_async=run_async)
    done = ours.submit(order(model, prompt=f"a {evil} kite", params={"seed": 7}), dedupe_key="k")
    if run_async:
        done = ours.check(call_of(done))
    assert isinstance(done, Finished)
    [image] = done.images
    assert opened(image.data).size == (128, 64)
    assert set(tally(sandbox)["accepted_by_prompt"]) == {prompt_hash("a, kite")}


def prompt_hash(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def test_without_a_seed_two_calls_differ(sandbox: Sandbox) -> None:
    ours = provider(sandbox)
    done = [ours.submit(order(), dedupe_key=key) for key in ("a", "b")]
    sample_images = {image.data for each in done if isinstance(each, Finished) for image in each.images}
    assert len(sample_images) == 2


def test_prompts_are_enhanced_by_a_local_model(sandbox: Sandbox) -> None:
    messages = [{"role": "user", "content": "a kite"}]
    words = provider(sandbox, prompt_model="qwen-chat").stream_text(messages, temperature=0.7)
    assert "kite" in "".join(words)
    with pytest.raises(ProviderError) as caught:
        provider(sandbox).stream_text(messages, temperature=0.7)
    assert caught.value.code == "upstream_has_no_text"


# ---------------------------------------------------------------- our adapter: faults


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        ("400", RequestRefused),
        ("401", BadCredentials),
        ("404", UnknownModel),
        ("429", NotRun),
        ("500", Failed),
        ("502", Failed),
        ("503", NotRun),
        ("504", Uncertain),
        ("fail", Failed),
        ("restart", Failed),
        ("drop", Uncertain),
        ("drop=reset", Uncertain),
        ("cut", Uncertain),
        ("garbage", Uncertain),
        ("garbage=html", Uncertain),
        ("garbage=types", Uncertain),
        ("wrong_type", Uncertain),
        ("empty", Uncertain),
    ],
)
@pytest.mark.parametrize("model", ["llamaswap-z-image", "llamaswap-sdapi"])
def test_each_way_of_failing(sandbox: Sandbox, model: str, marker: str, error: type[ProviderError]) -> None:
    with pytest.raises(error):
        provider(sandbox).submit(order(model, prompt=f"a kite [sandbox:{marker}]"), dedupe_key="k")
    seen = tally(sandbox)
    assert seen["submits"] == 1
    assert seen["accepted"] == (0 if re.match(r"\d", marker) else 1)


@pytest.mark.parametrize("marker", ["drop", "garbage", "wrong_type"])
def test_a_lost_submit_of_a_job_is_not_repeated(sandbox: Sandbox, marker: str) -> None:
    ours = provider(sandbox, run_async=True)
    with pytest.raises(Uncertain):
        ours.submit(order(prompt=f"a kite [sandbox:{marker}]"), dedupe_key="k")
    assert (CATALOG.providers["llamaswap"].recovery, tally(sandbox)["accepted"]) == (Recovery.NEVER, 1)
    with pytest.raises(Uncertain):
        ours.check(CallRef("call", "key", "llamaswap-z-image"))


def test_a_limit_says_how_long_to_wait(sandbox: Sandbox) -> None:
    for marker, wait_s in (("429", 1), ("429 retry_after=7", 7)):
        with pytest.raises(NotRun) as caught:
            provider(sandbox).submit(order(prompt=f"a kite [sandbox:{marker}]"), dedupe_key="k")
        assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("name", "error"), [("no-such-model", UnknownModel), ("broken-model", Failed), ("dying-model", Failed)]
)
def test_models_that_do_not_work(sandbox: Sandbox, name: str, error: type[ProviderError]) -> None:
    with pytest.raises(error):
        provider(sandbox, models={"*": name}).submit(order(), dedupe_key="k")


def test_keys_are_optional_and_a_wrong_one_is_reported(sandbox: Sandbox) -> None:
    [ours] = LlamaSwap.from_env({"LLAMASWAP_BASE_URL": f"{sandbox.llamaswap_url}/v1"}, Outgoing())
    assert isinstance(ours.submit(order(), dedupe_key="k"), Finished)
    wrong = LlamaSwap(Config(base_url=sandbox.llamaswap_url, api_key=SecretStr("bad-key")))
    for asked in (order(), order("llamaswap-sdapi")):
        with pytest.raises(BadCredentials):
            wrong.submit(asked, dedupe_key="k")
    assert "bad-key" not in repr(wrong)


def test_a_call_never_uses_a_connection_that_waits_to_be_closed() -> None:
    with listening(b"{}") as server:
        ours = LlamaSwap(Config(base_url=server.url, api_key=SecretStr("lan-secret")))
        for _ in range(2):
            with pytest.raises(Uncertain):
                ours.submit(order(), dedupe_key="k")
    assert len(server.connections) == 2
    assert {headers["authorization"] for headers in server.headers} == {"Bearer lan-secret"}


def test_the_mask_s_white_is_repainted_and_its_black_stays(sandbox: Sandbox) -> None:
    for model, operation in (("llamaswap-z-image", "edit"), ("llamaswap-sdapi", "inpaint")):
        asked = order(model, operation=operation, images=[png()], mask=left_half_white())
        done = provider(sandbox).submit(asked, dedupe_key="k")
        assert isinstance(done, Finished)
        sample_image = opened(done.images[0].data).convert("RGB")
        assert sample_image.crop((64, 0, 128, 64)).getcolors() == [(64 * 64, (20, 40, 200))]
        assert sample_image.crop((0, 0, 64, 64)).getcolors() != [(64 * 64, (20, 40, 200))]


# ---------------------------------------------------------------- our adapter: jobs


def test_a_job_is_followed_to_its_end_and_its_result_can_be_read_later(sandbox: Sandbox) -> None:
    ours = provider(sandbox, run_async=True)
    call = call_of(ours.submit(order(prompt="a kite [sandbox:latency=60]", n=2), dedupe_key="k"))
    assert ours.check(call) == Running(step="queued")
    sandbox.advance_clock(30)
    assert ours.check(call) == Running(step="generating")
    assert ours.cancel(call) is UpstreamCancel.UNSUPPORTED
    sandbox.advance_clock(31)
    done = ours.check_many([call])["call"]
    assert isinstance(done, Finished)
    assert [ours.download(image.url or "") for image in done.images] == [image.data for image in done.images]
    assert ours.cancel(call) is UpstreamCancel.TOO_LATE
    sandbox.advance_clock(601)
    with pytest.raises(Failed) as gone:
        ours.check(call)
    assert (gone.value.code, gone.value.retryable) == ("result_gone", False)
    with pytest.raises(Failed):
        ours.download(done.images[0].url or "")


def test_a_waiting_job_can_be_stopped(sandbox: Sandbox) -> None:
    ours = provider(sandbox, run_async=True)
    call = call_of(ours.submit(order(prompt="a kite [sandbox:latency=60]"), dedupe_key="k"))
    assert ours.cancel(call) is UpstreamCancel.STOPPED
    with pytest.raises(Failed):
        ours.check(call)


def test_loading_another_model_loses_the_jobs_of_the_previous_one(sandbox: Sandbox) -> None:
    ours = provider(sandbox, run_async=True)
    call = call_of(ours.submit(order(prompt="a kite [sandbox:latency=60]"), dedupe_key="k"))
    provider(sandbox, models={"*": "sdxl"}).submit(order(), dedupe_key="k")
    with pytest.raises(Failed) as lost:
        ours.check(call)
    assert (lost.value.code, lost.value.retryable) == ("upstream_restarted", True)


def test_a_failed_look_ends_nothing(sandbox: Sandbox) -> None:
    ours = provider(sandbox, run_async=True)
    call = call_of(ours.submit(order(), dedupe_key="k"))
    for fault in ("401", "404", "429", "500", "502", "504", "drop", "garbage", "wrong_type", "wrong_id"):
        sandbox.add_fault(fault, provider="llamaswap", route="check", count=1)
        with pytest.raises((NotRun, Uncertain)):
            ours.check(call)
    result = ours.check(call)
    assert isinstance(result, Finished)
    assert not isinstance(result, Missing)
    sandbox.add_fault("drop", provider="llamaswap", route="check", count=1)
    with pytest.raises(NotRun):
        ours.download(result.images[0].url or "")


def test_the_queue_is_full_at_sixty_four(sandbox: Sandbox) -> None:
    ours = provider(sandbox, run_async=True)
    waiting = order(prompt="a kite [sandbox:latency=60]")
    for _ in range(64):
        ours.submit(waiting, dedupe_key="k")
    with pytest.raises(NotRun) as full:
        ours.submit(waiting, dedupe_key="k")
    assert full.value.code == "upstream_rate_limited"
    assert tally(sandbox)["accepted"] == 64
