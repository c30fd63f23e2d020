"""WaveSpeed's emulator is strict: a schema for every model, envelopes, tickets, history, and keys that stay away."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from sandbox.emulators import wavespeed
from sandbox.emulators.wavespeed.models import MODELS
from sandbox.settings import Settings
from sandbox.wsgi import create_app

MODELS_FILE = Path(wavespeed.__file__).with_name("models.jsonl")
LINK = "https://cdn.example/a.png"
KEY = {"Authorization": "Bearer wsk_anything"}
API = "/wavespeed/api/v3"
FLUX, EDIT, PLUS = "wavespeed-ai/flux-dev", "wavespeed-ai/qwen-image/edit", "wavespeed-ai/qwen-image/edit-plus"
ERASER, FILL, BANANA = "bria/eraser", "wavespeed-ai/flux-fill-dev", "google/nano-banana/text-to-image"


@pytest.fixture
def client():
    return create_app(Settings(latency_s=0, prepared=True)).test_client()


def data_uri(mode="RGB", colour="navy", size=(64, 48)):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


IMAGE, GREY = data_uri(), data_uri("L", 255)


def submit(client, path=FLUX, headers=KEY, **given):
    return client.post(f"{API}/{path}", json={"prompt": "a red kite", **given}, headers=headers)


def looked_at(client, answer, headers=KEY):
    return client.get(f"{API}/predictions/{answer.get_json()['data']['id']}/result", headers=headers)


def tally(client):
    return client.get("/control/counts").get_json()["wavespeed"]


def test_a_submit_is_queued_and_a_look_shows_the_result(client):
    begun = submit(client, size="256*320", num_images=2)
    assert begun.get_json()["code"] == 200
    first = begun.get_json()["data"]
    assert (first["status"], first["outputs"], first["error"]) == ("created", [], "")
    assert first["urls"]["get"].endswith(f"/api/v3/predictions/{first['id']}/result")
    done = looked_at(client, begun).get_json()["data"]
    assert (done["status"], done["has_nsfw_contents"]) == ("completed", [False, False])
    drawn = client.get(done["outputs"][1])
    assert Image.open(io.BytesIO(drawn.data)).size == (256, 320)
    assert drawn.content_type == "image/jpeg"


@pytest.mark.parametrize(
    ("path", "given", "word"),
    [
        (FLUX, {"steps": 20}, "'steps' is not supported"),
        (FLUX, {"webhook": "https://h.example/"}, "'webhook' is not supported"),
        (FLUX, {"prompt": ""}, "must not be empty"),
        (FLUX, {"prompt": None}, "type string"),
        (FLUX, {"prompt": 5}, "type string"),
        (FLUX, {"size": "1024x1024"}, "WIDTH*HEIGHT"),
        (FLUX, {"size": "128*1024"}, "at least 256"),
        (FLUX, {"size": "1024*2048"}, "at most 1536"),
        (FLUX, {"num_images": 5}, "at most 4"),
        (FLUX, {"num_images": "2"}, "type integer"),
        (FLUX, {"num_images": True}, "type integer"),
        (FLUX, {"num_inference_steps": 0}, "at least 1"),
        (FLUX, {"guidance_scale": 0.5}, "at least 1"),
        (FLUX, {"strength": 1.5}, "at most 1"),
        (FLUX, {"seed": -2}, "at least -1"),
        (FLUX, {"output_format": "gif"}, "one of jpeg, png, webp"),
        (FLUX, {"enable_sync_mode": "true"}, "type boolean"),
        (FLUX, {"image": "AAAA"}, "valid URL"),
        (EDIT, {}, "'image' is missing"),
        (EDIT, {"image": [IMAGE]}, "type string"),
        (EDIT, {"image": "data:image/png;base64,AAAA"}, "not an image"),
        (PLUS, {"images": IMAGE}, "type array"),
        (PLUS, {"images": []}, "at least 1"),
        (PLUS, {"images": [IMAGE] * 4}, "at most 3"),
        (FILL, {"image": IMAGE, "mask_image": GREY, "guidance_scale": 20}, "at least 28"),
        (FILL, {"image": IMAGE}, "'mask_image' is missing"),
        (FILL, {"image": IMAGE, "mask_image": data_uri("RGBA", (0, 0, 0, 0))}, "white marks what to change"),
        (BANANA, {"aspect_ratio": "2:1"}, "one of 1:1"),
        (BANANA, {"seed": 3}, "'seed' is not supported"),
        ("bytedance/seedream-v4.5", {"output_format": "png"}, "not supported"),
    ],
)
def test_an_input_outside_the_schema_is_refused(client, path, given, word):
    answer = submit(client, path, **given)
    assert (answer.status_code, answer.get_json()["code"]) == (400, 400)
    assert word in answer.get_json()["message"]
    assert tally(client)["accepted"] == 0


def test_a_body_is_a_json_object(client):
    for sent in ({"data": "prompt=kite"}, {"json": ["kite"]}, {"data": b"{", "content_type": "application/json"}):
        assert client.post(f"{API}/{FLUX}", headers=KEY, **sent).status_code == 400


@pytest.mark.parametrize(
    ("key", "code"), [(None, 401), ("Basic a2V5", 401), ("Bearer bad-key", 401), ("Bearer no-quota", 402)]
)
def test_keys_have_their_limits(client, key, code):
    headers = {"Authorization": key} if key else {}
    answer = submit(client, headers=headers)
    assert (answer.status_code, answer.get_json()["code"]) == (code, code)


def test_an_unknown_model_or_task_is_404_in_the_envelope(client):
    assert submit(client, "wavespeed-ai/sdxl").get_json() == {"code": 404, "message": "product not found"}
    assert client.get(f"{API}/predictions/none/result", headers=KEY).get_json()["message"] == "task not found"
    begun = submit(client)
    assert looked_at(client, begun, {"Authorization": "Bearer another"}).status_code == 404
    assert client.get(f"{API}/nothing", headers=KEY).get_json()["code"] in (404, 405)


def test_a_webhook_is_a_query_parameter_and_https(client):
    for query, status in (("webhook=http://h.example/", 400), ("webhook_url=https://h.example/", 400)):
        assert client.post(f"{API}/{FLUX}?{query}", json={"prompt": "kite"}, headers=KEY).status_code == status


def test_the_history_needs_its_pages_and_filters(client):
    for number in range(3):
        submit(client, prompt=f"kite {number}")
    submit(client, BANANA)

    def listed(**asked):
        return client.post(f"{API}/predictions", json=asked, headers=KEY)

    assert listed(page=1).status_code == listed(page=1, page_size=101).status_code == 400
    assert listed(page=1, page_size=10, models="x").status_code == 400
    assert not any("input" in item for item in listed(page=1, page_size=10).get_json()["data"]["items"])
    client.put("/control/settings", json={"history_shows_input": True})
    prompts = [item["input"]["prompt"] for item in listed(page=2, page_size=2, model=FLUX).get_json()["data"]["items"]]
    assert prompts == ["kite 0"]
    assert listed(page=1, page_size=10, status="failed").get_json()["data"]["items"] == []
    late = listed(page=1, page_size=10, created_after="2099-01-01T00:00:00Z")
    assert late.get_json()["data"]["items"] == []
    client.post("/control/clock", json={"advance_s": 8 * 86400})
    assert listed(page=1, page_size=10).get_json()["data"]["items"] == []


def ticket(client, blob):
    asked = {"filename": "a.png", "size": len(blob), "content_type": "image/png"}
    return client.post(f"{API}/media/uploads", json=asked, headers=KEY).get_json()["data"]


def test_an_upload_needs_the_headers_of_its_ticket_and_no_key(client):
    blob = base64.b64decode(IMAGE.partition(",")[2])
    given = ticket(client, blob)
    url, headers = given["upload"]["url"], given["upload"]["headers"]
    assert client.put(url, data=blob, headers={**headers, **KEY}).get_json()["message"] == "key leaked"
    assert client.put(url, data=blob, headers={"Content-Type": "image/png"}).status_code == 403
    assert client.put(url, data=blob[:-1], headers=headers).status_code == 400
    unstored = submit(client, EDIT, image=given["download_url"])
    assert looked_at(client, unstored).get_json()["data"]["code"] == 1402
    assert client.put(url, data=blob, headers=headers).status_code == 204
    assert client.get(given["download_url"]).data == blob
    stored = submit(client, EDIT, image=given["download_url"])
    assert looked_at(client, stored).get_json()["data"]["status"] == "completed"


@pytest.mark.parametrize("asked", [{"size": 3}, {"filename": "a/b.png", "size": 3}, {"filename": "a", "size": 0}])
def test_a_ticket_needs_a_name_and_a_size(client, asked):
    assert client.post(f"{API}/media/uploads", json=asked, headers=KEY).status_code == 400


def test_the_older_upload_goes_in_one_step(client):
    sent = {"file": (io.BytesIO(b"bytes"), "a.png", "image/png")}
    done = client.post(f"{API}/media/upload/binary", data=sent, headers=KEY).get_json()["data"]
    assert (done["filename"], done["size"]) == ("a.png", 5)
    assert client.get(done["download_url"]).data == b"bytes"


def test_a_key_on_a_result_link_has_leaked(client):
    link = looked_at(client, submit(client)).get_json()["data"]["outputs"][0]
    assert client.get(link, headers=KEY).get_json()["message"] == "key leaked"
    assert client.get(link).status_code == 200


def test_base64_and_sync_mode(client):
    answer = submit(client, enable_sync_mode=True, enable_base64_output=True, size="256*256").get_json()["data"]
    assert answer["status"] == "completed"
    assert Image.open(io.BytesIO(base64.b64decode(answer["outputs"][0]))).size == (256, 256)
    late = submit(client, enable_sync_mode=True, prompt="kite [sandbox:never]").get_json()["data"]
    assert (late["status"], late["code"]) == ("processing", 5004)


def test_one_partner_writes_its_answer_in_its_own_way(client):
    given = {"image": IMAGE, "source_image": [IMAGE], "target_image": [IMAGE]}
    begun = client.post(f"{API}/akool/image-face-swap", json=given, headers=KEY)
    done = looked_at(client, begun).get_json()["data"]
    assert (done["status"], done["outputs"]) == ("succeeded", None)
    assert done["output"].startswith("http")


def test_a_restart_fails_what_is_under_way(client):
    begun = submit(client, prompt="kite [sandbox:latency=60]")
    assert looked_at(client, begun).get_json()["data"]["status"] == "created"
    client.post("/control/clock", json={"advance_s": 10})
    assert looked_at(client, begun).get_json()["data"]["status"] == "processing"
    assert client.post("/control/restart", json={"provider": "wavespeed"}).get_json() == {"wavespeed": 1}
    assert looked_at(client, begun).get_json()["data"]["code"] == 5000


@pytest.fixture(scope="module")
def one_client():
    return create_app(Settings(latency_s=0, prepared=True, edge_max_px=64)).test_client()


LISTED = [json.loads(line) for line in MODELS_FILE.read_text("utf-8").splitlines()]


def least(model):
    """What the vendor's list requires of an order, and no more."""
    return {name: told_value(name, model["input"][name]) for name in model["required"]}


def told_value(name, told):
    if told.get("type") == "array":
        one = told_value(name, {"type": told.get("items")})
        return [one] * told.get("minItems", 1)
    if "enum" in told or "default" in told:
        return told["enum"][0] if "enum" in told else told["default"]
    if told["type"] == "string":
        return LINK if name.endswith("_url") else IMAGE if "image" in name else "a red kite"
    return {"object": {}, "boolean": True}.get(told["type"], told.get("minimum", 1))


@pytest.mark.parametrize("model", LISTED, ids=[model["id"] for model in LISTED])
def test_each_model_of_the_vendors_list_can_be_ordered_and_has_its_schema(one_client, model):
    client, given = one_client, least(model)
    begun = client.post(f"{API}/{model['id']}", json=given, headers=KEY)
    assert begun.status_code == 200, begun.get_json()
    done = looked_at(client, begun).get_json()["data"]
    assert done["status"] in ("completed", "succeeded")
    assert done["outputs"] or done["output"]
    stray = client.post(f"{API}/{model['id']}", json={**given, "stray": 1}, headers=KEY)
    assert "'stray' is not supported" in stray.get_json()["message"]
    for name in model["required"]:
        without = {key: value for key, value in given.items() if key != name}
        lacking = client.post(f"{API}/{model['id']}", json=without, headers=KEY)
        assert f"'{name}' is missing" in lacking.get_json()["message"]


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ([1, 2, 3], "type object"),
        ([{"width": 1, "height": 2}], "length"),
        ([{"width": 1, "height": 2, "length": 3, "depth": 4}], "depth"),
        ([{"width": 1, "height": 2, "length": 3}], None),
    ],
)
def test_the_box_of_a_3d_model_is_a_list_of_objects(client, box, word):
    answer = submit(client, "hyper3d/rodin-v2/text-to-3d", bbox_condition=box)
    assert answer.status_code == (200 if word is None else 400)
    assert word is None or word in answer.get_json()["message"]


def test_the_account_and_the_models_can_be_asked_for(client):
    assert client.get(f"{API}/balance", headers=KEY).get_json()["data"] == {"balance": 12.34}
    assert client.get(f"{API}/webhook/secret", headers=KEY).get_json()["data"]["secret"].startswith("whsec_")
    listed = {model["model_id"]: model for model in client.get(f"{API}/models", headers=KEY).get_json()["data"]}
    assert listed.keys() == MODELS.keys()
    schema = listed[FLUX]["api_schema"]["api_schemas"][0]["request_schema"]
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["num_images"] == {"type": "integer", "minimum": 1, "maximum": 4, "default": 1}
    quote = client.post(f"{API}/model/price", json={"model_id": FLUX, "inputs": {"prompt": "k"}}, headers=KEY)
    assert quote.get_json()["data"]["currency"] == "USD"


def test_the_image_that_is_changed_comes_before_the_face_that_is_put_into_it(client):
    for path, model in MODELS.items():
        named = model.image_fields
        assert not {"image", "images"} & set(named) or named[0] in {"image", "images"}, path
    base, face = data_uri(size=(96, 64)), data_uri(size=(32, 32))
    begun = client.post(f"{API}/wavespeed-ai/image-face-swap", json={"image": base, "face_image": face}, headers=KEY)
    done = looked_at(client, begun).get_json()["data"]
    assert Image.open(io.BytesIO(client.get(done["outputs"][0]).data)).size == (96, 64)
