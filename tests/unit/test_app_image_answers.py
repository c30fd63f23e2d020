"""An order answered with the image itself: who gets it, with which headers, and what else may come instead."""

from __future__ import annotations

from typing import Any

import pytest
from app_doubles import MINE, NOW, PNG, Edge, done_task, job_id, make_edge, make_image, make_task

from app.http.task_problems import problem_of
from jobs.failures import SENTENCES
from jobs.reads.tasks import Task


@pytest.fixture
def edge() -> Edge:
    return make_edge(DARKROOM_LITELLM_COST_HEADER=True)


def post(
    edge: Edge, task: Task | None = None, *, accept: str | None = "image/*", path: str = "generate", wait: int = 5
) -> Any:
    """Order, and have the task come to this end at once."""
    if task is not None:
        edge.rows.add(task)
        edge.rows.task = lambda account_id, job_id: task  # type: ignore[method-assign]
    headers = {**MINE, **({"Accept": accept} if accept else {}), **({"Prefer": f"wait={wait}"} if wait else {})}
    return edge.client.post(f"/api/images/{path}", json={"prompt": "a fox"}, headers=headers)


def failed(code: str, **changes: Any) -> Task:
    return make_task(
        status="failed", finished_at=NOW, failure_code=code, failure_detail=SENTENCES.get(code),
        failure_stage="submit", captured_microcredits=0, released_microcredits=5_300_000, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("accept", ["image/*", "image/png", "image/webp, image/png;q=0.5", "image/*, */*;q=0.1"])
def test_who_accepts_images_gets_the_image(edge: Edge, accept: str) -> None:
    answer = post(edge, done_task(), accept=accept)
    assert (answer.status_code, answer.data, answer.content_type) == (200, PNG, "image/png")
    assert answer.headers["Content-Location"] == f"/api/images/tasks/{job_id(1)}/image?index=0"
    assert answer.headers["X-Task-Id"] == job_id(1)
    assert (answer.headers["X-Cost-Quoted"], answer.headers["X-Cost-Captured"]) == ("5.3", "5.3")
    assert answer.headers["x-litellm-response-cost"] == "0.053"
    assert answer.headers["X-Balance-Remaining"] == "1.7"
    assert answer.headers["Content-Length"] == str(len(PNG))
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Link" not in answer.headers


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, image/*", "image/*;q=0.5, */*"])
def test_who_takes_json_as_gladly_gets_the_task(edge: Edge, accept: str | None) -> None:
    answer = post(edge, done_task(), accept=accept)
    assert (answer.status_code, answer.json["status"]) == (200, "succeeded")


def test_the_other_images_are_links(edge: Edge) -> None:
    answer = post(edge, done_task().__class__(**{**fields(done_task()), "images": [make_image(0), make_image(1)]}))
    assert answer.data == PNG
    assert answer.headers["Link"] == f'</api/images/tasks/{job_id(1)}/image?index=1>; rel="item"'


def fields(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in Task.__slots__}


@pytest.mark.parametrize("wait", [0, 1])
def test_a_task_that_has_not_ended_is_json(edge: Edge, wait: int) -> None:
    answer = post(edge, make_task() if wait else None, wait=wait)
    assert (answer.status_code, answer.content_type) == (202, "application/json")
    assert answer.json["status"] == "queued"
    assert answer.headers["Retry-After"]


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        ("content_refused", 422, "task_refused"),
        ("upstream_failed", 502, "task_failed"),
        ("upstream_timeout", 504, "task_timed_out"),
        ("upstream_overloaded", 503, "task_unavailable"),
        ("insufficient_credits", 402, "insufficient_credits"),
        ("internal_error", 500, "internal_error"),
    ],
)
def test_a_task_that_failed_is_a_problem_that_says_what_it_cost(
    edge: Edge, failure: str, status: int, code: str
) -> None:
    answer = post(edge, failed(failure))
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    told = answer.json
    assert (told["code"], told["failure_code"], told["charged"], told["task_id"]) == (code, failure, False, job_id(1))
    assert told["detail"] == SENTENCES[failure]
    assert answer.headers["X-Task-Id"] == job_id(1)
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_every_failure_has_a_status() -> None:
    """What no table names is the upstream's fault; none is by accident a success."""
    named = {code: problem_of(failed(code))[0] for code in SENTENCES}
    assert {code for code, found in named.items() if found == "task_failed"} >= {"upstream_failed", "bad_result"}
    assert named["mask_not_png"] == "task_refused"


def test_a_cancelled_task_and_one_whose_image_is_gone(edge: Edge) -> None:
    cancelled = make_task(status="cancelled", finished_at=NOW, cancel_outcome="stopped_upstream")
    assert (post(edge, cancelled).status_code, post(edge, cancelled).json["code"]) == (409, "task_cancelled")
    gone = make_task(status="succeeded", finished_at=NOW, images=[make_image(deleted_at=NOW)])
    assert (post(edge, gone).status_code, post(edge, gone).json["code"]) == (410, "image_gone")


def test_a_replayed_order_is_its_image_without_a_wait(edge: Edge) -> None:
    edge.rows.earlier_task = done_task()
    answer = edge.client.post(
        "/api/images/generate", json={"prompt": "a fox"}, headers={**MINE, "Accept": "image/*", "Idempotency-Key": "k"}
    )
    assert (answer.status_code, answer.data, answer.headers["Idempotent-Replayed"]) == (200, PNG, "true")
    assert "X-Balance-Remaining" not in answer.headers


def test_a_task_says_its_way_in_headers(edge: Edge) -> None:
    moved = done_task(model="flux-2-pro", provider="flux", attempt=3, fallback_models=["sd3", "flux-2-pro"])
    headers = post(edge, moved, accept=None).headers
    told = {name: headers[name] for name in ("X-Provider", "X-Attempts", "X-Fallbacks")}
    assert told == {"X-Provider": "flux", "X-Attempts": "3", "X-Fallbacks": "2"}


def test_litellms_header_is_a_switch() -> None:
    assert "x-litellm-response-cost" not in post(make_edge(), done_task()).headers
    assert "x-litellm-response-cost" not in post(make_edge(DARKROOM_LITELLM_COST_HEADER=True), wait=0).headers


def test_a_refused_order_is_a_problem_as_ever(edge: Edge) -> None:
    answer = edge.client.post("/api/images/generate", json={"prompt": ""}, headers={**MINE, "Accept": "image/png"})
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_order")
