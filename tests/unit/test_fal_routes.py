"""fal's queue and synchronous host, over doubles of what is below the routes."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from app_doubles import NOW, PNG, THEIRS, Edge, done_task, job_id, make_edge, make_image, make_task
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from werkzeug.test import TestResponse

from app.callbacks import SignedLinks
from app.dialects.fal import run, webhook
from app.dialects.fal.request_ids import request_id_of
from app.dialects.watching import Watching
from app.http.held import HOLD, BrokenOff, Hold
from core.errors import DatabaseAwayError
from jobs.lifecycle import Cancellation
from jobs.states import Nudge
from jobs.submission.order import Order
from quota.errors import InsufficientCreditsError
from webhooks.forms import FAILED, SUCCEEDED, Message

KEY = {"Authorization": "Key dk_a_secret"}
APP = "/fal/queue/fal-ai/gpt-image-2"
QUEUED = make_task(1, client={"dialect": "fal", "app": "fal-ai/gpt-image-2"})
RUNNING = make_task(2, status="running", queue_position=None, started_at=NOW)
DONE = replace(
    done_task(3, client={"dialect": "fal", "data_urls": False}), started_at=NOW, finished_at=NOW + timedelta(seconds=2)
)
FAILED_TASK = make_task(
    4, status="failed", finished_at=NOW, failure_code="content_refused", failure_detail="no", queue_position=None
)


@pytest.fixture(scope="module")
def built() -> Edge:
    """One app for all tests: making it costs more than most of them."""
    return make_edge()


@pytest.fixture
def edge(built: Edge) -> Edge:
    """The app with four jobs, and as if nothing had been asked of it."""
    rows, submission = built.rows, built.submission
    rows.away, rows.cancelled = None, Cancellation("freed_in_queue", [])
    for state in (rows.known, rows.unanswered, submission.orders, submission.kept, built.published, built.fetched):
        state.clear()
    built.app.extensions[HOLD] = Hold()
    for task in (QUEUED, RUNNING, DONE, FAILED_TASK):
        rows.add(task)
    return built


def submit(edge: Edge, app: str = "fal-ai/gpt-image-2", /, query: str = "", headers: Any = None, **input_: Any) -> Any:
    return edge.client.post(f"/fal/queue/{app}{query}", json=input_, headers={**KEY, **(headers or {})})


def read(edge: Edge, task: Any, what: str = "", headers: Mapping[str, str] = KEY) -> TestResponse:
    return edge.client.get(f"{APP}/requests/{request_id_of(task.id)}{what}", headers=headers)


def test_a_request_is_queued_and_names_where_to_look(edge: Edge) -> None:
    answer = submit(
        edge, "fal-ai/gpt-image-2/edit-image", prompt="x", image_urls=["https://a.example/x.png"], loras=[1]
    )
    said = answer.json
    assert answer.status_code == 200
    assert said["status"] == "IN_QUEUE"
    assert isinstance(said["queue_position"], int)
    request_id = said["request_id"]
    assert str(UUID(request_id)) == request_id
    assert answer.headers["x-fal-request-id"] == said["gateway_request_id"] == request_id
    assert said["response_url"] == f"http://localhost{APP}/requests/{request_id}"
    assert said["status_url"] == f"{said['response_url']}/status"
    assert said["cancel_url"] == f"{said['response_url']}/cancel"
    assert answer.headers["Warning"] == '299 - "ignored: loras"'
    (_, operation, fields, images, _) = edge.submission.orders[-1]
    assert (operation, fields["model"], fields["lenient"]) == ("edit", "gpt-image-2", True)
    assert [image.data for image in images] == [PNG]
    assert [nudge.task for nudge in edge.published] == ["jobs.run"]


def test_a_client_that_speaks_https_alone_gets_https_addresses(edge: Edge) -> None:
    said = submit(edge, prompt="x", headers={"User-Agent": "fal-client/1.0.3 (python)"}).json
    assert said["status_url"].startswith("https://localhost/fal/queue/")


@pytest.fixture
def offered(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> list[Order]:
    """The orders that were handed over; none is accepted."""
    orders: list[Order] = []

    def refuse(_caller: Any, order: Order, **_: Any) -> Any:
        orders.append(order)
        raise InsufficientCreditsError(price_microcredits=2, spendable_microcredits=1)

    monkeypatch.setattr(edge.submission, "submit", refuse)
    return orders


def test_headers_say_priority_latest_start_and_fallbacks(edge: Edge, offered: list[Order]) -> None:
    headers = {"X-Fal-Queue-Priority": "low", "X-Fal-Request-Timeout": "2.5", "x-fal-no-retry": "1"}
    submit(edge, prompt="x", headers=headers)
    fields = offered[0].fields
    assert (fields["priority"], fields["deadline_s"], fields["fallback_models"]) == ("low", 3, [])
    assert offered[0].client == {
        "dialect": "fal",
        "app": "fal-ai/gpt-image-2",
        "data_urls": False,
        "start_timeout": True,
    }


def test_every_fault_is_named_at_once_where_the_client_said_it(edge: Edge) -> None:
    headers = {"X-Fal-Queue-Priority": "high", "X-Fal-Request-Timeout": "soon"}
    answer = submit(
        edge,
        query="?fal_webhook=ftp://x",
        prompt=7,
        num_images="two",
        image_urls=["https://a.example/x", 1],
        headers=headers,
    )
    assert answer.status_code == 422
    assert answer.content_type == "application/json"
    assert {tuple(each["loc"]) for each in answer.json["detail"]} == {
        ("body", "prompt"),
        ("body", "num_images"),
        ("body", "image_urls", 1),
        ("header", "x-fal-queue-priority"),
        ("header", "x-fal-request-timeout"),
        ("query", "fal_webhook"),
    }
    assert all(each["msg"] and each["type"] for each in answer.json["detail"])
    assert "num_images: " in answer.json["message"]
    assert answer.headers["x-fal-error-type"] == answer.json["error_type"]
    assert edge.submission.orders == []


def test_a_missing_prompt_is_missing(edge: Edge) -> None:
    for answer in (submit(edge), edge.client.post(APP, headers=KEY)):
        assert answer.status_code == 422
        assert (answer.json["detail"][0]["loc"], answer.json["detail"][0]["type"]) == (["body", "prompt"], "missing")


def test_an_image_that_may_not_be_fetched_is_named(edge: Edge) -> None:
    answer = submit(edge, "fal-ai/gpt-image-2/edit", prompt="x", image_url="https://private.example/x.png")
    assert answer.status_code == 422
    assert answer.json["detail"][0]["loc"] == ["body", "image_url"]
    assert answer.json["error_type"] == "file_download_error"


def test_an_unknown_name_is_404_with_the_nearest(edge: Edge) -> None:
    for answer in (
        submit(edge, "fal-ai/gpt-image-22", prompt="x"),
        edge.client.post("/fal/run/fal-ai/gpt-image-22", json={"prompt": "x"}, headers=KEY),
    ):
        assert answer.status_code == 404
        assert "did you mean fal-ai/gpt-image-2" in answer.json["detail"]
        assert answer.json["error_type"] == "not_found"


def test_broken_and_other_bodies_are_refused(edge: Edge) -> None:
    broken = edge.client.post(APP, data=b"{", headers={**KEY, "Content-Type": "application/json"})
    assert (broken.status_code, broken.json["error_type"]) == (400, "bad_request")
    other = edge.client.post(APP, data=b"x=1", headers={**KEY, "Content-Type": "text/plain"})
    assert other.status_code == 415
    assert isinstance(other.json["detail"], str)


@pytest.mark.usefixtures("offered")
def test_an_empty_balance_is_402_and_no_retry_of_a_client(edge: Edge) -> None:
    answer = submit(edge, prompt="x")
    assert (answer.status_code, answer.json["error_type"]) == (402, "insufficient_credits")


def test_keys_come_as_key_or_bearer(edge: Edge) -> None:
    assert edge.client.get(f"{APP}/requests/{job_id(1)}/status").status_code == 401
    wrong = edge.client.get(f"{APP}/requests/{job_id(1)}/status", headers={"Authorization": "Key dk_no_secret"})
    assert (wrong.status_code, wrong.json["error_type"]) == (401, "authentication_error")
    assert read(edge, QUEUED, "/status", {"Authorization": "Bearer dk_a_secret"}).status_code == 202


def test_an_idempotency_key_gives_the_same_request(edge: Edge) -> None:
    first = submit(edge, prompt="x", headers={"Idempotency-Key": "k"})
    again = submit(edge, prompt="x", headers={"Idempotency-Key": "k"})
    assert again.json["request_id"] == first.json["request_id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    other = submit(edge, prompt="y", headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json["detail"][0]["loc"]) == (422, ["body"])


def test_an_order_is_kept_with_redis_away(edge: Edge) -> None:
    edge.trouble["redis"] = "away"
    assert submit(edge, prompt="x").status_code == 200
    assert edge.rows.unpublished


def test_postgresql_away_is_503_in_fals_words(edge: Edge) -> None:
    edge.rows.away = DatabaseAwayError("away")
    answer = read(edge, QUEUED, "/status")
    assert (answer.status_code, answer.json["error_type"]) == (503, "service_unavailable")
    assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize(
    ("task", "status", "said"),
    [
        (QUEUED, 202, {"status": "IN_QUEUE", "queue_position": 3}),
        (RUNNING, 202, {"status": "IN_PROGRESS", "logs": None}),
        (DONE, 200, {"status": "COMPLETED", "logs": None, "metrics": {"inference_time": 2.0}}),
        (
            FAILED_TASK,
            200,
            {
                "status": "COMPLETED",
                "logs": None,
                "metrics": {},
                "error": "no",
                "error_type": "content_policy_violation",
            },
        ),
    ],
)
def test_a_status_has_the_members_that_clients_read(edge: Edge, task: Any, status: int, said: dict[str, Any]) -> None:
    answer = read(edge, task, "/status?logs=0")
    request_id = request_id_of(task.id)
    root = f"http://localhost{APP}/requests/{request_id}"
    urls = {"response_url": root, "status_url": f"{root}/status", "cancel_url": f"{root}/cancel"}
    assert (answer.status_code, answer.json) == (status, {**said, "request_id": request_id, **urls})


@pytest.mark.parametrize("asked", ["1", "true", "True"])
def test_logs_are_the_transitions_of_the_job(edge: Edge, asked: str) -> None:
    (line,) = read(edge, DONE, f"/status?logs={asked}").json["logs"]
    assert (line["message"], line["timestamp"]) == ("queued", "2026-11-20T12:00:00.000Z")
    assert read(edge, DONE, "/status?logs=false").json["logs"] is None


def test_a_job_made_elsewhere_is_read_by_either_id(edge: Edge) -> None:
    assert read(edge, RUNNING, "/status").json["status"] == "IN_PROGRESS"
    assert edge.client.get(f"{APP}/requests/{DONE.id}", headers=KEY).status_code == 200


@pytest.mark.parametrize("what", ["", "/status", "/response", "/status/stream"])
def test_another_accounts_request_is_not_there(edge: Edge, what: str) -> None:
    for answer in (read(edge, DONE, what, THEIRS), edge.client.get(f"{APP}/requests/nope{what}", headers=KEY)):
        assert (answer.status_code, answer.json["error_type"]) == (404, "not_found")


def test_a_result_has_its_images_and_links_that_need_no_key(edge: Edge) -> None:
    answer = read(edge, DONE)
    said = answer.json
    assert answer.headers["x-fal-request-id"] == request_id_of(DONE.id)
    (image,) = said["images"]
    assert {name: image[name] for name in ("width", "height", "content_type", "file_size")} == {
        "width": 64,
        "height": 32,
        "content_type": "image/png",
        "file_size": len(PNG),
    }
    assert image["file_name"] == f"{DONE.id}-0.png"
    opened = edge.client.get(image["url"].removeprefix("http://localhost"))
    assert (opened.status_code, opened.data) == (200, PNG)
    assert (said["seed"], said["prompt"], said["has_nsfw_concepts"]) == (7, "a fox", [False])
    assert said["timings"] == {"inference": 2.0}
    assert read(edge, DONE, "/response").json["images"][0]["file_name"] == image["file_name"]


def test_what_is_unknown_is_left_out_of_a_result(edge: Edge) -> None:
    edge.rows.add(replace(DONE, images=[make_image(seed=None)]))
    assert "seed" not in read(edge, DONE).json


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({"operation": "upscale"}, "image"),
        ({"images": [make_image(mime="model/gltf-binary", width_px=None, height_px=None)]}, "model_mesh"),
    ],
)
def test_some_results_have_another_form(edge: Edge, changes: dict[str, Any], member: str) -> None:
    edge.rows.add(replace(DONE, **changes))
    said = read(edge, DONE).json
    assert said[member]["url"]
    assert "images" not in said


def test_a_text_is_the_output(edge: Edge) -> None:
    edge.rows.add(replace(DONE, images=[make_image(mime="text/plain", text="a fox", width_px=None, height_px=None)]))
    assert read(edge, DONE).json["output"] == "a fox"


def test_images_go_along_where_the_client_asked_for_that(edge: Edge) -> None:
    assert submit(edge, prompt="x", sync_mode=True).status_code == 200
    edge.rows.add(replace(DONE, client={"dialect": "fal", "data_urls": True}))
    url = read(edge, DONE).json["images"][0]["url"]
    assert url == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def test_deleted_images_are_gone(edge: Edge) -> None:
    edge.rows.add(replace(DONE, images=[make_image(deleted_at=NOW)]))
    assert read(edge, DONE).status_code == 410


def test_a_result_before_the_end_is_400(edge: Edge) -> None:
    assert (read(edge, RUNNING).status_code, read(edge, RUNNING).json["detail"]) == (
        400,
        "Request is still in progress",
    )


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"failure_code": "content_refused"}, 422, "content_policy_violation"),
        ({"failure_code": "upstream_said_no"}, 422, "no_media_generated"),
        ({"failure_code": "upstream_rejected"}, 400, "downstream_service_error"),
        ({"failure_code": "upstream_overloaded"}, 500, "downstream_service_unavailable"),
        ({"failure_code": "upstream_timeout"}, 500, "generation_timeout"),
        ({"failure_code": "insufficient_credits"}, 402, "insufficient_credits"),
        ({"failure_code": "deadline_expired"}, 500, "request_timeout"),
        ({"failure_code": None, "status": "cancelled"}, 499, "client_cancelled"),
    ],
)
def test_a_failure_has_its_status_and_word(edge: Edge, changes: dict[str, Any], status: int, kind: str) -> None:
    edge.rows.add(replace(FAILED_TASK, **changes))
    answer = read(edge, FAILED_TASK)
    assert (answer.status_code, answer.json["error_type"], answer.headers["x-fal-error-type"]) == (status, kind, kind)
    assert isinstance(answer.json["detail"], list if status == 422 else str)
    assert answer.json["message"]
    assert answer.content_type == "application/json"
    assert read(edge, FAILED_TASK, "/status").json["error_type"] == kind


def test_a_latest_start_of_the_clients_own_is_a_504_that_is_not_repeated(edge: Edge) -> None:
    edge.rows.add(
        replace(FAILED_TASK, failure_code="deadline_expired", client={"dialect": "fal", "start_timeout": True})
    )
    answer = read(edge, FAILED_TASK)
    assert (answer.status_code, answer.headers["x-fal-request-timeout-type"]) == (504, "user")


def test_images_made_before_a_cancel_are_delivered(edge: Edge) -> None:
    edge.rows.add(replace(DONE, status="cancelled", cancel_outcome="too_late"))
    assert "error" not in read(edge, DONE, "/status").json
    assert read(edge, DONE).json["images"]


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        ("freed_in_queue", 202, "CANCELLATION_REQUESTED"),
        ("stop_requested", 202, "CANCELLATION_REQUESTED"),
        ("too_late", 400, "ALREADY_COMPLETED"),
    ],
)
def test_a_cancel_says_how_it_went(edge: Edge, outcome: Any, status: int, word: str) -> None:
    edge.rows.cancelled = Cancellation(outcome, [Nudge("jobs.poll", "control", "openai")])
    answer = edge.client.put(f"{APP}/requests/{request_id_of(QUEUED.id)}/cancel", headers=KEY)
    assert (answer.status_code, answer.json["status"]) == (status, word)
    assert [nudge.task for nudge in edge.published] == ["jobs.poll"]


@pytest.mark.parametrize("headers", [KEY, THEIRS])
def test_nothing_to_cancel_is_not_found(edge: Edge, headers: Mapping[str, str]) -> None:
    request_id = request_id_of(job_id(9) if headers is KEY else QUEUED.id)
    answer = edge.client.put(f"{APP}/requests/{request_id}/cancel", headers=headers)
    assert (answer.status_code, answer.json["status"]) == (404, "NOT_FOUND")
    assert answer.json["detail"]


def test_a_stream_tells_each_state_once_and_ends_with_the_job(edge: Edge) -> None:
    answer = read(edge, QUEUED, "/status/stream?logs=1", {**KEY, "Accept": "text/event-stream"})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["X-Accel-Buffering"] == "no"
    chunks = iter(answer.response)
    states = [_data(next(chunks))]
    edge.rows.add(replace(QUEUED, status="running", version=2, queue_position=None))
    states.append(_data(next(chunks)))
    edge.rows.add(replace(DONE, id=QUEUED.id, version=3))
    states += [_data(chunk) for chunk in chunks]
    assert [state["status"] for state in states] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    assert [len(state.get("logs", [])) for state in states] == [0, 1, 0]  # each line of the log once


def _data(chunk: str | bytes) -> dict[str, Any]:
    text = chunk.decode() if isinstance(chunk, bytes) else chunk
    assert text.startswith("data: ")
    assert text.endswith("\n\n")
    return dict(json.loads(text.removeprefix("data: ")))


def _run(edge: Edge, **input_: Any) -> TestResponse:
    return edge.client.post("/fal/run/fal-ai/gpt-image-2", json=input_, headers=KEY)


def _ends(edge: Edge, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have each job that is accepted end at once."""
    accept = run.accept

    def accepted(*args: Any, **kwargs: Any) -> Any:
        submitted = accept(*args, **kwargs)
        edge.rows.add(replace(submitted.task, version=9, finished_at=NOW, **changes))
        return submitted

    monkeypatch.setattr(run, "accept", accepted)


def test_a_call_is_answered_with_the_output(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    _ends(edge, monkeypatch, status="succeeded", images=[make_image(), make_image(1)])
    answer = _run(edge, prompt="x", num_images=2)
    assert (answer.status_code, len(answer.json["images"])) == (200, 2)
    assert answer.headers["x-fal-request-id"] == request_id_of(answer.headers["X-Task-Id"])
    assert not edge.rows.unanswered


def test_an_early_failure_has_its_true_status(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    _ends(edge, monkeypatch, status="failed", failure_code="content_refused", failure_detail="no")
    answer = _run(edge, prompt="x")
    assert (answer.status_code, answer.json["detail"][0]["type"]) == (422, "content_policy_violation")
    assert not edge.rows.unanswered


@pytest.fixture
def hasty(edge: Edge) -> None:
    edge.app.extensions[HOLD] = Hold(quiet_s=0.0, beat_s=0.01)


@pytest.mark.usefixtures("hasty")
def test_a_long_call_is_kept_alive_until_its_output(edge: Edge) -> None:
    answer = _run(edge, prompt="x")
    chunks = iter(answer.response)
    assert next(chunks) == b" "
    edge.rows.add(replace(DONE, id=answer.headers["X-Task-Id"]))
    whole = b"".join(chunks)
    assert json.loads(whole)["images"]
    answer.close()
    assert not edge.rows.unanswered


@pytest.mark.usefixtures("hasty")
def test_a_late_failure_breaks_the_answer_off_and_the_same_call_gets_its_error(edge: Edge) -> None:
    answer = _run(edge, prompt="x")
    task_id = answer.headers["X-Task-Id"]
    chunks = iter(answer.response)
    next(chunks)
    edge.rows.add(replace(FAILED_TASK, id=task_id))
    with pytest.raises(BrokenOff):
        list(chunks)
    assert edge.rows.unanswered  # before the client sees its connection break
    answer.close()
    assert _run(edge, prompt="another").headers["X-Task-Id"] != task_id
    again = _run(edge, prompt="x")
    assert (again.status_code, again.headers["x-fal-request-id"]) == (422, request_id_of(task_id))
    assert _run(edge, prompt="x").headers["X-Task-Id"] != task_id  # joined once


@pytest.mark.usefixtures("hasty")
def test_a_client_that_left_collects_by_the_same_call(edge: Edge) -> None:
    answer = _run(edge, prompt="x")
    next(iter(answer.response))
    answer.close()
    task_id = answer.headers["X-Task-Id"]
    edge.rows.add(replace(DONE, id=task_id))
    again = _run(edge, prompt="x")
    assert (again.status_code, again.headers["X-Task-Id"]) == (200, task_id)
    assert len(edge.submission.orders) == 1


@pytest.mark.usefixtures("hasty")
def test_a_call_whose_job_has_been_deleted_is_a_new_one(edge: Edge) -> None:
    answer = _run(edge, prompt="x")
    next(iter(answer.response))
    answer.close()
    del edge.rows.known[answer.headers["X-Task-Id"]]
    assert _run(edge, prompt="x").headers["X-Task-Id"] != answer.headers["X-Task-Id"]


def test_a_waiting_call_has_let_go_of_its_order(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    def orders() -> int:
        gc.collect()
        return sum(type(each) is Order for each in gc.get_objects())

    seen = []

    def until(watching: Watching, _done: Any, _timeout_s: float) -> bool:
        seen.append(orders())
        watching.task = replace(DONE, id=watching.task.id)
        return True

    monkeypatch.setattr(Watching, "until", until)
    before = orders()
    assert _run(edge, prompt="x").status_code == 200
    assert seen == [before]


def test_two_equal_calls_are_two_jobs(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    _ends(edge, monkeypatch, status="succeeded", images=[make_image()])
    assert _run(edge, prompt="x").headers["X-Task-Id"] != _run(edge, prompt="x").headers["X-Task-Id"]


def test_a_webhook_goes_with_the_order(edge: Edge, offered: list[Order]) -> None:
    submit(edge, query="?fal_webhook=https://a.example/hook", prompt="x")
    assert offered[0].webhook is not None
    assert (offered[0].webhook.url, offered[0].webhook.form) == ("https://a.example/hook", "fal")


def _links(edge: Edge) -> SignedLinks:
    return SignedLinks("https://d.example", edge.signer)


def test_a_callback_is_signed_as_its_receivers_check(edge: Edge) -> None:
    body = webhook.body(DONE, SUCCEEDED, _links(edge))
    headers = webhook.headers(Message("m", 1_700_000_000, "acct_a", DONE.id, body, [], b"e" * 32))
    (key,) = edge.client.get("/fal/.well-known/jwks.json").json["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    names = ("X-Fal-Webhook-Request-Id", "X-Fal-Webhook-User-Id", "X-Fal-Webhook-Timestamp")
    signed = "\n".join((*(headers[name] for name in names), hashlib.sha256(body).hexdigest())).encode()
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
    public.verify(bytes.fromhex(headers["X-Fal-Webhook-Signature"]), signed)
    assert headers["X-Fal-Webhook-Timestamp"] == "1700000000"


def test_a_callback_has_the_output_or_the_error(edge: Edge) -> None:
    request_id = request_id_of(DONE.id)
    said = json.loads(webhook.body(DONE, SUCCEEDED, _links(edge)))
    assert (said["request_id"], said["gateway_request_id"], said["status"]) == (request_id, request_id, "OK")
    assert said["payload"]["images"][0]["url"].startswith("https://d.example/api/images/tasks/")
    said = json.loads(webhook.body(FAILED_TASK, FAILED, _links(edge)))
    assert (said["status"], said["error"]) == ("ERROR", "no")
    assert said["payload"]["detail"][0]["type"] == "content_policy_violation"
    gone = replace(DONE, images=[make_image(deleted_at=NOW)])
    said = json.loads(webhook.body(gone, SUCCEEDED, _links(edge)))
    assert (said["status"], said["payload"]) == ("OK", None)
    assert said["payload_error"]
