"""Routes of the services that this one replaces: their fields, statuses and errors, and who owns their jobs."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from app_doubles import CATALOG, KEYS, MINE, PNG, THEIRS, Edge, done_task, job_id, make_edge, make_image, make_task
from flask.testing import FlaskClient

from accounts.tokens import TokenRefusedError
from app import create_app
from app.dialects import watching
from app.dialects.chatgpt2api.words import error_text
from app.http.held import HOLD, Hold
from app.shapes.schemas.replaced import ClientTaskOut, GenerationOut, ImageGenerateOut, ImageTasksOut
from core.errors import DatabaseAwayError, UnavailableError
from jobs.dispatch import publishing
from jobs.lifecycle import Submitted
from jobs.reads import tasks
from jobs.submission import idempotency
from providers.upstreams.chatgpt2api.errors import classify_answer, classify_task_error
from quota.errors import InsufficientCreditsError
from storage.base import StorageUnavailableError

CUSTOMER = replace(KEYS["dk_a_secret"], external_ids=frozenset({"user-a", "7"}))
GENERATE = "/image/generate"
GENERATION = "/api/generation"
TASKS = "/api/image-tasks"


@pytest.fixture(scope="module")
def shared() -> Edge:
    """One app for all tests: making it costs more than most of them."""
    edge = make_edge(configured=("openai", "replicate", "chatgpt2api"))
    answers: dict[Any, Any] = edge.rows.answers
    answers[idempotency.jobs_of] = lambda _account, keys: {
        key: edge.submission.kept[key][1] for key in keys if key in edge.submission.kept
    }
    answers[tasks.find_tasks] = lambda wanted: {
        (account, job): edge.rows.known[job]
        for account, job in wanted
        if job in edge.rows.known and edge.rows.known[job].account_id == account
    }
    return edge


@pytest.fixture
def edge(shared: Edge) -> Edge:
    shared.rows.known, shared.rows.away, shared.rows.unpublished = {}, None, []
    shared.rows.answers[publishing.mark_unpublished] = shared.rows.unpublished.extend
    shared.submission.orders, shared.submission.kept, shared.submission.refuse = [], {}, None
    shared.trouble["redis"] = None
    shared.app.config.pop("REPLICATE_MODEL_ID", None)
    # A test whose job does not end by mistake ends all the same.
    shared.app.extensions[HOLD] = Hold(quiet_s=1.0, beat_s=0.05, most_s=1)
    return shared


def ends_as(edge: Edge, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Every order is accepted and has ended so at the next look."""
    accept = edge.submission.submit

    def submit(*args: Any, **kwargs: Any) -> Submitted:
        submitted = accept(*args, **kwargs)
        ended = replace(submitted.task, version=9, **changes)
        edge.rows.add(ended)
        return submitted

    monkeypatch.setattr(edge.submission, "submit", submit)


DONE = {"status": "succeeded", "images": [make_image()], "finished_at": done_task().finished_at}


def with_caller(edge: Edge, caller: Any) -> FlaskClient:
    services = replace(edge.app.extensions["darkroom"], authenticate=lambda _token: caller)
    from app_doubles import settings_of

    return create_app(settings_of({}), services).test_client()


def test_the_page_for_people_has_every_route(edge: Edge) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "clients-replaced.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^`]+)`", page))
    served = {
        f"{method} {re.sub(r'<[a-z]+:', '<', rule.rule)}"
        for rule in edge.app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] in ("image_generate", "generation", "chatgpt2api")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert told == served | {"GET /api/images/tasks", "GET /api/providers"}


# ---------------------------------------------------------------- POST /image/generate


def test_one_image_in_the_wrapper(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_as(edge, monkeypatch, **DONE)
    settings = {"image": {"model": "gpt-image-2", "width": 1024, "height": 1024, "quality": "low", "n": 4}, "x": 1}
    body = {"prompt": "a fox", "settings": settings, "customer_id": "12", "save_to_db": True, "unknown": 1}
    answer = edge.client.post(GENERATE, json=body, headers=MINE)
    said = ImageGenerateOut.model_validate(answer.json)
    assert (answer.status_code, said.success, said.code) == (200, True, 200)
    assert said.data is not None
    assert said.data.image_url.startswith("http://localhost/api/images/tasks/job_")
    assert edge.client.get(said.data.image_url).data == PNG
    assert (said.data.provider, said.data.model) == ("openai", "gpt-image-2")
    assert said.data.settings == {"image": {"model": "gpt-image-2", "width": 64, "height": 32, "quality": "low"}}
    assert answer.headers["X-Task-Id"] == said.task_id
    [(_, operation, fields, images, _)] = edge.submission.orders
    assert (operation, images) == ("generate", [])
    assert (fields["n"], fields["metadata"], fields.get("store")) == (1, {"customer_id": "12"}, None)
    assert edge.rows.known[str(said.task_id)].client.get("dialect", "image_generate") == "image_generate"


@pytest.mark.parametrize("flag", [False, "false", 0])
def test_an_image_that_is_not_saved_comes_along(edge: Edge, monkeypatch: pytest.MonkeyPatch, flag: object) -> None:
    ends_as(edge, monkeypatch, **DONE, keep_s=600)
    answer = edge.client.post(GENERATE, json={"prompt": "a", "customer_id": 1, "save_to_db": flag}, headers=MINE)
    assert answer.json["data"]["image_url"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert edge.submission.orders[0][2]["store"] is False


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, ["prompt", "customer_id"]),
        ({"prompt": "  ", "customer_id": 0}, ["prompt", "customer_id"]),
        ({"prompt": "a", "customer_id": -4}, ["customer_id"]),
        ({"prompt": "a", "customer_id": True}, ["customer_id"]),
        ({"prompt": "a", "customer_id": 1.5}, ["customer_id"]),
        ({"prompt": 5, "customer_id": 1}, ["prompt"]),
        ({"prompt": "a", "customer_id": 1, "save_to_db": "maybe"}, ["save_to_db"]),
        ({"prompt": "a", "customer_id": 1, "settings": []}, ["settings"]),
        ({"prompt": "a", "customer_id": 1, "settings": {"image": "x"}}, ["settings.image"]),
        ({"prompt": "a", "customer_id": 0, "settings": {"image": {"width": "x"}}}, ["customer_id", "width"]),
        ({"prompt": "a", "customer_id": 1, "settings": {"image": {"model": "gtp-image-2"}}}, ["model"]),
    ],
)
def test_a_bad_order_is_400_and_names_every_field(edge: Edge, body: dict[str, Any], named: list[str]) -> None:
    answer = edge.client.post(GENERATE, json=body, headers=MINE)
    assert (answer.status_code, answer.json["code"], answer.json["success"]) == (400, 400, False)
    assert sorted({fault["field"] for fault in answer.json["errors"]}) == sorted(named)
    assert all(name in answer.json["message"] for name in named)
    assert edge.submission.orders == []


def test_an_unknown_model_names_the_nearest(edge: Edge) -> None:
    body = {"prompt": "a", "customer_id": 1, "settings": {"image": {"model": "gtp-image-2"}}}
    assert "gpt-image-2" in edge.client.post(GENERATE, json=body, headers=MINE).json["message"].partition("mean")[2]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InsufficientCreditsError(price_microcredits=5, spendable_microcredits=1), 402, "insufficient_credits"),
        (StorageUnavailableError("away"), 502, "storage_unavailable"),
        (DatabaseAwayError("away"), 503, "database_unavailable"),
        (RuntimeError("a prompt in a message"), 500, "internal_error"),
    ],
)
def test_what_goes_wrong_has_its_status(edge: Edge, error: Exception, status: int, code: str) -> None:
    edge.submission.refuse = error
    answer = edge.client.post(GENERATE, json={"prompt": "a", "customer_id": 1}, headers=MINE)
    assert (answer.status_code, answer.json["code"], answer.json["error"]) == (status, status, code)
    assert "a prompt" not in answer.text
    assert answer.content_type == "application/json"


@pytest.mark.parametrize(
    ("failure", "status"),
    [("upstream_failed", 502), ("storage_unavailable", 502), ("content_refused", 400), ("internal_error", 500)],
)
def test_a_failed_job_has_the_status_of_its_fault(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, failure: str, status: int
) -> None:
    ends_as(edge, monkeypatch, status="failed", failure_code=failure)
    answer = edge.client.post(GENERATE, json={"prompt": "a", "customer_id": 1}, headers=MINE)
    assert (answer.status_code, answer.json["code"], answer.json["error"]) == (status, status, failure)


def test_a_customer_is_the_callers_own(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_as(edge, monkeypatch, **DONE)
    client = with_caller(edge, CUSTOMER)
    assert client.post(GENERATE, json={"prompt": "a", "customer_id": 7}, headers=MINE).status_code == 200
    answer = client.post(GENERATE, json={"prompt": "a", "customer_id": 8}, headers=MINE)
    assert (answer.status_code, answer.json["error"]) == (403, "customer_mismatch")
    assert len(edge.submission.orders) == 1


def test_a_job_that_takes_long_is_told_after_spaces(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_S", 0.001)
    monkeypatch.setitem(edge.app.extensions, HOLD, Hold(quiet_s=0.0, beat_s=0.01, most_s=60))
    answer = edge.client.post(GENERATE, json={"prompt": "a", "customer_id": 1}, headers=MINE, buffered=False)
    pieces: Iterator[bytes] = answer.iter_encoded()
    assert next(pieces) == b" "
    assert next(pieces) == b" "
    edge.rows.away = UnavailableError("for a moment")
    assert next(pieces) == b" "
    edge.rows.away = None
    [job] = edge.rows.known
    edge.rows.add(replace(edge.rows.known[job], status="failed", failure_code="upstream_failed", version=9))
    rest = b"".join(pieces).strip()
    assert json.loads(rest)["code"] == 502
    assert answer.status_code == 200


def test_an_answer_is_not_held_for_ever(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(edge.app.extensions, HOLD, Hold(quiet_s=0.0, beat_s=0.01, most_s=0.02))
    said = json.loads(edge.client.post(GENERATE, json={"prompt": "a", "customer_id": 1}, headers=MINE).data)
    assert (said["success"], said["code"]) == (False, 504)
    assert said["task_id"] in edge.rows.known


@pytest.mark.parametrize("path", [GENERATE, GENERATION, f"{TASKS}/generations"])
def test_the_same_idempotency_key_or_id_is_one_job(edge: Edge, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    ends_as(edge, monkeypatch, **DONE)
    body = {"prompt": "a", "customer_id": 1, "client_task_id": "t-1"} if path != GENERATION else {"prompt": "a"}
    headers = {**MINE, "Idempotency-Key": "k-1"}
    first, second = (edge.client.post(path, json=body, headers=headers) for _ in range(2))
    assert first.headers["X-Task-Id"] == second.headers["X-Task-Id"]
    assert len(edge.submission.orders) == 1


# ---------------------------------------------------------------- tokens at the edge


def test_a_refused_token_is_told_in_words_and_counts_as_a_wrong_key(edge: Edge) -> None:
    from app_doubles import settings_of

    def refuse(_token: str) -> Any:
        raise TokenRefusedError("the token has expired")

    services = replace(edge.app.extensions["darkroom"], authenticate=refuse)
    client = create_app(settings_of({"DARKROOM_RATE_LIMIT_WRONG_KEYS": "3/minute"}), services).test_client()
    headers = {"Authorization": f"Bearer {'a' * 2000}.b.c"}
    answer = client.get("/api/quota", headers=headers)
    assert (answer.status_code, answer.json["code"]) == (401, "token_invalid")
    assert answer.json["detail"] == "the token has expired"
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert client.post(GENERATE, json={}, headers=headers).json["message"] == "the token has expired"


def test_wrong_tokens_are_sent_away_in_the_end() -> None:
    from app_doubles import settings_of

    def refuse(_token: str) -> Any:
        raise TokenRefusedError("no")

    edge = make_edge(DARKROOM_RATE_LIMIT_WRONG_KEYS="3/minute")
    services = replace(edge.app.extensions["darkroom"], authenticate=refuse)
    client = create_app(settings_of({"DARKROOM_RATE_LIMIT_WRONG_KEYS": "3/minute"}), services).test_client()
    codes = [client.get("/api/quota", headers={"Authorization": f"Bearer a.b.{n}"}).status_code for n in range(5)]
    assert codes == [401, 401, 401, 429, 429]


# ---------------------------------------------------------------- /api/generation

BODY = {
    "prompt": "a fox",
    "width": 1024,
    "height": 1024,
    "numOutputs": 2,
    "negativePrompt": "dogs",
    "seed": 4,
    "steps": 20,
}


def test_a_generation_begins(edge: Edge) -> None:
    answer = edge.client.post(GENERATION, json={**BODY, "provider": "replicate"}, headers=MINE)
    said = GenerationOut.model_validate(answer.json)
    assert (answer.status_code, said.status, said.output, said.error) == (200, "starting", None, None)
    assert said.metadata["providerId"] == "replicate"
    [(_, _, fields, _, _)] = edge.submission.orders
    assert (fields["n"], fields["negative_prompt"], fields["seed"], fields["steps"]) == (2, "dogs", 4, 20)
    assert said.metadata["warnings"] == []  # a model that takes all of it, though others are cheaper


def test_a_provider_gives_its_cheapest_model(edge: Edge) -> None:
    edge.client.post(GENERATION, json={"prompt": "a fox", "provider": "replicate"}, headers=MINE)
    prices = [each.cost_usd for each in CATALOG.select("generate", provider="replicate") if each.live]
    assert CATALOG.models[edge.submission.orders[0][2]["model"]].cost_usd == min(prices)


def test_replicates_model_is_the_operators(edge: Edge) -> None:
    edge.app.config["REPLICATE_MODEL_ID"] = "replicate-flux-schnell"
    edge.client.post(GENERATION, json={"prompt": "a", "provider": "replicate"}, headers=MINE)
    assert edge.submission.orders[0][2]["model"] == "replicate-flux-schnell"


def test_without_a_provider_the_service_chooses(edge: Edge) -> None:
    said = edge.client.post(GENERATION, json={"prompt": "a fox"}, headers=MINE).json
    assert (said["metadata"]["provider"], said["metadata"]["model"]) == ("openai", "gpt-image-2")


def test_what_a_model_does_not_take_is_left_out_with_a_warning(edge: Edge) -> None:
    said = edge.client.post(GENERATION, json={**BODY, "provider": "openai"}, headers=MINE).json
    assert any("negative_prompt" in each for each in said["metadata"]["warnings"])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, ["prompt"]),
        ({"prompt": " ", "numOutputs": 0}, ["prompt", "n"]),
        ({"prompt": "a", "provider": "repliacte"}, ["provider"]),
        ({"prompt": "a", "provider": "flux", "width": "x"}, ["provider", "width"]),
        ({"prompt": "a", "provider": 5}, ["provider"]),
    ],
)
def test_a_bad_generation_is_400_and_names_every_field(edge: Edge, body: dict[str, Any], named: list[str]) -> None:
    answer = edge.client.post(GENERATION, json=body, headers=MINE)
    assert (answer.status_code, answer.json["status"], answer.json["id"]) == (400, "failed", None)
    assert {fault["field"] for fault in answer.json["metadata"]["errors"]} == set(named)
    assert edge.submission.orders == []
    if body.get("provider") == "repliacte":
        assert "did you mean replicate?" in answer.json["error"]


def read_events(text: str) -> list[dict[str, Any]]:
    assert "event:" not in text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def test_a_generation_is_told_at_each_change_until_its_end(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    edge.rows.add(make_task(1, status="running", progress=0.25))
    answer = edge.client.get(f"{GENERATION}?sessionId={job_id(1)}&providerId=openai", headers=MINE, buffered=False)
    assert answer.content_type == "text/event-stream"
    pieces = answer.iter_encoded()
    assert next(pieces).startswith(b"retry:")
    [first] = read_events(next(pieces).decode())
    assert (first["status"], first["progress"], first["metadata"]["sessionId"]) == ("processing", 25, job_id(1))
    edge.rows.add(done_task(1))
    text = b"".join(pieces).decode()
    [last] = read_events(text)
    assert (last["status"], last["progress"], len(last["output"])) == ("succeeded", 100, 1)
    mark = next(line[4:] for line in text.splitlines() if line.startswith("id: "))
    again = edge.client.get(f"{GENERATION}?sessionId={job_id(1)}", headers={**MINE, "Last-Event-ID": mark})
    assert again.status_code == 204


def test_a_browser_follows_by_a_signed_address(edge: Edge) -> None:
    edge.rows.add(done_task(1))
    url = edge.client.get(f"{GENERATION}?sessionId={job_id(1)}", headers={**MINE, "Accept": "application/json"}).json[
        "metadata"
    ]["streamUrl"]
    assert [each["status"] for each in read_events(edge.client.get(url).text)] == ["succeeded"]
    other = url.replace(job_id(1), job_id(2))
    assert edge.client.get(other).status_code == 403


@pytest.mark.parametrize(
    ("method", "query"), [("get", f"?sessionId={job_id(1)}"), ("delete", f"?sessionId={job_id(1)}")]
)
def test_anothers_generation_is_not_found(edge: Edge, method: str, query: str) -> None:
    edge.rows.add(make_task(1))
    answer = getattr(edge.client, method)(f"{GENERATION}{query}", headers=THEIRS)
    assert (answer.status_code, answer.json["metadata"]["code"]) == (404, "not_found")
    assert getattr(edge.client, method)(f"{GENERATION}?sessionId=nonsense", headers=MINE).status_code == 404
    assert getattr(edge.client, method)(GENERATION, headers=MINE).status_code == 400


def test_a_generation_is_cancelled(edge: Edge) -> None:
    edge.rows.add(make_task(1, status="cancelled"))
    answer = edge.client.delete(f"{GENERATION}?sessionId={job_id(1)}", headers=MINE)
    assert (answer.json["status"], answer.json["error"]) == ("canceled", "the generation was cancelled")


# ---------------------------------------------------------------- chatgpt2api's image tasks


def submit(edge: Edge, headers: Any = MINE, path: str = "generations", **body: Any) -> Any:
    body = {"client_task_id": "t-1", "prompt": "a kite", **body}
    return edge.client.post(f"{TASKS}/{path}", json={k: v for k, v in body.items() if v is not None}, headers=headers)


def test_a_task_begins_under_the_clients_id(edge: Edge) -> None:
    answer = submit(edge, size="16:9", quality="high", n=3, response_format="url")
    said = ClientTaskOut.model_validate(answer.json)
    assert answer.status_code == 200
    assert (said.id, said.status, said.mode, said.size, said.quality) == ("t-1", "queued", "generate", "16:9", "high")
    assert "data" not in answer.json
    [(_, operation, fields, _, _)] = edge.submission.orders
    assert (operation, fields["model"], fields["aspect_ratio"], fields["quality"]) == (
        "generate", "gpt-image-2", "16:9", "high",
    )  # fmt: skip


def test_a_known_id_answers_its_task_whatever_comes_with_it(edge: Edge) -> None:
    submit(edge)
    assert submit(edge, prompt="something else", model="codex-gpt-image-2").json["id"] == "t-1"
    assert len(edge.submission.orders) == 1
    edge.submission.rows.known.clear()


def test_many_tasks_at_a_look(edge: Edge) -> None:
    for number in (1, 2):
        submit(edge, client_task_id=f"t-{number}")
    edge.rows.add(make_task(7))
    said = edge.client.get(f"{TASKS}?ids=t-2,%20nope,t-1,,{job_id(7)}&_t=1", headers=MINE).json
    ImageTasksOut.model_validate(said)
    assert [each["id"] for each in said["items"]] == ["t-2", "t-1", job_id(7)]
    assert said["missing_ids"] == ["nope"]
    edge.rows.known = {job_id(7): make_task(7)}
    assert [each["id"] for each in edge.client.get(TASKS, headers=MINE).json["items"]] == [job_id(7)]
    assert edge.client.get(f"{TASKS}?ids={job_id(7)}", headers=THEIRS).json == {
        "items": [], "missing_ids": [job_id(7)],
    }  # fmt: skip


def test_a_task_that_has_ended(edge: Edge) -> None:
    client = {"dialect": "chatgpt2api", "id": "mine", "mode": "generate", "model": "gpt-image-2"}
    edge.rows.add(done_task(1, client=client))
    edge.rows.add(make_task(2, status="failed", failure_code="content_refused", finished_at=make_task().created_at))
    done, failed = edge.client.get(f"{TASKS}?ids={job_id(1)},{job_id(2)}", headers=MINE).json["items"]
    assert (done["status"], done["duration_ms"], done["created_at"]) == ("success", 0, "2026-11-20 12:00:00")
    [image] = done["data"]
    assert edge.client.get(image["url"]).data == PNG
    assert (failed["status"], failed["data"]) == ("error", [])
    assert classify_task_error(failed["error"]).code == "content_refused"


@pytest.mark.parametrize(
    ("code", "understood"),
    [
        ("content_refused", "content_refused"),
        ("upstream_timeout", "upstream_timeout"),
        ("upstream_pool_empty", "upstream_pool_empty"),
        ("upstream_rate_limited", "upstream_rate_limited"),
        ("upstream_restarted", "upstream_restarted"),
        ("upstream_model_unknown", "upstream_model_unknown"),
    ],
)
def test_the_words_of_an_error_are_those_that_clients_know(code: str, understood: str) -> None:
    assert classify_task_error(error_text(make_task(status="failed", failure_code=code))).code == understood


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"prompt": None}, ["prompt"]),
        ({"prompt": "", "client_task_id": ""}, ["client_task_id", "prompt"]),
        ({"client_task_id": "x" * 256}, ["client_task_id"]),
        ({"model": 5}, ["model"]),
        ({"n": 9}, ["n"]),
    ],
)
def test_a_bad_generation_is_a_list_as_of_fastapi(edge: Edge, body: dict[str, Any], fields: list[str]) -> None:
    answer = submit(edge, **body)
    assert answer.status_code == 422
    assert sorted(each["loc"][1] for each in answer.json["detail"]) == sorted(fields)
    assert all({"loc", "msg", "type"} <= each.keys() for each in answer.json["detail"])
    assert edge.submission.orders == []


def test_an_unknown_model_is_one_to_its_clients(edge: Edge) -> None:
    answer = submit(edge, model="no-such-model")
    assert answer.status_code == 400
    assert classify_answer(400, {}, answer.data).code == "upstream_model_unknown"


def test_names_that_only_chatgpt2api_has_are_its_models() -> None:
    edge = make_edge(configured=("chatgpt2api",))
    submit(edge)
    submit(edge, client_task_id="t-2", model="codex-gpt-image-2")
    models = [fields["model"] for _, _, fields, _, _ in edge.submission.orders]
    assert models == ["chatgpt2api-gpt-image-2", "codex-gpt-image-2"]


@pytest.mark.parametrize("part", [{"image": 1}, {"image[]": 2}, {"images": 2}, {"images[]": 1}])
def test_images_come_as_parts_under_any_name(edge: Edge, part: dict[str, int]) -> None:
    [(name, count)] = part.items()
    data: dict[str, Any] = {"client_task_id": "e-1", "prompt": "make it blue", "n": "2", "stream": "false"}
    data[name] = [(io.BytesIO(PNG), "a.png") for _ in range(count)]
    answer = edge.client.post(f"{TASKS}/edits", data=data, headers=MINE)
    assert (answer.status_code, answer.json["mode"]) == (200, "edit")
    [(_, operation, _, images, _)] = edge.submission.orders
    assert (operation, [image.data for image in images]) == ("edit", [PNG] * count)


BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "given",
    [
        {"image": f"data:image/png;base64,{BASE64}"},
        {"image_url": "https://images.example/a.png"},
        {"images": [BASE64]},
        {"images": [{"b64_json": BASE64, "filename": "a.png"}]},
        {"images": [{"image_url": {"url": "https://images.example/a.png"}}]},
        {"image": {"url": f"data:image/png;base64,{BASE64}"}},
    ],
)
def test_images_come_in_json_in_any_form(edge: Edge, given: dict[str, Any]) -> None:
    assert submit(edge, path="edits", **given).status_code == 200
    assert [image.data for image in edge.submission.orders[0][3]] == [PNG]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "image file or image_url is required"),
        ({"images": [{"file_id": "f-1"}]}, "file_id image references are not supported"),
        ({"images": [5]}, "must include image_url"),
        ({"image": BASE64, "prompt": " "}, "prompt is required"),
        ({"image": "not base64 at all!"}, ""),
    ],
)
def test_a_bad_edit_is_400_with_a_sentence(edge: Edge, given: dict[str, Any], words: str) -> None:
    answer = submit(edge, path="edits", **given)
    assert answer.status_code == 400
    assert words in answer.json["detail"]["error"]
    assert edge.submission.orders == []


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer dk_x_wrong"}])
def test_a_missing_key_is_said_in_chatgpt2apis_form(edge: Edge, headers: dict[str, str]) -> None:
    answer = submit(edge, headers=headers)
    assert answer.status_code == 401
    assert classify_answer(401, {}, answer.data).code == "upstream_bad_credentials"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (None, "task not found"),
        (make_task(1), "task is not in error state"),
        (make_task(1, status="failed", failure_code="upstream_failed"), "task error is not a timeout error"),
        (make_task(1, status="failed", failure_code="upstream_timeout"), "task has no conversation_id"),
    ],
)
def test_nothing_is_resumed(edge: Edge, task: Any, words: str) -> None:
    if task:
        edge.rows.add(task)
    answer = edge.client.post(f"{TASKS}/{job_id(1)}/resume-poll", json={}, headers=MINE)
    assert (answer.status_code, answer.json) == (400, {"detail": {"error": words}})


def test_another_method_or_path_is_said_as_by_its_framework(edge: Edge) -> None:
    assert edge.client.put(TASKS, headers=MINE).json == {"detail": "Method Not Allowed"}
    assert edge.client.get(f"{TASKS}/x", headers=MINE).json == {"detail": "Not Found"}


@pytest.mark.parametrize("path", [GENERATE, GENERATION, f"{TASKS}/generations"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"prompt": "a", "prompt": "b"}'])
def test_what_is_no_json_object_is_400_everywhere(edge: Edge, path: str, body: bytes) -> None:
    answer = edge.client.post(path, data=body, headers={**MINE, "Content-Type": "application/json"})
    assert answer.status_code == 400
    assert edge.submission.orders == []


@pytest.mark.parametrize("path", [GENERATE, GENERATION, f"{TASKS}/generations"])
def test_with_redis_away_orders_are_accepted(edge: Edge, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    ends_as(edge, monkeypatch, **DONE)
    edge.trouble["redis"] = "away"
    body = {"prompt": "a", "client_task_id": "t-1", "customer_id": 1}
    if path == GENERATION:
        body = {"prompt": "a"}
    assert edge.client.post(path, json=body, headers=MINE).status_code == 200
    assert len(edge.rows.unpublished) == 1


@pytest.mark.parametrize("path", [GENERATE, GENERATION, f"{TASKS}/generations", f"{TASKS}/edits"])
def test_a_host_that_is_not_ours_is_refused_before_anything_is_accepted(edge: Edge, path: str) -> None:
    body = {"prompt": "a", "client_task_id": "t-1", "customer_id": 1, "image": BASE64}
    if path == GENERATION:
        body = {"prompt": "a"}
    answer = edge.client.post(path, json=body, headers={**MINE, "Host": "evil.example"})
    assert answer.status_code >= 400
    assert edge.submission.orders == []
