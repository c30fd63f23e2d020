"""The chatgpt2api emulator keeps its contract: idempotent ids, batch polling, progress, envelopes, faults."""

import base64
import io
import json

import pytest
from PIL import Image

from sandbox.settings import Settings
from sandbox.state import Clock
from sandbox.wsgi import create_app

KEY = {"Authorization": "Bearer alice"}
TASKS = "/c2a/api/image-tasks"


class Time:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 1_790_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def client(time):
    app = create_app(Settings(latency_s=10, latency_jitter=0, chat_delta_s=0), clock=Clock(time))
    return app.test_client()


def png(size=(64, 48), colour=(20, 40, 200)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def submit(client, task_id="t1", prompt="a red kite", headers=KEY, **fields):
    body = {"client_task_id": task_id, "prompt": prompt, **fields}
    return client.post(f"{TASKS}/generations", json=body, headers=headers)


def edit(client, parts, task_id="e1", **fields):
    data = {"client_task_id": task_id, "prompt": "make it red", **fields, **parts}
    return client.post(f"{TASKS}/edits", data=data, headers=KEY)


def look(client, ids, headers=KEY):
    return client.get(TASKS, query_string={"ids": ids}, headers=headers).get_json()


def task_of(client, task_id="t1"):
    return look(client, task_id)["items"][0]


def counts(client):
    return client.get("/control/counts").get_json().get("chatgpt2api", {})


def finished(client, time, prompt, **fields):
    submit(client, prompt=prompt, **fields)
    time.now += 11
    return task_of(client)


def test_a_task_runs_from_the_first_answer_and_goes_by_its_steps_to_success(client, time):
    fresh = submit(client, size="16:9")
    assert fresh.status_code == 200
    assert fresh.json["status"] == "running"
    assert not {"data", "progress", "elapsed_secs", "error"} & set(fresh.json)
    seen = []
    for _ in range(24):
        time.now += 0.45
        task = task_of(client)
        seen.append((task["status"], task.get("progress")))
    assert ("running", "getting_account") in seen and ("running", "receiving_image") in seen
    assert ("running", "uploading") not in seen
    assert seen[-1] == ("success", "receiving_image")
    done = task_of(client)
    assert done["duration_ms"] == 10_000
    assert done["usage"]["total_tokens"] > 1056
    assert set(done["usage"]["input_tokens_details"]) == {"text_tokens", "image_tokens", "cached_tokens"}
    assert set(done["usage"]["output_tokens_details"]) == {"text_tokens", "image_tokens", "reasoning_tokens"}
    assert "elapsed_secs" not in done


def test_running_tells_its_time_only_once_the_image_is_being_fetched(client, time):
    submit(client)
    time.now += 3
    assert "elapsed_secs" not in task_of(client)
    time.now += 6
    assert task_of(client)["elapsed_secs"] < 2


def test_the_link_is_built_from_the_host_of_the_submit_and_leads_to_the_image(client, time):
    body = {"client_task_id": "t1", "prompt": "a red kite", "size": "320x200"}
    client.post(f"{TASKS}/generations", json=body, headers={**KEY, "Host": "c2a.example:3000"})
    assert client.get(f"{TASKS}?ids=t1", headers=KEY).json["items"][0]["status"] == "running"
    time.now += 11
    url = task_of(client)["data"][0]["url"]
    assert url.startswith("http://c2a.example:3000/c2a/images/20")
    got = client.get(url.removeprefix("http://c2a.example:3000"))
    assert (got.content_type, got.headers["Access-Control-Allow-Origin"]) == ("image/png", "*")
    assert Image.open(io.BytesIO(got.data)).size == (320, 200)
    assert counts(client)["downloads"] == 1


def test_an_unfinished_image_cannot_be_fetched(client, time):
    url = finished(client, time, "a red kite")["data"][0]["url"].removeprefix("http://localhost")
    assert client.get(url).status_code == 200
    time.now -= 8
    assert client.get(url).status_code == 404


def test_the_same_id_gives_the_same_task_whatever_the_payload(client, time):
    first = finished(client, time, "a red kite")
    again = submit(client, prompt="a blue boat", size="1:1").json
    assert again == first
    assert edit(client, {"image": (io.BytesIO(png()), "a.png")}, task_id="t1").json == first
    assert counts(client)["submits_by_key"] == {"t1": 3}
    assert counts(client)["accepted_by_key"] == {"t1": 1}


def test_an_error_id_is_burnt(client, time):
    assert finished(client, time, "x [sandbox:fail]")["error"] == "image generation failed"
    assert submit(client, prompt="a red kite").json["status"] == "error"


def test_tasks_belong_to_their_key(client):
    submit(client)
    bob = {"Authorization": "Bearer bob"}
    assert look(client, "t1", bob) == {"items": [], "missing_ids": ["t1"]}
    assert submit(client, headers=bob, prompt="another").json["status"] == "running"
    assert counts(client)["accepted"] == 2


def test_a_batch_keeps_the_order_asked_and_names_what_is_missing(client):
    for task_id in ("a", "b"):
        submit(client, task_id)
    answer = look(client, " b ,nope,,a")
    assert [task["id"] for task in answer["items"]] == ["b", "a"]
    assert answer["missing_ids"] == ["nope"]
    assert counts(client)["batch_sizes"] == {"3": 1}


def test_no_ids_lists_every_task_of_the_key_latest_first(client, time):
    for task_id in ("a", "b"):
        submit(client, task_id)
        time.now += 60
    answer = client.get(TASKS, headers=KEY).json
    assert [task["id"] for task in answer["items"]] == ["b", "a"]
    assert answer["missing_ids"] == []


def test_a_bad_key_is_refused_in_the_words_of_each_route(client):
    for headers in ({}, {"Authorization": "Bearer bad-key"}, {"Authorization": "Basic abc"}):
        refused = client.get(f"{TASKS}?ids=a", headers=headers)
        assert (refused.status_code, refused.json) == (
            401,
            {"detail": {"error": "密钥无效或已失效，请重新登录"}},
        )
    error = client.get("/c2a/v1/models").json["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


def test_a_schema_error_is_a_list_and_comes_before_the_key(client):
    answer = client.post(f"{TASKS}/generations", json={"prompt": "", "size": 7})
    assert answer.status_code == 422
    places = [(entry["loc"], entry["type"]) for entry in answer.json["detail"]]
    assert places == [
        (["body", "client_task_id"], "missing"),
        (["body", "prompt"], "string_too_short"),
        (["body", "size"], "string_type"),
    ]


@pytest.mark.parametrize(
    ("body", "kind"), [(b"{oops", "json_invalid"), (b"", "missing"), (b"[]", "model_attributes_type")]
)
def test_a_body_that_is_no_object_is_a_schema_error(client, body, kind):
    answer = client.post(f"{TASKS}/generations", data=body, content_type="application/json", headers=KEY)
    assert (answer.status_code, answer.json["detail"][0]["type"]) == (422, kind)


def test_unknown_fields_are_ignored(client):
    assert submit(client, n=4, seed=1).status_code == 200
    assert edit(client, {"seed": "1", "image": (io.BytesIO(png()), "a.png")}).status_code == 200
    asked = {"prompt": "a red kite", "seed": 1}
    client.put("/control/settings", json={"latency_s": 0})
    assert client.post("/c2a/v1/images/generations", json=asked, headers=KEY).status_code == 200


def test_defaults_are_filled_in(client):
    task = submit(client).json
    assert (task["model"], task["size"], task["quality"]) == ("gpt-image-2", "", "auto")


@pytest.mark.parametrize("name", ["image", "image[]", "images", "images[]", "image_url", "image_url[]"])
def test_every_spelling_of_the_image_part_is_taken_and_recorded(client, time, name):
    assert edit(client, {name: (io.BytesIO(png()), "a.png", "image/png")}, mask="").status_code == 200
    entry = client.get("/control/requests?provider=chatgpt2api").json[-1]
    part = next(part for part in entry["parts"] if part["kind"] == "file")
    assert (part["name"], part["content_type"]) == (name, "image/png")
    time.now += 11
    url = task_of(client, "e1")["data"][0]["url"].removeprefix("http://localhost")
    assert Image.open(io.BytesIO(client.get(url).data)).size == (64, 48)


def test_an_edit_goes_through_uploading_and_respects_its_mask(client, time):
    mask = Image.new("RGBA", (64, 48), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 20, 20))
    out = io.BytesIO()
    mask.save(out, "PNG")
    out.seek(0)
    edit(client, {"image": (io.BytesIO(png()), "a.png"), "mask[]": (out, "m.png")})
    time.now += 2
    assert task_of(client, "e1")["progress"] == "uploading"
    time.now += 9
    task = task_of(client, "e1")
    image = Image.open(io.BytesIO(client.get(task["data"][0]["url"].removeprefix("http://localhost")).data))
    assert task["mode"] == "edit"
    assert image.getpixel((40, 40)) == (20, 40, 200) != image.getpixel((5, 5))


@pytest.mark.parametrize(
    "reference",
    [
        lambda b64: {"image": f"data:image/png;base64,{b64}"},
        lambda b64: {"images": [{"image_url": f"data:image/png;base64,{b64}"}]},
        lambda b64: {"images": [{"image_url": {"url": f"data:image/png;base64,{b64}"}}]},
        lambda b64: {"images": [{"b64_json": b64, "mime_type": "image/png"}]},
        lambda b64: {"image": b64},
    ],
)
def test_a_json_edit_takes_every_form_of_reference(client, time, reference):
    body = {"client_task_id": "e1", "prompt": "x", **reference(base64.b64encode(png()).decode())}
    assert client.post(f"{TASKS}/edits", json=body, headers=KEY).status_code == 200
    time.now += 11
    assert task_of(client, "e1")["status"] == "success"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": " "}, "prompt is required"),
        ({"client_task_id": ""}, "client_task_id is required"),
        ({"n": "5"}, "n must be between 1 and 4"),
        ({"stream": "perhaps"}, "stream must be a boolean"),
        ({"image": ""}, "image file or image_url is required"),
        ({"image": "!!"}, "invalid base64 image data"),
        ({"image": json.dumps({"file_id": "f"})}, "file_id image references are not supported"),
    ],
)
def test_a_bad_edit_is_a_400_in_words(client, fields, text):
    data = {"client_task_id": "e1", "prompt": "x", "image": base64.b64encode(png()).decode(), **fields}
    answer = client.post(f"{TASKS}/edits", data=data, headers=KEY)
    assert answer.status_code == 400
    assert answer.json["detail"]["error"].startswith(text)
    assert counts(client).get("accepted", 0) == 0


@pytest.mark.parametrize("blob", [b"not an image", png()[:90]])
def test_an_edit_of_what_is_no_image_fails_upstream(client, time, blob):
    edit(client, {"image": (io.BytesIO(blob), "a.png")})
    time.now += 11
    assert "status=415" in task_of(client, "e1")["error"]


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("fail=policy", "rejected by upstream policy"),
        ("fail=quota", "no available image quota"),
        ("fail=429", "status=429"),
        ("timeout", "超时"),
        ("restart", "服务已重启，未完成的图片任务已中断"),
    ],
)
def test_scripted_errors_carry_the_texts_of_the_real_server(client, time, marker, text):
    task = finished(client, time, f"x [sandbox:{marker}]")
    assert task["status"] == "error" and text in task["error"] and task["data"] == []


def test_an_unknown_model_and_an_empty_pool_end_in_an_error(client, time):
    task = finished(client, time, "x", model="gpt-image-9")
    assert task["error"].startswith("unsupported image model,supported models: codex-gpt-image-2, gpt-image-2, plus-")
    assert "progress" not in task
    poor = {"Authorization": "Bearer no-quota"}
    submit(client, headers=poor)
    time.now += 11
    assert look(client, "t1", poor)["items"][0]["error"] == "no available image quota"


@pytest.mark.parametrize(("kind", "status"), [("", 400), ("=review", 400), ("=config", 400), ("=unavailable", 503)])
def test_the_word_filter_refuses_before_any_task_exists(client, kind, status):
    answer = submit(client, prompt=f"x [sandbox:refuse{kind}]")
    assert answer.status_code == status
    assert look(client, "t1")["missing_ids"] == ["t1"]
    assert (counts(client)["submits"], counts(client)["accepted"]) == (1, 0)


def test_the_word_filter_stands_before_the_look_up_of_a_known_id(client):
    submit(client)
    assert submit(client, prompt="x [sandbox:refuse]").status_code == 400
    assert task_of(client)["status"] == "running"


def test_a_status_can_come_before_or_after_acceptance(client):
    assert submit(client, "before", prompt="x [sandbox:500]").status_code == 500
    assert submit(client, "after", prompt="x [sandbox:500 accept=1]").status_code == 500
    assert look(client, "before,after")["missing_ids"] == ["before"]
    limited = submit(client, "limited", prompt="x [sandbox:429 retry_after=1e9]")
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "1e9")


def test_a_dropped_answer_leaves_an_accepted_task_behind(client):
    with pytest.raises(ConnectionAbortedError):
        submit(client, prompt="x [sandbox:drop times=1]")
    assert task_of(client)["status"] == "running"
    assert submit(client, prompt="x [sandbox:drop times=1]").json["status"] == "running"
    assert counts(client)["accepted_by_key"] == {"t1": 1}


def test_an_expired_id_moves_to_the_missing_and_its_file_goes(client, time):
    submit(client, prompt="x [sandbox:expire]")
    time.now += 9
    assert task_of(client)["status"] == "running"
    time.now += 2
    assert look(client, "t1")["missing_ids"] == ["t1"]


def test_retention_ends_tasks_and_files(client, time):
    url = finished(client, time, "a red kite")["data"][0]["url"].removeprefix("http://localhost")
    client.post("/control/clock", json={"advance_s": 16 * 86400})
    assert look(client, "t1")["missing_ids"] == ["t1"]
    assert client.get(url).status_code == 404


def test_success_may_come_without_data_or_with_a_dead_link(client, time):
    assert finished(client, time, "x [sandbox:empty]")["data"] == []
    for kind, begins in (
        ("", "http://localhost/c2a"),
        ("=relative", "/images/"),
        ("=host", "http://127.0.0.1:1/"),
    ):
        submit(client, f"d{kind}", prompt=f"x [sandbox:dead_link{kind}]")
        time.now += 11
        url = task_of(client, f"d{kind}")["data"][0]["url"]
        assert url.startswith(begins)
        assert client.get(url.removeprefix("http://localhost")).status_code in (404, 308)


@pytest.mark.parametrize("fault", ["truncated", "bomb", "svg", "html", "polyglot", "frames=50"])
def test_an_image_fault_spoils_the_file_alone(client, time, fault):
    task = finished(client, time, f"x [sandbox:{fault}]", size="64x64")
    assert task["status"] == "success"
    good = finished_good(client, time)
    assert client.get(task["data"][0]["url"].removeprefix("http://localhost")).data != good


def finished_good(client, time):
    submit(client, "good", prompt="x", size="64x64")
    time.now += 11
    return client.get(task_of(client, "good")["data"][0]["url"].removeprefix("http://localhost")).data


def test_a_task_may_run_forever_go_backwards_or_turn_from_success_to_failure(client, time):
    submit(client, "never", prompt="x [sandbox:never]")
    submit(client, "back", prompt="x [sandbox:backwards]")
    submit(client, "flip", prompt="x [sandbox:flip]")
    time.now += 0.3
    seen = []
    for _ in range(25):
        time.now += 0.5
        seen.append({task["id"]: task["status"] for task in look(client, "never,back,flip")["items"]})
    assert {row["never"] for row in seen} == {"running"}
    states = [row["back"] for row in seen]
    assert states.index("running") < len(states) - 1 - states[::-1].index("queued")
    turns = [row["flip"] for row in seen]
    assert turns.index("running") < turns.index("success") < turns.index("error")
    assert turns[-1] == "error"


def test_latency_can_be_scripted_to_the_second(client, time):
    submit(client, prompt="x [sandbox:latency=2]")
    time.now += 1.9
    assert task_of(client)["status"] == "running"
    time.now += 0.2
    assert task_of(client)["status"] == "success"


def test_a_restart_breaks_off_what_is_unfinished_and_forgets_progress(client, time):
    finished(client, time, "done")
    submit(client, "t2")
    time.now += 5
    assert client.post("/control/restart", json={"provider": "chatgpt2api"}).json == {"chatgpt2api": 1}
    done, broken = look(client, "t1,t2")["items"]
    assert (done["status"], "progress" in done) == ("success", False)
    assert broken["error"].startswith("服务已重启")


def test_resume_poll_refuses_what_it_must(client, time):
    def resume(task_id="t1", **body):
        return client.post(f"{TASKS}/{task_id}/resume-poll", json=body, headers=KEY)

    assert resume().json["detail"]["error"] == "task not found"
    submit(client, prompt="x [sandbox:timeout]")
    assert resume().json["detail"]["error"] == "task is not in error state"
    time.now += 11
    assert resume().json["detail"]["error"] == "task has no conversation_id"
    assert resume(extra_timeout_secs=4).status_code == 422
    assert resume(extra_timeout_secs=121).status_code == 422


@pytest.mark.parametrize(("resume", "status"), [("broken", "error"), ("success", "success")])
def test_resume_poll_runs_again_and_ends_as_scripted(client, time, resume, status):
    task = finished(client, time, f"x [sandbox:timeout conversation=1 resume={resume}]", size="64x64")
    assert task["conversation_id"]
    running = client.post(f"{TASKS}/t1/resume-poll", json={}, headers=KEY).json
    assert (running["status"], running["data"]) == ("running", [])
    time.now += 11
    after = task_of(client)
    assert after["status"] == status
    if status == "success":
        assert Image.open(io.BytesIO(base64.b64decode(after["data"][0]["b64_json"]))).size == (64, 64)
    else:
        assert "超时" not in after["error"]


def test_a_misspelt_fault_is_refused(client):
    answer = submit(client, prompt="x [sandbox:explode]")
    assert answer.status_code == 400 and "explode" in answer.json["detail"]["error"]


def test_a_check_can_fail_while_the_submit_went_well(client):
    submit(client, prompt="x [sandbox:502 at=check times=1]")
    assert client.get(f"{TASKS}?ids=t1", headers=KEY).status_code == 502
    assert task_of(client)["status"] == "running"


def test_two_submits_of_one_prompt_give_two_images(client, time):
    for task_id in ("a", "b"):
        submit(client, task_id, size="64x64")
    time.now += 11
    urls = [task["data"][0]["url"].removeprefix("http://localhost") for task in look(client, "a,b")["items"]]
    assert len({client.get(url).data for url in urls}) == 2


def test_the_oldest_task_makes_room(client):
    client.put("/control/settings", json={"tasks_max": 2})
    for task_id in "abc":
        submit(client, task_id)
    assert look(client, "a,b,c")["missing_ids"] == ["a"]


def test_the_synchronous_route_answers_with_the_image(client):
    client.put("/control/settings", json={"latency_s": 0})
    body = {"prompt": "a red kite", "n": 2, "size": "64x64"}
    answer = client.post("/c2a/v1/images/generations", json=body, headers=KEY).json
    assert len(answer["data"]) == 2
    blob = base64.b64decode(answer["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(blob)).size == (64, 64)
    assert client.get(answer["data"][0]["url"].removeprefix("http://localhost")).data == blob


@pytest.mark.parametrize(
    ("marker", "status", "code"),
    [
        ("fail=policy", 400, "content_policy_violation"),
        ("fail=none", 400, "no_image_generated"),
        ("quota", 429, "insufficient_quota"),
        ("429", 429, "rate_limit_exceeded"),
        ("fail", 502, "upstream_error"),
        ("fail=text", 400, "content_policy_violation"),
        ("refuse", 400, "bad_request"),
    ],
)
def test_the_synchronous_route_has_codes(client, marker, status, code):
    client.put("/control/settings", json={"latency_s": 0})
    body = {"prompt": f"x [sandbox:{marker}]"}
    answer = client.post("/c2a/v1/images/generations", json=body, headers=KEY)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


@pytest.mark.parametrize("n", ["2", 2.0, 2.9, " 2 "])
def test_the_synchronous_route_reads_a_count_as_the_server_does(client, n):
    client.put("/control/settings", json={"latency_s": 0})
    answer = client.post("/c2a/v1/images/generations", json={"prompt": "a red kite", "n": n}, headers=KEY)
    assert len(answer.json["data"]) == 2


_INTEGER = "Input should be a valid integer"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"n": "two"}, f"n: {_INTEGER}, unable to parse string as an integer"),
        ({"n": None}, f"n: {_INTEGER}"),
        ({"n": [2]}, f"n: {_INTEGER}"),
        ({"n": "0"}, "n: Input should be greater than or equal to 1"),
        ({"n": 5.5}, "n: Input should be less than or equal to 4"),
        ({"n": 9, "size": 3, "prompt": ""}, "prompt: String should have at least 1 character; n: Input should be less"),
    ],
)
def test_the_synchronous_route_says_in_one_sentence_what_is_wrong(client, fields, text):
    answer = client.post("/c2a/v1/images/generations", json={"prompt": "a red kite", **fields}, headers=KEY)
    error = answer.json["error"]
    assert (answer.status_code, error["type"], error["code"]) == (422, "invalid_request_error", "bad_request")
    assert error["message"].startswith(text)


def test_the_synchronous_route_blames_itself_for_an_unknown_model_and_masks_raw_texts(client):
    client.put("/control/settings", json={"latency_s": 0})
    for fields, text in (
        ({"prompt": "x", "model": "gpt-image-9"}, "unsupported image model,supported models: codex-"),
        ({"prompt": "x [sandbox:fail=500]"}, "The image generation request failed. Please try again later."),
    ):
        answer = client.post("/c2a/v1/images/generations", json=fields, headers=KEY)
        error = answer.json["error"]
        assert (answer.status_code, error["type"], error["code"]) == (502, "server_error", "upstream_error")
        assert error["message"].startswith(text)


def test_an_empty_pool_at_a_check_is_told_in_openais_envelope(client):
    submit(client, prompt="a red kite [sandbox:quota at=check]")
    answer = client.get(f"{TASKS}?ids=t1", headers=KEY)
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "insufficient_quota")


def test_a_scripted_429_names_the_pool_on_the_synchronous_routes_alone(client):
    body = {"prompt": "x [sandbox:429]"}
    error = client.post("/c2a/v1/images/generations", json=body, headers=KEY).json["error"]
    assert (error["code"], error["message"]) == ("rate_limit_exceeded", "no available image quota")
    refused = submit(client, **body)
    assert refused.json["detail"]["error"] == "scripted by the sandbox: HTTP 429"


def test_chat_streams_a_fuller_prompt_of_the_users_words(client):
    body = {"model": "gpt-5.5", "stream": True, "messages": [{"role": "user", "content": "a red kite"}]}
    answer = client.post("/c2a/v1/chat/completions", json=body, headers=KEY)
    text = answer.get_data(as_text=True)
    assert answer.content_type.startswith("text/event-stream")
    assert text.startswith(": stream-open\n\n") and text.endswith("data: [DONE]\n\n")
    assert "".join(spoken(text)).startswith("a red kite, ")


def spoken(text):
    for line in text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                yield choice["delta"].get("content", "")


def test_models_health_and_unknown_paths(client):
    ids = [entry["id"] for entry in client.get("/c2a/v1/models", headers=KEY).json["data"]]
    assert {"gpt-image-2", "codex-gpt-image-2", "auto"} <= set(ids)
    assert client.get("/c2a/health?format=json").json["healthy"] is True
    assert client.get("/c2a/version").json == {"version": "1.7.0"}
    assert client.get("/c2a/api/nothing").json == {"detail": "Not Found"}
    assert client.delete(f"{TASKS}/x/resume-poll").status_code == 405
    posted = client.post("/c2a/api/nothing")
    assert (posted.status_code, posted.json) == (405, {"detail": "Method Not Allowed"})
    posted = client.post("/c2a/v1/nothing")
    assert (posted.status_code, posted.json["error"]["code"]) == (405, "bad_request")
    missing = client.get("/c2a/images/2026/01/01/1_0.png")
    assert (missing.status_code, missing.json) == (404, {"detail": "image not found"})
