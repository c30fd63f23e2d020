"""Stability AI: what our adapter sends, compared with the contract's tables by part, and calls of the emulator.

There is no maintained Python client of v2beta (CONTRACT.md, tag G), so no second opinion by a vendor's package:
``FIELDS`` below is copied from CONTRACT.md section 2 by hand, apart from the catalogue and from the emulator.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from providers import registry
from providers.base import Accepted, CallRef, Finished, InputImage, Missing, Running, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Model, ParamSpec
from providers.catalog.size_rules import AspectRatioRule, PaddingRule
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
from providers.upstreams.stability.adapter import Stability
from sandbox.testing import Sandbox, running_sandbox

CATALOG = catalog.load()
MODELS = [model for model in CATALOG.models.values() if model.provider == "stability" and model.live]
CREATIVE, RELIGHT = "stability-upscale-creative", "stability-replace-background"
LATER = {CREATIVE, RELIGHT}

# path below /v2beta -> (needed, optional) texts, then (needed, optional) files: CONTRACT.md section 2.
_COMMON = "negative_prompt seed output_format"
_STYLED = f"style_preset {_COMMON}"
FIELDS = {
    "stable-image/generate/core": ("prompt", f"aspect_ratio {_STYLED}", "", ""),
    "stable-image/generate/ultra": ("prompt", f"aspect_ratio strength {_STYLED}", "", "image"),
    "stable-image/generate/sd3": (
        "prompt",
        f"mode model aspect_ratio strength cfg_scale {_STYLED}",
        "",
        "image",
    ),
    "stable-image/edit/inpaint": ("prompt", f"grow_mask {_STYLED}", "image", "mask"),
    "stable-image/edit/erase": ("", "grow_mask seed output_format", "image", "mask"),
    "stable-image/edit/outpaint": (
        "",
        "left right up down creativity prompt style_preset seed output_format",
        "image",
        "",
    ),
    "stable-image/edit/search-and-replace": ("prompt search_prompt", f"grow_mask {_STYLED}", "image", ""),
    "stable-image/edit/search-and-recolor": ("prompt select_prompt", f"grow_mask {_STYLED}", "image", ""),
    "stable-image/edit/remove-background": ("", "output_format", "image", ""),
    "stable-image/edit/replace-background-and-relight": (
        "",
        "background_prompt foreground_prompt light_source_direction light_source_strength preserve_original_subject"
        f" original_background_depth keep_original_background {_COMMON}",
        "subject_image",
        "background_reference light_reference",
    ),
    "stable-image/upscale/fast": ("", "output_format", "image", ""),
    "stable-image/upscale/conservative": ("prompt", f"creativity {_COMMON}", "image", ""),
    "stable-image/upscale/creative": ("prompt", f"creativity {_STYLED}", "image", ""),
    "stable-image/control/sketch": ("prompt", f"control_strength {_STYLED}", "image", ""),
    "stable-image/control/structure": ("prompt", f"control_strength {_STYLED}", "image", ""),
    "stable-image/control/style": ("prompt", f"aspect_ratio fidelity {_STYLED}", "image", ""),
    "stable-image/control/style-transfer": (
        "",
        f"prompt style_strength composition_fidelity change_strength {_COMMON}",
        "init_image style_image",
        "",
    ),
    "3d/stable-fast-3d": ("", "texture_resolution foreground_ratio remesh vertex_count", "image", ""),
    "3d/stable-point-aware-3d": (
        "",
        "texture_resolution foreground_ratio remesh target_type target_count guidance_scale seed",
        "image",
        "",
    ),
}


def png(mode: str = "RGB") -> InputImage:
    out = io.BytesIO()
    Image.new(mode, (64, 64), 200 if mode == "L" else (20, 40, 200)).save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", 64, 64)


def value_for(spec: ParamSpec) -> Any:
    """A value that a caller might set: allowed, and not the default where there is another."""
    if spec.enum:
        return spec.enum[-1]
    if spec.type == "str":
        return "a red hat"
    low, high = (0 if bound is None else bound for bound in (spec.min, spec.max))
    return int(high) if spec.type == "int" else round((low + high) / 2, 2)


def least(model: Model, **facts: Any) -> UpstreamOrder:
    """Only what the model needs."""
    inputs = model.inputs
    params = {name: value_for(spec) for name, spec in model.params.items() if spec.required}
    needs_prompt = inputs.prompt == "required" or "prompt" in inputs.needs_one_of
    size = {"left": 8} if model.size_rule(PaddingRule) else {}
    return UpstreamOrder(
        **{
            "operation": model.operation,
            "model": model,
            "prompt": "a red kite" if needs_prompt else None,
            "images": [png()] * inputs.images.min,
            "params": params,
            "size": size,
            **facts,
        }
    )


def most(model: Model, *, sample_images: bool) -> UpstreamOrder:
    """Everything that the model takes, in one order."""
    inputs, size = model.inputs, {}
    if model.size_rule(AspectRatioRule):
        size = {"aspect_ratio": "16:9"}
    if model.size_rule(PaddingRule):
        size = {"left": 8, "right": 16, "top": 24, "bottom": 32}
    count = (inputs.images.max or 0) if sample_images else inputs.images.min
    return least(
        model,
        prompt=None if inputs.prompt == "none" else "a red kite",
        images=[png()] * count,
        mask=png("L") if inputs.mask != "none" and sample_images else None,
        params={name: value_for(spec) for name, spec in model.params.items()},
        size=size,
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox(latency_s=0.0, prepared=1) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


def provider_of(sandbox: Sandbox, key: str = "sk-secret") -> Stability:
    env = {"STABILITY_BASE_URL": sandbox.stability_url, "STABILITY_API_KEY": key}
    [found] = registry.load(env).of("stability")
    assert isinstance(found, Stability)
    return found


@pytest.fixture
def provider(sandbox: Sandbox) -> Stability:
    return provider_of(sandbox)


def model(name: str) -> Model:
    return CATALOG.models[name]


def core(words: str, **facts: Any) -> UpstreamOrder:
    return least(model("stable-image-core"), prompt=words, **facts)


def creative(words: str, **facts: Any) -> UpstreamOrder:
    return least(model(CREATIVE), prompt=words, params={"output_format": "jpeg"}, **facts)


def call(accepted: Finished | Accepted) -> CallRef:
    assert isinstance(accepted, Accepted)
    return CallRef("call_1", "key-1", CREATIVE, upstream_id=accepted.upstream_id)


def tally(sandbox: Sandbox) -> dict[str, Any]:
    return dict(sandbox.counts()["stability"])


# ---------------------------------------------------------------- the wire against the contract


def test_the_contracts_table_and_the_catalogue_have_the_same_endpoints() -> None:
    assert {each.path for each in MODELS} == {f"/v2beta/{path}" for path in FIELDS}


def orders() -> Iterator[Any]:
    for each in MODELS:
        yield pytest.param(least(each), id=f"{each.id}-least")
        yield pytest.param(most(each, sample_images=True), id=f"{each.id}-most")
        if each.inputs.images.min == 0 and each.inputs.images.max:
            yield pytest.param(most(each, sample_images=False), id=f"{each.id}-words")


@pytest.mark.parametrize("order", list(orders()))
def test_every_part_on_the_wire_is_the_contracts(sandbox: Sandbox, provider: Stability, order: UpstreamOrder) -> None:
    done = provider.submit(order, dedupe_key="key-1")
    assert isinstance(done, Accepted if order.model.id in LATER else Finished)
    [asked] = sandbox.requests("stability")
    path = asked["path"].removeprefix("/stability/v2beta/")
    assert (asked["method"], asked["form"], asked["status"]) == ("POST", "multipart", 200)
    needed_texts, texts, needed_files, files = (set(words.split()) for words in FIELDS[path])
    for kind, needed, known in (("field", needed_texts, texts), ("file", needed_files, files)):
        names = [part["name"] for part in asked["parts"] if part["kind"] == kind]
        assert len(names) == len(set(names))
        assert needed <= set(names) <= needed | known
    assert asked["headers"].get("Accept") == (None if path.startswith("3d/") else "image/*")


@pytest.mark.parametrize("each", MODELS, ids=lambda each: each.id)
def test_what_the_caller_left_out_is_left_out(sandbox: Sandbox, provider: Stability, each: Model) -> None:
    order = least(each)
    provider.submit(order, dedupe_key="key-1")
    [asked] = sandbox.requests("stability")
    needed, _texts, _files, _more = (set(words.split()) for words in FIELDS[each.path.removeprefix("/v2beta/")])
    told = {part["name"] for part in asked["parts"] if part["kind"] == "field"}
    chosen = {*each.constants, "left"} if order.size else {*each.constants, each.inputs.prompt_field or "prompt"}
    assert told <= needed | chosen


@pytest.mark.parametrize("name", ["stable-image-core", "stability-upscale-fast", "stability-control-style"])
def test_a_result_has_its_bytes_and_its_seed(provider: Stability, name: str) -> None:
    seed = {"seed": 7} if "seed" in model(name).params else {}
    done = provider.submit(least(model(name), params=seed), dedupe_key="key-1")
    assert isinstance(done, Finished)
    [image] = done.images
    assert Image.open(io.BytesIO(image.data or b"")).format == "PNG"
    assert image.seed == 7 if seed else image.seed


def test_a_ratio_and_a_mask_reach_the_image(sandbox: Sandbox, provider: Stability) -> None:
    wide = provider.submit(core("a kite", size={"aspect_ratio": "21:9"}), dedupe_key="key-1")
    assert isinstance(wide, Finished)
    assert Image.open(io.BytesIO(wide.images[0].data or b"")).size == (1856, 768)
    sandbox.settings(prepared=False)
    try:
        nothing_white = replace(png("L"), data=_grey(0))
        order = least(model("stability-inpaint"), mask=nothing_white)
        kept = provider.submit(order, dedupe_key="key-2")
    finally:
        sandbox.settings(prepared=True)
    assert isinstance(kept, Finished)
    sample_image = Image.open(io.BytesIO(kept.images[0].data or b"")).convert("RGB")
    assert sample_image.getcolors() == [(64 * 64, (20, 40, 200))]


def _grey(level: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (64, 64), level).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("name", ["stable-fast-3d", "stable-point-aware-3d"])
def test_a_3d_model_comes_as_glb(provider: Stability, name: str) -> None:
    done = provider.submit(least(model(name)), dedupe_key="key-1")
    assert isinstance(done, Finished)
    assert (done.images[0].data or b"")[:4] == b"glTF"


# ---------------------------------------------------------------- later answers


def test_an_asynchronous_call_is_followed_by_its_id(sandbox: Sandbox, provider: Stability) -> None:
    at_work = call(provider.submit(creative("a hill [sandbox:latency=30]", operation="upscale"), dedupe_key="key-1"))
    assert provider.check(at_work) == Running(step="in-progress")
    sandbox.advance_clock(31)
    found = provider.check_many([at_work])["call_1"]
    assert isinstance(found, Finished)
    [image] = found.images
    assert image.url == f"{sandbox.stability_url}/v2beta/results/{at_work.upstream_id}"
    assert image.seed
    assert provider.download(image.url) == image.data
    counts = tally(sandbox)
    assert (counts["accepted"], counts["checks"], counts["faults"].get("looked_too_soon")) == (1, 3, None)


def test_the_emulator_notices_looks_that_come_too_soon(sandbox: Sandbox, provider: Stability) -> None:
    at_work = call(provider.submit(creative("a hill [sandbox:never]"), dedupe_key="key-1"))
    for wait_s in (10, 9, 10):
        provider.check(at_work)
        sandbox.advance_clock(wait_s)
    provider.check(at_work)
    assert tally(sandbox)["faults"]["looked_too_soon"] == 1


def test_a_result_is_gone_after_a_day(sandbox: Sandbox, provider: Stability) -> None:
    at_work = call(provider.submit(creative("a hill"), dedupe_key="key-1"))
    found = provider.check(at_work)
    assert isinstance(found, Finished)
    sandbox.advance_clock(24 * 3600 + 1)
    assert isinstance(provider.check(at_work), Missing)
    with pytest.raises(Failed) as caught:
        provider.download(found.images[0].url or "")
    assert (caught.value.code, caught.value.retryable, caught.value.billed) == ("result_gone", False, True)


def test_another_keys_call_is_not_known(sandbox: Sandbox, provider: Stability) -> None:
    at_work = call(provider.submit(creative("a hill"), dedupe_key="key-1"))
    assert isinstance(provider_of(sandbox, "sk-other").check(at_work), Missing)


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        ("fail=moderation", ContentRefused),
        ("fail=policy", ContentRefused),
        ("fail", Uncertain),
        ("timeout", Uncertain),
        ("500 at=check", Uncertain),
        ("401 at=check", NotRun),
        ("403 at=check", NotRun),
        ("402 at=check", NotRun),
        ("429 at=check", NotRun),
        ("400 at=check", RequestRefused),
        ("drop at=check", Uncertain),
        ("garbage at=check", Uncertain),
        ("garbage=html at=check", Uncertain),
        ("wrong_id at=check, never", Uncertain),
        ("wrong_type at=check", Uncertain),
        ("cut at=check", Uncertain),
    ],
)
def test_only_what_is_said_of_the_call_itself_ends_it(provider: Stability, marker: str, error: type) -> None:
    at_work = call(provider.submit(creative(f"a hill [sandbox:{marker}]"), dedupe_key="key-1"))
    with pytest.raises(error):
        provider.check(at_work)


def test_a_call_without_an_id_cannot_be_asked_about(sandbox: Sandbox, provider: Stability) -> None:
    lost = CallRef("call_1", "key-1", "stable-image-core")
    with pytest.raises(Uncertain):
        provider.check(lost)
    assert provider.cancel(lost) is UpstreamCancel.UNSUPPORTED
    assert sandbox.counts().get("stability", {"requests": 0})["requests"] == 0


def test_a_failed_download_may_be_tried_again(provider: Stability) -> None:
    at_work = call(provider.submit(creative("a hill [sandbox:drop at=check times=1 skip=1]"), dedupe_key="key-1"))
    found = provider.check(at_work)
    assert isinstance(found, Finished)
    url = found.images[0].url or ""
    with pytest.raises(NotRun):
        provider.download(url)
    assert provider.download(url) == found.images[0].data


# ---------------------------------------------------------------- faults of a submit


@pytest.mark.parametrize(
    ("marker", "error", "accepted"),
    [
        ("drop", Uncertain, 1),
        ("drop=reset", Uncertain, 1),
        ("cut", Uncertain, 1),
        ("length_lie", Uncertain, 1),
        ("garbage", Uncertain, 1),
        ("garbage=empty", Uncertain, 1),
        ("garbage=html", Uncertain, 1),
        ("wrong_type", Uncertain, 1),
        ("empty", Uncertain, 1),
        ("timeout", Uncertain, 1),
        ("fail", Failed, 1),
        ("fail=moderation", ContentRefused, 1),
        ("fail=policy", ContentRefused, 1),
        ("refuse", ContentRefused, 0),
        ("quota", OutOfCredit, 0),
        ("400", RequestRefused, 0),
        ("401", BadCredentials, 0),
        ("403", BadCredentials, 0),
        ("413", RequestRefused, 0),
        ("422", RequestRefused, 0),
        ("500", Failed, 0),
        ("502", Uncertain, 0),
        ("503", Uncertain, 0),
    ],
)
def test_a_submit_is_sent_once_whatever_comes_back(
    sandbox: Sandbox, provider: Stability, marker: str, error: type[ProviderError], accepted: int
) -> None:
    with pytest.raises(error):
        provider.submit(core(f"a kite [sandbox:{marker}]"), dedupe_key="key-1")
    counts = tally(sandbox)
    assert (counts["submits"], counts["accepted"]) == (1, accepted)


def test_a_blurred_image_is_a_refusal_that_may_be_billed(provider: Stability) -> None:
    with pytest.raises(ContentRefused) as caught:
        provider.submit(core("a kite [sandbox:fail=moderation]"), dedupe_key="key-1")
    assert (caught.value.stage, caught.value.charged) == ("output", True)
    with pytest.raises(ContentRefused) as caught:
        provider.submit(core("a kite [sandbox:refuse]"), dedupe_key="key-1")
    assert (caught.value.stage, caught.value.charged) == ("input", False)


@pytest.mark.parametrize(("marker", "wait_s"), [("429", 60), ("429 retry_after=7", 7)])
def test_a_rate_limit_says_how_long_to_wait(provider: Stability, marker: str, wait_s: float) -> None:
    with pytest.raises(NotRun) as caught:
        provider.submit(core(f"a kite [sandbox:{marker}]"), dedupe_key="key-1")
    assert caught.value.retry_after_s == wait_s


def test_what_the_emulator_finds_wrong_is_reported_and_free(sandbox: Sandbox, provider: Stability) -> None:
    for order in (
        core("a kite", extra={"shadow": "long"}),
        least(model("stable-image-ultra"), images=[png()]),
        least(model("stability-upscale-fast"), images=[replace(png(), data=b"no image")]),
    ):
        with pytest.raises(RequestRefused):
            provider.submit(order, dedupe_key="key-1")
    assert sandbox.counts()["stability"]["accepted"] == 0


def test_keys_are_kept_apart_and_not_revealed(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    for key, error in (("bad-key", BadCredentials), ("no-quota", OutOfCredit), ("credits-2", OutOfCredit)):
        refused = provider_of(sandbox, key)
        with pytest.raises(error) as caught:
            refused.submit(core("a kite"), dedupe_key="key-1")
        assert key not in f"{caught.value} {refused!r} {caplog.text}"


def test_an_unanswering_host_was_never_asked(sandbox: Sandbox) -> None:
    env = {"STABILITY_BASE_URL": "http://127.0.0.1:9", "STABILITY_API_KEY": "sk-secret"}
    [away] = registry.load(env).of("stability")
    with pytest.raises(NotRun):
        away.submit(core("a kite"), dedupe_key="key-1")


def test_links_elsewhere_are_judged_and_get_no_key(sandbox: Sandbox, provider: Stability) -> None:
    for url in ("http://127.0.0.1:9/v2beta/results/a", f"{sandbox.stability_url}/v2beta/results/../x"):
        with pytest.raises((Failed, NotRun)):
            provider.download(url)
    assert sandbox.counts().get("stability", {"checks": 0})["checks"] == 0
