"""The FLUX emulator is as strict as the contract: fields per model, envelopes, states, hosts and links."""

import base64
import io
from urllib.parse import urlsplit

import pytest
from PIL import Image

from sandbox.settings import Settings
from sandbox.state import Clock
from sandbox.wsgi import create_app

KEY = {"x-key": "any"}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(clock):
    return create_app(Settings(latency_s=0, prepared=True), clock=clock).test_client()


def base64_image(size=(320, 256), mode="RGB", colour=(20, 40, 200)):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def submit(client, model="flux-2-pro", headers=KEY, **fields):
    return client.post(f"/flux/v1/{model}", json={"prompt": "a red kite", **fields}, headers=headers)


def look(client, task, **headers):
    url = urlsplit(task["polling_url"])
    return client.get(f"{url.path}?{url.query}", headers=headers, base_url=f"http://{url.netloc}")


def result(client, **fields):
    return look(client, submit(client, **fields).get_json())


def file(client, answer):
    return client.get(answer.get_json()["result"]["sample"])


def opened(answer):
    assert answer.status_code == 200
    return Image.open(io.BytesIO(answer.data))


def fault(answer):
    """Where and what, of the first of FastAPI's faults."""
    assert answer.status_code == 422
    first = answer.get_json()["detail"][0]
    return first["loc"][1:], first["type"]


def tally(client):
    return client.get("/control/counts").get_json().get("flux", {})


def test_a_submit_answers_with_id_poll_url_and_price(client):
    task = submit(client).get_json()
    assert set(task) == {"id", "polling_url", "cost", "input_mp", "output_mp"}
    assert task["polling_url"].endswith(f"/flux/v1/get_result?id={task['id']}")
    assert (task["cost"], task["output_mp"]) == (3.0, 1.0)


def test_with_a_webhook_there_is_no_poll_url_but_the_canonical_one_works(client):
    task = submit(client, webhook_url="https://queue.example/hook").get_json()
    assert set(task) == {"id", "status", "webhook_url", "cost", "input_mp", "output_mp"}
    assert client.get(f"/flux/v1/get_result?id={task['id']}").get_json()["status"] == "Ready"


def test_a_finished_task_has_a_link_a_seed_and_the_prompt_that_was_used(client):
    ready = result(client, model="flux-2-flex", seed=7, prompt_upsampling=True).get_json()
    assert set(ready) == {"id", "status", "result", "progress", "details", "preview", "cost"}
    assert set(ready["result"]) == {"sample", "prompt", "seed", "start_time", "end_time", "duration"}
    assert (ready["result"]["seed"], ready["result"]["prompt"]) == (7, "a red kite, in fine detail")


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        ("flux-2-pro", {"prompt": None}, (["prompt"], "string_type")),
        ("flux-2-pro", {"width": 100}, (["width"], "multiple_of")),
        ("flux-2-pro", {"width": 0}, (["width"], "greater_than_equal")),
        ("flux-2-pro", {"width": 4096, "height": 2048}, (["width"], "value_error")),
        ("flux-2-pro", {"safety_tolerance": 6}, (["safety_tolerance"], "less_than_equal")),
        ("flux-2-pro", {"steps": 20}, (["steps"], "extra_forbidden")),
        ("flux-2-pro", {"input_image_9": "x"}, (["input_image_9"], "extra_forbidden")),
        ("flux-2-klein-4b", {"input_image_5": "x"}, (["input_image_5"], "extra_forbidden")),
        ("flux-2-flex", {"steps": 51}, (["steps"], "less_than_equal")),
        ("flux-2-flex", {"guidance": 1}, (["guidance"], "greater_than_equal")),
        ("flux-2-flex", {"guidance": "5"}, (["guidance"], "float_type")),
        ("flux-2-pro", {"seed": 1.5}, (["seed"], "int_from_float")),
        ("flux-2-pro", {"seed": True}, (["seed"], "int_type")),
        ("flux-2-pro", {"output_format": "jpg"}, (["output_format"], "enum")),
        ("flux-2-pro", {"webhook_url": "nowhere"}, (["webhook_url"], "url_parsing")),
        ("flux-2-pro", {"input_image": "data:image/png;base64,AAAA"}, (["input_image"], "value_error")),
        ("flux-2-pro", {"input_image": "AAAA"}, (["input_image"], "value_error")),
        ("flux-pro-1.1", {"width": 1456}, (["width"], "less_than_equal")),
        ("flux-pro-1.1", {"image_prompt": "https://a.example/x.png"}, (["image_prompt"], "value_error")),
        ("flux-pro-1.1", {"guidance": 3}, (["guidance"], "extra_forbidden")),
        ("flux-pro-1.1-ultra", {"width": 1024}, (["width"], "extra_forbidden")),
        ("flux-pro-1.1-ultra", {"num_images": 2}, (["num_images"], "extra_forbidden")),
        ("flux-pro-1.1-ultra", {"aspect_ratio": "22:9"}, (["aspect_ratio"], "value_error")),
        ("flux-pro-1.1-ultra", {"raw": 1}, (["raw"], "bool_type")),
        ("flux-kontext-pro", {"aspect_ratio": "auto"}, (["aspect_ratio"], "value_error")),
        ("flux-pro-1.0-fill", {}, (["image"], "missing")),
        ("flux-pro-1.0-fill", {"input_image": "x"}, (["image"], "missing")),
        ("flux-pro-1.0-expand", {"image": base64_image(), "left": 2049}, (["left"], "less_than_equal")),
        ("flux-pro-1.0-fill", {"image": base64_image(), "mask": base64_image((64, 64))}, (["mask"], "value_error")),
        ("flux-3-image", {"width": 1024}, (["width"], "extra_forbidden")),
        ("flux-3-image", {"seed": 1}, (["seed"], "extra_forbidden")),
        ("flux-3-image", {"webhook_url": "https://a.example"}, (["webhook_url"], "extra_forbidden")),
        ("flux-3-image", {"aspect_ratio": "6:5"}, (["aspect_ratio"], "enum")),
        ("flux-3-image", {"safety_tolerance": 5}, (["safety_tolerance"], "less_than_equal")),
        ("flux-3-image", {"images": [base64_image((255, 256))]}, (["images"], "value_error")),
        ("flux-3-image", {"images": []}, (["images"], "too_long")),
        ("flux-3-image", {"images": [base64_image()] * 11}, (["images"], "too_long")),
    ],
)
def test_a_bad_field_is_named(client, model, fields, expected):
    assert fault(submit(client, model, **fields)) == expected
    assert tally(client).get("accepted") == 0


def test_every_fault_is_told_at_once(client):
    faults = submit(client, width=1, steps=1).get_json()["detail"]
    assert [each["loc"] for each in faults] == [["body", "width"], ["body", "steps"]]


@pytest.mark.parametrize(
    ("model", "fields", "size", "file_format"),
    [
        ("flux-dev", {}, (1024, 768), "JPEG"),
        ("flux-pro-1.1", {"width": 320, "height": 256, "output_format": "webp"}, (320, 256), "WEBP"),
        ("flux-kontext-pro", {}, (1024, 1024), "PNG"),
        ("flux-kontext-pro", {"input_image": base64_image((512, 256))}, (1456, 720), "PNG"),
        ("flux-kontext-max", {"aspect_ratio": "4:5"}, (912, 1152), "PNG"),
        ("flux-2-max", {"width": 64, "height": 80}, (64, 80), "JPEG"),
        ("flux-2-klein-9b", {"input_image": base64_image((320, 256))}, (320, 256), "JPEG"),
        ("flux-pro-1.0-fill", {"image": base64_image()}, (320, 256), "JPEG"),
        ("flux-pro-1.0-expand", {"image": base64_image(), "top": 16, "right": 64}, (384, 272), "JPEG"),
        ("flux-3-image", {"resolution": "768sq"}, (768, 768), "JPEG"),
        ("flux-3-image", {"aspect_ratio": "2:1"}, (1456, 720), "JPEG"),
    ],
)
def test_each_family_has_its_sizes(client, model, fields, size, file_format):
    found = opened(file(client, result(client, model=model, **fields)))
    assert (found.size, found.format) == (size, file_format)


def test_ultra_is_four_megapixels(client):
    width, height = opened(file(client, result(client, model="flux-pro-1.1-ultra"))).size
    assert 3.9e6 < width * height < 4.3e6


def test_white_of_the_mask_is_repainted_and_black_is_kept(client):
    mask, out = Image.new("L", (320, 256), 0), io.BytesIO()
    mask.paste(255, (0, 0, 160, 256))
    mask.save(out, "PNG")
    fields = {"image": base64_image(), "mask": base64.b64encode(out.getvalue()).decode(), "output_format": "png"}
    found = opened(file(client, result(client, model="flux-pro-1.0-fill", **fields))).convert("RGB")
    assert found.crop((160, 0, 320, 256)).getcolors() == [(160 * 256, (20, 40, 200))]
    assert len(found.crop((0, 0, 160, 256)).getcolors(10**6)) > 100


def test_what_was_there_stays_when_an_image_is_expanded(client):
    fields = {"image": base64_image(), "left": 32, "output_format": "png"}
    found = opened(file(client, result(client, model="flux-pro-1.0-expand", **fields))).convert("RGB")
    assert found.crop((32, 0, 352, 256)).getcolors() == [(320 * 256, (20, 40, 200))]


@pytest.mark.parametrize(
    ("headers", "status", "detail"),
    [
        ({}, 403, "Not authenticated"),
        ({"Authorization": "Bearer any"}, 403, "Not authenticated"),
        ({"x-key": "bad-key"}, 403, "Invalid authentication token"),
        ({"x-key": "malformed-key"}, 422, "Invalid API key format"),
        ({"x-key": "no-quota"}, 402, "Insufficient credits. You can add credits to your account."),
    ],
)
def test_a_key_is_refused_in_the_words_of_the_real_one(client, headers, status, detail):
    answer = submit(client, headers=headers)
    assert (answer.status_code, answer.get_json()) == (status, {"detail": detail})


@pytest.mark.parametrize("model", ["flux-pro-1.0-canny", "flux-pro", "flux-kontext", "flux-fill", "flux-9"])
def test_paths_that_are_gone_are_not_found_before_the_key_is_looked_at(client, model):
    assert submit(client, model, headers={}).status_code == 404


def test_a_form_is_no_body(client):
    answer = client.post("/flux/v1/flux-2-pro", data={"prompt": "x"}, headers=KEY)
    assert fault(answer) == ([], "missing")


def test_the_balance_tries_a_key(client):
    assert client.get("/flux/v1/credits", headers=KEY).get_json() == {"credits": 123.45}
    assert client.get("/flux/v1/credits").status_code == 403


def test_a_task_goes_through_its_states_with_progress(client, clock):
    task = submit(client, prompt="slow [sandbox:latency=10]").get_json()
    seen = []
    for _ in range(6):
        answer = look(client, task).get_json()
        seen.append((answer["status"], answer["progress"] is not None and round(answer["progress"], 1)))
        clock.advance(2)
    assert [status for status, _ in seen] == ["Pending", "Reasoning", *["Generating"] * 3, "Ready"]
    assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)


def test_the_price_is_settled_with_the_result_where_the_submit_leaves_it_open(client):
    task = submit(client, "flux-3-image", resolution="768sq").get_json()
    assert task["cost"] is None
    assert look(client, task).get_json()["cost"] == 4.1


def test_the_25th_task_at_a_time_is_one_too_many_and_the_7th_of_kontext_max(client, clock):
    slow = {"prompt": "slow [sandbox:latency=10]"}
    assert [submit(client, "flux-kontext-max", **slow).status_code for _ in range(7)] == [200] * 6 + [429]
    assert [submit(client, **slow).status_code for _ in range(19)] == [200] * 18 + [429]
    assert submit(client, headers={"x-key": "another"}, **slow).status_code == 200
    clock.advance(11)
    assert submit(client, **slow).status_code == 200


@pytest.mark.parametrize(
    ("marker", "http", "status", "details"),
    [
        ("refuse", 200, "Request Moderated", str),
        ("fail=policy", 200, "Request Moderated", str),
        ("fail=moderation", 200, "Content Moderated", str),
        ("fail", 200, "Error", dict),
        ("fail=503", 503, "Error", dict),
        ("fail=failed", 200, "Failed", str),
        ("word=Warming_up, never", 200, "Warming up", type(None)),
    ],
)
def test_tasks_end_as_scripted(client, marker, http, status, details):
    answer = result(client, prompt=f"x [sandbox:{marker}]")
    document = answer.get_json()
    assert (answer.status_code, document["status"], document["result"]) == (http, status, None)
    assert isinstance(document["details"], details)


def test_content_is_refused_at_the_first_look_however_long_the_work(client):
    assert result(client, prompt="x [sandbox:refuse, latency=99]").get_json()["status"] == "Request Moderated"


def test_a_task_is_unknown_before_it_is_seen_and_after_it_expired(client, clock):
    task = submit(client, prompt="x [sandbox:unseen=3, expire=5]").get_json()
    seen = []
    for _ in range(3):
        seen.append(look(client, task).get_json()["status"])
        clock.advance(3)
    assert seen == ["Task not found", "Ready", "Task not found"]
    assert client.get("/flux/v1/get_result?id=none").get_json()["status"] == "Task not found"


def test_a_link_lives_ten_minutes(client, clock):
    ready = result(client)
    clock.advance(590)
    assert file(client, ready).status_code == 200
    clock.advance(20)
    assert file(client, ready).status_code == 403


def test_a_link_is_signed(client):
    url = result(client).get_json()["result"]["sample"]
    assert client.get(url.replace("sig=", "sig=0")).status_code == 403
    assert client.get(url.replace("se=", "se=9")).status_code == 403


def test_a_key_that_reaches_a_link_or_a_foreign_host_is_a_leak(client):
    task = submit(client, prompt="x [sandbox:poll_host=127.0.0.1:5000]").get_json()
    assert urlsplit(task["polling_url"]).netloc == "127.0.0.1:5000"
    assert look(client, task).status_code == 200
    for leak in (look(client, task, **KEY), client.get("/flux/delivery/a/sample.jpeg", headers=KEY)):
        assert (leak.status_code, leak.get_json()) == (400, {"detail": "key leaked"})
    assert look(client, submit(client).get_json(), **KEY).status_code == 200


@pytest.mark.parametrize(("status", "form"), [(402, str), (422, list), (429, str), (500, str), (503, str)])
def test_bare_statuses_come_in_the_envelope_and_accept_nothing(client, status, form):
    answer = submit(client, prompt=f"x [sandbox:{status}]")
    assert answer.status_code == status
    assert isinstance(answer.get_json()["detail"], form)
    assert (tally(client)["submits"], tally(client)["accepted"]) == (1, 0)


def test_retry_after_is_sent_as_written(client):
    assert submit(client, prompt="x [sandbox:429 retry_after=7]").headers["Retry-After"] == "7"
    assert "Retry-After" not in submit(client, prompt="x [sandbox:429]").headers


def test_a_restart_breaks_off_what_is_at_work(client):
    task = submit(client, prompt="x [sandbox:latency=60]").get_json()
    client.post("/control/restart", json={"provider": "flux"})
    assert look(client, task).get_json()["status"] == "Error"


def test_senseless_markers_are_refused(client):
    assert submit(client, prompt="x [sandbox:explode]").status_code == 400
