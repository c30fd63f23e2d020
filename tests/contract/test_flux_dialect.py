"""The Flux adapter and its emulator over real HTTP: its requests against the contract's fields, ends, faults, hosts.

Black Forest Labs has no official Python package, so the second opinion is the table ``CONTRACT`` here: every field of
every model as CONTRACT.md section 6 lists it, written without a look at the catalogue or the emulator.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from core.outbound.urls import origin_of
from providers.base import Accepted, CallRef, Finished, InputImage, Missing, Running, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Model, ParamSpec
from providers.catalog.size_rules import AspectRatioRule, PaddingRule, ResolutionRule
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
from providers.shared.order_fields import placed_images
from providers.upstreams.flux.adapter import Config, Flux
from sandbox.testing import Sandbox, running_sandbox

MODELS = {name: model for name, model in catalog.load().models.items() if model.provider == "flux"}

COMMON = {"seed", "output_format", "webhook_url", "webhook_secret"}
FLUX_1 = COMMON | {"prompt", "prompt_upsampling", "safety_tolerance"}
INPUTS_4 = {"input_image", "input_image_2", "input_image_3", "input_image_4"}
INPUTS_8 = INPUTS_4 | {"input_image_5", "input_image_6", "input_image_7", "input_image_8"}
REPAINT = FLUX_1 | {"image", "steps", "guidance"}
KONTEXT = FLUX_1 | INPUTS_4 | {"aspect_ratio"}
FLUX_2 = COMMON | {"prompt", "width", "height", "safety_tolerance"}
KLEIN = FLUX_2 | INPUTS_4
LARGE = FLUX_2 | INPUTS_8 | {"disable_pup"}
CONTRACT = {
    "flux-dev": FLUX_1 | {"image_prompt", "width", "height", "steps", "guidance"},
    "flux-erase": COMMON | {"image", "mask", "dilate_pixels", "safety_tolerance"},
    "flux-pro-1.1": FLUX_1 | {"image_prompt", "width", "height"},
    "flux-pro-1.1-ultra": FLUX_1 | {"aspect_ratio", "raw", "image_prompt", "image_prompt_strength"},
    "flux-kontext-pro": KONTEXT,
    "flux-kontext-max": KONTEXT,
    "flux-pro-1.0-fill": REPAINT | {"mask"},
    "flux-pro-1.0-expand": REPAINT | {"top", "bottom", "left", "right"},
    "flux-2-pro": LARGE,
    "flux-2-pro-preview": LARGE,
    "flux-2-max": LARGE,
    "flux-2-flex": FLUX_2 | INPUTS_8 | {"prompt_upsampling", "guidance", "steps", "input_image_blob_path"},
    "flux-2-klein-4b": KLEIN,
    "flux-2-klein-9b": KLEIN,
    "flux-2-klein-9b-preview": KLEIN,
    "flux-3-image": {"prompt", "images", "aspect_ratio", "resolution", "grounding", "safety_tolerance", "version"},
}
# Fields without a setting: sent only by ``extra`` or a webhook, or never.
UNUSED = {"webhook_url", "webhook_secret", "disable_pup", "input_image_blob_path", "version"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(prepared=True) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(sandbox: Sandbox) -> None:
    sandbox.reset()


def provider(sandbox: Sandbox, key: str = "any", **options: Any) -> Flux:
    outgoing = options.pop("outgoing", Outgoing())
    return Flux(Config(api_key=SecretStr(key), base_url=sandbox.flux_url, **options), outgoing)


def sample_image(mode: str = "RGB") -> InputImage:
    out = io.BytesIO()
    Image.new(mode, (320, 256), "white").save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", 320, 256)


IMAGE, MASK = sample_image(), sample_image("L")


def order(model: str = "flux-2-klein-4b", prompt: str | None = "a red kite", **facts: Any) -> UpstreamOrder:
    found = MODELS[model]
    words = None if found.inputs.prompt == "none" else prompt
    return UpstreamOrder(**{"operation": found.operation, "model": found, "prompt": words, **facts})


def everything(model: Model) -> UpstreamOrder:
    """An order that uses each place for images, each size field and each setting of a model."""
    return order(
        model.id,
        size=size_of(model),
        params={name: sample(spec) for name, spec in model.params.items()},
        images=[IMAGE] * (model.inputs.images.max or 1),
        mask=MASK if model.inputs.mask_field else None,
    )


def size_of(model: Model) -> dict[str, str | int]:
    if isinstance(model.size, str):
        return {}
    if model.size_rule(PaddingRule):
        return {"left": 16, "right": 32, "top": 48, "bottom": 64}
    if not model.size_rule(AspectRatioRule):
        return {"width": 320, "height": 256}
    return {"aspect_ratio": "4:5"} | ({"resolution": "768sq"} if model.size_rule(ResolutionRule) else {})


def sample(spec: ParamSpec) -> Any:
    if spec.enum:
        return spec.enum[-1]
    return {"bool": False, "int": spec.min or 3, "float": spec.min or 0.5}[spec.type]


def sent(sandbox: Sandbox) -> dict[str, Any]:
    """The fields of the one submit there was."""
    [submit] = [each for each in sandbox.requests("flux") if each["method"] == "POST"]
    return dict(submit["fields"])


def accepted_by(sandbox: Sandbox) -> int:
    return int(sandbox.counts().get("flux", {}).get("accepted", 0))


def begun(flux: Flux, asked: UpstreamOrder, *, age_s: float = 3600) -> CallRef:
    answer = flux.submit(asked, dedupe_key="key")
    assert isinstance(answer, Accepted)
    return CallRef("call", "key", asked.model.id, answer.upstream_id, answer.poll_url, age_s=age_s)


# ---------------------------------------------------------------- the wire against the contract


def test_the_contract_has_every_model_of_the_catalogue() -> None:
    assert set(CONTRACT) == set(MODELS)


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_an_order_with_everything_sends_the_fields_of_the_contract(sandbox: Sandbox, name: str) -> None:
    provider(sandbox).submit(everything(MODELS[name]), dedupe_key="key")
    assert set(sent(sandbox)) == CONTRACT[name] - UNUSED
    assert sandbox.counts()["flux"]["statuses"] == {"200": 1}


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_a_bare_order_sends_nothing_else(sandbox: Sandbox, name: str) -> None:
    inputs = MODELS[name].inputs
    needed = [IMAGE] * inputs.images.min
    mask = MASK if inputs.mask == "required" else None
    provider(sandbox).submit(order(name, images=needed, mask=mask), dedupe_key="key")
    least = {"image"} if needed else set()
    least |= {"mask"} if mask else set()
    assert set(sent(sandbox)) == least | (set() if inputs.prompt == "none" else {"prompt"})


def test_settings_arrive_as_they_were_given(sandbox: Sandbox) -> None:
    params = {"seed": 0, "steps": 12, "guidance": 2.5, "prompt_upsampling": False, "output_format": "webp"}
    provider(sandbox).submit(order("flux-2-flex", params=params, size={"width": 64, "height": 128}), dedupe_key="key")
    assert sent(sandbox) == {"prompt": "a red kite", **params, "width": 64, "height": 128}


def test_every_call_makes_one_image() -> None:
    assert {model.max_per_call for model in MODELS.values()} == {1}


@pytest.mark.parametrize(
    ("name", "operation"),
    [(name, operation) for name, model in sorted(MODELS.items()) for operation in sorted(model.operations)],
)
def test_every_model_gives_an_image_for_every_operation(sandbox: Sandbox, name: str, operation: str) -> None:
    flux, model = provider(sandbox), MODELS[name]
    takes_none = operation == "generate" and not model.inputs.images.min
    asked = order(
        name,
        operation=operation,
        size=size_of(model),
        images=[] if takes_none else [IMAGE],
        mask=MASK if model.inputs.mask_field else None,
    )
    assert bool(placed_images(asked)) is not takes_none
    done = flux.check(begun(flux, asked))
    assert isinstance(done, Finished)
    [image] = done.images
    found = Image.open(io.BytesIO(flux.download(image.url or "")))
    assert found.format in {"JPEG", "PNG"}
    assert image.revised_prompt == ("" if model.inputs.prompt == "none" else "a red kite")
    assert "400" not in sandbox.counts()["flux"]["statuses"]  # no key where none belongs


# ---------------------------------------------------------------- what may go wrong


def test_a_lost_answer_is_uncertain_and_the_task_is_never_bought_again(sandbox: Sandbox) -> None:
    flux = provider(sandbox)
    for fault in (
        "drop",
        "drop=reset",
        "cut",
        "garbage",
        "garbage=types",
        "garbage=empty",
        "wrong_type",
        "500 accept=1",
    ):
        sandbox.reset()
        with pytest.raises(Uncertain):
            flux.submit(order(prompt=f"a kite [sandbox:{fault}]"), dedupe_key="key")
        assert accepted_by(sandbox) == 1
        lost = CallRef("call", "key", "flux-2-klein-4b", age_s=0.0)
        with pytest.raises(Uncertain) as caught:
            flux.check(lost)
        assert caught.value.code == "upstream_cannot_look"
        assert flux.lookup(lost, datetime.now(UTC), order()) == []
        counts = sandbox.counts()["flux"]
        assert (counts["accepted"], counts["submits"], counts["checks"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("key", "fault", "error", "code"),
    [
        ("bad-key", "", BadCredentials, "upstream_bad_credentials"),
        ("malformed-key", "", BadCredentials, "upstream_bad_credentials"),
        ("no-quota", "", OutOfCredit, "upstream_out_of_credit"),
        ("any", "402", OutOfCredit, "upstream_out_of_credit"),
        ("any", "400", RequestRefused, "upstream_rejected"),
        ("any", "422", RequestRefused, "upstream_rejected"),
        ("any", "503", Uncertain, "upstream_error"),
    ],
)
def test_a_submit_is_refused_by_its_kind(
    sandbox: Sandbox, key: str, fault: str, error: type[ProviderError], code: str
) -> None:
    marker = f" [sandbox:{fault}]" if fault else ""
    with pytest.raises(error) as caught:
        provider(sandbox, key).submit(order(prompt=f"a kite{marker}"), dedupe_key="key")
    assert caught.value.code == code
    assert accepted_by(sandbox) == 0


def test_an_unknown_field_is_an_error_of_the_request(sandbox: Sandbox) -> None:
    with pytest.raises(RequestRefused) as caught:
        provider(sandbox).submit(order("flux-3-image", extra={"loras": []}), dedupe_key="key")
    assert "loras" in caught.value.detail


@pytest.mark.parametrize(("fault", "wait_s"), [("429", 5), ("429 retry_after=17", 17), ("429 retry_after=soon", 5)])
def test_a_rate_limit_says_how_long(sandbox: Sandbox, fault: str, wait_s: float) -> None:
    with pytest.raises(NotRun) as caught:
        provider(sandbox).submit(order(prompt=f"a kite [sandbox:{fault}]"), dedupe_key="key")
    assert (caught.value.code, caught.value.retry_after_s) == ("upstream_rate_limited", wait_s)
    assert accepted_by(sandbox) == 0


@pytest.mark.parametrize(
    ("fault", "error", "facts"),
    [
        ("refuse", ContentRefused, {"stage": "input"}),
        ("fail=policy", ContentRefused, {"stage": "input"}),
        ("fail=moderation", ContentRefused, {"stage": "output"}),
        ("fail", Failed, {"code": "upstream_failed", "retryable": True}),
        ("fail=failed", Failed, {"code": "upstream_failed"}),
        ("fail=503", Failed, {"code": "upstream_failed", "retryable": True}),
        ("empty", Failed, {"code": "upstream_empty_result", "retryable": False, "billed": True}),
    ],
)
def test_a_task_ends_as_the_upstream_says(
    sandbox: Sandbox, fault: str, error: type[ProviderError], facts: dict[str, Any]
) -> None:
    flux = provider(sandbox)
    asked = begun(flux, order(prompt=f"a kite [sandbox:{fault}]"))
    with pytest.raises(error) as caught:
        flux.check(asked)
    assert {name: getattr(caught.value, name) for name in facts} == facts


@pytest.mark.parametrize(
    "fault", ["503", "429", "403", "404", "drop", "garbage", "garbage=list", "wrong_id", "redirect"]
)
def test_a_failed_look_ends_nothing(sandbox: Sandbox, fault: str) -> None:
    flux = provider(sandbox)
    asked = begun(flux, order(prompt=f"a kite [sandbox:{fault} at=check times=1]"))
    with pytest.raises((NotRun, Uncertain)):
        flux.check(asked)
    assert isinstance(flux.check(asked), Finished)


def test_a_task_is_followed_through_states_known_and_unknown(sandbox: Sandbox) -> None:
    flux = provider(sandbox)
    known = begun(flux, order(prompt="a kite [sandbox:latency=100]"))
    odd = begun(flux, order(prompt="a kite [sandbox:latency=100, word=Warming_up]"))
    seen = []
    for _ in range(3):
        state = flux.check(known)
        assert isinstance(state, Running)
        seen.append(state.step)
        sandbox.advance_clock(30)
    assert seen == ["Pending", "Reasoning", "Generating"]
    state = flux.check(odd)
    assert isinstance(state, Running)
    assert (state.step, state.progress is not None and state.progress > 0.5) == ("Warming up", True)
    sandbox.advance_clock(30)
    assert isinstance(flux.check(odd), Finished)


def test_a_task_may_not_be_seen_at_once_and_is_missing_when_it_expired(sandbox: Sandbox) -> None:
    flux, marked = provider(sandbox), order(prompt="a kite [sandbox:unseen=5, expire=20]")
    young = begun(flux, marked, age_s=1)
    assert flux.check(young) == Running(step="Task not found")
    sandbox.advance_clock(6)
    assert isinstance(flux.check(young), Finished)
    old = begun(flux, marked)
    sandbox.advance_clock(30)
    assert flux.check(old) == Missing()


def test_a_link_that_expired_or_leads_nowhere_was_paid_for(sandbox: Sandbox) -> None:
    flux = provider(sandbox)
    for fault, wait_s in (("latency=0", 700), ("dead_link", 0)):
        done = flux.check(begun(flux, order(prompt=f"a kite [sandbox:{fault}]")))
        assert isinstance(done, Finished)
        sandbox.advance_clock(wait_s)
        with pytest.raises(Failed) as caught:
            flux.download(done.images[0].url or "")
        assert (caught.value.code, caught.value.retryable, caught.value.billed) == ("result_gone", False, True)


def test_a_poll_url_of_another_host_gets_no_key(sandbox: Sandbox) -> None:
    """The emulator answers a key on a host that is not the submit's with 400."""
    foreign = sandbox.url.replace("127.0.0.1", "localhost")
    moved = order(prompt="a kite [sandbox:poll_host=localhost]")
    trusting = provider(sandbox, outgoing=Outgoing(result_origins=frozenset({origin_of(foreign)})))
    asked = begun(trusting, moved)
    assert asked.poll_url is not None
    assert asked.poll_url.startswith(foreign)
    done = trusting.check(asked)
    assert isinstance(done, Finished)
    assert trusting.download(done.images[0].url or "")
    with pytest.raises(Uncertain) as caught:
        provider(sandbox).check(asked)
    assert caught.value.code == "upstream_cannot_look"
    assert set(sandbox.counts()["flux"]["statuses"]) == {"200"}


def test_with_webhooks_on_the_task_is_polled_at_the_base(sandbox: Sandbox) -> None:
    hook = "https://queue.example/hooks/flux/tok"
    flux = provider(sandbox, webhooks=True)
    asked = begun(flux, order(callback_url=hook))
    assert sent(sandbox) == {"prompt": "a red kite", "webhook_url": hook}
    assert asked.poll_url is None
    assert isinstance(flux.check(asked), Finished)


def test_many_tasks_are_looked_at_at_once(sandbox: Sandbox) -> None:
    flux = provider(sandbox)
    asked = [begun(flux, order(prompt=f"kite {number}")) for number in range(5)]
    calls = [
        CallRef(str(number), "key", call.model, call.upstream_id, call.poll_url) for number, call in enumerate(asked)
    ]
    found = flux.check_many(calls)
    assert {type(state) for state in found.values()} == {Finished}
    assert set(found) == {"0", "1", "2", "3", "4"}
