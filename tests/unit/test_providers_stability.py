"""Stability AI: requests, answers and errors as tables, without a network."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from requests.structures import CaseInsensitiveDict

from providers import registry
from providers.base import Accepted, Finished, InputImage, Running, UpstreamOrder
from providers.catalog import catalog
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
)
from providers.http.client import HttpResponse
from providers.upstreams.stability.adapter import Config, Stability, build_look, build_submit, read_look, read_submit
from providers.upstreams.stability.errors import classify, classify_look, is_unknown

CATALOG = catalog.load()
PNG = b"\x89PNG\r\n\x1a\n and the rest"
IMAGE = InputImage(PNG, "image/png", 64, 64)
OTHER = InputImage(b"other", "image/webp", 64, 64)
MASK = InputImage(b"mask", "image/png", 64, 64)
ID = "a6dc" * 16


def order(model: str, **facts: Any) -> UpstreamOrder:
    found = CATALOG.models[model]
    return UpstreamOrder(**{"operation": found.operation, "model": found, "prompt": "a red kite", **facts})


def sent(asked: UpstreamOrder) -> dict[str, str]:
    return dict(build_submit(asked).form)


def files(asked: UpstreamOrder) -> list[tuple[str, bytes]]:
    return [(part.name, part.data) for part in build_submit(asked).files]


def answer(status: int, body: Any, content_type: str = "application/json", **headers: str) -> HttpResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, CaseInsensitiveDict({"Content-Type": content_type, **named}), data)


# ---------------------------------------------------------------- configuration


def test_either_name_of_the_key_will_do_and_ours_wins() -> None:
    for env in ({"STABILITY_API_KEY": " sk-1 "}, {"SAI_API_KEY": "sk-1"}):
        config = Config.from_env(env)
        assert config is not None
        assert (config.api_key.get_secret_value(), config.base_url) == ("sk-1", "https://api.stability.ai")
        assert "sk-1" not in repr(config)
    both = Config.from_env({"STABILITY_API_KEY": "sk-1", "SAI_API_KEY": "sk-2"})
    assert both is not None
    assert both.api_key.get_secret_value() == "sk-1"
    assert Config.from_env({"STABILITY_API_KEY": " "}) is None


def test_each_account_has_its_own_key() -> None:
    env = {"SAI_API_KEY": "sk-1", "SAI_API_KEY_2": "sk-2"}
    assert [each.credential_id for each in registry.load(env).of("stability")] == ["stability/default", "stability/2"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8900/stability", "http://[::1]:1", "http://localhost/", "https://h"])
def test_a_base_url_is_https_or_stays_on_this_machine(url: str) -> None:
    assert Config(api_key=SecretStr("k"), base_url=url).base_url == url.rstrip("/")
    for elsewhere in ("http://api.stability.ai", "http://10.0.0.1", "ftp://127.0.0.1", "api.stability.ai"):
        with pytest.raises(ValidationError):
            Config(api_key=SecretStr("k"), base_url=elsewhere)


def test_no_name_of_the_provider_reveals_its_key() -> None:
    assert "sk-secret" not in repr(Stability(Config(api_key=SecretStr("sk-secret"))))


# ---------------------------------------------------------------- requests


def test_text_without_files_is_a_multipart_form_too() -> None:
    request = build_submit(order("stable-image-core"))
    assert (request.method, request.path, request.multipart) == ("POST", "/v2beta/stable-image/generate/core", True)
    assert (request.form, request.files) == ([("prompt", "a red kite")], [])
    assert request.headers == {"Accept": "image/*"}
    assert "kite" not in repr(request)


@pytest.mark.parametrize(
    ("model", "facts", "form"),
    [
        (
            "stable-image-core",
            {
                "size": {"aspect_ratio": "16:9"},
                "params": {"style": "anime", "seed": 7, "output_format": "webp"},
            },
            {"aspect_ratio": "16:9", "style_preset": "anime", "seed": "7", "output_format": "webp"},
        ),
        ("sd3.5-medium", {"params": {"guidance": 4.5}}, {"model": "sd3.5-medium", "cfg_scale": "4.5"}),
        (
            "sd3.5-large",
            {
                "size": {"aspect_ratio": "16:9"},
                "params": {"strength": 0.5},
                "images": [IMAGE],
            },
            {"model": "sd3.5-large", "mode": "image-to-image", "strength": "0.5"},
        ),
        ("sd3.5-large", {"params": {"strength": 0.5}}, {"model": "sd3.5-large"}),
        (
            "stable-image-ultra",
            {"size": {"aspect_ratio": "2:3"}, "params": {"strength": 0.5}, "images": [IMAGE]},
            {"aspect_ratio": "2:3", "strength": "0.5"},
        ),
        ("stability-search-and-replace", {"params": {"find": "hat"}, "images": [IMAGE]}, {"search_prompt": "hat"}),
        ("stability-search-and-recolor", {"params": {"find": "hat"}, "images": [IMAGE]}, {"select_prompt": "hat"}),
        ("stability-outpaint", {"size": {"top": 8, "bottom": 9}, "images": [IMAGE]}, {"up": "8", "down": "9"}),
        ("stability-control-sketch", {"params": {"strength": 1}, "images": [IMAGE]}, {"control_strength": "1"}),
        ("stability-control-style", {"params": {"strength": 0.2}, "images": [IMAGE]}, {"fidelity": "0.2"}),
        ("stable-image-core", {"extra": {"shadow": True}}, {"shadow": "true"}),
    ],
)
def test_settings_go_under_their_wire_names(model: str, facts: dict[str, Any], form: dict[str, str]) -> None:
    assert sent(order(model, **facts)) == {"prompt": "a red kite", **form}


@pytest.mark.parametrize(
    ("model", "facts", "parts"),
    [
        ("stability-inpaint", {"images": [IMAGE], "mask": MASK}, [("image", PNG), ("mask", b"mask")]),
        (
            "stability-replace-background",
            {"images": [IMAGE, OTHER]},
            [("subject_image", PNG), ("background_reference", b"other")],
        ),
        ("stability-style-transfer", {"images": [IMAGE, OTHER]}, [("init_image", PNG), ("style_image", b"other")]),
        ("stable-fast-3d", {"prompt": None, "images": [IMAGE]}, [("image", PNG)]),
    ],
)
def test_images_go_where_the_endpoint_wants_them(
    model: str, facts: dict[str, Any], parts: list[tuple[str, bytes]]
) -> None:
    assert files(order(model, **facts)) == parts


def test_the_prompt_of_a_background_has_its_own_name() -> None:
    assert sent(order("stability-replace-background", images=[IMAGE])) == {"background_prompt": "a red kite"}
    assert sent(order("stability-erase", prompt=None, images=[IMAGE])) == {}


@pytest.mark.parametrize("name", ["mode", "model", "prompt", "strength", "image", "aspect_ratio", "cfg_scale"])
def test_extra_fields_cannot_change_what_is_bought(name: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        build_submit(order("sd3.5-large", extra={name: "x"}))
    assert caught.value.code == "extra_not_allowed"


def test_a_request_beyond_ten_megabytes_is_not_sent() -> None:
    def with_bytes(count: int) -> UpstreamOrder:
        return order("stability-erase", prompt=None, images=[InputImage(bytes(count), "image/png", 64, 64)])

    assert build_submit(with_bytes(10 * 2**20)).files
    with pytest.raises(RequestRefused) as caught:
        build_submit(with_bytes(10 * 2**20 + 1))
    assert caught.value.code == "upstream_too_large"


@pytest.mark.parametrize("upstream_id", ["", "../x", "a/b", "a?b", "a" * 129, "ä"])
def test_an_id_stays_one_part_of_the_path(upstream_id: str) -> None:
    assert build_look(ID).path == f"/v2beta/results/{ID}"
    with pytest.raises(ValueError, match="not an id"):
        build_look(upstream_id)


# ---------------------------------------------------------------- answers

JSON = "application/json; type=image/png"
DONE = {"image": base64.b64encode(PNG).decode(), "finish_reason": "SUCCESS", "seed": 4294967294}


@pytest.mark.parametrize(
    ("found", "seed"),
    [
        (answer(200, PNG, "image/png", finish_reason="SUCCESS", seed="1234567"), 1234567),
        (answer(200, PNG, "image/png"), None),
        (answer(200, PNG, "image/png", seed="many"), None),
        (answer(200, DONE, JSON), 4294967294),
        (answer(200, {**DONE, "seed": "7"}, "application/json"), 7),
        (answer(200, b"glTF\x02", "model/gltf-binary"), None),
    ],
)
def test_results_come_as_bytes_or_as_json(found: HttpResponse, seed: int | None) -> None:
    done = read_submit(found)
    assert isinstance(done, Finished)
    [image] = done.images
    assert (image.data or b"").startswith((PNG, b"glTF"))
    assert image.seed == seed


@pytest.mark.parametrize("status", [200, 202])
def test_an_id_without_an_image_is_an_accepted_call(status: int) -> None:
    assert read_submit(answer(status, {"id": ID})) == Accepted(ID)


@pytest.mark.parametrize(
    "found",
    [
        answer(200, PNG, "image/png", finish_reason="CONTENT_FILTERED", seed="1"),
        answer(200, {**DONE, "finish_reason": "CONTENT_FILTERED"}, JSON),
    ],
)
def test_a_blurred_image_is_never_returned(found: HttpResponse) -> None:
    for read in (read_submit, lambda made: read_look(made, ID)):
        with pytest.raises(ContentRefused) as caught:
            read(found)
        assert (caught.value.stage, caught.value.charged) == ("output", True)


@pytest.mark.parametrize(
    "found",
    [
        answer(200, b"", "image/png"),
        answer(200, b"<html>", "text/html"),
        answer(200, b"<html>", "image/png"),
        answer(200, {"finish_reason": "SUCCESS", "seed": 1}, JSON),
        answer(200, {**DONE, "image": "!"}, JSON),
        answer(200, b"[" * 10**5, JSON),
        answer(200, [1], JSON),
        answer(200, PNG, "image/png", finish_reason="ERROR"),
        answer(200, {"id": "../../v1/user/account"}),
        answer(200, {"id": 7}),
    ],
)
def test_a_2xx_without_a_result_or_an_id_is_uncertain(found: HttpResponse) -> None:
    with pytest.raises(Uncertain):
        read_submit(found)


def test_a_look_is_only_about_its_own_call() -> None:
    assert read_look(answer(202, {"id": ID, "status": "in-progress"}), ID) == Running(step="in-progress")
    assert read_look(answer(202, {"id": ID, "status": "dreaming"}), ID) == Running(step="dreaming")
    assert not isinstance(read_look(answer(200, PNG, "image/png"), ID), Running)
    for found in (answer(202, {"id": "b", "status": "in-progress"}), answer(202, {"id": ID}), answer(202, b"")):
        with pytest.raises(Uncertain):
            read_look(found, ID)


# ---------------------------------------------------------------- errors


def fault(name: str, *errors: str) -> dict[str, Any]:
    return {"id": "b3f1", "name": name, "errors": list(errors)}


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (400, fault("bad_request", "prompt: is required"), RequestRefused, "upstream_rejected"),
        (401, fault("unauthorized"), BadCredentials, "upstream_bad_credentials"),
        (401, {"message": "bad key"}, BadCredentials, "upstream_bad_credentials"),
        (402, fault("payment_required"), OutOfCredit, "upstream_out_of_credit"),
        (403, fault("payment_required"), OutOfCredit, "upstream_out_of_credit"),
        (403, fault("content_moderation"), ContentRefused, "content_refused"),
        (
            403,
            {"id": "1", "name": "permission_denied", "message": "no"},
            BadCredentials,
            "upstream_forbidden",
        ),
        (403, b"<html>", BadCredentials, "upstream_forbidden"),
        (404, fault("not_found"), Misconfigured, "upstream_not_found"),
        (413, fault("payload_too_large"), RequestRefused, "upstream_too_large"),
        (413, b"<html>", RequestRefused, "upstream_too_large"),
        (422, fault("invalid_language"), RequestRefused, "upstream_rejected"),
        (429, fault("rate_limit_exceeded"), NotRun, "upstream_rate_limited"),
        (429, b"", NotRun, "upstream_rate_limited"),
        (500, fault("internal_error"), Failed, "upstream_failed"),
        (500, b"<html>", Uncertain, "upstream_error"),
        (502, b"<html>", Uncertain, "upstream_error"),
        (503, fault("internal_error"), Uncertain, "upstream_error"),
        (504, fault("content_moderation"), Uncertain, "upstream_error"),
        (302, b"", Misconfigured, "upstream_redirects"),
    ],
)
def test_the_name_decides_before_the_status(status: int, body: Any, error: type[ProviderError], code: str) -> None:
    found = classify(status, {}, answer(status, body).body)
    assert type(found) is error
    assert found.code == code


def test_a_failed_call_may_be_made_again_and_all_texts_are_reported() -> None:
    failed = classify(500, {}, answer(500, fault("internal_error")).body)
    assert isinstance(failed, Failed)
    assert (failed.retryable, failed.billed) == (True, False)
    body = answer(400, fault("bad_request", "prompt: is required", "seed: sk-abcdef123456 is odd")).body
    assert classify(400, {}, body).detail == "HTTP 400 bad_request: prompt: is required; seed: [redacted] is odd"


@pytest.mark.parametrize(
    ("headers", "wait_s"), [({}, 60), ({"retry-after": "5"}, 5), ({"retry-after": "x"}, 60), ({"retry-after": "0"}, 60)]
)
def test_the_lock_out_lasts_a_minute_unless_the_answer_says_otherwise(headers: dict[str, str], wait_s: float) -> None:
    body = answer(429, fault("rate_limit_exceeded", "150 requests in 10 seconds, try again in 3 seconds")).body
    assert classify(429, headers, body).retry_after_s == wait_s


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (403, fault("content_moderation"), ContentRefused),
        (400, fault("bad_request", "the image cannot be read"), RequestRefused),
        (400, b"<html>", Uncertain),
        (401, fault("unauthorized"), NotRun),
        (402, fault("payment_required"), NotRun),
        (403, fault("permission_denied"), NotRun),
        (404, b"<html>", NotRun),
        (422, fault("odd"), Uncertain),
        (429, fault("rate_limit_exceeded"), NotRun),
        (500, fault("internal_error"), Uncertain),
        (500, fault("bad_request"), Uncertain),
        (503, b"", Uncertain),
    ],
)
def test_a_failed_look_is_not_a_failed_call(status: int, body: Any, error: type[ProviderError]) -> None:
    assert type(classify_look(status, {}, answer(status, body).body)) is error


def test_only_the_upstreams_own_word_makes_an_id_unknown() -> None:
    assert is_unknown(answer(404, fault("not_found")))
    for other in (answer(404, b"<html>"), answer(404, {"message": "no route"}), answer(400, fault("not_found"))):
        assert not is_unknown(other)
