"""The Gemini emulator is as strict as its contract: models, ratios, classes, key, form and errors."""

import base64
import io

import pytest
from PIL import Image

from sandbox.settings import Settings
from sandbox.wsgi import create_app

KEY = {"x-goog-api-key": "AIza-anything"}
FLASH, LITE, PRO, BANANA = (
    "gemini-3.1-flash-image",
    "gemini-3.1-flash-lite-image",
    "gemini-3-pro-image",
    "gemini-nano-banana-2.1",
)
IMAGEN = "imagen-4.0-generate-001"


@pytest.fixture
def client():
    return create_app(Settings(latency_s=0, prepared=True)).test_client()


def png(size=(64, 64)):
    out = io.BytesIO()
    Image.new("RGB", size, (20, 40, 200)).save(out, "PNG")
    return out.getvalue()


def inline(blob, mime="image/png"):
    return {"inlineData": {"mimeType": mime, "data": base64.b64encode(blob).decode()}}


def send(client, document, model=FLASH, method="generateContent", headers=KEY):
    return client.post(f"/gemini/v1beta/models/{model}:{method}", json=document, headers=headers)


def ask(client, *parts, model=FLASH, headers=KEY, config=None, **more):
    document = {"contents": [{"role": "user", "parts": list(parts) or [{"text": "a fox"}]}], **more}
    if config is not None:
        document["generationConfig"] = config
    return send(client, document, model, headers=headers)


def sized(client, model=FLASH, **image):
    return ask(client, model=model, config={"imageConfig": image})


def error(answer):
    document = answer.get_json()
    found = document["error"]
    assert found["code"] == answer.status_code
    return found["code"], found["status"], found["message"]


def result_image(answer):
    [data] = [
        part["inlineData"] for part in answer.get_json()["candidates"][0]["content"]["parts"] if "inlineData" in part
    ]
    return Image.open(io.BytesIO(base64.b64decode(data["data"])))


# ---------------------------------------------------------------- answers


def test_an_image_comes_with_words_and_its_cost(client):
    document = ask(client).get_json()
    assert set(document) == {"candidates", "usageMetadata", "modelVersion", "responseId"}
    [candidate] = document["candidates"]
    assert (candidate["index"], candidate["finishReason"], candidate["content"]["role"]) == (0, "STOP", "model")
    words, drawn = candidate["content"]["parts"]
    assert (set(words), set(drawn)) == ({"text"}, {"inlineData", "thoughtSignature"})
    usage = document["usageMetadata"]
    assert usage["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": 1120}]
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]


def test_an_image_alone_where_only_that_was_asked(client):
    [candidate] = ask(client, config={"responseModalities": ["IMAGE"]}).get_json()["candidates"]
    assert [set(part) for part in candidate["content"]["parts"]] == [{"inlineData", "thoughtSignature"}]


@pytest.mark.parametrize(
    ("model", "image", "size", "tokens"),
    [
        (FLASH, {}, (1024, 1024), 1120),
        (FLASH, {"imageSize": "512"}, (512, 512), 747),
        (FLASH, {"aspectRatio": "8:1"}, (2928, 352), 1120),
        (LITE, {"aspectRatio": "3:2", "imageSize": "1K"}, (1264, 848), 1120),
        (PRO, {"aspectRatio": "21:9", "imageSize": "2K"}, (3168, 1344), 1120),
        (BANANA, {"aspectRatio": "1:4", "imageSize": "2K"}, (1024, 4128), 1680),
    ],
)
def test_a_class_and_a_ratio_make_a_size_and_a_price(client, model, image, size, tokens):
    answer = sized(client, model, **image)
    assert result_image(answer).size == size
    assert answer.get_json()["usageMetadata"]["candidatesTokensDetails"][0]["tokenCount"] == tokens


def test_images_are_drawn_into_each_other_in_order():
    client = create_app(Settings(latency_s=0)).test_client()
    answer = ask(client, inline(png((160, 90))), inline(png()), {"text": "make it night"}, config={"seed": 3})
    assert result_image(answer).size == (1376, 768)
    assert result_image(answer).getcolors(2) is None


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_both_versions_answer_alike(client, version):
    document = {"contents": [{"parts": [{"text": "a fox"}]}]}
    answer = client.post(f"/gemini/{version}/models/{FLASH}:generateContent", json=document, headers=KEY)
    assert answer.status_code == 200


def test_names_may_come_in_snake_case_and_bytes_in_the_other_alphabet(client):
    data = base64.urlsafe_b64encode(png((333, 333))).decode()
    part = {"inline_data": {"mime_type": "image/png", "data": data}}
    config = {"response_modalities": ["image"], "image_config": {"aspect_ratio": "1:1", "image_size": "1K"}}
    document = {"contents": [{"parts": [part, {"text": "a fox"}]}], "generation_config": config}
    assert send(client, document).status_code == 200


# ---------------------------------------------------------------- keys, models, form


@pytest.mark.parametrize(
    ("headers", "status", "rpc"),
    [
        ({}, 403, "PERMISSION_DENIED"),
        ({"Authorization": "Bearer AIza"}, 403, "PERMISSION_DENIED"),
        ({"x-goog-api-key": "bad-key"}, 400, "INVALID_ARGUMENT"),
        ({"x-goog-api-key": "no-billing"}, 400, "FAILED_PRECONDITION"),
        ({"x-goog-api-key": "no-quota"}, 429, "RESOURCE_EXHAUSTED"),
    ],
)
def test_keys_are_told_apart(client, headers, status, rpc):
    assert error(ask(client, headers=headers))[:2] == (status, rpc)


def test_a_bad_key_is_named_in_the_details(client):
    details = ask(client, headers={"x-goog-api-key": "bad-key"}).get_json()["error"]["details"]
    assert details[0] == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }


def test_a_key_in_the_url_is_none(client):
    assert client.post(f"/gemini/v1/models/{FLASH}:generateContent?key=AIza", json={}).status_code == 403
    assert client.get("/control/requests").get_json()[-1]["query"] == {}


@pytest.mark.parametrize(
    "model",
    [
        "gemini-3.1-flash-image-preview",
        "gemini-3-pro-image-preview",
        "gemini-2.5-pro",
        IMAGEN,
    ],
)
def test_what_is_shut_down_is_not_found(client, model):
    assert error(ask(client, model=model))[:2] == (404, "NOT_FOUND")
    assert error(send(client, {"instances": [{"prompt": "x"}]}, model, "predict"))[:2] == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"imageConfig": {"imageSize": "1k"}}, "imageSize"),
        ({"imageConfig": {"imageSize": "512K"}}, "imageSize"),
        ({"imageConfig": {"aspectRatio": "9:21"}}, "aspectRatio"),
        ({"imageConfig": {"personGeneration": "ALLOW_ALL"}}, "personGeneration"),
        ({"imageConfig": {"outputMimeType": "image/png"}}, "outputMimeType"),
        ({"imageConfig": []}, "imageConfig"),
        ({"responseFormat": {}}, "responseFormat"),
        ({"responseModalities": ["TEXT"]}, "modalities"),
        ({"responseModalities": "IMAGE"}, "responseModalities"),
        ({"candidateCount": 2}, "candidateCount"),
        ({"seed": 2**31}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"temperature": 3}, "temperature"),
        ({"thinkingConfig": {"thinkingLevel": "MEDIUM"}}, "Thinking level"),
        ({"thinkingConfig": {"thinkingLevel": "FIERCE"}}, "thinkingLevel"),
        ({"negativePrompt": "rain"}, "negativePrompt"),
    ],
)
def test_a_wrong_setting_is_a_bad_argument(client, config, words):
    status, rpc, message = error(ask(client, config=config))
    assert (status, rpc) == (400, "INVALID_ARGUMENT")
    assert words in message


@pytest.mark.parametrize(
    ("model", "image"),
    [
        (LITE, {"imageSize": "2K"}),
        (PRO, {"imageSize": "512"}),
        (BANANA, {"imageSize": "512"}),
        (PRO, {"aspectRatio": "8:1"}),
    ],
)
def test_classes_and_ratios_are_the_models_own(client, model, image):
    assert error(sized(client, model, **image))[0] == 400


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"contents": []},
        {"contents": [{"role": "user", "parts": []}]},
        {"contents": [{"role": "user", "parts": [inline(png())]}]},
        {"contents": [{"role": "user", "parts": [{"text": "  "}]}]},
        {"contents": [{"role": "system", "parts": [{"text": "a fox"}]}]},
        {"contents": [{"role": "user", "parts": [{"text": "a fox", **inline(png())}]}]},
        {"contents": [{"role": "user", "parts": [{"text": "a fox"}, {}]}]},
        {"contents": [{"parts": [{"text": "a fox"}, inline(b"no image")]}]},
        {"contents": [{"parts": [{"text": "a fox"}, inline(png(), "image/gif")]}]},
        {"contents": [{"parts": [{"text": "a fox"}, {"inlineData": {"mimeType": "image/png", "data": "%"}}]}]},
        {"contents": [{"parts": [{"text": "a fox"}, *[inline(png())] * 15]}]},
        {"contents": [{"parts": [{"text": "a fox"}]}], "prompt": "a fox"},
        {"contents": [{"parts": [{"text": "a fox"}]}], "serviceTier": "first"},
        {"contents": [{"parts": [{"text": "a fox"}]}], "store": "yes"},
        {"contents": [{"parts": [{"text": "a fox"}]}], "labels": {"a": 1}},
        {"contents": [{"parts": [{"text": "a [sandbox:mystery]"}]}]},
        {
            "contents": [{"parts": [{"text": "a fox"}]}],
            "safetySettings": [{"category": "HARM_CATEGORY_IMAGE_HATE", "threshold": "OFF"}],
        },
    ],
)
def test_a_body_that_does_not_fit_is_refused_and_free(client, document):
    assert error(send(client, document))[:2] == (400, "INVALID_ARGUMENT")
    assert client.get("/control/counts").get_json()["gemini"]["accepted"] == 0


def test_only_json_is_taken(client):
    url = f"/gemini/v1/models/{FLASH}:generateContent"
    for data, kind in (("{", "application/json"), ("[]", "application/json"), ("{}", "text/plain")):
        assert client.post(url, data=data, content_type=kind, headers=KEY).status_code == 400


@pytest.mark.parametrize(("seconds", "status"), [("30", 200), ("0", 400), ("1.5", 400)])
def test_the_wait_is_told_in_whole_seconds(client, seconds, status):
    assert ask(client, headers={**KEY, "X-Server-Timeout": seconds}).status_code == status


# ---------------------------------------------------------------- refusals and errors


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ("fail=moderation", "IMAGE_SAFETY"),
        ("fail=spii", "SPII"),
        ("fail=no_image", "NO_IMAGE"),
        ("fail=continuation", "CONTINUATION"),
        ("empty", "STOP"),
    ],
)
def test_output_without_an_image_is_a_200(client, marker, reason):
    answer = ask(client, {"text": f"a fox [sandbox:{marker}]"})
    [candidate] = answer.get_json()["candidates"]
    assert (answer.status_code, candidate["finishReason"], candidate["content"]) == (200, reason, {"role": "model"})
    assert ("continuationToken" in candidate) == (reason == "CONTINUATION")
    assert "candidatesTokenCount" not in answer.get_json()["usageMetadata"]


def test_a_blocked_prompt_has_no_candidates(client):
    answer = ask(client, {"text": "a fox [sandbox:refuse=blocklist]"})
    assert (answer.status_code, answer.get_json()["promptFeedback"]) == (200, {"blockReason": "BLOCKLIST"})
    assert "candidates" not in answer.get_json()


def test_a_quota_says_which_and_when(client):
    for marker, quota_id, value in (
        ("429", "GenerateRequestsPerMinutePerProjectPerModel", "10"),
        ("quota=day", "GenerateRequestsPerDayPerProjectPerModel", "10"),
        ("quota=free", "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0"),
    ):
        answer = ask(client, {"text": f"a fox [sandbox:{marker}]"})
        failure, _help, retry = answer.get_json()["error"]["details"]
        assert (failure["violations"][0]["quotaId"], failure["violations"][0]["quotaValue"]) == (quota_id, value)
        assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "32s"}
        assert "Retry-After" not in answer.headers


def test_an_error_may_come_in_a_list(client):
    [document] = ask(client, {"text": "a fox [sandbox:503 envelope=list]"}).get_json()
    assert document["error"]["status"] == "UNAVAILABLE"


# ---------------------------------------------------------------- predict


def predict(client, key="legacy-gateway", **parameters):
    document = {"instances": [{"prompt": "a fox"}], "parameters": parameters}
    return send(client, document, IMAGEN, "predict", {"x-goog-api-key": key})


def test_a_gateway_that_stayed_behind_has_imagen(client):
    answer = predict(client, sampleCount=2, aspectRatio="3:4", sampleImageSize="2K")
    samples = answer.get_json()["predictions"]
    assert [set(sample) for sample in samples] == [{"bytesBase64Encoded", "mimeType"}] * 2
    assert Image.open(io.BytesIO(base64.b64decode(samples[0]["bytesBase64Encoded"]))).size == (1792, 2400)


@pytest.mark.parametrize(
    "parameters",
    [
        {"sampleCount": 5},
        {"aspectRatio": "21:9"},
        {"sampleImageSize": "4K"},
        {"sampleImageSize": "1k"},
        {"negativePrompt": "rain"},
        {"seed": 1},
        {"personGeneration": "ALLOW_ALL"},
        {"safetySetting": "BLOCK_NONE"},
        {"outputOptions": {"mimeType": "image/webp"}},
    ],
)
def test_imagen_takes_what_the_developer_api_took(client, parameters):
    assert error(predict(client, **parameters))[0] == 400


def test_a_filtered_sample_is_missing_or_says_why(client):
    for marker, parameters, found in (
        ("fewer=1", {"sampleCount": 2}, [{"bytesBase64Encoded", "mimeType"}]),
        (
            "fewer=1",
            {"sampleCount": 2, "includeRaiReason": True},
            [{"bytesBase64Encoded", "mimeType"}, {"raiFilteredReason"}],
        ),
        ("fail=policy", {"sampleCount": 1}, []),
    ):
        document = {"instances": [{"prompt": f"a fox [sandbox:{marker}]"}], "parameters": parameters}
        answer = send(client, document, IMAGEN, "predict", {"x-goog-api-key": "legacy-gateway"}).get_json()
        assert [set(sample) for sample in answer.get("predictions", [])] == found
