"""Gemini: Google's own client drives the emulator; our adapter's requests are compared with the contract by field."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from PIL import Image

from providers import registry
from providers.base import CallRef, Finished, InputImage, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Model, Recovery
from providers.catalog.size_rules import AspectRatioRule, ResolutionRule
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
from providers.upstreams.gemini.adapter import Gemini
from sandbox.testing import Sandbox, running_sandbox

CATALOG = catalog.load()
MODELS = [model for model in CATALOG.models.values() if model.provider == "gemini" and model.live]
FLASH, PRO, IMAGEN = "gemini-3.1-flash-image", "gemini-3-pro-image", "imagen-4.0-generate-001"

# Fields of a body as CONTRACT.md sections 2 and 4 give them: what we send, with dots between the levels.
ALWAYS = {"contents", "generationConfig.responseModalities"}
CHOSEN = {
    "generationConfig.imageConfig.aspectRatio",
    "generationConfig.imageConfig.imageSize",
    "generationConfig.seed",
}
PREDICT = {
    "instances",
    "parameters.sampleCount",
    "parameters.includeRaiReason",
    "parameters.aspectRatio",
    "parameters.sampleImageSize",
    "parameters.guidanceScale",
    "parameters.outputOptions.mimeType",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox(latency_s=0.0, prepared=1) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


def provider_of(sandbox: Sandbox, key: str = "AIza-secret", **more: str) -> Gemini:
    env = {"GOOGLE_GEMINI_BASE_URL": sandbox.gemini_url, "GEMINI_API_KEY": key, **more}
    [found] = registry.load(env).of("gemini")
    assert isinstance(found, Gemini)
    return found


@pytest.fixture
def provider(sandbox: Sandbox) -> Gemini:
    return provider_of(sandbox)


def png(width: int = 32, height: int = 32) -> InputImage:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (20, 40, 200)).save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", width, height)


def ask(words: str = "a red fox", name: str = FLASH, **facts: Any) -> UpstreamOrder:
    model = CATALOG.models[name]
    return UpstreamOrder(**{"operation": "generate", "model": model, "prompt": words, **facts})


def most(model: Model) -> UpstreamOrder:
    """Everything that the model takes, in one order."""
    ratio, classes = model.size_rule(AspectRatioRule), model.size_rule(ResolutionRule)
    size = {"aspect_ratio": ratio.enum[-1]} if ratio else {}
    size |= {"resolution": classes.enum[-1]} if classes else {}
    count = model.inputs.images.max or 0
    return ask(name=model.id, operation="edit", images=[png()] * count, size=size, params={"seed": 7})


def sample_image(done: object) -> Image.Image:
    assert isinstance(done, Finished)
    return Image.open(io.BytesIO(done.images[0].data or b""))


def tally(sandbox: Sandbox) -> dict[str, Any]:
    return dict(sandbox.counts()["gemini"])


def names(fields: dict[str, Any], outer: str = "") -> set[str]:
    """``{"a": {"b": 1}}`` as ``{"a.b"}``."""
    found: set[str] = set()
    for name, value in fields.items():
        found |= names(value, f"{outer}{name}.") if isinstance(value, dict) else {f"{outer}{name}"}
    return found


# ---------------------------------------------------------------- the wire against the contract


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_the_least_order_sends_nothing_that_was_not_set(sandbox: Sandbox, provider: Gemini, model: Model) -> None:
    assert sample_image(provider.submit(ask(name=model.id), dedupe_key="key-1")).size == (1024, 1024)
    [asked] = sandbox.requests("gemini")
    assert (asked["method"], asked["form"], asked["status"]) == ("POST", "json", 200)
    assert asked["path"] == f"/gemini/v1beta/models/{model.id}:generateContent"
    assert asked["headers"]["X-Server-Timeout"] == "290"
    assert asked["fields"] == {
        "contents": [{"role": "user", "parts": [{"text": "a red fox"}]}],
        "generationConfig": {"responseModalities": ["IMAGE"]},
    }


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_the_largest_order_sends_the_contracts_fields(sandbox: Sandbox, provider: Gemini, model: Model) -> None:
    order = most(model)
    provider.submit(order, dedupe_key="key-1")
    [asked] = sandbox.requests("gemini")
    sent = names(asked["fields"])
    assert ALWAYS <= sent <= ALWAYS | CHOSEN
    [content] = asked["fields"]["contents"]
    assert [set(part) for part in content["parts"]] == [{"inlineData"}] * len(order.images) + [{"text"}]
    assert {tuple(part["inlineData"]) for part in content["parts"][:-1]} == {("mimeType", "data")}


@pytest.mark.parametrize(
    ("name", "size", "pixels"),
    [
        (FLASH, {"aspect_ratio": "1:8", "resolution": "512"}, (176, 1464)),
        (FLASH, {"aspect_ratio": "16:9", "resolution": "2K"}, (2752, 1536)),
        (PRO, {"resolution": "4K"}, (4096, 4096)),
        (PRO, {"aspect_ratio": "21:9"}, (1584, 672)),
        ("gemini-nano-banana-2.1", {"aspect_ratio": "4:1"}, (2064, 512)),
        ("gemini-3.1-flash-lite-image", {"aspect_ratio": "4:5", "resolution": "1K"}, (928, 1152)),
    ],
)
def test_a_size_reaches_the_image(provider: Gemini, name: str, size: dict[str, str], pixels: tuple[int, int]) -> None:
    assert sample_image(provider.submit(ask(name=name, size=size), dedupe_key="key-1")).size == pixels


def test_an_edit_without_a_ratio_keeps_its_first_images_shape(provider: Gemini) -> None:
    order = ask(operation="edit", images=[png(90, 160), png()])
    assert sample_image(provider.submit(order, dedupe_key="key-1")).size == (768, 1376)


def test_the_version_is_a_setting(sandbox: Sandbox) -> None:
    provider_of(sandbox, GOOGLE_GENAI_API_VERSION="v1").submit(ask(), dedupe_key="key-1")
    assert sandbox.requests("gemini")[0]["path"].startswith("/gemini/v1/models/")


def test_a_caller_may_go_further_by_extra(sandbox: Sandbox, provider: Gemini) -> None:
    extra = {
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "generationConfig": {"thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}},
    }
    done = provider.submit(ask(extra=extra), dedupe_key="key-1")
    assert isinstance(done, Finished)
    assert len(done.images) == 1  # the thought's image does not count
    [asked] = sandbox.requests("gemini")
    assert asked["fields"]["generationConfig"]["thinkingConfig"]["thinkingLevel"] == "HIGH"
    assert asked["fields"]["generationConfig"]["responseModalities"] == ["IMAGE"]


def test_imagen_is_called_on_gateways_that_have_it(sandbox: Sandbox) -> None:
    order = ask(
        name=IMAGEN,
        n=3,
        size={"aspect_ratio": "16:9", "resolution": "2K"},
        params={"guidance": 7.5, "output_format": "image/jpeg"},
    )
    done = provider_of(sandbox, "legacy-gateway").submit(order, dedupe_key="key-1")
    assert isinstance(done, Finished)
    assert len(done.images) == 3
    assert (sample_image(done).format, sample_image(done).size) == ("JPEG", (2752, 1536))
    [asked] = sandbox.requests("gemini")
    assert asked["path"] == f"/gemini/v1beta/models/{IMAGEN}:predict"
    assert names(asked["fields"]) == PREDICT
    with pytest.raises(UnknownModel):
        provider_of(sandbox).submit(order, dedupe_key="key-2")


@pytest.mark.parametrize(("marker", "kept"), [("fewer=2", 1), ("fewer=1", 2)])
def test_imagen_leaves_filtered_samples_out(sandbox: Sandbox, marker: str, kept: int) -> None:
    order = ask(f"a fox [sandbox:{marker}]", IMAGEN, n=3)
    done = provider_of(sandbox, "legacy-gateway").submit(order, dedupe_key="key-1")
    assert isinstance(done, Finished)
    assert len(done.images) == kept


@pytest.mark.parametrize("marker", ["fail=moderation", "empty"])
def test_imagen_with_everything_filtered_is_a_refusal(sandbox: Sandbox, marker: str) -> None:
    with pytest.raises(ContentRefused):
        provider_of(sandbox, "legacy-gateway").submit(ask(f"a [sandbox:{marker}]", IMAGEN, n=2), dedupe_key="key-1")


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
        ("garbage=list", Uncertain, 1),
        ("garbage=deep", Uncertain, 1),
        ("wrong_type", Uncertain, 1),
        ("timeout", Uncertain, 1),
        ("fail", Failed, 1),
        ("fail=image_safety", ContentRefused, 1),
        ("fail=recitation", ContentRefused, 1),
        ("fail=escalation", ContentRefused, 1),
        ("fail=no_image", Failed, 1),
        ("fail=max_tokens", Failed, 1),
        ("fail=text", Failed, 1),
        ("fail=continuation", Failed, 1),
        ("fail=something_new", Failed, 1),
        ("empty", Failed, 1),
        ("fail=pup_limited_disabled", BadCredentials, 1),
        ("fail=missing_thought_signature", RequestRefused, 1),
        ("restart", NotRun, 1),
        ("refuse", ContentRefused, 0),
        ("refuse=image_safety", ContentRefused, 0),
        ("quota", OutOfCredit, 0),
        ("quota=free", OutOfCredit, 0),
        ("quota=day", NotRun, 0),
        ("400", RequestRefused, 0),
        ("400 envelope=list", RequestRefused, 0),
        ("401", BadCredentials, 0),
        ("403", BadCredentials, 0),
        ("404", UnknownModel, 0),
        ("408", Uncertain, 0),
        ("429", NotRun, 0),
        ("500", Failed, 0),
        ("500 envelope=list", Failed, 0),
        ("502", Uncertain, 0),
        ("503", NotRun, 0),
        ("504", Failed, 0),
    ],
)
def test_a_submit_is_sent_once_whatever_comes_back(
    sandbox: Sandbox, provider: Gemini, marker: str, error: type[ProviderError], accepted: int
) -> None:
    with pytest.raises(error):
        provider.submit(ask(f"a fox [sandbox:{marker}]"), dedupe_key="key-1")
    counts = tally(sandbox)
    assert (counts["submits"], counts["accepted"]) == (1, accepted)


@pytest.mark.parametrize(
    ("marker", "code", "retryable"),
    [
        ("fail=no_image", "upstream_empty_result", True),
        ("fail=image_other", "upstream_empty_result", True),
        ("fail=something_new", "upstream_empty_result", False),
        ("fail=continuation", "upstream_empty_result", False),
        ("fail=text", "upstream_said_no", False),
        ("504", "upstream_timeout", True),
    ],
)
def test_only_a_temporary_failure_is_retryable(provider: Gemini, marker: str, code: str, *, retryable: bool) -> None:
    with pytest.raises(Failed) as caught:
        provider.submit(ask(f"a fox [sandbox:{marker}]"), dedupe_key="key-1")
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("marker", "wait_s"),
    [
        ("429", 32),
        ("429 retry_after=7", 7),
        ("503 retry_after=1.5", 1.5),
        ("quota=day", 3600),
        ("429 retry_after=9999", 300),
    ],
)
def test_a_rate_limit_says_how_long_to_wait(provider: Gemini, marker: str, wait_s: float) -> None:
    with pytest.raises(NotRun) as caught:
        provider.submit(ask(f"a fox [sandbox:{marker}]"), dedupe_key="key-1")
    assert caught.value.retry_after_s == wait_s


def test_one_blocked_candidate_does_not_hide_the_good_one(provider: Gemini) -> None:
    done = provider.submit(ask("a fox [sandbox:fewer=1]"), dedupe_key="key-1")
    assert isinstance(done, Finished)
    assert len(done.images) == 1


@pytest.mark.parametrize(("name", "n"), [(FLASH, 1), (IMAGEN, 2)])
def test_an_image_too_many_is_not_kept(sandbox: Sandbox, name: str, n: int) -> None:
    done = provider_of(sandbox, "legacy-gateway").submit(ask("a [sandbox:fewer=-1]", name, n=n), dedupe_key="key-1")
    assert isinstance(done, Finished)
    assert len(done.images) == n


def test_what_the_emulator_finds_wrong_is_reported_and_free(sandbox: Sandbox, provider: Gemini) -> None:
    for order in (
        ask(extra={"negativePrompt": "rain"}),
        ask(name=PRO, size={"aspect_ratio": "8:1"}),
        ask(name="gemini-nano-banana-2.1", size={"resolution": "512"}),
        ask(size={"resolution": "1k"}),
        ask(params={"seed": 2**31}),
        ask(images=[replace(png(), data=b"no image")]),
    ):
        with pytest.raises(RequestRefused):
            provider.submit(order, dedupe_key="key-1")
    assert tally(sandbox)["accepted"] == 0


@pytest.mark.parametrize(
    ("key", "error"),
    [("bad-key", BadCredentials), ("no-quota", OutOfCredit), ("no-billing", OutOfCredit)],
)
def test_keys_are_distinguished_and_not_revealed(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, key: str, error: type[ProviderError]
) -> None:
    refused = provider_of(sandbox, key)
    with pytest.raises(error) as caught:
        refused.submit(ask(), dedupe_key="key-1")
    assert key not in f"{caught.value} {refused!r} {caplog.text}"


def test_an_unanswering_host_was_never_asked() -> None:
    [away] = registry.load({"GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9", "GEMINI_API_KEY": "k"}).of("gemini")
    with pytest.raises(NotRun):
        away.submit(ask(), dedupe_key="key-1")


def test_a_lost_call_cannot_be_asked_about(sandbox: Sandbox, provider: Gemini) -> None:
    lost = CallRef("call_1", "key-1", FLASH)
    with pytest.raises(Uncertain):
        provider.check(lost)
    assert provider.cancel(lost) is UpstreamCancel.UNSUPPORTED
    assert CATALOG.providers["gemini"].recovery is Recovery.NEVER
    assert sandbox.counts().get("gemini", {"requests": 0})["requests"] == 0


# ---------------------------------------------------------------- Google's client against the emulator


def googles(
    sandbox: Sandbox, contents: Any, *, model: str = FLASH, key: str = "AIza-secret", **settings: Any
) -> types.GenerateContentResponse:
    """What Google's client makes of it; it waits for 20 s."""
    options = types.HttpOptions(base_url=sandbox.gemini_url, timeout=20_000)
    with genai.Client(api_key=key, http_options=options) as client:
        config = types.GenerateContentConfig(**settings)
        return client.models.generate_content(model=model, contents=contents, config=config)


def drawn(answer: types.GenerateContentResponse) -> Image.Image:
    [found] = [part.inline_data for part in answer.parts or [] if part.inline_data]
    assert found.mime_type == "image/png"
    return Image.open(io.BytesIO(found.data or b""))


def test_googles_client_gets_an_image_and_its_cost(sandbox: Sandbox) -> None:
    answer = googles(
        sandbox,
        "a red fox",
        response_modalities=["TEXT", "IMAGE"],
        image_config=types.ImageConfig(aspect_ratio="16:9", image_size="2K"),
        seed=7,
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
                threshold=types.HarmBlockThreshold.BLOCK_ONLY_HIGH,
            )
        ],
    )
    assert drawn(answer).size == (2752, 1536)
    assert answer.text == "Here is your image."
    assert answer.model_version == FLASH
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == 1680 + 12
    [asked] = sandbox.requests("gemini")
    assert asked["path"] == f"/gemini/v1/models/{FLASH}:generateContent"
    assert asked["headers"]["X-Server-Timeout"] == "20"


def test_googles_client_edits_with_an_image(sandbox: Sandbox) -> None:
    given = types.Part.from_bytes(data=png(160, 90).data, mime_type="image/png")
    answer = googles(sandbox, [given, "make it night"], model=PRO)
    assert drawn(answer).size == (1376, 768)


def test_googles_client_distinguishes_thoughts(sandbox: Sandbox) -> None:
    thinking = types.ThinkingConfig(include_thoughts=True, thinking_level=types.ThinkingLevel.HIGH)
    answer = googles(sandbox, "a fox", model=PRO, thinking_config=thinking)
    assert [part.thought for part in answer.parts or []] == [True, True, None, None]


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("fail=image_safety", types.FinishReason.IMAGE_SAFETY),
        ("fail=no_image", types.FinishReason.NO_IMAGE),
        ("fail=pup_limited_disabled", types.FinishReason.PUP_LIMITED_DISABLED),
    ],
)
def test_googles_client_reads_why_there_is_no_image(sandbox: Sandbox, marker: str, reason: types.FinishReason) -> None:
    answer = googles(sandbox, f"a fox [sandbox:{marker}]")
    assert not answer.parts
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason is reason


def test_googles_client_reads_a_blocked_prompt(sandbox: Sandbox) -> None:
    answer = googles(sandbox, "a fox [sandbox:refuse=safety]")
    assert answer.prompt_feedback is not None
    assert answer.prompt_feedback.block_reason is types.BlockedReason.SAFETY
    assert answer.candidates is None


@pytest.mark.parametrize(
    ("key", "marker", "kind", "told"),
    [
        ("bad-key", "", errors.ClientError, (400, "INVALID_ARGUMENT")),
        ("AIza-secret", "[sandbox:429]", errors.ClientError, (429, "RESOURCE_EXHAUSTED")),
        ("AIza-secret", "[sandbox:503 envelope=list]", errors.ServerError, (503, "UNAVAILABLE")),
    ],
)
def test_googles_client_reads_the_errors(
    sandbox: Sandbox, key: str, marker: str, kind: type[errors.APIError], told: tuple[int, str]
) -> None:
    with pytest.raises(kind) as caught:
        googles(sandbox, f"a fox {marker}", key=key)
    assert (caught.value.code, caught.value.status) == told


def test_googles_client_finds_a_dead_model_gone(sandbox: Sandbox) -> None:
    for name in ("gemini-2.0-flash-exp-image-generation", "gemini-3-pro-image-preview"):
        with pytest.raises(errors.ClientError) as caught:
            googles(sandbox, "a fox", model=name)
        assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


def test_both_clients_write_the_same_body(sandbox: Sandbox, provider: Gemini) -> None:
    """The second opinion on our request: what Google's client makes of the same order."""
    image = png()
    provider.submit(
        ask(operation="edit", images=[image], size={"aspect_ratio": "3:4", "resolution": "4K"}, params={"seed": 3}),
        dedupe_key="key-1",
    )
    given = types.Part.from_bytes(data=image.data, mime_type=image.mime)
    size = types.ImageConfig(aspect_ratio="3:4", image_size="4K")
    googles(sandbox, [given, "a red fox"], response_modalities=["IMAGE"], image_config=size, seed=3)
    ours, theirs = (asked["fields"] for asked in sandbox.requests("gemini"))
    assert ours["generationConfig"] == theirs["generationConfig"]
    [our_content], [their_content] = ours["contents"], theirs["contents"]
    assert [our_content["role"], our_content["parts"][1]] == [their_content["role"], their_content["parts"][1]]
    # Their client writes these names in snake_case and the bytes in the URL-safe alphabet; the API reads both.
    [our_data], [their_data] = (content["parts"][0].values() for content in (our_content, their_content))
    assert (our_data["mimeType"], base64.b64decode(our_data["data"])) == ("image/png", image.data)
    assert (their_data["mime_type"], base64.urlsafe_b64decode(their_data["data"])) == ("image/png", image.data)
