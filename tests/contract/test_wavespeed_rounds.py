"""The WaveSpeed adapter against its twin over real HTTP: every live model, every way it can go wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from providers.base import Accepted, CallRef, Finished, InputImage, Missing, Running, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Model
from providers.catalog.size_rules import AspectRatioRule, PixelsRule, ResolutionRule, SizesRule
from providers.errors import (
    BadCredentials,
    ContentRefused,
    Failed,
    NotRun,
    OutOfCredit,
    ProviderError,
    RequestRefused,
    Uncertain,
    Unidentifiable,
    UnknownModel,
)
from providers.orders.needs import image_range, mask_need
from providers.upstreams.wavespeed.adapter import Config, WaveSpeed
from providers.upstreams.wavespeed.requests import MAX_INLINE_BYTES
from sandbox.testing import Sandbox, running_sandbox

MODELS = catalog.load().models
LIVE = [model for model in MODELS.values() if model.provider == "wavespeed" and model.live]
ROUNDS = [(model, operation) for model in LIVE for operation in sorted(model.operations)]
COLOURS = ("navy", "teal", "olive", "maroon", "gold", "plum", "tan", "pink", "snow", "peru")


def sample_image(colour: str = "navy", mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> InputImage:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return InputImage(out.getvalue(), "image/png", *size)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(prepared=True) as running:
        yield running


@pytest.fixture
def provider(sandbox: Sandbox) -> WaveSpeed:
    sandbox.reset()
    return with_key(sandbox, "wsk_secret")


def with_key(sandbox: Sandbox, key: str) -> WaveSpeed:
    return WaveSpeed(Config(api_key=SecretStr(key), base_url=sandbox.wavespeed_url))


def order(model: str | Model = "qwen-image", operation: str | None = None, **facts: Any) -> UpstreamOrder:
    """The least a model needs, and ``facts``."""
    known = MODELS[model] if isinstance(model, str) else model
    operation = operation or known.operation
    inputs = known.inputs
    face = sample_image("pink") if "face" in inputs.roles else None
    least = inputs.images.min if operation in ("generate", "text_to_3d") else max(1, inputs.images.min)
    ratio = known.size_rule(AspectRatioRule)
    default = {
        "prompt": None if inputs.prompt == "none" else "a red kite",
        "images": [sample_image(COLOURS[number]) for number in range(least - (face is not None))],
        "face": face,
        "mask": sample_image("white", "L") if inputs.mask == "required" or operation == "inpaint" else None,
        "params": {name: spec.default for name, spec in known.order_params(operation).items() if spec.required},
        "size": {"aspect_ratio": ratio.default} if ratio and ratio.required else {},
    }
    return UpstreamOrder(**{"operation": operation, "model": known, **default, **facts})


def call(accepted: Accepted, model: str = "qwen-image") -> CallRef:
    return CallRef("call", "key", model, upstream_id=accepted.upstream_id)


def started(provider: WaveSpeed, asked: UpstreamOrder) -> CallRef:
    answer = provider.submit(asked, dedupe_key="key")
    assert isinstance(answer, Accepted)
    return call(answer)


def finished(provider: WaveSpeed, asked: UpstreamOrder) -> Finished:
    done = provider.check(started(provider, asked))
    assert isinstance(done, Finished), done
    return done


def accepted(sandbox: Sandbox) -> int:
    return int(sandbox.counts()["wavespeed"]["accepted"])


def statuses(sandbox: Sandbox) -> set[int]:
    return {int(status) for status in sandbox.counts()["wavespeed"]["statuses"]}


# ---------------------------------------------------------------- success


def everything(model: Model, operation: str) -> dict[str, Any]:
    """Every setting of a model, an explicit size, as many images as it takes, and a mask."""
    made: dict[str, Any] = {}
    for name, spec in model.order_params(operation).items():
        match spec.type:
            case "str":
                made[name] = spec.enum[-1] if spec.enum else "plain"
            case "bool":
                made[name] = True
            case "list":
                made[name] = []
            case _:
                made[name] = spec.max if spec.max is not None else spec.min or 1
    size: dict[str, str | int] = {}
    for rule in [] if isinstance(model.size, str) else model.size.values():
        match rule:
            case PixelsRule():
                size["size"] = f"{max(rule.min, 256)}x{max(rule.min, 256)}"
            case SizesRule():
                size["size"] = rule.values[-1]
            case AspectRatioRule():
                size["aspect_ratio"] = rule.enum[-1]
            case ResolutionRule():
                size["resolution"] = rule.enum[0]
            case _:
                size["factor"] = 2
    _fewest, most = image_range(model, operation)
    sample_images = [sample_image(COLOURS[number % 10]) for number in range(most - ("face" in model.inputs.roles))]
    mask = sample_image("white", "L") if mask_need(model, operation) != "none" else None
    return {"params": made, "size": size, "n": min(2, model.max_per_call), "images": sample_images, "mask": mask}


def shown(model: Model, data: bytes) -> None:
    match model.output:
        case "image":
            Image.open(io.BytesIO(data)).verify()
        case "model_3d":
            assert data.startswith(b"glTF")
        case "text":
            assert data.decode().startswith("An image of 64 by 48")


@pytest.mark.parametrize(("model", "operation"), ROUNDS, ids=lambda part: getattr(part, "id", part))
@pytest.mark.parametrize("full", [False, True], ids=["least", "everything"])
def test_every_live_model_delivers(provider: WaveSpeed, model: Model, operation: str, full: bool) -> None:
    asked = order(model, operation, **(everything(model, operation) if full else {}))
    done = finished(provider, asked)
    assert len(done.images) == asked.n
    for image in done.images:
        shown(model, image.data or provider.download(image.url or ""))


def test_a_setting_that_was_left_out_stays_out_and_n_makes_n(provider: WaveSpeed, sandbox: Sandbox) -> None:
    finished(provider, order("ws-flux-dev", n=3, size={"size": "256x320"}))
    [submit] = [each for each in sandbox.requests("wavespeed") if each["path"].endswith("flux-dev")]
    assert submit["fields"] == {"prompt": "a red kite", "size": "256*320", "num_images": 3}


def test_an_image_has_exactly_the_size_asked(provider: WaveSpeed) -> None:
    [image] = finished(provider, order(size={"size": "320x256"}, params={"output_format": "png"})).images
    drawn = Image.open(io.BytesIO(provider.download(image.url or "")))
    assert (drawn.size, drawn.format) == ((320, 256), "PNG")


def test_white_in_a_mask_is_what_changes(provider: WaveSpeed) -> None:
    mask = Image.new("L", (64, 48), 0)
    mask.paste(255, (32, 0, 64, 48))
    out = io.BytesIO()
    mask.save(out, "PNG")
    asked = order("bria-eraser", mask=InputImage(out.getvalue(), "image/png", 64, 48))
    [image] = finished(provider, asked).images
    drawn = Image.open(io.BytesIO(provider.download(image.url or ""))).convert("RGB")
    navy = drawn.getpixel((8, 24))
    assert navy == (0, 0, 128)
    assert {drawn.getpixel((x, y)) for x in range(36, 64) for y in range(48)} != {navy}


def test_each_swap_has_its_base_and_its_face(provider: WaveSpeed) -> None:
    for model in ("image-face-swap", "infinite-you", "akool-face-swap"):
        [image] = finished(provider, order(model)).images
        drawn = Image.open(io.BytesIO(provider.download(image.url or "")))
        assert drawn.size == (64, 48)


# ---------------------------------------------------------------- uploads


def large() -> InputImage:
    """An image that is too large for a body."""
    out = io.BytesIO()
    Image.effect_noise((1100, 1100), 90).save(out, "PNG")
    assert len(out.getvalue()) > MAX_INLINE_BYTES
    return InputImage(out.getvalue(), "image/png", 1100, 1100)


def test_a_large_image_is_uploaded_and_its_link_sent(provider: WaveSpeed, sandbox: Sandbox) -> None:
    [image] = finished(provider, order("image-background-remover", images=[large()])).images
    assert Image.open(io.BytesIO(provider.download(image.url or ""))).size == (1100, 1100)
    ticket, put, submit, *_ = sandbox.requests("wavespeed")
    assert (ticket["path"], put["method"]) == ("/wavespeed/api/v3/media/uploads", "PUT")
    assert submit["fields"]["image"].startswith(f"{sandbox.wavespeed_url}/media/uploads/")
    assert 400 not in statuses(sandbox)  # the twin answers 400 to a key on a link


def test_one_image_in_two_places_is_uploaded_once(provider: WaveSpeed, sandbox: Sandbox) -> None:
    finished(provider, order("tripo3d-v2.5-multiview", images=[sample_image()] * 4))
    assert [each["method"] for each in sandbox.requests("wavespeed")].count("PUT") == 1


@pytest.mark.parametrize("fault", ["500", "429", "garbage", "drop", "401"])
def test_nothing_is_bought_when_an_upload_fails(provider: WaveSpeed, sandbox: Sandbox, fault: str) -> None:
    sandbox.add_fault(fault, provider="wavespeed", route="upload")
    with pytest.raises(BadCredentials if fault == "401" else NotRun):
        provider.submit(order("tripo3d-v2.5-multiview"), dedupe_key="key")
    assert "accepted" not in sandbox.counts()["wavespeed"] or accepted(sandbox) == 0


# ---------------------------------------------------------------- lost answers


@pytest.fixture
def shows_input(sandbox: Sandbox) -> Iterator[None]:
    sandbox.settings(history_shows_input=True)
    yield
    sandbox.settings(history_shows_input=False)


def uncertain(provider: WaveSpeed, asked: UpstreamOrder) -> datetime:
    since = datetime.now(UTC) - timedelta(seconds=2)
    with pytest.raises(Uncertain):
        provider.submit(asked, dedupe_key="key")
    return since


REF = CallRef("call", "key", "qwen-image")


@pytest.mark.usefixtures("shows_input")
@pytest.mark.parametrize("fault", ["drop", "drop=reset", "cut", "garbage", "garbage=types", "502 accept=1", "504"])
def test_a_lost_answer_is_found_in_the_history_and_never_bought_again(
    provider: WaveSpeed, sandbox: Sandbox, fault: str
) -> None:
    asked = order(prompt=f"a lost kite [sandbox:{fault}]")
    since = uncertain(provider, asked)
    found = provider.lookup(REF, since, asked)
    assert len(found) == accepted(sandbox) == (0 if fault == "504" else 1)
    if found:
        assert isinstance(provider.check(call(found[0])), Finished)
    assert sandbox.counts()["wavespeed"]["submits"] == 1


@pytest.mark.usefixtures("shows_input")
def test_only_identical_orders_are_candidates(provider: WaveSpeed) -> None:
    lost = order("qwen-edit", prompt="snow [sandbox:drop]", params={"seed": 7})
    since = uncertain(provider, lost)
    others = [
        order("qwen-edit", prompt="snow", params={"seed": 7}),
        order("qwen-edit", prompt=lost.prompt, params={"seed": 8}),
        order("qwen-edit", prompt=lost.prompt),
        order("qwen-edit", prompt=lost.prompt, params={"seed": 7}, images=[sample_image("red")]),
        order("qwen-edit-plus", prompt=lost.prompt, params={"seed": 7}),
    ]
    assert len(provider.lookup(REF, since, lost)) == 1
    assert [provider.lookup(REF, since, each) for each in others] == [[]] * len(others)
    assert provider.lookup(REF, datetime.now(UTC) + timedelta(seconds=60), lost) == []
    # Equal words do not prove that it is the call with this address.
    with_address = replace(lost, callback_url="https://darkroom.example/hooks/token")
    assert provider.lookup(REF, since, with_address) == []


@pytest.mark.usefixtures("shows_input")
def test_a_emulator_order_makes_two_candidates_and_an_uploaded_image_is_recognised(
    provider: WaveSpeed, sandbox: Sandbox
) -> None:
    sandbox.add_fault("drop", provider="wavespeed", route="submit", count=1)
    asked = order("tripo3d-v2.5-multiview")
    since = uncertain(provider, asked)
    assert len(provider.lookup(REF, since, asked)) == 1
    provider.submit(asked, dedupe_key="another")
    assert len(provider.lookup(REF, since, asked)) == 2
    shuffled = order("tripo3d-v2.5-multiview", images=list(reversed(asked.images)))
    assert provider.lookup(REF, since, shuffled) == []


@pytest.mark.usefixtures("shows_input")
def test_the_history_is_read_to_its_end(provider: WaveSpeed) -> None:
    asked = order(prompt="the first of many")
    since = datetime.now(UTC) - timedelta(seconds=2)
    first = started(provider, asked)
    for number in range(100):
        provider.submit(order(prompt=f"kite {number}"), dedupe_key="key")
    assert [found.upstream_id for found in provider.lookup(REF, since, asked)] == [first.upstream_id]


def test_a_history_without_inputs_cannot_tell_unless_it_is_empty_or_a_webhook_is_to_come(
    provider: WaveSpeed,
) -> None:
    asked = order(prompt="a lost kite [sandbox:drop]")
    since = uncertain(provider, asked)
    with pytest.raises(Unidentifiable):
        provider.lookup(REF, since, asked)
    assert provider.lookup(REF, since, order("ws-flux-dev", prompt=asked.prompt)) == []
    assert provider.lookup(REF, since, replace(asked, callback_url="https://darkroom.example/hooks/token")) == []


def test_a_failed_look_into_the_history_says_so(provider: WaveSpeed, sandbox: Sandbox) -> None:
    sandbox.add_fault("500", provider="wavespeed", route="check", count=1)
    with pytest.raises(Uncertain):
        provider.lookup(REF, datetime.now(UTC), order())
    with pytest.raises(NotRun):
        with_key(sandbox, "bad-key").lookup(REF, datetime.now(UTC), order())


# ---------------------------------------------------------------- refusals and errors of a submit


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("refuse", ContentRefused),
        ("quota", OutOfCredit),
        ("quota=400", OutOfCredit),
        ("quota=403", OutOfCredit),
        ("400", RequestRefused),
        ("401", BadCredentials),
        ("403", BadCredentials),
        ("404", UnknownModel),
        ("429", NotRun),
        ("500", Uncertain),
        ("503", Uncertain),
    ],
)
@pytest.mark.parametrize("envelope", ["", " envelope=1"], ids=["http", "in-a-200"])
def test_errors_say_what_to_do_next(
    provider: WaveSpeed, sandbox: Sandbox, fault: str, error: type[ProviderError], envelope: str
) -> None:
    with pytest.raises(error):
        provider.submit(order(prompt=f"kite [sandbox:{fault}{envelope}]"), dedupe_key="key")
    assert accepted(sandbox) == 0


@pytest.mark.parametrize(("header", "wait_s"), [("", None), (" retry_after=7", 7), (" retry_after=soon", None)])
def test_a_rate_limit_says_how_long_where_it_does(provider: WaveSpeed, header: str, wait_s: float | None) -> None:
    with pytest.raises(NotRun) as caught:
        provider.submit(order(prompt=f"kite [sandbox:429{header}]"), dedupe_key="key")
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("key", "error"), [("bad-key", BadCredentials), ("no-quota", OutOfCredit), ("no-org", BadCredentials)]
)
def test_what_an_account_may_not_do(sandbox: Sandbox, key: str, error: type[ProviderError]) -> None:
    sandbox.reset()
    with pytest.raises(error) as caught:
        with_key(sandbox, key).submit(order(), dedupe_key="key")
    assert key not in str(caught.value)
    assert "accepted" not in sandbox.counts()["wavespeed"] or accepted(sandbox) == 0


# ---------------------------------------------------------------- how tasks end


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("fail=moderation", ContentRefused, "content_refused"),
        ("fail=NSFW_content_detected", ContentRefused, "content_refused"),
        ("fail=1400", RequestRefused, "upstream_rejected"),
        ("fail=1401", RequestRefused, "upstream_rejected"),
        ("fail=1402", Failed, "upstream_failed"),
        ("fail=1403", Failed, "upstream_failed"),
        ("fail", Failed, "upstream_failed"),
        ("fail=5000", Failed, "upstream_failed"),
        ("fail=5003", Failed, "upstream_failed"),
        ("fail=5004", Failed, "upstream_timeout"),
        ("fail=cancelled", Failed, "upstream_cancelled"),
        ("fail=deleted", Failed, "upstream_lost"),
        ("timeout", Failed, "upstream_timeout"),
        ("restart", Failed, "upstream_failed"),
        ("empty", Failed, "upstream_empty_result"),
    ],
)
def test_a_task_that_ends_badly_ends_the_call(
    provider: WaveSpeed, fault: str, error: type[ProviderError], code: str
) -> None:
    ref = started(provider, order(prompt=f"kite [sandbox:{fault}]"))
    with pytest.raises(error) as caught:
        provider.check(ref)
    assert caught.value.code == code
    assert isinstance(provider.check_many([ref])["call"], error)


@pytest.mark.parametrize("word", ["completed", "succeeded", "success", "done"])
def test_partner_models_have_other_words_for_success(provider: WaveSpeed, word: str) -> None:
    assert finished(provider, order(prompt=f"kite [sandbox:word={word}]")).images


@pytest.mark.parametrize("word", ["created", "pending", "processing", "Warming-Up"])
def test_an_unknown_word_counts_as_running(provider: WaveSpeed, word: str) -> None:
    ref = started(provider, order(prompt=f"kite [sandbox:word={word}, never]"))
    assert provider.check(ref) == Running(step=word.lower())


@pytest.mark.parametrize("form", ["url", "image_url", "output", "nested", "singular", "bare", "flagged", "base64"])
def test_outputs_come_in_many_forms(provider: WaveSpeed, form: str) -> None:
    asked = order("ws-flux-dev", prompt=f"kite [sandbox:form={form}]", n=2, size={"size": "256x256"})
    for image in finished(provider, asked).images:
        data = image.data or provider.download(image.url or "")
        assert Image.open(io.BytesIO(data)).size == (256, 256)


def test_fewer_images_are_taken_and_none_is_a_failure(provider: WaveSpeed) -> None:
    asked = order("ws-flux-dev", prompt="kite [sandbox:fewer=2]", n=3)
    assert len(finished(provider, asked).images) == 1
    ref = started(provider, order(prompt="kite [sandbox:form=null]"))
    with pytest.raises(Failed):
        provider.check(ref)


def test_a_caption_is_text_and_a_model_is_a_link(provider: WaveSpeed) -> None:
    [words] = finished(provider, order("image-captioner", params={"focus": "the sky"})).images
    assert words.data == b"An image of 64 by 48 pixels, with attention to the sky."
    [shape] = finished(provider, order("rodin-v2-text")).images
    assert shape.url is not None
    assert shape.url.endswith(".glb")


@pytest.mark.parametrize(
    ("model", "form"), [("image-captioner", ""), ("ws-flux-dev", "[sandbox:form=base64]")], ids=["caption", "base64"]
)
def test_what_came_as_bytes_can_be_read_again_by_its_link(
    provider: WaveSpeed, sandbox: Sandbox, model: str, form: str
) -> None:
    most = 2 if model == "ws-flux-dev" else 1
    done = finished(provider, order(model, **({"prompt": f"kite {form}", "n": most} if form else {})))
    assert len(done.images) == most
    for image in done.images:
        assert image.data
        assert provider.download(image.url or "") == image.data
    sandbox.advance_clock(8 * 86400)
    with pytest.raises(Failed) as caught:
        provider.download(done.images[0].url or "")
    assert (caught.value.code, caught.value.billed) == ("result_gone", True)


def test_only_our_own_place_is_read_with_the_key(provider: WaveSpeed, sandbox: Sandbox) -> None:
    ref = started(provider, order("image-captioner"))
    own = f"{sandbox.wavespeed_url}/api/v3/predictions/{ref.upstream_id}/result"
    for url in (own, f"{own}#x", f"{sandbox.wavespeed_url}/api/v3/balance#0", own.replace("127.0.0.1", "127.0.0.2")):
        with pytest.raises(Failed):
            provider.download(f"{url}")
    with pytest.raises(NotRun):
        provider.download(f"{own}#7")


# ---------------------------------------------------------------- looks


@pytest.mark.parametrize("fault", ["401", "403", "429", "400", "500", "garbage", "wrong_id", "drop", "wrong_type"])
def test_a_failed_look_is_not_the_end_of_a_call(provider: WaveSpeed, fault: str) -> None:
    ref = started(provider, order(prompt=f"kite [sandbox:{fault} at=check times=1]"))
    with pytest.raises((NotRun, Uncertain)):
        provider.check(ref)
    assert isinstance(provider.check(ref), Finished)


def test_a_task_is_missing_only_on_the_upstreams_word(provider: WaveSpeed, sandbox: Sandbox) -> None:
    ref = started(provider, order(prompt="kite [sandbox:expire]"))
    assert provider.check(ref) == Missing()
    stranger = with_key(sandbox, "another")
    known = started(provider, order())
    assert stranger.check(known) == Missing()
    with pytest.raises(Uncertain):
        provider.check(CallRef("call", "key", "qwen-image"))


def test_many_calls_are_looked_at_each(provider: WaveSpeed) -> None:
    refs = [
        CallRef(str(number), "key", "qwen-image", upstream_id=started(provider, order(prompt=prompt)).upstream_id)
        for number, prompt in enumerate(["kite", "kite [sandbox:fail]", "kite [sandbox:never]"])
    ]
    said = provider.check_many(refs)
    assert [type(said[str(number)]) for number in range(3)] == [Finished, Failed, Running]


def test_a_dead_link_is_the_end_and_a_relative_one_is_followed(provider: WaveSpeed) -> None:
    for fault, code in (("dead_link", "result_gone"), ("dead_link=host", "result_url_refused")):
        [image] = finished(provider, order(prompt=f"kite [sandbox:{fault}]")).images
        with pytest.raises(Failed) as caught:
            provider.download(image.url or "")
        assert (caught.value.code, caught.value.billed) == (code, True)
    [image] = finished(provider, order(prompt="kite [sandbox:dead_link=relative]")).images
    assert provider.download(image.url or "")


def test_a_link_that_expired_is_gone(provider: WaveSpeed, sandbox: Sandbox) -> None:
    [image] = finished(provider, order()).images
    sandbox.advance_clock(16 * 86400)
    with pytest.raises(Failed) as caught:
        provider.download(image.url or "")
    assert caught.value.code == "result_gone"


def test_the_key_stays_at_home(provider: WaveSpeed, sandbox: Sandbox) -> None:
    [image] = finished(provider, order("image-upscaler", images=[large()], size={"resolution": "2k"})).images
    provider.download(image.url or "")
    assert statuses(sandbox) == {200, 204}
    assert "wsk_secret" not in repr(provider) + json.dumps(sandbox.requests("wavespeed"))
