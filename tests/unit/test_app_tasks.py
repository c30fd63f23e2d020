"""Following a task, and the answers about quota, models, health and the interface itself."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from app_doubles import MINE, NOW, Edge, done_task, job_id, make_edge, make_task

from app.http.endpoint import about
from app.http.errors import CODES
from app.http.readiness import Readiness
from app.orders.operations import OPERATIONS
from app.shapes.schemas.models import ModelDetail, ModelList
from app.shapes.schemas.quota import LedgerOut, QuotaOut
from app.shapes.schemas.tasks import CancelOut, TaskList, TaskOut, Timeline
from jobs.failures import SENTENCES, CancelOutcome
from jobs.lifecycle import Cancellation
from jobs.reads.tasks import Waiting
from jobs.states import Nudge
from providers.catalog.entries import spoken

TASK = f"/api/images/tasks/{job_id(1)}"


@pytest.fixture
def edge() -> Edge:
    return make_edge()


def _get(edge: Edge, path: str, **headers: str) -> Any:
    return edge.client.get(path, headers={**MINE, **headers})


# ---------------------------------------------------------------- one task


@pytest.mark.parametrize(
    "task",
    [
        make_task(),
        done_task(),
        make_task(status="waiting", started_at=NOW, progress=0.5),
        make_task(
            status="failed",
            failure_code="content_refused",
            failure_detail="no",
            failure_stage="submit",
            captured_microcredits=0,
            released_microcredits=5,
        ),
        *(make_task(status="cancelled", cancel_requested_at=NOW, cancel_outcome=each) for each in CancelOutcome),
    ],
)
def test_every_rendered_task_fits_its_schema(edge: Edge, task: Any) -> None:
    edge.rows.add(task)
    answer = _get(edge, TASK)
    shown = TaskOut.model_validate_json(answer.data)
    assert shown.status == ("running" if task.status == "waiting" else task.status)
    assert ("Retry-After" in answer.headers) == (not task.ended)
    assert json.loads(answer.data)["created_at"] == "2026-11-20T12:00:00.000Z"


def test_a_task_read_again_unchanged_is_304(edge: Edge) -> None:
    edge.rows.add(make_task(version=4))
    etag = _get(edge, TASK).headers["ETag"]
    again = _get(edge, TASK, **{"If-None-Match": f'"other", {etag}'})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
    edge.rows.add(make_task(version=5))
    assert _get(edge, TASK, **{"If-None-Match": etag}).status_code == 200


def test_a_long_poll_ends_when_the_task_changes(edge: Edge) -> None:
    edge.rows.add(make_task(version=1))
    threading.Timer(0.05, edge.rows.add, [make_task(version=2, status="running")]).start()
    assert _get(edge, f"{TASK}?wait=30").json["status"] == "running"


def test_a_long_poll_does_not_wait_for_what_has_happened(edge: Edge) -> None:
    edge.rows.add(make_task(version=2))
    assert _get(edge, f"{TASK}?wait=60", **{"If-None-Match": 'W/"1"'}).status_code == 200
    edge.rows.add(done_task())
    assert _get(edge, f"{TASK}?wait=60").json["status"] == "succeeded"


@pytest.mark.parametrize(("outcome", "status"), [("freed_in_queue", 200), ("too_late", 200), ("stop_requested", 202)])
def test_cancelling_answers_the_outcome_and_publishes(edge: Edge, outcome: Any, status: int) -> None:
    edge.rows.add(make_task())
    edge.rows.cancelled = Cancellation(outcome, [Nudge("wake", "", job_id(1))])
    answer = edge.client.post(f"{TASK}/cancel", headers=MINE)
    assert answer.status_code == status
    assert CancelOut.model_validate_json(answer.data).outcome == outcome
    assert edge.published == [Nudge("wake", "", job_id(1))]


def test_the_timeline_lists_every_step(edge: Edge) -> None:
    edge.rows.add(make_task())
    assert Timeline.model_validate_json(_get(edge, f"{TASK}/timeline").data).data[0].type == "queued"


# ---------------------------------------------------------------- lists


def test_a_list_pages_by_cursor(edge: Edge) -> None:
    for number in range(1, 6):
        edge.rows.add(make_task(number))
    page = TaskList.model_validate_json(_get(edge, "/api/images/tasks?limit=2").data)
    assert [task.id for task in page.data] == [job_id(5), job_id(4)]
    assert page.next_cursor == job_id(4)
    whole = TaskList.model_validate_json(_get(edge, "/api/images/tasks?limit=5").data)
    assert (len(whole.data), whole.next_cursor) == (5, None)


def test_filters_reach_the_query(edge: Edge) -> None:
    query = f"status=running&operation=remove-background&model=m&metadata.team=a%20b&cursor={job_id(3)}"
    assert _get(edge, f"/api/images/tasks?{query}&created_after=2026-11-20T12:00:00Z").status_code == 200
    filters = edge.rows.filters[0]
    assert (filters.status, filters.operation, filters.model) == ("running", "remove_background", "m")
    assert (filters.metadata, filters.cursor, filters.created_after) == ({"team": "a b"}, job_id(3), NOW)


@pytest.mark.parametrize(("asked", "meant"), [("to-3d", "image_to_3d"), ("image_to_3d", "image_to_3d"), ("x", "x")])
def test_a_filter_by_operation_takes_the_word_of_the_address(edge: Edge, asked: str, meant: str) -> None:
    _get(edge, f"/api/images/tasks?operation={asked}")
    assert edge.rows.filters[0].operation == meant


def test_a_task_names_its_operation_as_its_address_does(edge: Edge) -> None:
    assert all(spoken(name) == url for url, name in OPERATIONS.items())
    edge.rows.add(replace(make_task(1), operation="image_to_3d"))
    assert _get(edge, f"/api/images/tasks/{job_id(1)}").get_json()["operation"] == "to-3d"


@pytest.mark.parametrize(
    "query",
    ["status=done", "created_after=2026-11-20", "created_after=yesterday", "cursor=1", "limit=101", "what=1"],
)
def test_bad_filters_are_named(edge: Edge, query: str) -> None:
    answer = _get(edge, f"/api/images/tasks?{query}")
    assert answer.status_code == 422
    assert answer.json["errors"][0]["field"] == query.split("=", maxsplit=1)[0]


def test_quota_and_ledger(edge: Edge) -> None:
    quota = QuotaOut.model_validate_json(_get(edge, "/api/quota").data)
    assert (quota.available, quota.spendable_microcredits, quota.held) == ("9", 7_000_000, "1")
    assert {limit.name for limit in quota.limits} == {"account", "submit", "read", "enhance"}
    page = LedgerOut.model_validate_json(_get(edge, "/api/quota/ledger?limit=2").data)
    assert ([entry.id for entry in page.data], page.next_cursor) == ([3, 2], 2)
    rest = LedgerOut.model_validate_json(_get(edge, "/api/quota/ledger?limit=2&cursor=2").data)
    assert ([entry.id for entry in rest.data], rest.next_cursor) == ([1], None)


# ---------------------------------------------------------------- models


def test_models_are_filtered_and_tagged(edge: Edge) -> None:
    answer = _get(edge, "/api/models")
    every = ModelList.model_validate_json(answer.data).data
    assert len(every) > 50
    again = _get(edge, "/api/models", **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    some = ModelList.model_validate_json(_get(edge, "/api/models?operation=remove-background&max_price=3.5").data).data
    assert some
    assert all("remove-background" in model.operations for model in some)
    assert all(model.price.unit_microcredits <= 3_500_000 for model in some)
    mine = ModelList.model_validate_json(_get(edge, "/api/models?configured=true").data).data
    assert {model.provider for model in mine} == {"openai"}
    assert _get(edge, "/api/models?max_price=-1").status_code == 422


def test_every_model_can_be_read_with_the_schema_of_its_orders(edge: Edge) -> None:
    for model in ModelList.model_validate_json(_get(edge, "/api/models").data).data[::7]:
        detail = ModelDetail.model_validate_json(_get(edge, f"/api/models/{model.id}").data)
        assert set(detail.orders) == set(model.operations)
    assert _get(edge, "/api/models/core").json["id"] == "stable-image-core"
    missing = _get(edge, "/api/models/no-such-model")
    assert (missing.status_code, missing.json["code"]) == (404, "not_found")


# ---------------------------------------------------------------- health


def test_readiness_names_what_is_wrong_and_redis_alone_only_degrades(edge: Edge) -> None:
    assert edge.client.get("/healthz").json == {"status": "ok"}
    assert edge.client.get("/readyz").json["status"] == "ready"
    for name, status, code in (("redis", "degraded", 200), ("migrations", "unavailable", 503)):
        other = make_edge()
        other.trouble[name] = "is away"
        answer = other.client.get("/readyz")
        assert (answer.status_code, answer.json["status"]) == (code, status)
        assert answer.json["checks"][name] == {"ok": False, "detail": "is away"}


def test_a_check_that_hangs_costs_its_time_once_and_is_named() -> None:
    begun: list[str] = []
    released = threading.Event()

    def hangs() -> str | None:
        begun.append("asked")
        released.wait(60)
        return None

    readiness = Readiness({"database": hangs, "redis": lambda: None}, fresh_s=0.0, check_s=0.05)
    for _ in range(2):
        assert readiness.look() == {"database": "does not answer within 0 s", "redis": None}
    assert begun == ["asked"]
    released.set()
    while readiness.look()["database"]:
        pass
    assert len(begun) >= 1


# ---------------------------------------------------------------- the interface described


def test_openapi_names_the_codes_of_the_one_table_of_failures(edge: Edge) -> None:
    schemas = edge.client.get("/openapi.json").json["components"]["schemas"]
    assert schemas["TaskError"]["properties"]["code"]["examples"] == sorted(SENTENCES)
    assert schemas["CancelOutcome"]["enum"] == [each.value for each in CancelOutcome]
    assert "upstream_uncertain" in SENTENCES.keys() & set(schemas["CancelOutcome"]["enum"])
    outcome = {"$ref": "#/components/schemas/CancelOutcome"}
    assert outcome in schemas["Cancel"]["properties"]["outcome"]["anyOf"]


def test_openapi_lists_every_route_and_every_reference_resolves(edge: Edge) -> None:
    document = edge.client.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    known = {(method, path) for path, methods in document["paths"].items() for method in methods}
    for rule in edge.app.url_map.iter_rules():
        if about(edge.app.view_functions[rule.endpoint]) is not None:
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            assert {(method.lower(), path) for method in rule.methods - {"OPTIONS"}} <= known
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place = document
        for part in reference.split("/"):
            place = place[part]
    for methods in document["paths"].values():
        for operation in methods.values():
            assert {"400", "500"} <= set(operation["responses"])
            if operation["security"]:
                assert {"401", "403", "429", "503"} <= set(operation["responses"])


def test_the_pages_load_nothing_from_elsewhere(edge: Edge) -> None:
    assert edge.client.get("/").headers["Location"] == "/docs"
    for path in ("/docs", "/docs/errors"):
        page = edge.client.get(path)
        assert page.status_code == 200
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text)
        assert "<script>" not in page.text
        assets = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        assert "/static/favicon.svg" in assets
        for asset in assets:
            assert edge.client.get(asset).status_code == 200


def test_every_code_is_on_the_page_of_errors(edge: Edge) -> None:
    page = edge.client.get("/docs/errors").text
    problem = edge.client.get("/nowhere").json["type"]
    assert problem == "/docs#error-not_found"
    assert all(f'id="error-{code}"' in page for code in CODES)
    assert all(f'id="failure-{code}"' in page for code in SENTENCES)
    # The reference page sends the reader of a problem's type on to this one.
    assert 'location.replace("/docs/errors" + location.hash)' in edge.client.get("/static/docs.js").text


def test_the_document_begins_with_what_people_do_first(edge: Edge) -> None:
    document = edge.client.get("/openapi.json").json
    assert next(iter(document["paths"])) == "/api/images/{operation}"
    used = [next(iter(methods.values()))["tags"][0] for methods in document["paths"].values()]
    assert list(dict.fromkeys(used)) == [tag["name"] for tag in document["tags"]]
    submit = document["paths"]["/api/images/{operation}"]["post"]
    [operation] = [each for each in submit["parameters"] if each["name"] == "operation"]
    assert operation["schema"]["enum"] == list(OPERATIONS)
    form = submit["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert form["image"]["items"]["format"] == "binary"
    assert {"type": "integer"}.items() <= form["n"]["anyOf"][0].items()
    assert submit["requestBody"]["content"]["application/json"]["example"]["prompt"]
    for language in ("```sh", "```python", "```js"):
        assert language in document["info"]["description"]
    assert document["info"]["description"].count("```") == 6


def test_a_task_says_what_it_waits_for_when_it_is_tried_again_and_by_when_it_ends() -> None:
    edge = make_edge(DARKROOM_MAX_WAIT_S="1800")
    waiting = Waiting("upstream_pool_empty", NOW + timedelta(minutes=5), NOW, NOW + timedelta(days=1))
    edge.rows.add(make_task(attempt=1, waiting=waiting))
    listed = _get(edge, "/api/images/tasks").json["data"][0]
    for shown in (_get(edge, TASK).json, listed):
        assert shown["waiting_for"] == {
            "reason": "upstream_pool_empty",
            "message": "the upstream has no account free to draw with",
            "retry_at": "2026-11-20T12:05:00.000Z",
            "until": "2026-11-20T12:30:00.000Z",
        }


def test_links_are_absolute_where_the_public_address_is_known() -> None:
    edge = make_edge(DARKROOM_PUBLIC_URL="https://pictures.example/")
    edge.rows.add(replace(done_task()))
    body = _get(edge, TASK).json
    assert body["urls"]["self"] == f"https://pictures.example{TASK}"
    assert body["images"][0]["signed_url"].startswith(f"https://pictures.example{TASK}/image?")
