"""The Hugging Face emulator is as strict as the providers behind the router, each in its own words."""

import base64
import io

import pytest
from PIL import Image

from sandbox.settings import Settings
from sandbox.wsgi import create_app

KEY = {"Authorization": "Bearer hf_anything"}
HF = "/huggingface/hf-inference/models/stabilityai/stable-diffusion-3-medium-diffusers"
FAL, FAL_EDIT = "/huggingface/fal-ai/fal-ai/flux/dev", "/huggingface/fal-ai/fal-ai/flux-2/klein/9b/edit"
NSCALE = "/huggingface/nscale/v1/images/generations"
WAVESPEED_EDIT = "/huggingface/wavespeed/api/v3/wavespeed-ai/flux-2-dev/edit"
SCHNELL = {"model": "black-forest-labs/FLUX.1-schnell", "response_format": "b64_json"}
BOX = {"width": 128, "height": 64}


@pytest.fixture
def client():
    return create_app(Settings(latency_s=0)).test_client()


def uri(kind="png"):
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, kind.upper())
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def post(client, path, headers=KEY, **fields):
    return client.post(path, json={"prompt": "a kite", **fields}, headers=headers)


def test_the_raw_image_has_the_size_asked(client):
    answer = client.post(HF, json={"inputs": "a kite", "parameters": BOX}, headers=KEY)
    assert answer.content_type == "image/png"
    assert Image.open(io.BytesIO(answer.data)).size == (128, 64)
    assert answer.headers["x-request-id"].startswith("Root=1-")


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        (HF, {"inputs": "a", "wobble": 1}, 422),
        (HF, {"inputs": "a", "parameters": {"wobble": 1}}, 422),
        (HF, {"inputs": "a", "parameters": {"width": "128"}}, 422),
        (HF, {"parameters": {}}, 422),
        (HF.replace("stable-diffusion-3-medium-diffusers", "sdxl"), {"inputs": "a"}, 400),
        (FAL, {"prompt": "a", "width": 128}, 422),
        (FAL, {"prompt": "a", "image_size": {"width": 128}}, 422),
        (FAL, {"prompt": "a", "seed": None}, 422),
        (FAL, {"prompt": "a", "num_images": 2}, 422),
        (FAL, {}, 422),
        (FAL_EDIT, {"prompt": "a", "image_url": uri()}, 422),
        (FAL_EDIT, {"prompt": "a", "image_url": uri(), "image_urls": [uri("jpeg")]}, 422),
        (FAL_EDIT, {"prompt": "a", "image_url": "https://x.test/a.png", "image_urls": ["https://x.test/a.png"]}, 422),
        (f"{FAL}?_subdomain=other", {"prompt": "a"}, 400),
        (NSCALE, {"prompt": "a", **SCHNELL, "num_inference_steps": 4}, 422),
        (NSCALE, {"prompt": "a", **SCHNELL, "size": "128*64"}, 422),
        (NSCALE, {"prompt": "a", **SCHNELL, "response_format": "url"}, 422),
        (NSCALE, {"prompt": "a", **SCHNELL, "model": "other"}, 404),
        (WAVESPEED_EDIT, {"prompt": "a", "images": [uri()]}, 422),
        (WAVESPEED_EDIT, {"prompt": "a"}, 422),
        ("/huggingface/fal-ai/fal-ai/elsewhere", {"prompt": "a"}, 404),
    ],
)
def test_what_is_refused(client, path, fields, status):
    assert client.post(path, json=fields, headers=KEY).status_code == status
    assert client.get("/control/counts").get_json()["huggingface"]["accepted"] == 0


def test_each_provider_refuses_in_its_own_shape(client):
    assert client.post(HF, json={"inputs": 7}, headers=KEY).get_json()["error"].startswith("inputs")
    assert post(client, FAL, wobble=1).get_json()["detail"][0]["type"] == "extra_forbidden"
    assert "message" in post(client, NSCALE, **SCHNELL, wobble=1).get_json()["error"]
    assert post(client, WAVESPEED_EDIT, image=uri(), wobble=1).get_json()["code"] == 422


@pytest.mark.parametrize(
    ("key", "status"), [("", 401), ("Bearer bad-key", 401), ("Bearer no-quota", 402), ("Bearer no-org", 403)]
)
def test_keys_with_a_meaning(client, key, status):
    answer = post(client, FAL, headers={"Authorization": key} if key else {})
    assert answer.status_code == status
    assert isinstance(answer.get_json()["error"], str)


def test_a_queue_answers_with_links_to_another_host_and_path(client):
    taken = post(client, f"{FAL}?_subdomain=queue", image_size=BOX).get_json()
    assert taken["response_url"] == f"https://queue.fal.run/fal-ai/flux/requests/{taken['request_id']}"
    path = taken["response_url"].replace("https://queue.fal.run", "/huggingface/fal-ai")
    assert client.get(f"{path}/status", headers=KEY).status_code == 404
    assert client.get(f"{path}/status?_subdomain=queue", headers=KEY).get_json()["status"] == "COMPLETED"
    [image] = client.get(f"{path}?_subdomain=queue", headers=KEY).get_json()["images"]
    assert client.get(image["url"]).status_code == 200
    assert client.get(image["url"], headers=KEY).get_json() == {"error": "key leaked"}


def test_fal_answers_at_once_too(client):
    answer = post(client, FAL, image_size=BOX, seed=7).get_json()
    assert (answer["seed"], answer["has_nsfw_concepts"]) == (7, [False])
    assert Image.open(io.BytesIO(client.get(answer["images"][0]["url"]).data)).size == (128, 64)


def test_wavespeed_counts_its_states(client):
    taken = post(client, WAVESPEED_EDIT, image=uri(), prompt="a kite [sandbox:latency=60]").get_json()["data"]
    path = taken["urls"]["get"].replace("https://api.wavespeed.ai", "/huggingface/wavespeed")
    seen = [taken["status"]]
    for _ in range(2):
        client.post("/control/clock", json={"advance_s": 31})
        seen.append(client.get(path, headers=KEY).get_json()["data"]["status"])
    assert seen == ["created", "processing", "completed"]
    client.post("/control/restart", json={"provider": "huggingface"})
    assert client.get(path, headers=KEY).status_code == 404


def test_the_hub_needs_no_key_and_maps_what_there_is(client):
    told = client.get("/huggingface/api/models/Qwen/Qwen-Image?expand[]=inferenceProviderMapping").get_json()
    assert told["inferenceProviderMapping"]["fal-ai"]["task"] == "text-to-image"
    plain = client.get("/huggingface/api/models/Qwen/Qwen-Image").get_json()
    assert plain["pipeline_tag"] == "text-to-image"
    assert client.get("/huggingface/api/models/no/such").status_code == 404


def test_a_limit_tells_the_time_until_its_reset(client):
    answer = post(client, FAL, prompt="a kite [sandbox:429]")
    assert answer.headers["RateLimit"] == '"api";r=0;t=55'
    assert "RateLimit" not in post(client, FAL, prompt="a kite [sandbox:429 retry_after=3]").headers
    loading = client.post(HF, json={"inputs": "a kite [sandbox:503]"}, headers=KEY)
    assert loading.get_json()["estimated_time"] == 20.0


def test_a_missing_file_is_counted_and_meets_the_faults_of_a_download(client):
    rule = {"provider": "huggingface", "route": "download", "faults": "503", "count": 1}
    assert client.post("/control/faults", json=rule).status_code == 201
    assert [client.get("/huggingface/cdn/none.png").status_code for _look in range(2)] == [503, 404]
    assert client.get("/control/counts").get_json()["huggingface"]["downloads"] == 2
