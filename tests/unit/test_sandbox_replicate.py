"""The Replicate emulator is as strict as the contract: schemas, closed bodies, life by the clock, signed webhooks."""

import base64
import hashlib
import hmac
import io
import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from sandbox.emulators.replicate import hooks
from sandbox.emulators.replicate.models import MODELS, SDXL_VERSION
from sandbox.emulators.replicate.predictions import seconds_in
from sandbox.settings import Settings
from sandbox.state import Clock
from sandbox.wsgi import create_app

V1 = "/replicate/v1"
KEY = {"Authorization": "Bearer r8_anything"}
SCHNELL = f"{V1}/models/black-forest-labs/flux-schnell/predictions"
NOW = 1_800_000_000.0


@pytest.fixture
def app():
    return create_app(Settings(latency_s=10, latency_jitter=0, prepared=True), clock=Clock(lambda: NOW))


@pytest.fixture
def client(app):
    return app.test_client()


def advance(client, seconds):
    client.post("/control/clock", json={"advance_s": seconds})


def create(client, path=SCHNELL, *, headers=None, top=None, **given):
    body = {"input": {"prompt": "a red kite", **given}, **(top or {})}
    return client.post(path, json=body, headers=KEY if headers is None else {**KEY, **headers})


def look(client, made):
    return client.get(f"{V1}/predictions/{made.get_json()['id']}", headers=KEY).get_json()


def fields_at_fault(answer):
    assert answer.status_code == 422, answer.get_json()
    body = answer.get_json()
    assert body["title"] == "Input validation failed"
    return [fault["field"] for fault in body["invalid_fields"]]


def tally(client):
    return client.get("/control/counts").get_json().get("replicate", {})


def image(mode="RGB", size=(64, 48), colour=None):
    out = io.BytesIO()
    Image.new(mode, size, colour if colour is not None else (255 if mode == "L" else "navy")).save(out, "PNG")
    return out.getvalue()


def data_url(blob):
    return f"data:image/png;base64,{base64.b64encode(blob).decode()}"


def fetch(client, link):
    return client.get(link.removeprefix("http://localhost"))


# ---------------------------------------------------------------- the life of a prediction


def test_a_prediction_lives_by_the_clock(client):
    made = create(client, num_outputs=2, seed=7)
    fresh = made.get_json()
    assert (made.status_code, fresh["status"], fresh["version"], fresh["logs"]) == (201, "starting", "hidden", "")
    assert made.headers["Location"] == fresh["urls"]["get"]
    assert not {"output", "started_at", "completed_at"} & set(fresh)
    assert len(fresh["id"]) == 26
    advance(client, 6)
    running = look(client, made)
    assert (running["status"], running["output"]) == ("processing", None)
    assert running["logs"].startswith("Using seed: 7\n0%|")
    assert "50%|##  | 2/4" in running["logs"]
    advance(client, 4)
    done = look(client, made)
    assert (done["status"], done["metrics"]["image_count"], done["error"]) == ("succeeded", 2, None)
    assert done["completed_at"] == "2027-01-15T08:00:10.000Z"
    first, second = (fetch(client, link) for link in done["output"])
    assert Image.open(io.BytesIO(first.data)).size == (1024, 1024)
    assert first.data != second.data
    assert tally(client)["accepted"] == 1


def test_data_are_removed_after_an_hour(client):
    made = create(client)
    advance(client, 10)
    [link] = look(client, made)["output"]
    advance(client, 3600)
    gone = look(client, made)
    assert (gone["status"], gone["output"], gone["data_removed"], gone["input"]) == ("succeeded", None, True, {})
    assert fetch(client, link).status_code == 404


@pytest.mark.parametrize(
    ("after", "wait_s", "status"), [("5s", 6, "canceled"), ("1m", 6, "processing"), ("5", 6, "canceled")]
)
def test_cancel_after_is_a_deadline(client, after, wait_s, status):
    made = create(client, headers={"Cancel-After": after})
    advance(client, wait_s)
    assert look(client, made)["status"] == status


def test_a_deadline_before_the_start_aborts(client):
    made = create(client, headers={"Cancel-After": "5s"}, prompt="a kite [sandbox:latency=100]")
    advance(client, 6)
    assert look(client, made)["status"] == "aborted"


@pytest.mark.parametrize("after", ["4s", "soon", "", "1h 2m", "-5s"])
def test_a_senseless_deadline_is_refused(client, after):
    assert fields_at_fault(create(client, headers={"Cancel-After": after})) == ["Cancel-After"]


def test_durations_are_read_as_the_sheet_writes_them():
    assert [seconds_in(text) for text in ("30s", "5m", "1h30m45s", "90")] == [30, 300, 5445, 90]


def test_a_cancel_works_at_once_and_leaves_what_has_ended(client):
    made = create(client)
    stopped = client.post(f"{V1}/predictions/{made.get_json()['id']}/cancel", headers=KEY).get_json()
    assert (stopped["status"], stopped.get("output")) == ("canceled", None)
    assert (stopped["logs"], "metrics" in stopped) == (None, True)
    done = create(client)
    advance(client, 10)
    answer = client.post(f"{V1}/predictions/{done.get_json()['id']}/cancel", headers=KEY)
    assert (answer.status_code, answer.get_json()["status"]) == (200, "succeeded")


@pytest.mark.parametrize(
    ("marker", "status", "error"),
    [
        ("refuse", "failed", "(E005)"),
        ("fail=nsfw", "failed", "NSFW"),
        ("fail=oom", "failed", "E1001"),
        ("fail=my_own_words", "failed", "my own words"),
        ("timeout", "failed", "E6716"),
        ("restart", "failed", "(code: PA)"),
        ("flip", "succeeded", None),
        ("empty", "succeeded", None),
    ],
)
def test_scripted_ends(client, marker, status, error):
    made = create(client, prompt=f"a kite [sandbox:{marker}]")
    advance(client, 10)
    ended = look(client, made)
    assert ended["status"] == status
    assert error is None or error in ended["error"]
    if marker == "empty":
        assert ended["output"] == []
    if marker == "flip":
        advance(client, 1)
        assert look(client, made)["status"] == "failed"


def test_a_prediction_that_never_ends_is_ended_after_half_an_hour(client):
    made = create(client, prompt="a kite [sandbox:never]")
    advance(client, 1799)
    assert look(client, made)["status"] == "processing"
    advance(client, 1)
    assert look(client, made)["status"] == "failed"


def test_a_restart_interrupts_what_runs(client):
    made = create(client)
    assert client.post("/control/restart", json={"provider": "replicate"}).get_json() == {"replicate": 1}
    assert look(client, made)["error"].endswith("(code: PA)")


@pytest.mark.parametrize(("form", "kind"), [("object", dict), ("one", str), ("list", list)])
def test_outputs_come_in_every_form(client, form, kind):
    made = create(client, prompt=f"a kite [sandbox:form={form}]")
    advance(client, 10)
    assert isinstance(look(client, made)["output"], kind)


def test_some_models_give_one_link_and_others_a_list(client):
    path = SCHNELL.replace("schnell", "1.1-pro")
    made = create(client, path)
    advance(client, 10)
    assert look(client, made)["output"].endswith("out-0.webp")


def test_another_word_for_the_status(client):
    made = create(client, prompt="a kite [sandbox:word=queued]")
    assert look(client, made)["status"] == "queued"


# ---------------------------------------------------------------- waiting


def test_an_answer_waited_for_has_its_output_and_is_still_processing(client):
    made = create(client, headers={"Prefer": "wait=5"}, prompt="a kite [sandbox:latency=0]")
    assert (made.status_code, made.headers["Preference-Applied"]) == (201, "wait=5")
    assert made.get_json()["status"] == "processing"
    assert made.get_json()["output"][0].startswith("data:image/webp;base64,")
    assert look(client, made)["status"] == "succeeded"


@pytest.mark.parametrize("preference", ["wait=0", "wait=61", "wait=1.5", "respond-async", "wait=100"])
def test_a_wait_is_at_most_a_minute(client, preference):
    assert create(client, headers={"Prefer": preference}).status_code == 400


# ---------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    ("model", "given", "field"),
    [
        ("flux-schnell", {"num_outputs": 5}, "num_outputs"),
        ("flux-schnell", {"num_outputs": "2"}, "num_outputs"),
        ("flux-schnell", {"num_outputs": True}, "num_outputs"),
        ("flux-schnell", {"num_inference_steps": 5}, "num_inference_steps"),
        ("flux-schnell", {"output_format": "jpeg"}, "output_format"),
        ("flux-schnell", {"output_quality": 101}, "output_quality"),
        ("flux-schnell", {"megapixels": 1}, "megapixels"),
        ("flux-schnell", {"image": "https://h/a.png"}, "image"),
        ("flux-schnell", {"prompt": ""}, "prompt"),
        ("flux-schnell", {"negative_prompt": "x"}, "negative_prompt"),
        ("flux-dev", {"image": "http://h/a.png"}, "image"),
        ("flux-dev", {"image": "a.png"}, "image"),
        ("flux-dev", {"image": "data:image/png;base64,AAAA"}, "image"),
        ("flux-dev", {"guidance": 10.5}, "guidance"),
        ("flux-1.1-pro", {"width": 300}, "width"),
        ("flux-1.1-pro", {"num_outputs": 1}, "num_outputs"),
        ("flux-kontext-pro", {"safety_tolerance": 7}, "safety_tolerance"),
        ("flux-kontext-pro", {"output_format": "webp"}, "output_format"),
        ("flux-2-pro", {"input_image": "https://h/a.png"}, "input_image"),
        ("flux-2-pro", {"input_images": ["https://h/a.png"] * 9}, "input_images"),
        ("flux-2-pro", {"input_images": "https://h/a.png"}, "input_images"),
        ("flux-2-pro", {"resolution": "1MP"}, "resolution"),
        ("flux-2-klein-4b", {"input_images": ["https://h/a.png"]}, "input_images"),
        ("flux-fill-dev", {}, "image"),
    ],
)
def test_every_model_has_its_schema(client, model, given, field):
    path = SCHNELL.replace("flux-schnell", model)
    assert fields_at_fault(create(client, path, **given)) == [f"input.{field}"]
    assert tally(client).get("accepted", 0) == 0


@pytest.mark.parametrize("path", MODELS)
def test_the_schema_of_a_model_can_be_read(client, path):
    shown = client.get(f"{V1}/models/{path}", headers=KEY).get_json()
    schemas = shown["latest_version"]["openapi_schema"]["components"]["schemas"]
    assert list(schemas["Input"]["properties"]) == list(MODELS[path].fields)
    version = client.get(f"{V1}/models/{path}/versions/{shown['latest_version']['id']}", headers=KEY)
    assert version.get_json() == shown["latest_version"]


@pytest.mark.parametrize(
    ("top", "field"),
    [
        ({"version": SDXL_VERSION}, "version"),
        ({"webhook_completed": "https://h/"}, "webhook_completed"),
        ({"prompt": "x"}, "prompt"),
        ({"webhook": "http://h.example/"}, "webhook"),
        ({"webhook": 3}, "webhook"),
        ({"webhook_events_filter": ["done"]}, "webhook_events_filter"),
        ({"webhook_events_filter": "completed"}, "webhook_events_filter"),
        ({"stream": "yes"}, "stream"),
        ({"input": None}, "input"),
    ],
)
def test_the_body_is_closed(client, top, field):
    assert fields_at_fault(create(client, top=top)) == [field]


def test_a_body_that_is_no_json_object(client):
    assert client.post(SCHNELL, data=b"{", headers=KEY, content_type="application/json").status_code == 400
    assert client.post(SCHNELL, json=[1], headers=KEY).status_code == 400
    assert client.post(SCHNELL, data={"input": "x"}, headers=KEY).status_code == 400


@pytest.mark.parametrize(
    ("version", "status"),
    [
        (SDXL_VERSION, 201),
        (f"stability-ai/sdxl:{SDXL_VERSION}", 201),
        ("black-forest-labs/flux-schnell", 201),
        ("stability-ai/sdxl", 422),
        (f"someone/else:{SDXL_VERSION}", 422),
        ("0" * 64, 422),
        ("", 422),
    ],
)
def test_versions(client, version, status):
    assert create(client, f"{V1}/predictions", top={"version": version}).status_code == status


def test_only_official_models_have_a_route_of_their_own(client):
    assert create(client, f"{V1}/models/stability-ai/sdxl/predictions").status_code == 404
    assert create(client, f"{V1}/models/no-one/nothing/predictions").status_code == 404
    assert create(client, f"{V1}/deployments/darkroom/schnell/predictions").status_code == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer bad-key"}, 401),
        ({"Authorization": "Basic abc"}, 401),
        ({"Authorization": "Token r8_x"}, 201),
        ({"Authorization": "Bearer no-quota"}, 402),
        ({"Authorization": "Bearer no-org"}, 403),
    ],
)
def test_tokens(client, headers, status):
    answer = client.post(SCHNELL, json={"input": {"prompt": "a kite"}}, headers=headers)
    assert answer.status_code == status
    assert status == 201 or "detail" in answer.get_json()


def test_no_one_sees_anothers_predictions(client):
    made = create(client)
    other = {"Authorization": "Bearer r8_other"}
    assert client.get(f"{V1}/predictions/{made.get_json()['id']}", headers=other).status_code == 404
    assert client.get(f"{V1}/predictions", headers=other).get_json()["results"] == []


def test_a_token_shown_to_the_host_of_the_files_counts_as_a_leak(client):
    made = create(client)
    advance(client, 10)
    [link] = look(client, made)["output"]
    place = link.removeprefix("http://localhost")
    assert client.get(place, headers=KEY).status_code == 400
    assert client.get(place).status_code == 200
    log = client.get("/control/requests?provider=replicate").get_json()
    assert [entry["status"] for entry in log if entry["path"] == place] == [400, 200]


def test_rate_limits_speak_as_the_sheet_says(client):
    answer = create(client, prompt="a kite [sandbox:429]")
    assert (answer.status_code, "~30s" in answer.get_json()["detail"]) == (429, True)
    assert create(client).headers["ratelimit-remaining"] == "599"
    assert client.get(f"{V1}/account", headers=KEY).headers["ratelimit-remaining"] == "2999"


def test_a_prediction_just_made_may_not_be_found_at_first(client):
    made = create(client, prompt="a kite [sandbox:404 at=check times=1]")
    path = f"{V1}/predictions/{made.get_json()['id']}"
    assert [client.get(path, headers=KEY).status_code for _ in range(2)] == [404, 200]


# ---------------------------------------------------------------- images that go in


@pytest.mark.parametrize(
    ("path", "given", "size"),
    [
        (SCHNELL, {"aspect_ratio": "16:9"}, (1344, 768)),
        (SCHNELL, {"aspect_ratio": "4:3", "megapixels": "0.25"}, (576, 448)),
        (SCHNELL.replace("schnell", "1.1-pro"), {"aspect_ratio": "custom", "width": 512, "height": 256}, (512, 256)),
        (SCHNELL.replace("schnell", "2-pro"), {"input_images": [data_url(image())]}, (64, 48)),
        (SCHNELL.replace("schnell", "2-pro"), {"resolution": "4 MP"}, (2048, 2048)),
    ],
)
def test_images_have_the_size_asked(client, path, given, size):
    made = create(client, path, **given, output_format="png")
    advance(client, 10)
    output = look(client, made)["output"]
    served = fetch(client, output if isinstance(output, str) else output[0])
    assert served.content_type == "image/png"
    assert Image.open(io.BytesIO(served.data)).size == size


def test_white_in_a_mask_is_painted_and_black_is_kept(client):
    mask = Image.new("L", (64, 48), 0)
    mask.paste(255, (0, 0, 32, 48))
    out = io.BytesIO()
    mask.save(out, "PNG")
    given = {"image": data_url(image()), "mask": data_url(out.getvalue())}
    made = create(client, f"{V1}/predictions", top={"version": SDXL_VERSION}, **given)
    advance(client, 10)
    painted = Image.open(io.BytesIO(fetch(client, look(client, made)["output"][0]).data)).convert("RGB")
    navy = (0, 0, 128)
    assert {painted.getpixel((x, y)) for x in range(32, 64) for y in range(48)} == {navy}
    assert {painted.getpixel((x, y)) for x in range(32) for y in range(48)} != {navy}


def test_a_mask_of_the_other_polarity_is_noticed(client):
    given = {"image": data_url(image()), "mask": data_url(image("RGBA", colour=(0, 0, 0, 0)))}
    answer = create(client, f"{V1}/predictions", top={"version": SDXL_VERSION}, **given)
    assert fields_at_fault(answer) == ["input.mask"]


def upload(client, blob, name="a.png", headers=KEY, **texts):
    data = {"content": (io.BytesIO(blob), name, "image/png"), **texts}
    return client.post(f"{V1}/files", data=data, headers=headers, content_type="multipart/form-data")


def test_a_file_lives_for_a_day(client):
    blob = image()
    kept = upload(client, blob, metadata='{"a": 1}')
    body = kept.get_json()
    assert (kept.status_code, body["size"], body["content_type"], body["metadata"]) == (
        201,
        len(blob),
        "image/png",
        {"a": 1},
    )
    assert body["checksums"]["sha256"] == hashlib.sha256(blob).hexdigest()
    path = SCHNELL.replace("schnell", "dev")
    assert create(client, path, image=body["urls"]["get"]).status_code == 201
    advance(client, 86400)
    assert client.get(f"{V1}/files/{body['id']}", headers=KEY).status_code == 404
    assert fields_at_fault(create(client, path, image=body["urls"]["get"])) == ["input.image"]


def test_files_are_listed_and_deleted(client):
    numbers = [upload(client, image()).get_json()["id"] for _ in range(2)]
    assert [row["id"] for row in client.get(f"{V1}/files", headers=KEY).get_json()["results"]] == numbers[::-1]
    assert client.delete(f"{V1}/files/{numbers[0]}", headers=KEY).status_code == 204
    assert client.get(f"{V1}/files/{numbers[0]}", headers=KEY).status_code == 404


def test_what_an_upload_may_not_be(client):
    assert upload(client, b"x", name="n" * 256).status_code == 422
    assert upload(client, b"x", purpose="edit").status_code == 422
    assert client.post(f"{V1}/files", json={"content": "x"}, headers=KEY).status_code == 422
    assert upload(client, b"x", headers={}).status_code == 401


# ---------------------------------------------------------------- the list


def test_the_list_is_newest_first_a_hundred_to_a_page(client):
    numbers = []
    for number in range(102):
        numbers.append(create(client, prompt=f"kite {number}").get_json()["id"])
        advance(client, 1)
    first = client.get(f"{V1}/predictions", headers=KEY).get_json()
    assert [row["id"] for row in first["results"]] == numbers[::-1][:100]
    assert "logs" not in first["results"][0]
    second = client.get(first["next"].removeprefix("http://localhost"), headers=KEY).get_json()
    assert ([row["id"] for row in second["results"]], second["next"]) == (numbers[::-1][100:], None)
    moment = first["results"][1]["created_at"]  # inclusive
    after = client.get(f"{V1}/predictions?created_after={moment}", headers=KEY).get_json()
    assert [row["id"] for row in after["results"]] == numbers[::-1][:2]
    before = client.get(f"{V1}/predictions?created_before={moment}", headers=KEY).get_json()  # exclusive
    assert before["results"][0]["id"] == numbers[-3]
    assert client.get(f"{V1}/predictions?limit=5", headers=KEY).status_code == 422


# ---------------------------------------------------------------- webhooks


@pytest.fixture
def receiver():
    """A server that takes deliveries; ``refuse`` of them are answered with 500 first."""
    taken: queue.Queue = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        refuse = 0

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(500 if Handler.refuse > 0 else 204)
            Handler.refuse -= 1
            self.end_headers()

        def log_message(self, *_args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        server.taken, server.handler = taken, Handler
        server.url = f"http://127.0.0.1:{server.server_port}/hooks?token=1"
        yield server
        server.shutdown()


def hooked(client, receiver, *events):
    return create(client, top={"webhook": receiver.url, "webhook_events_filter": list(events or ["completed"])})


def test_a_delivery_is_the_prediction_signed_as_the_sheet_says(client, receiver):
    made = hooked(client, receiver)
    advance(client, 10)
    headers, body = receiver.taken.get(timeout=5)
    shown = json.loads(body)
    assert shown == look(client, made)
    assert (shown["status"], shown["webhook"], shown["webhook_events_filter"]) == (
        "succeeded",
        receiver.url,
        ["completed"],
    )
    assert headers["webhook-timestamp"] == str(int(NOW + 10))
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    right = base64.b64encode(hmac.new(b"test-secret", message, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{right}"
    secret = client.get(f"{V1}/webhooks/default/secret", headers=KEY).get_json()
    assert secret == {"key": "whsec_dGVzdC1zZWNyZXQ="} == {"key": hooks.SECRET}


def test_only_the_last_delivery_is_repeated_under_the_same_id(client, receiver):
    receiver.handler.refuse = 2
    hooked(client, receiver)
    advance(client, 10)
    first, _ = receiver.taken.get(timeout=5)
    # The repeat is due on the sandbox's clock, which moves only for us; it may not be set down yet.
    second = None
    for _ in range(200):
        advance(client, 1)
        try:
            second, _ = receiver.taken.get(timeout=0.05)
            break
        except queue.Empty:
            continue
    assert second is not None
    assert second["webhook-id"] == first["webhook-id"]
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])


def test_all_events_come_with_the_status_of_their_moment(client, receiver):
    hooked(client, receiver, "start", "output", "logs", "completed")
    advance(client, 10)
    found = [json.loads(receiver.taken.get(timeout=5)[1]) for _ in range(4)]
    assert sorted(each["status"] for each in found) == ["processing", "processing", "processing", "succeeded"]
    assert sum("output" in each and bool(each["output"]) for each in found) == 2


def test_a_cancel_is_reported_too(client, receiver):
    made = hooked(client, receiver)
    client.post(f"{V1}/predictions/{made.get_json()['id']}/cancel", headers=KEY)
    assert json.loads(receiver.taken.get(timeout=5)[1])["status"] == "canceled"


def test_deliveries_can_be_held_back(client, receiver):
    client.put("/control/settings", json={"hold_webhooks": True})
    hooked(client, receiver)
    advance(client, 10)
    with pytest.raises(queue.Empty):
        receiver.taken.get(timeout=0.2)
    client.put("/control/settings", json={"hold_webhooks": False})
    assert receiver.taken.get(timeout=5)
