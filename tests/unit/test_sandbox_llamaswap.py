"""The llama-swap emulator: a proxy that loads models, and an sd-server that reads settings from the tag alone."""

import base64
import io
import json

import pytest
from PIL import Image

from sandbox.settings import Settings
from sandbox.wsgi import create_app

GENERATE, EDIT, WEB_UI = "/v1/images/generations", "/v1/images/edits", "/sdapi/v1/txt2img"
JOBS = "/upstream/z-image/sdcpp/v1"
SMALL = {"model": "z-image", "prompt": "a red kite", "size": "64x64"}


@pytest.fixture
def client():
    return create_app(Settings(latency_s=0, chat_delta_s=0)).test_client()


def post(client, path, headers=None, **fields):
    return client.post(f"/llamaswap{path}", json=fields, headers=headers or {})


def generate(client, **fields):
    return post(client, GENERATE, **{**SMALL, **fields})


def tagged(**settings):
    return f"a red kite <sd_cpp_extra_args>{json.dumps(settings)}</sd_cpp_extra_args>"


def images(answer):
    return [base64.b64decode(item["b64_json"]) for item in answer.get_json()["data"]]


def size(blob):
    return Image.open(io.BytesIO(blob)).size


def png(mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, (64, 64)).save(out, "PNG")
    return out.getvalue()


def test_plain_settings_are_ignored_and_the_tag_is_not(client):
    default = images(generate(client))
    assert images(generate(client, seed=7)) == default
    assert images(generate(client, prompt=tagged(seed=42))) == default
    assert images(generate(client, prompt=tagged(seed=7))) != default


def test_only_the_first_tag_counts_and_it_wins_over_everything(client):
    told = tagged(width=128, batch_count=2, seed=7) + tagged(seed=8).removeprefix("a red kite")
    found = images(generate(client, prompt=told, n=4))
    assert [size(blob) for blob in found] == [(128, 64)] * 2
    assert found[0] == images(generate(client, prompt=tagged(seed=7, width=128)))[0]
    assert found[1] == images(generate(client, prompt=tagged(seed=8, width=128)))[0]


def test_a_tag_over_two_lines_is_none(client):
    told = "a red kite <sd_cpp_extra_args>{\n}</sd_cpp_extra_args>"
    assert images(generate(client, prompt=told)) != images(generate(client))


def test_counts_are_clamped_and_sides_rounded_up(client):
    assert len(images(generate(client, n=50))) == 8
    assert size(images(generate(client, size="65x64"))[0]) == (80, 64)
    assert size(images(generate(client, size="65x64", model="sdxl"))[0]) == (128, 64)


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({"prompt": " "}, 400, "prompt required"),
        ({"prompt": "x <sd_cpp_extra_args>{</sd_cpp_extra_args>"}, 400, "invalid sd_cpp_extra_args"),
        ({"prompt": tagged(steps=4)}, 400, "invalid sd_cpp_extra_args"),
        ({"prompt": tagged(seed="7")}, 400, "invalid sd_cpp_extra_args"),
        ({"prompt": tagged(sample_params={"sample_method": "magic"})}, 400, "invalid sd_cpp_extra_args"),
        ({"wobble": 1}, 400, "invalid params"),
        ({"size": "large"}, 400, "invalid params"),
        ({"seed": None}, 500, "server_error"),
        ({"n": "2"}, 500, "server_error"),
        ({"model": "qwen-chat"}, 400, "loaded model does not support img_gen"),
    ],
)
def test_sd_server_refuses(client, fields, status, error):
    answer = generate(client, **fields)
    assert (answer.status_code, answer.get_json()["error"]) == (status, error)


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [(None, 404, "not_found"), ("no-such", 404, "not_found"), ("broken-model", 500, "internal_error")],
)
def test_the_proxy_refuses_in_its_own_name(client, model, status, code):
    answer = generate(client, model=model)
    assert (answer.status_code, answer.get_json()["src"]) == (status, "llama-swap")
    assert answer.get_json()["error"]["code"] == code
    old = post(client, GENERATE, {"x-api-key": "old-build"}, **{**SMALL, "model": model})
    assert isinstance(old.get_json()["error"], str)


def test_a_process_that_dies_says_nothing(client):
    answer = generate(client, model="dying-model")
    assert (answer.status_code, answer.data) == (502, b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer bad-key"},
        {"Authorization": "Basic " + base64.b64encode(b"any:bad-key").decode()},
        {"x-api-key": "bad-key"},
    ],
)
def test_a_bad_key_by_any_of_three_ways(client, headers):
    answer = post(client, GENERATE, headers, **SMALL)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert client.get("/llamaswap/health", headers=headers).data == b"OK"
    assert generate(client).status_code == 200


def test_the_web_ui_tells_its_seeds(client):
    small = {"model": "z-image", "prompt": "a red kite", "width": 64, "height": 64}
    answer = post(client, WEB_UI, **small, seed=7, batch_size=2).get_json()
    assert json.loads(answer["info"])["all_seeds"] == [7, 8]
    assert post(client, WEB_UI, **small, init_images=[]).status_code == 400
    assert post(client, WEB_UI, **{**small, "width": 0}).get_json()["error"] == "width and height must be positive"
    drawn = json.loads(post(client, WEB_UI, **small).get_json()["info"])["seed"]
    assert drawn >= 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_mask_must_be_grey(client, mode):
    fields = {"model": "z-image", "prompt": "snow", "init_images": [base64.b64encode(png()).decode()]}
    for kind, status in (("L", 200), (mode, 400)):
        mask = base64.b64encode(png(kind)).decode()
        assert post(client, "/sdapi/v1/img2img", **fields, mask=mask).status_code == status


@pytest.mark.parametrize(
    ("names", "fields", "error"),
    [
        ([], {}, "at least one image[] required"),
        (["image", "image"], {}, "invalid params"),
        (["image[]"], {"output_format": "webp"}, "invalid output_format, must be one of [png, jpeg]"),
        (["image", "photo"], {}, "invalid params"),
    ],
)
def test_edits_refuse(client, names, fields, error):
    data = {"model": "z-image", "prompt": "snow", **fields}
    for name in names:
        data.setdefault(name, []).append((io.BytesIO(png()), "a.png", "image/png"))
    answer = client.post(f"/llamaswap{EDIT}", data=data, content_type="multipart/form-data")
    assert (answer.status_code, answer.get_json()["error"]) == (400, error)


def test_a_job_expires_is_forgotten_and_ends_with_its_process(client):
    taken = post(client, f"{JOBS}/img_gen", prompt="a kite", width=64, height=64)
    number = taken.get_json()["id"]
    assert (taken.status_code, taken.get_json()["poll_url"]) == (202, f"/sdcpp/v1/jobs/{number}")
    look = f"/llamaswap{JOBS}/jobs/{number}"
    assert client.get(look).get_json()["status"] == "completed"
    for ahead_s, status in ((601, 410), (600, 404)):
        client.post("/control/clock", json={"advance_s": ahead_s})
        assert client.get(look).status_code == status
    other = post(client, f"{JOBS}/img_gen", prompt="a kite").get_json()["id"]
    assert generate(client, model="sdxl").status_code == 200
    assert client.get(f"/llamaswap{JOBS}/jobs/{other}").get_json() == {"error": "job not found"}


def test_waiting_jobs_know_their_place(client):
    numbers = [post(client, f"{JOBS}/img_gen", prompt="a kite [sandbox:latency=60]").get_json()["id"] for _ in range(2)]
    looks = [client.get(f"/llamaswap{JOBS}/jobs/{number}").get_json() for number in numbers]
    assert [look["queue_position"] for look in looks] == [1, 2]
    cancelled = client.post(f"/llamaswap{JOBS}/jobs/{numbers[0]}/cancel").get_json()
    assert (cancelled["status"], cancelled["error"]["code"]) == ("cancelled", "cancelled")
    client.post("/control/clock", json={"advance_s": 30})
    assert client.post(f"/llamaswap{JOBS}/jobs/{numbers[1]}/cancel").status_code == 409


def test_what_is_loaded_shows(client):
    assert client.get("/llamaswap/running").get_json() == {"running": []}
    generate(client)
    assert client.get("/llamaswap/running").get_json()["running"][0]["model"] == "z-image"
    listed = {entry["id"]: entry for entry in client.get("/llamaswap/v1/models").get_json()["data"]}
    assert listed["z-image"]["status"] == {"value": "loaded"}
    assert listed["qwen-chat"]["capabilities"]["image_generation"] is False
    assert client.get("/llamaswap/unload").data == b"OK"
    assert client.get("/llamaswap/running").get_json() == {"running": []}
    assert client.get(f"/llamaswap{JOBS}/capabilities").get_json()["features"]["cancel_generating"] is False
    assert client.get("/llamaswap/v1/images/variations").data == b"404 page not found\n"


def test_a_look_at_an_unknown_job_meets_the_faults_of_a_check(client):
    rule = {"provider": "llamaswap", "route": "check", "faults": "503", "count": 1}
    assert client.post("/control/faults", json=rule).status_code == 201
    assert [client.get(f"/llamaswap{JOBS}/jobs/none").status_code for _look in range(2)] == [503, 404]
    assert client.get("/control/counts").get_json()["llamaswap"]["checks"] == 2
