"""llama-swap: the request of each route, and what the answers mean, without a network."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import ValidationError

from providers.base import Finished, InputImage, Running, UpstreamCancel, UpstreamOrder
from providers.catalog import catalog
from providers.errors import (
    BadCredentials,
    Failed,
    NotRun,
    ProviderError,
    RequestRefused,
    Uncertain,
    UnknownModel,
)
from providers.http.client import HttpResponse
from providers.upstreams.llamaswap import answers
from providers.upstreams.llamaswap.adapter import Config, build_submit, read_models
from providers.upstreams.llamaswap.errors import classify
from providers.upstreams.llamaswap.tags import with_tag

PNG = InputImage(b"png bytes", "image/png", 64, 64)
OTHER = InputImage(b"other bytes", "image/png", 64, 64)
PNG_TEXT, OTHER_TEXT = (base64.b64encode(image.data).decode() for image in (PNG, OTHER))
MODELS = catalog.load().models
CONFIG = Config(base_url="http://llama.lan:8080")
ALL = {"seed": 7, "steps": 8, "guidance": 1.0, "negative_prompt": "blurry", "sampler": "euler"}
TAG = {
    "seed": 7,
    "negative_prompt": "blurry",
    "sample_params": {"sample_steps": 8, "guidance": {"txt_cfg": 1.0}, "sample_method": "euler"},
}
PLAIN = {"seed": 7, "steps": 8, "cfg_scale": 1.0, "negative_prompt": "blurry", "sample_method": "euler"}


def order(model: str = "llamaswap-z-image", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(**{"operation": "generate", "model": MODELS[model], "prompt": "a red kite", **facts})


def build(asked: UpstreamOrder, **changed: Any) -> Any:
    return build_submit(asked, CONFIG.model_copy(update=changed), dedupe_key="key")


# ---------------------------------------------------------------- configuration


def test_the_root_is_found_from_either_form_of_the_base_url() -> None:
    for base_url in ("http://llama.lan:8080", "http://llama.lan:8080/", "http://llama.lan:8080/v1/"):
        config = Config.from_env({"LLAMASWAP_BASE_URL": base_url, "LLAMASWAP_API_KEY": " "})
        assert config is not None
        assert config.base_url == "http://llama.lan:8080"
        assert config.headers() == {}


def test_every_variable_is_read_and_the_key_is_not_shown() -> None:
    config = Config.from_env(
        {
            "LLAMASWAP_BASE_URL": "http://llama.lan",
            "LLAMASWAP_API_KEY": "lan-secret",
            "LLAMASWAP_MODELS": "sdxl, llamaswap-z-image=z-image-turbo",
            "LLAMASWAP_PROMPT_MODEL": "qwen",
            "LLAMASWAP_EXTRA_ARGS": "embed",
            "LLAMASWAP_ASYNC": "1",
        }
    )
    assert config is not None
    assert config.headers() == {"Authorization": "Bearer lan-secret"}
    assert "lan-secret" not in repr(config)
    assert (config.prompt_model, config.extra_args, config.run_async) == ("qwen", "embed", True)
    assert config.name_of(order()) == "z-image-turbo"
    assert config.name_of(order("llamaswap-sdapi")) == "sdxl"
    assert Config.from_env({}) is None


def test_without_names_the_catalogue_names_the_model() -> None:
    assert read_models(" , ") == {}
    assert CONFIG.name_of(order()) == "z-image"


@pytest.mark.parametrize("wrong", [{"LLAMASWAP_EXTRA_ARGS": "maybe"}, {"LLAMASWAP_ASYNC": "later"}])
def test_an_invalid_setting_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Config.from_env({"LLAMASWAP_BASE_URL": "http://llama.lan", **wrong})


# ---------------------------------------------------------------- OpenAI's routes


def test_settings_go_in_the_tag_and_as_plain_fields() -> None:
    asked = order(params=ALL, size={"size": "1024x640"}, n=2)
    common = {"model": "z-image", "size": "1024x640", "n": 2}
    tagged = with_tag("a red kite", TAG)
    assert build(asked).json == {**common, **PLAIN, "prompt": tagged}
    assert build(asked, extra_args="embed").json == {**common, "prompt": tagged}
    assert build(asked, extra_args="top_level").json == {**common, **PLAIN, "prompt": "a red kite"}
    assert build(asked).path == "/v1/images/generations"


def test_what_the_caller_left_out_is_left_out_except_the_seed() -> None:
    fields = build(order()).json
    assert fields.keys() == {"model", "prompt", "seed"}
    assert fields["prompt"] == with_tag("a red kite", {"seed": fields["seed"]})
    assert 0 <= fields["seed"] < 2**31


def test_each_call_has_its_own_seed_and_a_repetition_the_same() -> None:
    seeds = [build_submit(order(), CONFIG, dedupe_key=key).json["seed"] for key in ("a", "b", "a")]  # type: ignore[index]
    assert seeds[0] == seeds[2] != seeds[1]


def test_extra_fields_go_where_the_settings_go() -> None:
    asked = order(params={"seed": 7}, extra={"clip_skip": 2})
    tagged = with_tag("a red kite", {"clip_skip": 2, "seed": 7})
    assert build(asked).json == {"model": "z-image", "prompt": tagged, "seed": 7, "clip_skip": 2}
    assert build(asked, extra_args="embed").json == {"model": "z-image", "prompt": tagged}


def test_an_edit_is_a_form_and_its_strength_is_only_in_the_tag() -> None:
    asked = order(operation="edit", images=[PNG, OTHER], mask=PNG, params={"seed": 7, "strength": 0.5})
    request = build(asked)
    assert (request.path, request.json) == ("/v1/images/edits", None)
    tagged = with_tag("a red kite", {"seed": 7, "strength": 0.5})
    assert dict(request.form) == {"model": "z-image", "prompt": tagged, "seed": "7"}
    assert [part.name for part in request.files] == ["image[]", "image[]", "mask"]
    assert [part.name for part in build(order(operation="edit", images=[PNG])).files] == ["image"]


def test_edits_do_not_take_webp() -> None:
    webp = {"output_format": "webp"}
    assert build(order(params=webp)).json["output_format"] == "webp"
    with pytest.raises(RequestRefused):
        build(order(operation="edit", images=[PNG], params=webp))


# ---------------------------------------------------------------- the WebUI's routes


def test_plain_fields_under_the_web_ui_s_names() -> None:
    asked = order("llamaswap-sdapi", params=ALL, size={"width": 512, "height": 384}, n=2)
    request = build(asked)
    assert request.path == "/sdapi/v1/txt2img"
    assert request.json == {
        "model": "z-image",
        "prompt": "a red kite",
        "negative_prompt": "blurry",
        "width": 512,
        "height": 384,
        "steps": 8,
        "cfg_scale": 1.0,
        "seed": 7,
        "sampler_name": "euler",
        "batch_size": 2,
    }


def test_the_web_ui_chooses_the_seed_itself_and_gets_no_unset_field() -> None:
    assert build(order("llamaswap-sdapi")).json == {"model": "z-image", "prompt": "a red kite"}


@pytest.mark.parametrize("operation", ["edit", "inpaint"])
def test_images_of_the_web_ui_are_base64(operation: str) -> None:
    params = {"strength": 0.5}
    request = build(order("llamaswap-sdapi", operation=operation, images=[PNG, OTHER], mask=OTHER, params=params))
    assert request.path == "/sdapi/v1/img2img"
    assert request.json == {
        "model": "z-image",
        "prompt": "a red kite",
        "init_images": [PNG_TEXT],
        "extra_images": [OTHER_TEXT],
        "mask": OTHER_TEXT,
        "denoising_strength": 0.5,
    }


# ---------------------------------------------------------------- jobs


def test_a_job_has_the_tag_s_keys_at_the_top() -> None:
    asked = order(params={**ALL, "output_format": "webp"}, size={"size": "1024x640"}, n=2)
    request = build(asked, run_async=True)
    assert request.path == "/upstream/z-image/sdcpp/v1/img_gen"
    size = {"width": 1024, "height": 640}
    assert request.json == {**TAG, **size, "prompt": "a red kite", "batch_count": 2, "output_format": "webp"}


def test_images_of_a_job_are_read_as_on_the_route_it_replaces() -> None:
    sample_images = {"images": [PNG, OTHER], "mask": OTHER, "params": {"seed": 7}}
    plain = {"prompt": "a red kite", "seed": 7, "init_image": PNG_TEXT, "mask_image": OTHER_TEXT}
    edit = build(order(operation="edit", **sample_images), run_async=True)
    assert edit.json == {**plain, "ref_images": [PNG_TEXT, OTHER_TEXT]}
    web_ui = build(order("llamaswap-sdapi", operation="edit", **sample_images), run_async=True)
    assert web_ui.json == {**plain, "ref_images": [OTHER_TEXT]}


def test_a_random_seed_is_drawn_here_where_a_job_would_not_return_it() -> None:
    request = build(order("llamaswap-sdapi", params={"seed": -1}), run_async=True)
    assert request.json["seed"] >= 0


@pytest.mark.parametrize(
    "name", ["batch_count", "width", "init_image", "sample_params", "model", "n", "seed", "mask_image"]
)
@pytest.mark.parametrize("model", ["llamaswap-z-image", "llamaswap-sdapi"])
def test_extra_fields_cannot_change_what_is_made(name: str, model: str) -> None:
    with pytest.raises(RequestRefused):
        build(order(model, extra={name: 1}))


def test_a_prompt_of_nothing_but_a_tag_is_refused() -> None:
    with pytest.raises(RequestRefused):
        build(order(prompt="<sd_cpp_extra_args>{}</sd_cpp_extra_args>"))


# ---------------------------------------------------------------- answers


def answer(status: int, body: object = b"", **headers: str) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, data)


def proxied(code: str, *, text: bool = False) -> dict[str, Any]:
    told = {"message": "a text", "type": "x_error", "param": None, "code": code}
    return {"src": "llama-swap", "error": "a text" if text else told}


def test_images_of_a_batch_have_seeds_in_a_row() -> None:
    items = [{"b64_json": PNG_TEXT}, {"b64_json": OTHER_TEXT}]
    done = answers.read_open_ai(json.dumps({"data": items}).encode(), "http://x", 2, seed=7)
    assert [(image.data, image.seed) for image in done.images] == [(PNG.data, 7), (OTHER.data, 8)]
    short = answers.read_open_ai(json.dumps({"data": items[:1]}).encode(), "http://x", 2, seed=7)
    assert [image.seed for image in short.images] == [None]


def test_the_web_ui_returns_the_seeds_in_a_text() -> None:
    body = {"images": [PNG_TEXT, OTHER_TEXT], "info": json.dumps({"seed": 7, "all_seeds": [7, 8]})}
    done = answers.read_web_ui(json.dumps(body).encode(), 2)
    assert [(image.data, image.seed) for image in done.images] == [(PNG.data, 7), (OTHER.data, 8)]
    for strange in (None, "{", "[]", '{"all_seeds": "x"}', '{"all_seeds": []}', '{"all_seeds": ["7", null]}'):
        done = answers.read_web_ui(json.dumps({**body, "info": strange}).encode(), 2)
        assert [image.seed for image in done.images] == [None, None]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"data": []}', b'{"images": ["!"]}', b'{"images": "x"}'])
def test_a_good_answer_without_an_image_is_uncertain(body: bytes) -> None:
    with pytest.raises(Uncertain):
        answers.read_web_ui(body, 1)
    with pytest.raises(Uncertain):
        answers.read_open_ai(body, "http://x", 1, seed=1)
    with pytest.raises(Uncertain):
        answers.read_accepted(body, "/upstream/z-image/sdcpp/v1/img_gen", answers.Seeds(7, 1))


@pytest.mark.parametrize(
    ("seen", "error", "code"),
    [
        (answer(400, proxied("bad_request")), RequestRefused, "upstream_rejected"),
        (answer(401, proxied("unauthorized")), BadCredentials, "upstream_bad_credentials"),
        (answer(404, proxied("not_found")), UnknownModel, "upstream_model_unknown"),
        (answer(404, proxied("not_found", text=True)), UnknownModel, "upstream_model_unknown"),
        (answer(409, proxied("conflict")), NotRun, "upstream_overloaded"),
        (answer(429, proxied("concurrency_limit")), NotRun, "upstream_rate_limited"),
        (answer(500, proxied("internal_error")), Failed, "upstream_failed"),
        (answer(502, b""), Failed, "upstream_failed"),
        (answer(502, proxied("bad_gateway")), Uncertain, "upstream_error"),
        (answer(502, b"<html>nginx</html>"), Uncertain, "upstream_error"),
        (answer(503, proxied("service_unavailable")), NotRun, "upstream_overloaded"),
        (answer(503, b"<html>nginx</html>"), Uncertain, "upstream_error"),
        (answer(400, {"error": "prompt required"}), RequestRefused, "upstream_rejected"),
        (answer(400, {"error": "invalid json", "message": "x"}), RequestRefused, "upstream_rejected"),
        (answer(429, {"error": "job queue is full"}), NotRun, "upstream_rate_limited"),
        (answer(500, {"error": "generate_image returned no results"}), Failed, "upstream_failed"),
        (answer(500, {"error": "server_error", "message": "bad alloc"}), Failed, "upstream_failed"),
        (answer(500, {"error": "server_error", "message": "[json.exception.type_error.302]"}), RequestRefused, None),
        (answer(500, b"oops"), Uncertain, "upstream_error"),
        (answer(404, b"404 page not found"), ProviderError, "upstream_not_found"),
    ],
)
def test_errors_of_either_program(seen: HttpResponse, error: type[ProviderError], code: str | None) -> None:
    found = classify(seen)
    assert isinstance(found, error)
    assert found.code == (code or "upstream_rejected")


def test_a_limit_says_how_long() -> None:
    assert classify(answer(429, proxied("concurrency_limit"), retry_after="1")).retry_after_s == 1


URL = "http://llama.lan/upstream/z-image/sdcpp/v1/jobs/job_1"


def job(status: str, **facts: Any) -> HttpResponse:
    return answer(200, {"id": "job_1", "kind": "img_gen", "status": status, "result": None, "error": None, **facts})


@pytest.mark.parametrize("status", ["queued", "generating", "dreaming"])
def test_a_job_that_goes_on(status: str) -> None:
    assert answers.read_look(job(status), URL, None) == Running(step=status)


def test_a_finished_job_comes_with_bytes_and_links() -> None:
    images = [{"index": 0, "b64_json": PNG_TEXT}, {"index": 1, "b64_json": "!"}, {"index": 2, "b64_json": OTHER_TEXT}]
    seen = job("completed", result={"output_format": "png", "images": images})
    done = answers.read_look(seen, URL, None)
    assert not isinstance(done, Running)
    assert [(image.data, image.url) for image in done.images] == [(PNG.data, f"{URL}#0"), (OTHER.data, f"{URL}#2")]
    assert answers.read_image(seen, 2) == OTHER.data
    with pytest.raises(NotRun):
        answers.read_image(seen, 1)


def test_the_images_of_a_job_have_the_seeds_that_were_sent() -> None:
    accepted = answers.read_accepted(b'{"id": "job_1"}', "/upstream/z/sdcpp/v1/img_gen", answers.Seeds(7, 2))
    assert accepted.poll_url == "/upstream/z/sdcpp/v1/jobs/job_1#7+2"
    path, seeds = answers.split_poll_url(accepted.poll_url)
    assert (path, seeds) == ("/upstream/z/sdcpp/v1/jobs/job_1", answers.Seeds(7, 2))
    images = [{"index": at, "b64_json": text} for at, text in enumerate((PNG_TEXT, OTHER_TEXT))]
    done = answers.read_look(job("completed", result={"images": images}), URL, seeds)
    assert isinstance(done, Finished)
    assert [image.seed for image in done.images] == [7, 8]
    fewer = answers.read_look(job("completed", result={"images": images[:1]}), URL, seeds)
    assert isinstance(fewer, Finished)
    assert [image.seed for image in fewer.images] == [None]


def test_a_job_of_an_older_version_has_no_seeds() -> None:
    assert answers.split_poll_url("/upstream/z/sdcpp/v1/jobs/job_1") == ("/upstream/z/sdcpp/v1/jobs/job_1", None)


@pytest.mark.parametrize(
    ("seen", "error", "code"),
    [
        (job("failed", error={"code": "generation_failed", "message": "x"}), Failed, "upstream_failed"),
        (job("cancelled", error={"code": "cancelled", "message": "x"}), Failed, "upstream_cancelled"),
        (job("completed"), Failed, "upstream_empty_result"),
        (job("queued", id="job_2"), Uncertain, "upstream_broken_answer"),
        (answer(200, b"<html>"), Uncertain, "upstream_broken_answer"),
        (answer(404, {"error": "job not found"}), Failed, "upstream_restarted"),
        (answer(410, {"error": "job expired"}), Failed, "result_gone"),
        # About the request, not about the job:
        (answer(404, proxied("not_found")), NotRun, "upstream_model_unknown"),
        (answer(401, proxied("unauthorized")), NotRun, "upstream_bad_credentials"),
        (answer(500, proxied("internal_error")), NotRun, "upstream_failed"),
        (answer(404, b"404 page not found"), NotRun, "upstream_not_found"),
    ],
)
def test_only_what_is_said_of_the_job_ends_it(seen: HttpResponse, error: type[ProviderError], code: str) -> None:
    with pytest.raises(error) as caught:
        answers.read_look(seen, URL, None)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (job("cancelled"), UpstreamCancel.STOPPED),
        (job("completed"), UpstreamCancel.TOO_LATE),
        (answer(409, {"error": "job is generating"}), UpstreamCancel.UNSUPPORTED),
        (answer(404, {"error": "job not found"}), UpstreamCancel.TOO_LATE),
        (answer(410, {"error": "job expired"}), UpstreamCancel.TOO_LATE),
    ],
)
def test_what_a_cancel_achieves(seen: HttpResponse, outcome: UpstreamCancel) -> None:
    assert answers.read_cancel(seen) is outcome


@pytest.mark.parametrize("seen", [answer(409, proxied("conflict")), answer(502), answer(401, proxied("unauthorized"))])
def test_a_cancel_that_did_not_arrive(seen: HttpResponse) -> None:
    with pytest.raises(NotRun):
        answers.read_cancel(seen)
