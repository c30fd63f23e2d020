"""xAI: our adapter's requests against the contract by field, and OpenAI's client as a second opinion on the emulator.

xAI's own package speaks only gRPC (CONTRACT.md, P3), so it cannot drive an emulator of HTTP. Its documentation
points users of OpenAI's client at the same base URL: that client must get images, and must fail where the contract
says so.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from PIL import Image

from providers import registry
from providers.base import CallRef, Finished, InputImage, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Model, Recovery
from providers.catalog.size_rules import AspectRatioRule
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    Misconfigured,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.upstreams.xai.adapter import Xai
from sandbox.testing import Sandbox, running_sandbox

CATALOG = catalog.load()
MODELS = [model for model in CATALOG.models.values() if model.provider == "xai" and model.live]
FIRST, CURRENT = "grok-imagine-image", "grok-imagine-image-2.0"
MESSAGES = [{"role": "user", "content": "a kite"}]

# CONTRACT.md sections 3 and 4: what we always send, and what a caller may choose.
ALWAYS = {"model", "prompt", "response_format"}
CHOSEN = {"n", "aspect_ratio", "resolution"}


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox(latency_s=0.0, prepared=1, chat_delta_s=0.0) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


def provider_of(sandbox: Sandbox, key: str = "xai-secret") -> Xai:
    [found] = registry.load({"XAI_BASE_URL": sandbox.xai_url, "XAI_API_KEY": key}).of("xai")
    assert isinstance(found, Xai)
    return found


@pytest.fixture
def provider(sandbox: Sandbox) -> Xai:
    return provider_of(sandbox)


def png(width: int = 32, height: int = 32) -> InputImage:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (20, 40, 200)).save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", width, height)


def ask(words: str = "a red fox", name: str = FIRST, **facts: Any) -> UpstreamOrder:
    model = CATALOG.models[name]
    return UpstreamOrder(**{"operation": "generate", "model": model, "prompt": words, **facts})


def most(model: Model, sample_images: int) -> UpstreamOrder:
    """Everything that the model takes, in one order."""
    ratio = model.size_rule(AspectRatioRule)
    size: dict[str, str | int] = {"aspect_ratio": ratio.enum[-1] if ratio else "1:1", "resolution": "2k"}
    params = {name: spec.enum[0] for name, spec in model.params.items() if spec.enum}
    operation = "edit" if sample_images else "generate"
    return ask(name=model.id, operation=operation, n=2, size=size, params=params, images=[png()] * sample_images)


def sample_image(done: object) -> Image.Image:
    assert isinstance(done, Finished)
    return Image.open(io.BytesIO(done.images[0].data or b""))


def tally(sandbox: Sandbox) -> dict[str, Any]:
    return dict(sandbox.counts()["xai"])


# ---------------------------------------------------------------- the wire against the contract


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_the_least_order_sends_nothing_that_was_not_set(sandbox: Sandbox, provider: Xai, model: Model) -> None:
    done = sample_image(provider.submit(ask(name=model.id), dedupe_key="key-1"))
    assert (done.format, done.size) == ("JPEG", (1024, 1024))
    [asked] = sandbox.requests("xai")
    assert (asked["path"], asked["form"]) == ("/xai/v1/images/generations", "json")
    assert asked["fields"] == {"model": model.path, "prompt": "a red fox", "response_format": "b64_json"}


@pytest.mark.parametrize("sample_images", [0, 1, 2, 3])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_the_largest_order_sends_the_contracts_fields(
    sandbox: Sandbox, provider: Xai, model: Model, sample_images: int
) -> None:
    done = provider.submit(most(model, sample_images), dedupe_key="key-1")
    assert isinstance(done, Finished)
    assert len(done.images) == 2
    [asked] = sandbox.requests("xai")
    place = {0: set(), 1: {"image"}}.get(sample_images, {"images"})
    quality = {"quality"} if model.id == CURRENT else set()
    omitted = {"aspect_ratio"} if sample_images == 1 else set()
    assert asked["path"] == f"/xai/v1/images/{'edits' if sample_images else 'generations'}"
    assert set(asked["fields"]) == (ALWAYS | CHOSEN | place | quality) - omitted
    for name in place:
        found = asked["fields"][name]
        references = found if isinstance(found, list) else [found]
        assert len(references) == sample_images
        assert all(set(each) == {"type", "url"} and each["type"] == "image_url" for each in references)
        assert all(each["url"].startswith("data:image/png;base64,") for each in references)


@pytest.mark.parametrize(
    ("order", "pixels"),
    [
        (ask(size={"aspect_ratio": "16:9"}), (1360, 768)),
        (ask(size={"aspect_ratio": "9:19.5", "resolution": "2k"}), (1392, 3008)),
        (ask(name=CURRENT, size={"aspect_ratio": "5:2"}), (1616, 640)),
        (ask(operation="edit", images=[png(200, 100)], size={"aspect_ratio": "1:1"}), (1456, 720)),
        (ask(operation="edit", images=[png(200, 100), png()], size={"aspect_ratio": "1:1"}), (1024, 1024)),
        (ask(operation="edit", images=[png(200, 100), png()]), (1456, 720)),
    ],
)
def test_a_size_reaches_the_image(provider: Xai, order: UpstreamOrder, pixels: tuple[int, int]) -> None:
    assert sample_image(provider.submit(order, dedupe_key="key-1")).size == pixels


def test_a_retired_name_is_answered_by_its_successor(sandbox: Sandbox, provider: Xai) -> None:
    assert sample_image(provider.submit(ask(name="grok-imagine-image-quality"), dedupe_key="key-1"))
    with pytest.raises(UnknownModel):
        provider.submit(ask(name="grok-2-image"), dedupe_key="key-2")


# ---------------------------------------------------------------- forms of the answer, and links


def test_bytes_may_carry_a_prefix(provider: Xai) -> None:
    assert sample_image(provider.submit(ask("a fox [sandbox:form=prefix]"), dedupe_key="key-1")).format == "JPEG"


def test_links_are_followed_without_the_key(sandbox: Sandbox, provider: Xai) -> None:
    done = provider.submit(ask("a fox [sandbox:form=url]", n=2), dedupe_key="key-1")
    assert isinstance(done, Finished)
    for image in done.images:
        assert image.data is None
        assert provider.download(image.url or "")[:3] == b"\xff\xd8\xff"
    counts = tally(sandbox)
    assert (counts["downloads"], counts["faults"].get("key_leaked")) == (2, None)


def link_of(provider: Xai, marker: str) -> str:
    done = provider.submit(ask(f"a fox [sandbox:form=url, {marker}]"), dedupe_key="key-1")
    assert isinstance(done, Finished)
    return done.images[0].url or ""


def test_a_link_dies_after_its_time(sandbox: Sandbox, provider: Xai) -> None:
    link = link_of(provider, "expire=60")
    sandbox.advance_clock(61)
    with pytest.raises(Failed) as caught:
        provider.download(link)
    assert (caught.value.code, caught.value.retryable, caught.value.billed) == ("result_gone", False, True)


def test_a_link_that_fails_once_may_be_tried_again(sandbox: Sandbox, provider: Xai) -> None:
    link = link_of(provider, "503 at=download times=1")
    with pytest.raises(NotRun):
        provider.download(link)
    assert provider.download(link)
    assert tally(sandbox)["accepted"] == 1


@pytest.mark.parametrize(("marker", "error"), [("dead_link", Failed), ("dead_link=host", Failed)])
def test_a_link_to_nothing_fails(provider: Xai, marker: str, error: type[ProviderError]) -> None:
    with pytest.raises(error):
        provider.download(link_of(provider, marker))


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("marker", "error", "accepted"),
    [
        ("drop", Uncertain, 1),
        ("drop=reset", Uncertain, 1),
        ("cut", Uncertain, 1),
        ("length_lie", Uncertain, 1),
        ("garbage", Uncertain, 1),
        ("garbage=empty", Uncertain, 1),
        ("garbage=types", Uncertain, 1),
        ("garbage=deep", Uncertain, 1),
        ("wrong_type", Uncertain, 1),
        ("timeout", Uncertain, 1),
        ("fail", Failed, 1),
        ("fail=moderation", ContentRefused, 1),
        ("fail=withheld", ContentRefused, 1),
        ("empty", ContentRefused, 1),
        ("refuse", ContentRefused, 0),
        ("refuse envelope=nested", ContentRefused, 0),
        ("refuse envelope=text", ContentRefused, 0),
        ("quota", OutOfCredit, 0),
        ("quota=429", OutOfCredit, 0),
        ("quota=429 envelope=text", OutOfCredit, 0),
        ("400", RequestRefused, 0),
        ("401", BadCredentials, 0),
        ("403", BadCredentials, 0),
        ("404", Misconfigured, 0),
        ("415", RequestRefused, 0),
        ("422", RequestRefused, 0),
        ("429", NotRun, 0),
        ("429 envelope=nested", NotRun, 0),
        ("500", Failed, 0),
        ("500 envelope=text", Uncertain, 0),
        ("502", Uncertain, 0),
        ("503", NotRun, 0),
        ("503 envelope=nested", NotRun, 0),
        ("504", Uncertain, 0),
    ],
)
def test_a_submit_is_sent_once_whatever_comes_back(
    sandbox: Sandbox, provider: Xai, marker: str, error: type[ProviderError], accepted: int
) -> None:
    with pytest.raises(error):
        provider.submit(ask(f"a fox [sandbox:{marker}]"), dedupe_key="key-1")
    counts = tally(sandbox)
    assert (counts["submits"], counts["accepted"]) == (1, accepted)


@pytest.mark.parametrize(
    ("marker", "charged"), [("refuse", False), ("fail=moderation", True), ("fail=withheld", True), ("empty", True)]
)
def test_a_refusal_says_whether_it_was_billed(provider: Xai, marker: str, *, charged: bool) -> None:
    with pytest.raises(ContentRefused) as caught:
        provider.submit(ask(f"a fox [sandbox:{marker}]"), dedupe_key="key-1")
    assert (caught.value.stage, caught.value.charged) == ("output", charged)


@pytest.mark.parametrize(("marker", "wait_s"), [("429", None), ("429 retry_after=7", 7)])
def test_a_rate_limit_says_how_long_where_the_answer_does(provider: Xai, marker: str, wait_s: float | None) -> None:
    with pytest.raises(NotRun) as caught:
        provider.submit(ask(f"a fox [sandbox:{marker}]"), dedupe_key="key-1")
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize(("marker", "kept"), [("fewer=1", 2), ("fewer=-1", 3)])
def test_moderation_may_drop_some_and_more_are_not_kept(provider: Xai, marker: str, kept: int) -> None:
    done = provider.submit(ask(f"a fox [sandbox:{marker}]", n=3), dedupe_key="key-1")
    assert isinstance(done, Finished)
    assert len(done.images) == kept


def test_what_the_emulator_finds_wrong_is_reported_and_free(sandbox: Sandbox, provider: Xai) -> None:
    for order in (
        ask(extra={"seed": 7}),
        ask(params={"quality": "low"}),
        ask(size={"aspect_ratio": "21:9"}),
        ask(size={"resolution": "2K"}),
        ask(images=[replace(png(), data=b"no image")]),
        ask(images=[png()] * 6),
        ask(" "),
    ):
        with pytest.raises(RequestRefused):
            provider.submit(order, dedupe_key="key-1")
    assert sandbox.counts()["xai"]["accepted"] == 0


@pytest.mark.parametrize(("key", "error"), [("bad-key", BadCredentials), ("no-quota", OutOfCredit)])
def test_keys_are_distinguished_and_not_revealed(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, key: str, error: type[ProviderError]
) -> None:
    refused = provider_of(sandbox, key)
    for attempt in (
        lambda: refused.submit(ask(), dedupe_key="key-1"),
        lambda: list(refused.stream_text(MESSAGES, temperature=0.7)),
    ):
        with pytest.raises(error) as caught:
            attempt()
        assert key not in f"{caught.value} {refused!r} {caplog.text}"


def test_an_unanswering_host_was_never_asked() -> None:
    [away] = registry.load({"XAI_BASE_URL": "http://127.0.0.1:9", "XAI_API_KEY": "k"}).of("xai")
    with pytest.raises(NotRun):
        away.submit(ask(), dedupe_key="key-1")


def test_a_lost_call_cannot_be_asked_about(sandbox: Sandbox, provider: Xai) -> None:
    lost = CallRef("call_1", "key-1", FIRST)
    with pytest.raises(Uncertain):
        provider.check(lost)
    assert provider.cancel(lost) is UpstreamCancel.UNSUPPORTED
    assert CATALOG.providers["xai"].recovery is Recovery.NEVER
    assert sandbox.counts().get("xai", {"requests": 0})["requests"] == 0


# ---------------------------------------------------------------- prompt enhancement


def test_a_prompt_is_enhanced_by_chat(sandbox: Sandbox, provider: Xai) -> None:
    text = "".join(provider.stream_text(MESSAGES, temperature=0.7))
    assert text.startswith("a kite, ")
    [asked] = sandbox.requests("xai")
    assert asked["path"] == "/xai/v1/chat/completions"
    assert asked["fields"] == {"model": "grok-4.3", "messages": MESSAGES, "stream": True, "temperature": 0.7}


@pytest.mark.parametrize(
    ("marker", "error"),
    [("429", NotRun), ("quota=429", OutOfCredit), ("stream_error", Failed), ("early_close", Uncertain)],
)
def test_chat_reads_the_flat_errors_too(provider: Xai, marker: str, error: type[ProviderError]) -> None:
    with pytest.raises(error):
        list(provider.stream_text([{"role": "user", "content": f"a kite [sandbox:{marker}]"}], temperature=0.7))


# ---------------------------------------------------------------- OpenAI's client against the emulator


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="xai-secret", base_url=sandbox.xai_url, max_retries=0) as found:
        yield found


def test_openais_client_generates(client: openai.OpenAI, sandbox: Sandbox) -> None:
    answer = client.images.generate(
        model=CURRENT,
        prompt="a red fox",
        n=2,
        response_format="b64_json",
        extra_body={"aspect_ratio": "21:9", "resolution": "2k", "quality": "low"},
    )
    sample_images = [Image.open(io.BytesIO(base64.b64decode(item.b64_json or ""))) for item in answer.data or []]
    assert [(each.format, each.size) for each in sample_images] == [("JPEG", (3136, 1344))] * 2
    assert answer.to_dict()["usage"] == {"cost_in_usd_ticks": 1_200_000_000}


def test_openais_client_gets_links_by_default(client: openai.OpenAI, provider: Xai) -> None:
    answer = client.images.generate(model=FIRST, prompt="a red fox")
    [item] = answer.data or []
    assert item.b64_json is None
    assert provider.download(item.url or "")[:3] == b"\xff\xd8\xff"


def test_openais_client_writes_the_body_that_we_write(client: openai.OpenAI, sandbox: Sandbox, provider: Xai) -> None:
    provider.submit(ask(n=2, size={"aspect_ratio": "4:3"}), dedupe_key="key-1")
    wanted = {"aspect_ratio": "4:3"}
    client.images.generate(model=FIRST, prompt="a red fox", n=2, response_format="b64_json", extra_body=wanted)
    ours, theirs = sandbox.requests("xai")
    assert (ours["path"], ours["fields"]) == (theirs["path"], theirs["fields"])


def test_openais_size_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(model=FIRST, prompt="a red fox", size="1024x1024")
    assert caught.value.response.json() == {"code": "400", "error": "Argument not supported: size"}


def test_openais_edit_is_multipart_and_refused(client: openai.OpenAI, sandbox: Sandbox) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.images.edit(model=FIRST, prompt="make it night", image=("a.png", png().data, "image/png"))
    assert caught.value.status_code == 415
    assert tally(sandbox)["accepted"] == 0


@pytest.mark.parametrize(
    ("marker", "kind"),
    [("429", openai.RateLimitError), ("503", openai.InternalServerError), ("quota", openai.PermissionDeniedError)],
)
def test_openais_client_distinguishes_the_statuses(
    client: openai.OpenAI, marker: str, kind: type[openai.APIStatusError]
) -> None:
    with pytest.raises(kind):
        client.images.generate(model=FIRST, prompt=f"a fox [sandbox:{marker}]")


def test_openais_client_chats_and_lists(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="grok-4.3", messages=[{"role": "user", "content": "kite"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).startswith("kite, ")
    assert {FIRST, CURRENT} <= {each.id for each in client.models.list()}
