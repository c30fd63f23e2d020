"""Gemini: requests, and what each answer means, as tables without a network."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import ValidationError

from providers.base import InputImage, UpstreamOrder
from providers.catalog import catalog
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
from providers.upstreams.gemini.adapter import MAX_IMAGES_BYTES, Config, build_submit
from providers.upstreams.gemini.answers import classify, read_generated, read_predicted

MODELS = catalog.load().models
PNG = InputImage(b"png bytes", "image/png", 8, 8)
JPEG = InputImage(b"jpeg bytes", "image/jpeg", 8, 8)
DATA = base64.b64encode(b"image").decode()
IMAGE = {"inlineData": {"mimeType": "image/png", "data": DATA}}
THOUGHT = {**IMAGE, "thought": True}


def order(name: str = "gemini-3.1-flash-image", **facts: Any) -> UpstreamOrder:
    return UpstreamOrder(**{"operation": "generate", "model": MODELS[name], "prompt": "a red kite", **facts})


def body(asked: UpstreamOrder) -> dict[str, Any]:
    found = build_submit(asked).json
    assert found is not None
    return dict(found)


# ---------------------------------------------------------------- configuration


def test_blank_variables_count_as_unset() -> None:
    assert Config.from_env({"GEMINI_API_KEY": " ", "GOOGLE_API_KEY": ""}) is None
    config = Config.from_env({"GEMINI_API_KEY": " AIza-secret ", "GOOGLE_GEMINI_BASE_URL": " "})
    assert config is not None
    assert (config.base_url, config.version) == ("https://generativelanguage.googleapis.com", "v1beta")
    assert config.api_key.get_secret_value() == "AIza-secret"
    assert "AIza" not in repr(config)


def test_of_two_keys_that_with_googles_own_name_is_used() -> None:
    config = Config.from_env({"GEMINI_API_KEY": "one", "GOOGLE_API_KEY": "two"})
    assert config is not None
    assert config.api_key.get_secret_value() == "two"


@pytest.mark.parametrize(
    ("text", "version"), [("beta", "v1beta"), ("v1", "v1"), ("v1alpha", "v1alpha"), ("", "v1beta")]
)
def test_the_version_is_a_setting(text: str, version: str) -> None:
    config = Config.from_env({"GEMINI_API_KEY": "k", "GOOGLE_GENAI_API_VERSION": text})
    assert config is not None
    assert config.version == version


@pytest.mark.parametrize("text", ["1", "v1/../x", "latest", "v1beta/openai", "v1?x"])
def test_an_invalid_version_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Config.from_env({"GEMINI_API_KEY": "k", "GOOGLE_GENAI_API_VERSION": text})


# ---------------------------------------------------------------- requests


def test_images_come_before_the_words() -> None:
    request = build_submit(order(operation="edit", images=[PNG, JPEG]), version="v1")
    assert request.path == "/v1/models/gemini-3.1-flash-image:generateContent"
    assert request.headers == {"X-Server-Timeout": "290"}
    assert request.json == {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(b"png bytes").decode()}},
                    {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(b"jpeg bytes").decode()}},
                    {"text": "a red kite"},
                ],
            }
        ],
        "generationConfig": {"responseModalities": ["IMAGE"]},
    }


def test_what_the_caller_set_is_sent() -> None:
    asked = order(size={"aspect_ratio": "16:9", "resolution": "512"}, params={"seed": 7, "n": 3})
    assert body(asked)["generationConfig"] == {
        "imageConfig": {"aspectRatio": "16:9", "imageSize": "512"},
        "seed": 7,
        "responseModalities": ["IMAGE"],
    }


def test_a_model_of_one_size_class_is_not_sent_it() -> None:
    asked = order("gemini-3.1-flash-lite-image", size={"aspect_ratio": "1:1", "resolution": "1K"})
    assert body(asked)["generationConfig"]["imageConfig"] == {"aspectRatio": "1:1"}


def test_imagen_is_called_by_predict_and_always_with_a_count() -> None:
    request = build_submit(order("imagen-4.0-generate-001", params={"output_format": "image/jpeg"}))
    assert request.path == "/v1beta/models/imagen-4.0-generate-001:predict"
    assert request.json == {
        "instances": [{"prompt": "a red kite"}],
        "parameters": {"sampleCount": 1, "includeRaiReason": True, "outputOptions": {"mimeType": "image/jpeg"}},
    }


@pytest.mark.parametrize(
    "extra",
    [
        {"contents": []},
        {"tools": []},
        {"serviceTier": "priority"},
        {"service_tier": "priority"},
        {"cachedContent": "x"},
        {"generationConfig": {"candidateCount": 8}},
        {"generationConfig.candidateCount": 8},
        {"generation_config": {"candidate_count": 8}},
        {"generationConfig": {"imageConfig": {"imageSize": "4K"}}},
        {"generationConfig.imageConfig.imageSize": "4K"},
        {"generation_config.image_config": {"image_size": "4K"}},
        {"generationConfig": {"responseModalities": ["TEXT"]}},
        {"generationConfig": {"seed": 1}},
        {"generationConfig": 1},
        {"parameters": {"sampleCount": 4}},
        {"instances": []},
        {"prompt": "another"},
        {"generationConfig.thinkingConfig": {}, "generationConfig.thinkingConfig.thinkingLevel": "HIGH"},
        {"store": True, "store.x": 1},
    ],
)
def test_extra_fields_cannot_change_what_is_bought_or_how_it_is_answered(extra: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as caught:
        build_submit(order(extra=extra))
    assert caught.value.code == "extra_not_allowed"


def test_other_extra_fields_join_ours() -> None:
    given = {
        "generationConfig": {"thinkingConfig": {"thinkingLevel": "HIGH"}},
        "generationConfig.topK": 3,
        "store": True,
    }
    found = body(order(extra=given, params={"seed": 1}))
    assert found["store"] is True
    assert found["generationConfig"] == {
        "thinkingConfig": {"thinkingLevel": "HIGH"},
        "topK": 3,
        "seed": 1,
        "responseModalities": ["IMAGE"],
    }
    assert given["generationConfig"] == {"thinkingConfig": {"thinkingLevel": "HIGH"}}


def test_more_than_the_upstream_takes_is_not_sent() -> None:
    large = InputImage(bytes(MAX_IMAGES_BYTES // 4), "image/png", 8, 8)
    assert build_submit(order(images=[large] * 2))
    with pytest.raises(RequestRefused):
        build_submit(order(images=[large] * 3))


# ---------------------------------------------------------------- answers


def generated(*candidates: Any, **more: Any) -> bytes:
    return json.dumps({"candidates": list(candidates), **more}).encode()


def candidate(*parts: Any, reason: Any = "STOP", **more: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": list(parts)}, "finishReason": reason, **more}


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (generated(candidate(IMAGE)), 1),
        (generated(candidate({"text": "Here."}, THOUGHT, IMAGE)), 1),
        (generated(candidate(IMAGE, IMAGE), candidate(IMAGE)), 3),
        (generated(candidate(reason="IMAGE_SAFETY"), candidate(IMAGE)), 1),
        (generated(candidate(IMAGE, reason="MAX_TOKENS")), 1),
        (generated(candidate(IMAGE, None, 7, "x", reason=None)), 1),
    ],
)
def test_every_image_that_is_not_a_thought_is_taken(answer: bytes, count: int) -> None:
    images = read_generated(answer)
    assert [image.data for image in images] == [b"image"] * count


def ends(reason: str) -> bytes:
    return generated({"content": {"role": "model"}, "finishReason": reason, "finishMessage": "why"})


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (json.dumps({"promptFeedback": {"blockReason": "SAFETY"}}).encode(), ContentRefused, "content_refused"),
        (json.dumps({"promptFeedback": {"blockReason": "NEW_WORD"}}).encode(), ContentRefused, "content_refused"),
        (ends("IMAGE_SAFETY"), ContentRefused, "content_refused"),
        (ends("SAFETY"), ContentRefused, "content_refused"),
        (ends("PROHIBITED_CONTENT"), ContentRefused, "content_refused"),
        (ends("IMAGE_PROHIBITED_CONTENT"), ContentRefused, "content_refused"),
        (ends("RECITATION"), ContentRefused, "content_refused"),
        (ends("IMAGE_RECITATION"), ContentRefused, "content_refused"),
        (ends("BLOCKLIST"), ContentRefused, "content_refused"),
        (ends("SPII"), ContentRefused, "content_refused"),
        (ends("ESCALATION"), ContentRefused, "content_refused"),
        (generated(candidate(reason="NO_IMAGE"), candidate(reason="SPII")), ContentRefused, "content_refused"),
        (ends("NO_IMAGE"), Failed, "upstream_empty_result"),
        (ends("UNEXPECTED_TOOL_CALL"), Failed, "upstream_empty_result"),
        (generated(candidate()), Failed, "upstream_empty_result"),
        (generated(candidate(THOUGHT)), Failed, "upstream_empty_result"),
        (generated(candidate({"text": "Which fox?"})), Failed, "upstream_said_no"),
        (ends("PUP_LIMITED_DISABLED"), BadCredentials, "upstream_forbidden"),
        (ends("MISSING_THOUGHT_SIGNATURE"), RequestRefused, "upstream_rejected"),
        (generated(), Uncertain, "upstream_broken_answer"),
        (generated("x", 7, None), Uncertain, "upstream_broken_answer"),
        (generated(candidate(reason=None)), Uncertain, "upstream_broken_answer"),
        (
            generated(candidate({"inlineData": {"mimeType": "image/png", "data": "!"}})),
            Uncertain,
            "upstream_broken_answer",
        ),
        (b'{"promptFeedback": "x"}', Uncertain, "upstream_broken_answer"),
        (b"{}", Uncertain, "upstream_broken_answer"),
        (b"", Uncertain, "upstream_broken_answer"),
        (b"<html>", Uncertain, "upstream_broken_answer"),
        (b"[]", Uncertain, "upstream_broken_answer"),
    ],
)
def test_a_200_without_an_image_is_never_success(answer: bytes, error: type[ProviderError], code: str) -> None:
    with pytest.raises(error) as caught:
        read_generated(answer)
    assert caught.value.code == code


@pytest.mark.parametrize("reason", ["NO_IMAGE", "IMAGE_OTHER", "OTHER", "MAX_TOKENS", "LANGUAGE", "MALFORMED_RESPONSE"])
def test_a_temporary_failure_may_be_tried_again(reason: str) -> None:
    with pytest.raises(Failed) as caught:
        read_generated(ends(reason))
    assert (caught.value.retryable, caught.value.billed) == (True, False)


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        ({}, False),
        ({"promptTokenCount": 9, "totalTokenCount": 9}, False),
        ({"candidatesTokenCount": 3}, True),
        ({"thoughtsTokenCount": 40}, True),
        ({"thoughtsTokenCount": "x"}, False),
        (7, False),
    ],
)
def test_output_tokens_are_billed_even_without_an_image(usage: Any, *, billed: bool) -> None:
    with pytest.raises(ContentRefused) as refused:
        read_generated(generated(candidate(reason="IMAGE_SAFETY"), usageMetadata=usage))
    assert (refused.value.stage, refused.value.charged) == ("output", billed)
    with pytest.raises(Failed) as failed:
        read_generated(generated(candidate(reason="NO_IMAGE"), usageMetadata=usage))
    assert failed.value.billed is billed


def predicted(*samples: Any) -> bytes:
    return json.dumps({"predictions": list(samples)}).encode()


SAMPLE = {"bytesBase64Encoded": DATA, "mimeType": "image/png"}
FILTERED = {"raiFilteredReason": "against the rules"}


def test_filtered_samples_are_left_out() -> None:
    assert [image.data for image in read_predicted(predicted(FILTERED, SAMPLE, SAMPLE))] == [b"image"] * 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"{}", ContentRefused),
        (b'{"positivePromptSafetyAttributes": {}}', ContentRefused),
        (predicted(), ContentRefused),
        (predicted(FILTERED, FILTERED), ContentRefused),
        (predicted({}), Uncertain),
        (predicted(7), Uncertain),
        (predicted(FILTERED, {"bytesBase64Encoded": "!"}), Uncertain),
        (b'{"predictions": 7}', Uncertain),
        (b"", Uncertain),
        (b"[]", Uncertain),
    ],
)
def test_everything_filtered_is_a_refusal_and_the_rest_uncertain(answer: bytes, error: type[ProviderError]) -> None:
    with pytest.raises(error):
        read_predicted(answer)


# ---------------------------------------------------------------- errors


def fault(status: str, message: str = "words", *details: dict[str, Any]) -> bytes:
    typed = [{**detail, "@type": f"type.googleapis.com/google.rpc.{detail['@type']}"} for detail in details]
    return json.dumps({"error": {"code": 1, "status": status, "message": message, "details": typed}}).encode()


BAD_KEY = {"@type": "ErrorInfo", "reason": "API_KEY_INVALID"}


def quota(quota_id: str, value: str = "10") -> dict[str, Any]:
    return {"@type": "QuotaFailure", "violations": [{"quotaId": quota_id, "quotaValue": value}]}


def delay(text: str) -> dict[str, Any]:
    return {"@type": "RetryInfo", "retryDelay": text}


@pytest.mark.parametrize(
    ("status", "answer", "error", "code"),
    [
        (400, fault("INVALID_ARGUMENT"), RequestRefused, "upstream_rejected"),
        (400, b"[" + fault("INVALID_ARGUMENT", "x", BAD_KEY) + b"]\n", BadCredentials, "upstream_bad_credentials"),
        (400, fault("FAILED_PRECONDITION"), OutOfCredit, "upstream_out_of_credit"),
        (403, fault("PERMISSION_DENIED"), BadCredentials, "upstream_forbidden"),
        (404, fault("NOT_FOUND"), UnknownModel, "upstream_model_unknown"),
        (408, b"", Uncertain, "upstream_error"),
        (429, fault("RESOURCE_EXHAUSTED"), NotRun, "upstream_rate_limited"),
        (429, b"<html>", NotRun, "upstream_rate_limited"),
        (429, fault("x", "Your prepayment credits are depleted."), OutOfCredit, "upstream_out_of_credit"),
        (429, fault("x", "The prepaid credit balance is used up"), OutOfCredit, "upstream_out_of_credit"),
        (429, fault("x", "words", quota("RequestsPerMinute", "0")), OutOfCredit, "upstream_out_of_credit"),
        (500, fault("INTERNAL"), Failed, "upstream_failed"),
        (500, b"[" + fault("INTERNAL") + b"]", Failed, "upstream_failed"),
        (500, fault("UNKNOWN"), Uncertain, "upstream_error"),
        (500, b"<html>", Uncertain, "upstream_error"),
        (502, fault("INTERNAL"), Uncertain, "upstream_error"),
        (503, fault("UNAVAILABLE"), NotRun, "upstream_overloaded"),
        (503, b"", Uncertain, "upstream_error"),
        (504, fault("DEADLINE_EXCEEDED"), Failed, "upstream_timeout"),
        (504, b"<html>", Uncertain, "upstream_error"),
        (400, b'{"error": {"details": [{"@type": 7}, 7], "message": 7}}', RequestRefused, "upstream_rejected"),
    ],
)
def test_errors_say_what_to_do_next(status: int, answer: bytes, error: type[ProviderError], code: str) -> None:
    found = classify(status, {}, answer)
    assert (type(found), found.code) == (error, code)


@pytest.mark.parametrize(
    ("headers", "details", "wait_s"),
    [
        ({}, [delay("32s")], 32),
        ({}, [delay("1.5s")], 1.5),
        ({"retry-after": "7"}, [delay("32s")], 7),
        ({}, [delay("9999s")], 300),
        ({}, [delay("soon")], None),
        ({}, [delay("0s")], None),
        ({}, [quota("GenerateRequestsPerDayPerProject"), delay("2s")], 3600),
        ({}, [], None),
    ],
)
def test_the_wait_is_in_the_details(
    headers: dict[str, str], details: list[dict[str, Any]], wait_s: float | None
) -> None:
    assert classify(429, headers, fault("RESOURCE_EXHAUSTED", "words", *details)).retry_after_s == wait_s


def test_a_key_in_the_upstreams_words_is_not_repeated() -> None:
    key = "AIzaSyA-" + "x" * 31
    found = classify(403, {}, fault("PERMISSION_DENIED", f"Consumer 'api_key:{key}' has been suspended."))
    assert "suspended" in found.detail
    assert "SyA" not in found.detail
