"""The xAI emulator is as strict as its contract: JSON alone, each model's fields, flat errors, temporary links."""

import base64
import io
import time

import pytest
from PIL import Image

from sandbox.settings import Settings
from sandbox.state import Clock
from sandbox.wsgi import create_app

KEY = {"Authorization": "Bearer xai-anything"}
FIRST, CURRENT, RETIRED = "grok-imagine-image", "grok-imagine-image-2.0", "grok-imagine-image-quality"


@pytest.fixture
def client():
    # A clock that moves by POST /control/clock alone.
    begun = time.time()
    return create_app(Settings(latency_s=0, prepared=True), clock=Clock(lambda: begun)).test_client()


def png(size=(64, 64)):
    out = io.BytesIO()
    Image.new("RGB", size, (20, 40, 200)).save(out, "PNG")
    return out.getvalue()


def link(blob=None, mime="image/png"):
    return {"url": f"data:{mime};base64,{base64.b64encode(png() if blob is None else blob).decode()}"}


def send(client, path, document, headers=KEY):
    return client.post(f"/xai/v1/{path}", json=document, headers=headers)


def generate(client, prompt="a fox", headers=KEY, **fields):
    return send(client, "images/generations", {"model": FIRST, "prompt": prompt, **fields}, headers)


def edit(client, **fields):
    return send(client, "images/edits", {"model": FIRST, "prompt": "a fox", **fields})


def error(answer):
    document = answer.get_json()
    assert set(document) <= {"code", "error", "usage"}
    return answer.status_code, document["code"], document["error"]


def opened(item):
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def tally(client):
    return client.get("/control/counts").get_json()["xai"]


# ---------------------------------------------------------------- answers


def test_links_are_the_default_and_the_older_model_does_not_name_itself(client):
    document = generate(client).get_json()
    assert set(document) == {"data", "usage"}
    [item] = document["data"]
    assert set(item) == {"url", "mime_type", "revised_prompt"}
    assert item["mime_type"] == "image/jpeg"
    assert document["usage"] == {"cost_in_usd_ticks": 200_000_000}


def test_bytes_where_they_are_asked_for(client):
    document = generate(client, model=CURRENT, n=3, response_format="b64_json").get_json()
    assert document["model"] == CURRENT
    assert [opened(item).format for item in document["data"]] == ["JPEG"] * 3
    assert document["usage"] == {"cost_in_usd_ticks": 1_800_000_000}


def test_a_retired_model_is_answered_by_the_current_one(client):
    assert generate(client, model=RETIRED).get_json()["model"] == CURRENT


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (1024, 1024)),
        ({"aspect_ratio": "auto"}, (1024, 1024)),
        ({"aspect_ratio": "1:2"}, (720, 1456)),
        ({"aspect_ratio": "19.5:9", "resolution": "2k"}, (3008, 1392)),
        ({"model": CURRENT, "aspect_ratio": "21:9"}, (1568, 672)),
    ],
)
def test_a_ratio_and_a_class_make_a_size(client, fields, size):
    [item] = generate(client, response_format="b64_json", **fields).get_json()["data"]
    assert opened(item).size == size


def test_one_input_gives_the_shape_of_an_edit(client):
    [item] = edit(client, image=link(png((90, 180))), response_format="b64_json").get_json()["data"]
    assert opened(item).size == (720, 1456)
    images = [link(png((90, 180))), {**link(), "type": "image_url"}]
    [item] = edit(client, images=images, aspect_ratio="2:1", response_format="b64_json").get_json()["data"]
    assert opened(item).size == (1456, 720)


def test_an_edit_repaints_its_input():
    client = create_app(Settings(latency_s=0)).test_client()
    [item] = edit(client, image=link(png((300, 300))), response_format="b64_json").get_json()["data"]
    assert opened(item).getcolors(64) is None


def test_a_link_lives_for_its_time_and_takes_no_key(client):
    [item] = generate(client, "a fox [sandbox:expire=60]").get_json()["data"]
    path = item["url"].removeprefix("http://localhost")
    assert client.get(path).content_type == "image/jpeg"
    assert client.get(path, headers=KEY).status_code == 400
    assert (tally(client)["downloads"], tally(client)["faults"]["key_leaked"]) == (1, 1)
    client.post("/control/clock", json={"advance_s": 61})
    assert client.get(path).status_code == 404


# ---------------------------------------------------------------- keys, models, form


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({}, 401, "Authorization"),
        ({"Authorization": "Bearer bad-key"}, 400, "Incorrect API key provided: ba***ey"),
        ({"Authorization": "Bearer no-quota"}, 403, "run out of credits"),
    ],
)
def test_keys_are_told_apart(client, headers, status, words):
    found, _code, text = error(generate(client, headers=headers))
    assert found == status
    assert words in text


@pytest.mark.parametrize(
    "name",
    [
        *("size", "style", "seed", "steps", "negative_prompt", "mask", "background", "output_format", "moderation"),
        *("image", "images", "quality"),
    ],
)
def test_what_openai_takes_and_xai_does_not_is_named(client, name):
    assert error(generate(client, **{name: "x"})) == (400, "400", f"Argument not supported: {name}")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"prompt": ""}, 422),
        ({"prompt": None}, 422),
        ({"prompt": 7}, 422),
        ({"n": "2"}, 422),
        ({"n": True}, 422),
        ({"n": 0}, 400),
        ({"n": 11}, 400),
        ({"aspect_ratio": "21:9"}, 400),
        ({"aspect_ratio": "16x9"}, 400),
        ({"resolution": "2K"}, 400),
        ({"resolution": "1.5k"}, 400),
        ({"response_format": "base64"}, 400),
        ({"model": CURRENT, "quality": "high"}, 400),
        ({"model": "grok-2-image"}, 404),
        ({"model": "grok-imagine-image-pro"}, 404),
        ({"model": ""}, 404),
        ({"user": 7}, 422),
        ({"storage_options": {}}, 422),
        ({"storage_options": {"filename": "a", "public": True}}, 400),
        ({"prompt": "a [sandbox:mystery]"}, 400),
    ],
)
def test_a_generation_that_does_not_fit_is_refused_and_free(client, fields, status):
    assert error(send(client, "images/generations", {"model": FIRST, "prompt": "a fox", **fields}))[0] == status
    assert tally(client)["accepted"] == 0


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"image": link(), "images": [link()]}, 400),
        ({"image": [link()]}, 422),
        ({"images": link()}, 422),
        ({"images": []}, 422),
        ({"images": [link()] * 6}, 422),
        ({"image": link(), "aspect_ratio": "1:1"}, 400),
        ({"image": "data:image/png;base64,AAAA"}, 422),
        ({"image": {"url": "https://example.com/a.png"}}, 400),
        ({"image": {"file_id": "file-1"}}, 404),
        ({"image": {**link(), "type": "png"}}, 400),
        ({"image": {**link(), "detail": "high"}}, 400),
        ({"image": link(b"no image")}, 400),
        ({"image": link(mime="image/gif")}, 400),
        ({"image": {"url": "data:image/png;base64,%"}}, 400),
        ({"image": link(), "mask": link()}, 400),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_free(client, fields, status):
    assert error(edit(client, **fields))[0] == status
    assert tally(client)["accepted"] == 0


def test_only_json_is_taken(client):
    parts = {"prompt": "a fox", "image": (io.BytesIO(png()), "a.png")}
    answer = client.post("/xai/v1/images/edits", data=parts, headers=KEY, content_type="multipart/form-data")
    assert error(answer)[0] == 415
    for text in ("{", "[]"):
        path = "/xai/v1/images/generations"
        assert client.post(path, data=text, headers=KEY, content_type="application/json").status_code in {400, 422}


# ---------------------------------------------------------------- refusals and errors


def test_moderation_comes_as_400_with_or_without_a_bill_or_as_200(client):
    code = "imagine:content-moderated"
    refused = generate(client, "a fox [sandbox:refuse]")
    assert error(refused)[:2] == (400, code)
    assert "usage" not in refused.get_json()
    billed = generate(client, "a fox [sandbox:fail=moderation]", n=2)
    assert error(billed)[:2] == (400, code)
    assert billed.get_json()["usage"] == {"cost_in_usd_ticks": 400_000_000}
    withheld = generate(client, "a fox [sandbox:fail=withheld]", n=2, response_format="b64_json").get_json()["data"]
    assert [item["respect_moderation"] for item in withheld] == [False, False]
    assert ["b64_json" in item for item in withheld] == [True, False]
    assert generate(client, "a fox [sandbox:empty]").get_json()["data"] == []
    assert len(generate(client, "a fox [sandbox:fewer=2]", n=3).get_json()["data"]) == 1


@pytest.mark.parametrize(
    ("marker", "status"), [("quota", 403), ("quota=new", 403), ("quota=429", 429), ("429", 429), ("503", 503)]
)
def test_errors_are_flat_nested_or_text(client, marker, status):
    words = error(generate(client, f"a fox [sandbox:{marker}]"))[2]
    nested = generate(client, f"a fox [sandbox:{marker} envelope=nested]")
    assert (nested.status_code, nested.get_json()["error"]["message"]) == (status, words)
    text = generate(client, f"a fox [sandbox:{marker} envelope=text]")
    assert (text.status_code, text.get_data(as_text=True)) == (status, words)


# ---------------------------------------------------------------- what costs nothing


def test_models_and_the_key_can_be_looked_at(client):
    def get(path, headers=KEY):
        return client.get(f"/xai/v1/{path}", headers=headers).get_json()

    assert {FIRST, CURRENT} < {each["id"] for each in get("models")["data"]}
    assert [each["id"] for each in get("image-generation-models")["models"]] == [FIRST, CURRENT]
    assert get(f"image-generation-models/{FIRST}")["image_price"] == 2
    assert get("api-key")["team_blocked"] is False
    assert get("api-key", {"Authorization": "Bearer no-quota"})["team_blocked"] is True


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "grok-3"}, 404),
        ({"messages": []}, 422),
        ({"temperature": 3}, 400),
        ({"store": True}, 400),
        ({}, 200),
    ],
)
def test_chat_is_checked_too(client, fields, status):
    document = {"model": "grok-4.3", "messages": [{"role": "user", "content": "a kite"}], **fields}
    assert send(client, "chat/completions", document).status_code == status
