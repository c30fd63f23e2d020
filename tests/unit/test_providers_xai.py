"""xAI: requests, and what each answer means, as tables without a network."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from providers.base import InputImage, UpstreamOrder
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
    UnknownModel,
)
from providers.http.client import WireRequest
from providers.upstreams.xai.adapter import MAX_IMAGES_BYTES, Config, build_submit, read_images
from providers.upstreams.xai.errors import classify

MODELS = catalog.load().models
PNG = InputImage(b"png bytes", "image/png", 8, 8)
WEBP = InputImage(b"webp bytes", "image/webp", 8, 8)
ITEM = {"b64_json": base64.b64encode(b"image").decode(), "mime_type": "image/jpeg"}
BASE = "https://api.x.ai"


def order(name: str = "grok-imagine-image-2.0", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(**{"operation": "generate", "model": MODELS[name], "prompt": "a red kite", **facts})


def link(image: InputImage) -> dict[str, str]:
    return {"type": "image_url", "url": f"data:{image.mime};base64,{base64.b64encode(image.data).decode()}"}


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "url", ["https://x.example", "https://x.example/", "https://x.example/v1", "https://x.example/v1/"]
)
def test_the_base_url_may_end_in_the_version(url: str) -> None:
    config = Config.from_env({"XAI_API_KEY": "xai-secret", "XAI_BASE_URL": url})
    assert config is not None
    assert config.base_url == "https://x.example"
    assert "secret" not in repr(config)


def test_blank_variables_count_as_unset() -> None:
    assert Config.from_env({"XAI_API_KEY": " "}) is None
    config = Config.from_env({"XAI_API_KEY": " k ", "XAI_BASE_URL": "", "XAI_PROMPT_MODEL": " "})
    assert config is not None
    assert (config.base_url, config.prompt_model) == ("https://api.x.ai", "grok-4.3")


# ---------------------------------------------------------------- requests


def test_what_the_caller_left_out_is_left_out() -> None:
    body = {"model": "grok-imagine-image-2.0", "prompt": "a red kite", "response_format": "b64_json"}
    assert build_submit(order()) == WireRequest("POST", "/v1/images/generations", json=body)


def test_what_the_caller_set_is_sent() -> None:
    size = {"aspect_ratio": "21:9", "resolution": "2k"}
    assert build_submit(order(n=4, size=size, params={"quality": "low"}, extra={"user": "u1"})).json == {
        "model": "grok-imagine-image-2.0",
        "prompt": "a red kite",
        "response_format": "b64_json",
        "n": 4,
        "aspect_ratio": "21:9",
        "resolution": "2k",
        "quality": "low",
        "user": "u1",
    }


def test_one_image_is_an_image_and_decides_the_shape() -> None:
    request = build_submit(order(operation="edit", images=[PNG], size={"aspect_ratio": "21:9", "resolution": "2k"}))
    assert request.path == "/v1/images/edits"
    assert request.json is not None
    assert request.json["image"] == link(PNG)
    assert {"images", "aspect_ratio"}.isdisjoint(request.json)
    assert request.json["resolution"] == "2k"


def test_several_images_are_images_and_leave_the_shape_free() -> None:
    request = build_submit(order(operation="edit", images=[PNG, WEBP], size={"aspect_ratio": "21:9"}))
    assert request.json is not None
    assert request.json["images"] == [link(PNG), link(WEBP)]
    assert "image" not in request.json
    assert request.json["aspect_ratio"] == "21:9"


@pytest.mark.parametrize(
    "name",
    [
        *("n", "model", "prompt", "response_format", "quality", "aspect_ratio", "resolution", "size", "stream"),
        *("image", "images", "image_url", "file_id", "storage_options"),
    ],
)
def test_extra_fields_cannot_change_what_is_bought_or_how_it_is_answered(name: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        build_submit(order(extra={name: "x"}))
    assert caught.value.code == "extra_not_allowed"


def test_more_than_the_upstream_takes_is_not_sent() -> None:
    large = InputImage(bytes(MAX_IMAGES_BYTES // 4), "image/png", 8, 8)
    assert build_submit(order(images=[large] * 2))
    with pytest.raises(RequestRefused):
        build_submit(order(images=[large] * 3))


# ---------------------------------------------------------------- answers


def answer(*items: Any, **more: Any) -> bytes:
    return json.dumps({"data": list(items), **more}).encode()


def test_what_moderation_withheld_is_left_out() -> None:
    withheld = {**ITEM, "respect_moderation": False}
    images = read_images(answer(withheld, {**ITEM, "respect_moderation": True}, {}, ITEM), BASE)
    assert [image.data for image in images] == [b"image", b"image"]


def test_a_prefix_and_an_empty_prompt_are_not_part_of_the_image() -> None:
    prefixed = {"b64_json": f"data:image/jpeg;base64,{ITEM['b64_json']}", "revised_prompt": ""}
    [image] = read_images(answer(prefixed), BASE)
    assert (image.data, image.revised_prompt) == (b"image", None)


def test_a_link_is_taken_where_there_are_no_bytes() -> None:
    [image] = read_images(answer({"url": "https://imgen.x.ai/a.jpg"}), BASE)
    assert (image.data, image.url) == (None, "https://imgen.x.ai/a.jpg")


@pytest.mark.parametrize(
    "body",
    [answer(), answer({}), answer({"url": "", "b64_json": None}), answer({**ITEM, "respect_moderation": False})],
)
def test_withholding_everything_is_a_refusal(body: bytes) -> None:
    with pytest.raises(ContentRefused) as caught:
        read_images(body, BASE)
    assert (caught.value.stage, caught.value.charged) == ("output", False)


def test_a_refusal_that_cost_something_says_so() -> None:
    with pytest.raises(ContentRefused) as caught:
        read_images(answer(usage={"cost_in_usd_ticks": 200_000_000}), BASE)
    assert caught.value.charged


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b"[]", b'{"data": 7}', answer(7), answer(None), answer({"b64_json": "!"})]
)
def test_any_other_answer_is_uncertain(body: bytes) -> None:
    with pytest.raises(Uncertain):
        read_images(body, BASE)


# ---------------------------------------------------------------- errors


def flat(text: str, code: str = "some code", **more: Any) -> bytes:
    return json.dumps({"code": code, "error": text, **more}).encode()


def nested(text: str) -> bytes:
    return json.dumps({"error": {"message": text, "type": "invalid_request_error"}}).encode()


MODERATED = "Generated image rejected by content moderation."
SPENT = "Your team has either used all available credits or reached its monthly spending limit."


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (400, flat("Incorrect API key provided: xa***et."), BadCredentials, "upstream_bad_credentials"),
        (400, nested("Incorrect API key provided: xa***et."), BadCredentials, "upstream_bad_credentials"),
        (400, b"Incorrect API key provided: xa***et.", BadCredentials, "upstream_bad_credentials"),
        (400, flat("no", "imagine:content-moderated"), ContentRefused, "content_refused"),
        (400, flat(MODERATED, "Client specified an invalid argument"), ContentRefused, "content_refused"),
        (400, nested(MODERATED), ContentRefused, "content_refused"),
        (400, MODERATED.encode(), ContentRefused, "content_refused"),
        (400, flat("Argument not supported: size", "400"), RequestRefused, "upstream_rejected"),
        (401, b"", BadCredentials, "upstream_bad_credentials"),
        (403, flat("no", "personal-team-blocked:spending-limit"), OutOfCredit, "upstream_out_of_credit"),
        (403, flat("You have run out of credits"), OutOfCredit, "upstream_out_of_credit"),
        (
            403,
            flat("Your newly created team doesn't have any credits or licenses yet."),
            OutOfCredit,
            "upstream_out_of_credit",
        ),
        (403, flat("The team doesn’t have any credits"), OutOfCredit, "upstream_out_of_credit"),
        (403, flat("Your key has no permission for the model"), BadCredentials, "upstream_forbidden"),
        (403, flat("Your team is blocked"), BadCredentials, "upstream_forbidden"),
        (404, flat("The model x does not exist"), UnknownModel, "upstream_model_unknown"),
        (404, flat("No such path"), Misconfigured, "upstream_not_found"),
        (415, flat("JSON"), RequestRefused, "upstream_rejected"),
        (422, b"missing field", RequestRefused, "upstream_rejected"),
        (429, flat(SPENT), OutOfCredit, "upstream_out_of_credit"),
        (429, flat("Too many requests"), NotRun, "upstream_rate_limited"),
        (429, b"", NotRun, "upstream_rate_limited"),
        (500, flat("broken"), Failed, "upstream_failed"),
        (500, nested("broken"), Failed, "upstream_failed"),
        (500, b"broken", Uncertain, "upstream_error"),
        (500, b'{"error": "a proxy"}', Uncertain, "upstream_error"),
        (502, flat("x"), Uncertain, "upstream_error"),
        (503, flat("x"), NotRun, "upstream_overloaded"),
        (503, b"<html>", Uncertain, "upstream_error"),
        (504, b"", Uncertain, "upstream_error"),
        (500, b"\xff\xfe", Uncertain, "upstream_error"),
    ],
)
def test_errors_say_what_to_do_next(status: int, body: bytes, error: type[ProviderError], code: str) -> None:
    found = classify(status, {}, body)
    assert (type(found), found.code) == (error, code)


def test_the_cost_of_a_failed_call_is_reported() -> None:
    paid = {"usage": {"cost_in_usd_ticks": 1}}
    refused = classify(400, {}, flat(MODERATED, **paid))
    assert isinstance(refused, ContentRefused)
    assert (refused.stage, refused.charged) == ("output", True)
    failed = classify(500, {}, flat("broken", **paid))
    assert isinstance(failed, Failed)
    assert (failed.retryable, failed.billed) == (False, True)  # a new call would be billed again


def test_a_key_in_the_upstreams_words_is_not_repeated() -> None:
    assert "AbCdEfGh" not in classify(403, {}, flat("key xai-AbCdEfGhIjKl is disabled")).detail
