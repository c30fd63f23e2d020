"""The routes of Replicate's clients over doubles."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.dialects import watching
from app.dialects.replicate import predictions
from app.http.held import HOLD, Hold
from app.shapes.schemas.replicate import PredictionOut, PredictionPage, ReplicateModelOut, ReplicateModelPage
from core.errors import DatabaseAwayError
from core.settings import SettingsError
from jobs.lifecycle import Cancellation
from jobs.reads.tasks import Task
from quota.errors import InsufficientCreditsError
from tests.unit.app_doubles import MINE, NOW, THEIRS, Edge, done_task, job_id, make_edge, make_image, make_task

SCHNELL = "black-forest-labs/flux-schnell"
CLIENT: dict[str, Any] = {
    "dialect": "replicate", "model": SCHNELL, "version": "v1", "single": False,
    "input": {"prompt": None, "num_outputs": 1}, "notes": ["input.x was left out"], "webhook": None,
    "webhook_events_filter": None, "cancel_after_s": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def built() -> Edge:
    return make_edge(configured=("openai", "replicate"))


@pytest.fixture
def edge(built: Edge) -> Edge:
    """The one app, with nothing in it."""
    for filled in (built.rows.known, built.rows.filters, built.submission.orders, built.submission.kept):
        filled.clear()
    built.published.clear()
    built.rows.away = built.submission.refuse = None
    return built


def create(edge: Edge, path: str = "/v1/predictions", headers: dict[str, str] | None = None, **body: Any) -> Any:
    return edge.client.post(path, json=body, headers={**MINE, **(headers or {})})


def end_at_submit(edge: Edge, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have every job be over by the time it is read."""
    add = edge.rows.add

    def ended(task: Task) -> Task:
        add(replace(task, **{**end_of(task), **changes}))
        return task

    monkeypatch.setattr(edge.rows, "add", ended)


def end_of(task: Task) -> dict[str, Any]:
    end = {"status": "succeeded", "started_at": NOW + timedelta(seconds=1), "finished_at": NOW + timedelta(seconds=3)}
    return {**end, "version": 5, "images": [make_image(index) for index in range(task.n)]}


# ---------------------------------------------------------------- create


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predictions", {"version": SCHNELL}),
        ("/v1/predictions", {"model": SCHNELL}),
        ("/v1/predictions", {"version": "replicate-flux-schnell"}),
        (f"/v1/models/{SCHNELL}/predictions", {}),
        (f"/v1/deployments/{SCHNELL}/predictions", {"stream": True}),
    ],
)
@pytest.mark.parametrize("scheme", ["Bearer", "Token"])
def test_a_prediction_is_a_job(edge: Edge, path: str, body: dict[str, Any], scheme: str) -> None:
    answer = create(
        edge, path, {"Authorization": f"{scheme} dk_a_secret"}, input={"prompt": "a fox", "num_outputs": 2}, **body
    )
    assert (answer.status_code, answer.json["status"], answer.json["model"]) == (201, "starting", SCHNELL)
    assert answer.headers["Location"] == answer.json["urls"]["get"]
    _, operation, fields, _, _ = edge.submission.orders[0]
    assert (operation, fields["model"], fields["n"]) == ("generate", "replicate-flux-schnell", 2)
    assert edge.published


def test_links_are_absolute_and_open_without_a_key(edge: Edge) -> None:
    edge.rows.add(done_task(1))
    prediction = edge.client.get(f"/v1/predictions/{job_id(1)}", headers=MINE).json
    links = [*prediction["urls"].values(), *prediction["output"]]
    assert all(link.startswith("http://localhost/") for link in links)
    assert edge.client.get(prediction["output"][0]).mimetype == "image/png"
    stream = edge.client.get(prediction["urls"]["stream"])
    assert stream.mimetype == "text/event-stream"
    assert edge.client.get(prediction["urls"]["stream"].replace(job_id(1), job_id(2))).status_code == 403


def test_without_a_public_address_nothing_is_accepted(edge: Edge) -> None:
    answer = create(edge, headers={"Host": "unknown.example"}, version=SCHNELL, input={"prompt": "a fox"})
    assert answer.status_code == 421
    assert not edge.submission.orders


@pytest.mark.parametrize(
    ("setting", "body", "model"),
    [
        ("stability-ai/sdxl", {}, "replicate-sdxl"),
        ("stability-ai/sdxl", {"model": SCHNELL}, "replicate-flux-schnell"),
        ("", {}, "gpt-image-2"),
    ],
)
def test_the_default_model(setting: str, body: dict[str, Any], model: str) -> None:
    edge = make_edge(configured=("openai", "replicate"), REPLICATE_MODEL_ID=setting)
    assert create(edge, input={"prompt": "a fox"}, **body).status_code == 201
    assert edge.submission.orders[0][2]["model"] == model


def test_a_default_that_names_no_model_ends_the_start() -> None:
    with pytest.raises(SettingsError, match="REPLICATE_MODEL_ID: no model is called 'nonesuch'"):
        make_edge(REPLICATE_MODEL_ID="nonesuch")


def test_what_is_left_out_stands_in_the_logs(edge: Edge) -> None:
    answer = create(edge, version=SCHNELL, input={"prompt": "a fox", "lora": "x", "negative_prompt": "dogs"})
    assert "input.lora was left out" in answer.json["logs"]
    assert "negative_prompt was left out" in answer.json["logs"]
    assert answer.json["input"] == {"prompt": "a fox", "lora": "x", "negative_prompt": "dogs"}


def test_every_fault_is_told_where_it_is(edge: Edge) -> None:
    answer = create(
        edge, headers={"Cancel-After": "soon"}, version=SCHNELL, webhook="no url", bogus=1,
        input={"prompt": 5, "num_outputs": "2", "guidance_scale": "much", "image": 7},
    )  # fmt: skip
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")
    assert answer.json["title"] == "Input validation failed"
    assert {each["field"] for each in answer.json["invalid_fields"]} == {
        "Cancel-After", "webhook", "bogus", "input.prompt", "input.num_outputs", "input.guidance_scale", "input.image",
    }  # fmt: skip
    assert all(f"- {each['field']}: " in answer.json["detail"] for each in answer.json["invalid_fields"])
    assert not edge.submission.orders
    assert not edge.published


def test_a_body_without_an_input(edge: Edge) -> None:
    answer = create(edge, version=SCHNELL)
    assert [each["field"] for each in answer.json["invalid_fields"]] == ["input"]


@pytest.mark.parametrize(
    ("path", "body", "status", "title"),
    [
        ("/v1/models/black-forest-labs/flux-schnel/predictions", {}, 404, "Not found"),
        ("/v1/predictions", {"version": "black-forest-labs/flux-schnel"}, 422, "Invalid version or not permitted"),
        ("/v1/predictions", {"version": "ab" * 32}, 422, "Invalid version or not permitted"),
    ],
)
def test_an_unknown_model(edge: Edge, path: str, body: dict[str, Any], status: int, title: str) -> None:
    answer = create(edge, path, input={"prompt": "a fox"}, **body)
    assert (answer.status_code, answer.json["title"]) == (status, title)
    if body.get("version") != "ab" * 32:
        assert f"did you mean {SCHNELL}" in answer.json["detail"]


def test_errors_as_clients_know_them(edge: Edge) -> None:
    assert edge.client.get("/v1/predictions").json["title"] == "Unauthenticated"
    wrong = edge.client.get("/v1/predictions", headers={"Authorization": "Token dk_wrong"})
    assert (wrong.status_code, wrong.json["title"]) == (401, "Unauthenticated")
    edge.submission.refuse = InsufficientCreditsError(price_microcredits=5_000_000, spendable_microcredits=0)
    empty = create(edge, version=SCHNELL, input={"prompt": "a fox"})
    assert (empty.status_code, empty.json["title"]) == (402, "Insufficient credit")
    # @ai-sdk/replicate reads no body in which this is not a text.
    assert "error" not in empty.json
    edge.submission.refuse = None
    edge.rows.away = DatabaseAwayError("away")
    away = edge.client.get(f"/v1/predictions/{job_id(1)}", headers=MINE)
    assert (away.status_code, away.mimetype) == (503, "application/problem+json")
    assert away.headers["Retry-After"]


def test_a_limit_is_told_by_its_detail() -> None:
    edge = make_edge(configured=("openai", "replicate"), DARKROOM_RATE_LIMIT_SUBMIT="1/minute")
    create(edge, version=SCHNELL, input={"prompt": "a fox"})
    answer = create(edge, version=SCHNELL, input={"prompt": "a fox"})
    assert (answer.status_code, set(answer.json)) == (429, {"detail", "status"})
    assert int(answer.headers["Retry-After"]) > 0


def test_the_same_idempotency_key_is_the_same_prediction(edge: Edge) -> None:
    keyed = {"Idempotency-Key": "abc"}
    ids = {create(edge, headers=keyed, version=SCHNELL, input={"prompt": "a fox"}).json["id"] for _ in range(2)}
    assert len(ids) == len(edge.submission.orders) == 1


def test_a_callback_is_part_of_the_order(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[Any] = []
    submit = edge.submission.submit

    def remember(caller: Any, order: Any, **others: Any) -> Any:
        orders.append(order)
        return submit(caller, order, **others)

    monkeypatch.setattr(edge.submission, "submit", remember)
    answer = create(
        edge, headers={"Cancel-After": "1h30m"}, version=SCHNELL, webhook="https://receiver.example/hook",
        webhook_events_filter=["start", "completed"], input={"prompt": "a fox"},
    )  # fmt: skip
    assert (orders[0].webhook.form, orders[0].webhook.url) == ("replicate", "https://receiver.example/hook")
    assert orders[0].cancel_after_s == 5400
    assert answer.json["webhook_events_filter"] == ["start", "completed"]
    assert answer.json["deadline"] == "2026-11-20T13:30:00.000Z"


# ---------------------------------------------------------------- waiting


def test_a_wait_answers_with_the_end(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    end_at_submit(edge, monkeypatch)
    answer = create(edge, headers={"Prefer": "wait"}, version=SCHNELL, input={"prompt": "a fox", "num_outputs": 2})
    assert (answer.status_code, answer.json["status"], len(answer.json["output"])) == (201, "succeeded", 2)
    assert answer.headers["Preference-Applied"] == "wait"
    assert answer.json["metrics"] == {"total_time": 3.0, "predict_time": 2.0}


def test_an_unfinished_wait_says_starting_even_while_it_runs(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dialects.replicate.headers.MAX_WAIT_S", 0.01)
    end_at_submit(edge, monkeypatch, status="running", finished_at=None, images=[], progress=0.5)
    answer = create(edge, headers={"Prefer": "wait=1"}, version=SCHNELL, input={"prompt": "a fox"})
    assert (answer.status_code, answer.json["status"]) == (201, "starting")
    read = edge.client.get(f"/v1/predictions/{answer.json['id']}", headers=MINE).json
    assert read["status"] == "processing"
    assert " 50%|#####     | 50/100" in read["logs"]


@pytest.mark.parametrize(("agent", "status"), [("ai/6.0 ai-sdk/provider-utils/4.0", "succeeded"), ("x", "starting")])
def test_a_long_wait_is_kept_alive_and_who_cannot_read_less_gets_the_end(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, agent: str, status: str
) -> None:
    """The minute of the other clients is over at the second beat; the job ends after the third."""
    clock = SimpleNamespace(ahead_s=0.0, monotonic=lambda: time.monotonic() + clock.ahead_s, sleep=time.sleep)
    monkeypatch.setattr(watching, "time", clock)
    edge.app.extensions[HOLD] = Hold(quiet_s=0.01, beat_s=0.01)
    monkeypatch.setattr(watching, "PAUSE_S", 0.0)
    answer = create(edge, headers={"Prefer": "wait", "User-Agent": agent}, version=SCHNELL, input={"prompt": "a fox"})
    body = b""
    for number, chunk in enumerate(answer.iter_encoded()):
        body += chunk
        clock.ahead_s = 61.0 if number else 0.0
        if number == 2:
            task = next(iter(edge.rows.known.values()))
            edge.rows.add(replace(task, **end_of(task)))
    assert answer.status_code == 201
    assert body.startswith(b" ")
    assert json.loads(body)["status"] == status


# ---------------------------------------------------------------- read, list, cancel


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "starting"),
        ({"status": "running"}, "processing"),
        ({"status": "failed", "failure_code": "upstream_failed"}, "failed"),
        ({"status": "cancelled", "finished_at": NOW}, "canceled"),
    ],
)
def test_a_native_job_reads_as_a_prediction(edge: Edge, changes: dict[str, Any], status: str) -> None:
    edge.rows.add(make_task(1, **changes))
    answer = edge.client.get(f"/v1/predictions/{job_id(1)}", headers=MINE).json
    assert (answer["status"], answer["model"], answer["input"]) == (status, "openai/gpt-image-2", {"prompt": "a fox"})
    assert bool(answer["error"]) is (status == "failed")


def test_a_prediction_reads_as_a_native_task(edge: Edge) -> None:
    made = create(edge, version=SCHNELL, input={"prompt": "a fox"}).json["id"]
    assert edge.client.get(f"/api/images/tasks/{made}", headers=MINE).json["request"]["prompt"] == "a fox"


@pytest.mark.parametrize(
    ("started", "finished_s", "status"),
    [(None, 90, "aborted"), (NOW, 90, "canceled"), (None, 20, "canceled")],
)
def test_a_deadline_before_the_start_aborts(edge: Edge, started: Any, finished_s: int, status: str) -> None:
    finished = NOW + timedelta(seconds=finished_s)
    client = {**CLIENT, "cancel_after_s": 60}
    edge.rows.add(make_task(1, status="cancelled", started_at=started, finished_at=finished, client=client))
    answer = edge.client.get(f"/v1/predictions/{job_id(1)}", headers=MINE).json
    assert (answer["status"], answer["deadline"]) == (status, "2026-11-20T12:01:00.000Z")


def test_outputs_have_the_form_of_the_model(edge: Edge) -> None:
    edge.rows.add(done_task(1, client={**CLIENT, "single": True}))
    edge.rows.add(done_task(2, client=CLIENT))
    edge.rows.add(done_task(3, client=CLIENT, n=2))
    edge.rows.known[job_id(3)] = replace(edge.rows.known[job_id(3)], client={**CLIENT, "single": True})
    edge.rows.add(replace(done_task(4), images=[make_image(text="a fox in snow", mime="text/plain")]))
    edge.rows.add(replace(done_task(5), images=[make_image(deleted_at=NOW)]))
    outputs = [edge.client.get(f"/v1/predictions/{job_id(n)}", headers=MINE).json["output"] for n in range(1, 6)]
    assert [type(output) for output in outputs[:3]] == [str, list, list]
    assert outputs[3:] == ["a fox in snow", None]
    assert edge.client.get(f"/v1/predictions/{job_id(5)}", headers=MINE).json["data_removed"] is True


def test_a_long_prompt_comes_back_from_the_job(edge: Edge) -> None:
    made = create(edge, version=SCHNELL, input={"prompt": "fox " * 500}).json
    assert made["input"]["prompt"] == ("fox " * 500).strip()


def test_a_refusal_has_the_words_that_clients_look_for(edge: Edge) -> None:
    edge.rows.add(make_task(1, status="failed", failure_code="content_refused", finished_at=NOW))
    answer = edge.client.get(f"/v1/predictions/{job_id(1)}", headers=MINE).json
    assert "flagged as sensitive" in answer["error"]
    assert "(E005)" in answer["error"]


@pytest.mark.parametrize("path", ["", "/cancel", "/stream"])
def test_another_accounts_prediction_is_a_404(edge: Edge, path: str) -> None:
    edge.rows.add(make_task(1))
    for known in (job_id(1), "job_nonsense", "abc"):
        method = edge.client.post if path == "/cancel" else edge.client.get
        assert method(f"/v1/predictions/{known}{path}", headers=THEIRS).status_code == 404


def test_pages_link_to_their_neighbours(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "PAGE", 2)
    for number in range(1, 6):
        edge.rows.add(make_task(number))

    def page(link: str) -> tuple[list[int], Any]:
        found = edge.client.get(link, headers=MINE).json
        return [int(each["id"][-1]) for each in found["results"]], found

    first, found = page("/v1/predictions")
    assert (first, found["previous"]) == ([5, 4], None)
    second, found = page(found["next"])
    assert second == [3, 2]
    last, end = page(found["next"])
    assert (last, end["next"]) == ([1], None)
    assert page(end["previous"])[0] == [3, 2]
    assert page(found["previous"])[0] == [5, 4]


def test_lists_by_time(edge: Edge) -> None:
    query = "created_after=2026-11-20T12:00:00Z&created_before=2026-11-20T13:00:00Z"
    assert edge.client.get(f"/v1/predictions?{query}", headers=MINE).status_code == 200
    asked = edge.rows.filters[-1]
    assert asked.created_after == NOW - timedelta(microseconds=1)  # theirs takes in the moment itself
    assert asked.created_before == NOW + timedelta(hours=1)
    assert edge.client.get("/v1/predictions?cursor=x", headers=MINE).json["title"] == "Input validation failed"


def test_a_cancel_is_answered_with_the_prediction(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "CANCEL_WAIT_S", 0)
    edge.rows.add(make_task(1, status="running"))
    edge.rows.cancelled = Cancellation("stop_requested", [])
    assert edge.client.post(f"/v1/predictions/{job_id(1)}/cancel", headers=MINE).json["status"] == "processing"
    edge.rows.add(make_task(1, status="cancelled", finished_at=NOW))
    assert edge.client.post(f"/v1/predictions/{job_id(1)}/cancel", headers=MINE).json["status"] == "canceled"


# ---------------------------------------------------------------- models, account


def test_models_come_in_pages_and_for_openais_clients_too(edge: Edge) -> None:
    names, link = [], "/v1/models"
    while link:
        page = edge.client.get(link, headers=MINE).json
        names += [f"{each['owner']}/{each['name']}" for each in page["results"]]
        link = page["next"]
    assert len(set(names)) == len(names)
    assert "gpt-image-2" in {each["id"] for each in page["data"]}
    assert {SCHNELL, "openai/gpt-image-2"} <= set(names)
    assert {each["object"] for each in page["data"]} == {"model"}


def test_a_model_its_version_and_its_absence(edge: Edge) -> None:
    model = edge.client.get(f"/v1/models/{SCHNELL}", headers=MINE).json
    version = model["latest_version"]
    assert edge.client.get(f"/v1/models/{SCHNELL}/versions", headers=MINE).json["results"] == [version]
    assert edge.client.get(f"/v1/models/{SCHNELL}/versions/{version['id']}", headers=MINE).json == version
    assert edge.client.get(f"/v1/models/{SCHNELL}/versions/{'0' * 64}", headers=MINE).status_code == 404
    missing = edge.client.get("/v1/models/black-forest-labs/flux-schnel", headers=MINE)
    assert (missing.status_code, missing.mimetype) == (404, "application/problem+json")
    assert SCHNELL in missing.json["detail"]


def test_a_path_with_one_part_behind_models_is_not_ours(edge: Edge) -> None:
    assert edge.client.get("/v1/models/gpt-image-2", headers=MINE).json["object"] == "model"
    assert "error" in edge.client.get("/v1/models/no-such-model", headers=MINE).json


def test_the_account(edge: Edge) -> None:
    assert edge.client.get("/v1/account", headers=MINE).json["username"] == "a"


def test_answers_are_what_the_reference_page_says(edge: Edge) -> None:
    headers = {"Cancel-After": "90s"}
    hook = "https://receiver.example/hook"
    made = create(edge, headers=headers, version=SCHNELL, webhook=hook, input={"prompt": "a fox"}).json
    PredictionOut.model_validate(made)
    edge.rows.add(done_task(1))
    PredictionOut.model_validate(edge.client.get(f"/v1/predictions/{job_id(1)}", headers=MINE).json)
    PredictionPage.model_validate(edge.client.get("/v1/predictions", headers=MINE).json)
    ReplicateModelPage.model_validate(edge.client.get("/v1/models", headers=MINE).json)
    ReplicateModelOut.model_validate(edge.client.get(f"/v1/models/{SCHNELL}", headers=MINE).json)


def test_the_page_for_clients_has_every_route(edge: Edge) -> None:
    page = (Path(__file__).parents[2] / "docs/clients-replicate.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `((?:GET|POST) /[^`]*)` \|", page, re.M)
    served = {
        f"{method} {rule.rule}"
        for rule in edge.app.url_map.iter_rules()
        if rule.endpoint.startswith("replicate_")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert set(told) == served
