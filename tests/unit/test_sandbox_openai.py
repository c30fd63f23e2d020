"""The OpenAI emulator is as strict as the real one: tables per model, multipart rules, envelopes, streams."""

import base64
import io
import json

import pytest
from PIL import Image

from sandbox.settings import Settings
from sandbox.wsgi import create_app

KEY = {"Authorization": "Bearer sk-anything"}
GENERATE, EDIT = "/openai/v1/images/generations", "/openai/v1/images/edits"
SMALL = {"model": "gpt-image-2", "size": "1024x640"}


@pytest.fixture
def client():
    return create_app(Settings(latency_s=0, chat_delta_s=0, prepared=True)).test_client()


def generate(client, headers=KEY, **fields):
    return client.post(GENERATE, json={"prompt": "a red kite", **SMALL, **fields}, headers=headers)


def png(size=(64, 48), mode="RGB", colour=(20, 40, 200)):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def mask_of(size=(64, 48)):
    mask, out = Image.new("RGBA", size, (0, 0, 0, 255)), io.BytesIO()
    mask.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1] // 2))
    mask.save(out, "PNG")
    return out.getvalue()


def part(blob, kind="image/png", name="a.png"):
    return (io.BytesIO(blob), name, kind)


def edit(client, *parts, **fields):
    data = {"prompt": "snow", "model": "gpt-image-2", **fields}
    for name, upload in parts:
        data.setdefault(name, []).append(upload)
    return client.post(EDIT, data=data, headers=KEY, content_type="multipart/form-data")


def error(answer):
    body = answer.get_json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return answer.status_code, body["code"], body["param"]


def image(answer, place=0):
    return Image.open(io.BytesIO(base64.b64decode(answer.get_json()["data"][place]["b64_json"])))


def tally(client):
    return client.get("/control/counts").get_json()["openai"]


def test_a_generation_answers_with_the_images_and_what_they_cost(client):
    answer = generate(client, n=2, quality="low")
    body = answer.get_json()
    assert [image(answer, place).size for place in (0, 1)] == [(1024, 640)] * 2
    assert set(body["data"][0]) == {"b64_json"}
    assert (body["size"], body["quality"], body["background"]) == ("1024x640", "low", "opaque")
    assert body["usage"]["output_tokens"] == 2 * 107  # 16 x 10 patches
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": "b64_json"}, ("unknown_parameter", "response_format")),
        ({"seed": 3}, ("unknown_parameter", "seed")),
        ({"style": "vivid"}, ("unknown_parameter", "style")),
        ({"input_fidelity": "high"}, ("unknown_parameter", "input_fidelity")),
        ({"prompt": None}, ("missing_required_parameter", "prompt")),
        ({"prompt": ""}, ("empty_string", "prompt")),
        ({"prompt": 5}, ("invalid_type", "prompt")),
        ({"prompt": "x" * 32_001}, ("string_above_max_length", "prompt")),
        ({"model": None}, ("missing_required_parameter", "model")),
        ({"n": 0}, ("integer_below_min_value", "n")),
        ({"n": 11}, ("integer_above_max_value", "n")),
        ({"n": "2"}, ("invalid_type", "n")),
        ({"n": True}, ("invalid_type", "n")),
        ({"quality": "hd"}, ("invalid_value", "quality")),
        ({"quality": "xhigh"}, ("invalid_value", "quality")),
        ({"background": "blue"}, ("invalid_value", "background")),
        ({"output_format": "gif"}, ("invalid_value", "output_format")),
        ({"output_compression": 50}, ("invalid_value", "output_compression")),
        (
            {"output_compression": 101, "output_format": "jpeg"},
            ("integer_above_max_value", "output_compression"),
        ),
        ({"background": "transparent", "output_format": "jpeg"}, ("invalid_value", "background")),
        ({"moderation": "none"}, ("invalid_value", "moderation")),
        ({"complexity": "low"}, ("invalid_value", "complexity")),
        ({"partial_images": 2}, ("invalid_value", "partial_images")),
        ({"stream": "yes"}, ("invalid_type", "stream")),
        ({"frame_count": 4}, ("invalid_value", "frame_count")),
        ({"svg": {"model": "gpt-5"}}, ("invalid_value", "svg")),
    ],
)
def test_a_bad_option_is_named(client, fields, expected):
    assert error(generate(client, **fields)) == (400, *expected)
    assert "openai" not in client.get("/control/counts").get_json() or tally(client)["accepted"] == 0


@pytest.mark.parametrize(
    ("model", "size", "fine"),
    [
        ("gpt-image-1.5", "1536x1024", True),
        ("gpt-image-1.5", "auto", True),
        ("gpt-image-1.5", "1024x640", False),
        ("chatgpt-image-latest", "2048x2048", False),
        ("gpt-image-2", "2048x2048", True),
        ("gpt-image-2", "1792x936", False),
        ("gpt-image-2", "512x512", False),
        ("gpt-image-2", "4096x1024", False),
        ("gpt-image-2", "3840x2160", True),
        ("gpt-image-2", "3072x512", False),
        ("gpt-image-2", "16:9", False),
        ("gpt-image-2.6-flare", "1024x640", True),
    ],
)
def test_each_model_has_its_sizes(client, model, size, fine):
    answer = generate(client, model=model, size=size)
    if fine:
        assert answer.status_code == 200
    else:
        assert error(answer) == (400, "invalid_value", "size")


@pytest.mark.parametrize("model", ["dall-e-3", "dall-e-2", "gpt-image-1", "gpt-image-9"])
def test_retired_and_unknown_models_are_not_found(client, model):
    assert error(generate(client, model=model)) == (404, "model_not_found", "model")


def test_qualities_and_formats_follow_the_model(client):
    assert generate(client, model="gpt-image-2.5-flare", quality="max").status_code == 200
    assert generate(client, model="gpt-image-2.6-flare", complexity="low").status_code == 200
    gif = generate(client, model="gpt-image-2.6-flare", output_format="gif", frame_count=2)
    assert image(gif).format == "GIF"
    svg = generate(client, model="gpt-image-2.6-flare", output_format="svg").get_json()
    assert base64.b64decode(svg["data"][0]["b64_json"]).startswith(b"<svg") and "svg_usage" in svg
    two = generate(client, model="gpt-image-2.6-flare", output_format="svg", n=2)
    assert error(two) == (400, "invalid_value", "n")


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_the_output_format_is_honoured(client, name, kind):
    assert image(generate(client, output_format=name)).format == kind


def test_a_transparent_background_is_honoured(client):
    assert image(generate(client, background="transparent")).mode == "RGBA"


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("", 401, None),
        ("bad-key", 401, "invalid_api_key"),
        ("no-quota", 429, "insufficient_quota"),
        ("no-org", 403, None),
    ],
)
def test_keys_with_a_meaning(client, key, status, code):
    answer = generate(client, headers={"Authorization": f"Bearer {key}"} if key else {})
    assert error(answer)[:2] == (status, code)
    assert key not in answer.get_data(as_text=True) or not key


def test_a_verified_organization_is_not_needed_to_list_models(client):
    ids = client.get("/openai/v1/models", headers={"Authorization": "Bearer no-org"}).get_json()["data"]
    assert "gpt-image-2.6-sunburst" in [entry["id"] for entry in ids]
    assert client.get("/openai/v1/models/gpt-image-2", headers=KEY).get_json()["object"] == "model"
    assert error(client.get("/openai/v1/models/nope", headers=KEY)) == (404, "model_not_found", "model")


def test_broken_json_and_other_content_types_are_refused(client):
    broken = client.post(GENERATE, data=b"{", content_type="application/json", headers=KEY)
    assert error(broken)[0] == 400
    assert error(client.post(GENERATE, data=b"x", content_type="text/plain", headers=KEY))[0] == 400


def test_an_edit_keeps_what_the_mask_covers(client):
    answer = edit(client, ("image", part(png())), ("mask", part(mask_of())))
    result = image(answer)
    assert result.size == (64, 48)
    assert result.getpixel((50, 40)) == (20, 40, 200) != result.getpixel((5, 5))


def test_several_images_come_as_a_list_and_one_alone(client):
    two = [("image[]", part(png())), ("image[]", part(png()))]
    assert edit(client, *two).status_code == 200
    repeated = edit(client, ("image", part(png())), ("image", part(png())))
    assert error(repeated) == (400, "duplicate_parameter", "image")
    many = edit(client, *[("image[]", part(png())) for _ in range(17)])
    assert error(many) == (400, "array_above_max_length", "image")
    assert error(edit(client)) == (400, "missing_required_parameter", "image")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([("image", part(png(), "application/octet-stream"))], ("unsupported_file_mimetype", "image")),
        ([("image", part(b"nonsense"))], ("invalid_image_file", "image")),
        ([("image", part(png()[:90]))], ("invalid_image_file", "image")),
        ([("photo", part(png()))], ("unknown_parameter", "photo")),
        ([("image", part(png())), ("mask", part(mask_of((32, 32))))], ("invalid_image_size", "mask")),
        ([("image", part(png())), ("mask", part(png()))], ("invalid_image_format", "mask")),
        (
            [("image", part(png())), ("mask", part(mask_of(), "image/webp"))],
            ("unsupported_file_mimetype", "mask"),
        ),
        (
            [("image", part(png())), ("mask", part(mask_of())), ("markup", part(mask_of()))],
            ("invalid_value", "markup"),
        ),
    ],
)  # fmt: skip
def test_a_bad_part_is_named(client, parts, expected):
    assert error(edit(client, *parts)) == (400, *expected)


def test_form_fields_are_read_as_what_they_stand_for(client):
    assert edit(client, ("image", part(png())), n="2", size="1024x640").status_code == 200
    assert error(edit(client, ("image", part(png())), n="two")) == (400, "invalid_type", "n")
    assert error(edit(client, ("image", part(png())), moderation="low"))[1:] == (
        "unknown_parameter",
        "moderation",
    )


@pytest.mark.parametrize(
    ("model", "fidelity", "fine"),
    [("gpt-image-1.5", "high", True), ("gpt-image-1-mini", "high", False), ("gpt-image-2", "low", False)],
)
def test_input_fidelity_is_for_some_models(client, model, fidelity, fine):
    answer = edit(client, ("image", part(png())), model=model, input_fidelity=fidelity)
    assert (answer.status_code == 200) is fine


def test_a_json_edit_takes_data_urls_and_no_others(client):
    link = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    body = {"prompt": "snow", "model": "gpt-image-2", "images": [{"image_url": link}]}
    assert client.post(EDIT, json=body, headers=KEY).status_code == 200
    body["images"] = [{"image_url": "https://example.com/a.png"}]
    assert error(client.post(EDIT, json=body, headers=KEY))[1] == "invalid_image_url"
    body["images"] = [{"file_id": "file-1"}]
    assert client.post(EDIT, json=body, headers=KEY).status_code == 404


def test_variations_are_gone(client):
    assert error(client.post("/openai/v1/images/variations", headers=KEY))[:2] == (404, "model_not_found")


def events(answer):
    for block in answer.get_data(as_text=True).strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        yield lines["event"], json.loads(lines["data"])


@pytest.mark.parametrize("partials", [0, 2])
def test_a_stream_has_the_partials_asked_and_one_completed(client, partials):
    seen = list(events(generate(client, stream=True, partial_images=partials)))
    kinds = ["image_generation.partial_image"] * partials + ["image_generation.completed"]
    assert [kind for kind, _ in seen] == kinds == [data["type"] for _, data in seen]
    assert seen[-1][1]["usage"]["total_tokens"] > 0


def test_a_stream_may_close_early_or_carry_an_error(client):
    early = generate(client, stream=True, partial_images=1, prompt="x [sandbox:early_close]")
    assert [kind for kind, _ in events(early)] == ["image_generation.partial_image"]
    failed = list(events(generate(client, stream=True, prompt="x [sandbox:stream_error]")))
    assert failed[-1][1]["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("marker", "status", "code"),
    [
        ("refuse", 400, "moderation_blocked"),
        ("quota", 429, "insufficient_quota"),
        ("429 retry_after=7", 429, "rate_limit_exceeded"),
        ("503", 503, "server_is_overloaded"),
        ("fail", 500, None),
        ("fail=moderation", 400, "moderation_blocked"),
    ],
)
def test_scripted_errors_have_the_real_envelope(client, marker, status, code):
    answer = generate(client, prompt=f"x [sandbox:{marker}]")
    assert error(answer)[:2] == (status, code)
    assert answer.headers.get("Retry-After") == ("7" if "retry_after" in marker else None)


def test_a_gateway_speaks_html(client):
    answer = generate(client, prompt="x [sandbox:504]")
    assert (answer.status_code, answer.content_type) == (504, "text/html")


@pytest.mark.parametrize(("marker", "items"), [("empty", 0), ("fewer=1", 2), ("fewer=9", 0)])
def test_fewer_items_than_asked(client, marker, items):
    assert len(generate(client, n=3, prompt=f"x [sandbox:{marker}]").get_json()["data"]) == items


def test_a_wrong_format_and_a_wrong_size(client):
    assert image(generate(client, prompt="x [sandbox:wrong_format]")).format == "JPEG"
    assert image(generate(client, prompt="x [sandbox:wrong_size]")).size == (512, 320)


def test_accepted_calls_are_counted_by_prompt_and_by_the_callers_id(client):
    generate(client, prompt="x [sandbox:500 times=1]", headers={**KEY, "X-Client-Request-Id": "one"})
    generate(client, prompt="x [sandbox:500 times=1]", headers={**KEY, "X-Client-Request-Id": "two"})
    seen = tally(client)
    assert (seen["submits"], seen["accepted"]) == (2, 1)
    assert list(seen["submits_by_prompt"].values()) == [2]
    assert seen["submits_by_request_id"] == {"one": 1, "two": 1}


def chat(client, **fields):
    body = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "a red kite"}], **fields}
    return client.post("/openai/v1/chat/completions", json=body, headers=KEY)


def test_chat_answers_whole_or_as_a_stream_with_the_same_words(client):
    whole = chat(client).get_json()["choices"][0]["message"]["content"]
    assert whole.startswith("a red kite, ")
    streamed = chat(client, stream=True).get_data(as_text=True)
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == whole
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert not streamed.startswith(":")


def test_the_creative_variant_differs_from_the_detailed_one(client):
    said = {chat(client, temperature=t).get_json()["choices"][0]["message"]["content"] for t in (0.35, 0.7)}
    assert len(said) == 2


def test_usage_comes_last_and_only_when_asked(client):
    with_usage = chat(client, stream=True, stream_options={"include_usage": True}).get_data(as_text=True)
    last = json.loads(with_usage.split("\n\n")[-3].removeprefix("data: "))
    assert (last["choices"], "usage" in last) == ([], True)
    assert "usage" not in chat(client, stream=True).get_data(as_text=True)


def test_chat_faults_spoil_the_stream(client):
    def said(marker):
        messages = [{"role": "user", "content": f"a red kite [sandbox:{marker}]"}]
        return chat(client, stream=True, messages=messages)

    assert "[DONE]" not in said("no_done").get_data(as_text=True)
    assert "\r\n\r\n" in said("crlf").get_data(as_text=True)
    assert ": keep-alive" in said("comments").get_data(as_text=True)
    assert '"error"' in said("stream_error").get_data(as_text=True)
    assert '"content_filter"' in said("content_filter").get_data(as_text=True)
    assert '"stop"' not in said("early_close").get_data(as_text=True)
    pieces = list(said("split").iter_encoded())
    assert max(map(len, pieces)) <= 5
    assert any(_torn(piece) for piece in pieces)
    assert said("503").status_code == 503


def _torn(piece):
    try:
        piece.decode()
    except UnicodeDecodeError:
        return True
    return False


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "gpt-5.5", "temperature": 0.35}, (400, "unsupported_value", "temperature")),
        ({"temperature": 3}, (400, "decimal_above_max_value", "temperature")),
        ({"model": "o4-mini", "max_tokens": 5}, (400, "unsupported_parameter", "max_tokens")),
        ({"model": "llama"}, (404, "model_not_found", "model")),
        ({"messages": []}, (400, "missing_required_parameter", "messages")),
        ({"colour": "red"}, (400, None, None)),
    ],
)
def test_chat_refuses_what_the_real_one_refuses(client, fields, expected):
    assert error(chat(client, **fields)) == expected


def test_unknown_paths_have_the_envelope(client):
    assert error(client.get("/openai/v1/nothing", headers=KEY))[0] == 404
    assert error(client.get(GENERATE, headers=KEY))[0] == 405
