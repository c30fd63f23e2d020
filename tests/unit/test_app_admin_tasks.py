"""Tasks of every account: who may read them, what is shown, what is logged; and the commands over these routes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from app_doubles import MINE, NOW, Edge, done_task, job_id, make_edge
from structlog.testing import capture_logs

from app.shapes.schemas.admin import AdminTaskDetail, AdminTaskList
from jobs.reads import search
from jobs.reads.search import FoundJob, Search, UpstreamCall
from jobs.reads.tasks import Step

FOX_DIGEST = hashlib.sha256(b"a fox").hexdigest()
ADMIN = {"Authorization": "Bearer dk_admin_secret"}
CALL = UpstreamCall(
    "call_1", 0, 1, "openai", "gpt-image-2", "openai/2", "kept", "img_9", None, None, NOW, NOW, 0, False, 1, 2
)


@pytest.fixture
def edge() -> Edge:
    edge = make_edge()
    asked: list[Search] = []

    def found(number: int) -> FoundJob:
        task = done_task(number, account_id="acct_b", metadata={"customer": "secret name"})
        return FoundJob(task, "b", "req-1", "b", FOX_DIGEST, 5, [CALL])

    def find_jobs(wanted: Search) -> list[FoundJob]:
        asked.append(wanted)
        return [found(9 - number) for number in range(min(3, wanted.limit))]

    edge.rows.answers |= {
        search.find_jobs: find_jobs,
        search.find_job: lambda _id: found(1),
        search.steps_of: lambda _id: [Step(1, NOW, "queued", {})],
    }
    edge.asked = asked  # type: ignore[attr-defined]
    return edge


@pytest.mark.parametrize("path", ["/api/admin/tasks", f"/api/admin/tasks/{job_id(1)}"])
def test_only_the_scope_admin_may_read_tasks_of_others(edge: Edge, path: str) -> None:
    refused = edge.client.get(path, headers=MINE)
    assert (refused.status_code, refused.json["code"]) == (403, "scope_missing")
    assert edge.client.get(path).status_code == 401
    assert edge.asked == []  # type: ignore[attr-defined]


def test_a_task_is_shown_without_what_people_wrote_and_without_links(edge: Edge) -> None:
    answer = edge.client.get(f"/api/admin/tasks/{job_id(1)}", headers=ADMIN)
    AdminTaskDetail.model_validate_json(answer.data)
    task = answer.json
    assert task["account"] == {"id": "acct_b", "name": "b"}
    assert (task["prompt_sha256"], task["prompt_chars"], task["contents"]) == (FOX_DIGEST, 5, None)
    assert task["calls"][0]["upstream_id"] == "img_9" and task["timeline"][0]["type"] == "queued"
    for secret in ("a fox", "secret name", "signature="):
        assert secret not in answer.text


def test_contents_are_shown_when_they_are_asked_for_and_the_log_says_who_asked(edge: Edge) -> None:
    with capture_logs() as logs:
        answer = edge.client.get(f"/api/admin/tasks/{job_id(1)}?contents=true", headers=ADMIN)
    assert answer.json["contents"]["request"]["prompt"] == "a fox"
    assert answer.json["contents"]["metadata"] == {"customer": "secret name"}
    [line] = [each for each in logs if each["event"] == "admin_read"]
    assert (line["key_id"], line["tasks"], line["contents"]) == ("admin", [job_id(1)], True)
    assert "a fox" not in str(logs)


def test_a_list_has_pages_and_is_logged(edge: Edge) -> None:
    with capture_logs() as logs:
        answer = edge.client.get("/api/admin/tasks?account=b&limit=2&code=odd", headers=ADMIN)
    AdminTaskList.model_validate_json(answer.data)
    assert [each["id"] for each in answer.json["data"]] == [job_id(9), job_id(8)]
    assert answer.json["next_cursor"] == job_id(8)
    [wanted] = edge.asked  # type: ignore[attr-defined]
    assert (wanted.account, wanted.code, wanted.limit) == ("b", "odd", 3)
    [line] = [each for each in logs if each["event"] == "admin_read"]
    assert (line["asked"], line["tasks"]) == (["account", "code"], [job_id(9), job_id(8)])
    assert edge.client.get("/api/admin/tasks?limit=3", headers=ADMIN).json["next_cursor"] is None


@pytest.mark.parametrize(
    "query", ["prompt_sha256=abc", "limit=0", "created_after=0.5x", "prompt=fox", "status=waiting"]
)
def test_a_bad_search_is_refused(edge: Edge, query: str) -> None:
    answer = edge.client.get(f"/api/admin/tasks?{query}", headers=ADMIN)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_request")
    assert query.partition("=")[0] in str(answer.json["errors"])


def test_an_unknown_task_is_a_404(edge: Edge) -> None:
    assert edge.client.get("/api/admin/tasks/job_1", headers=ADMIN).status_code == 404


def test_every_parameter_reaches_the_search(edge: Edge) -> None:
    given: dict[str, Any] = {
        "account": "b", "key_id": "k", "status": "failed", "operation": "remove-background", "model": "m",
        "provider": "p", "code": "c", "request_id": "r", "upstream_id": "u", "prompt_sha256": "0" * 64,
        "created_after": "2026-01-01T00:00:00Z", "created_before": "2026-02-01T00:00:00Z", "cursor": job_id(3),
    }  # fmt: skip
    assert edge.client.get("/api/admin/tasks", query_string=given, headers=ADMIN).status_code == 200
    [wanted] = edge.asked  # type: ignore[attr-defined]
    assert wanted.operation == "remove_background"
    assert {name for name in Search.__slots__ if getattr(wanted, name) is None} == set()
