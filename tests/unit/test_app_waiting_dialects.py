"""What every route that waits for a job has in common: no more of them than places, and no body held meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from app_doubles import MINE, NOW, Edge, job_id, make_edge, make_task
from flask import request

from app.dialects.fal.request_ids import request_id_of
from app.http import waits
from app.serving import seats
from jobs.reads.tasks import Task

FAL = {"Authorization": "Key dk_a_secret"}
ORDER = {"prompt": "a fox", "model": "gpt-image-2"}
STREAMS = (
    f"/v1/predictions/{job_id(1)}/stream",
    f"/fal/queue/fal-ai/gpt-image-2/requests/{request_id_of(job_id(1))}/status/stream",
    f"/api/generation/{job_id(1)}",
)
CALLS: Mapping[str, Mapping[str, Any]] = {
    "/v1/images/generations": ORDER,
    "/fal/run/fal-ai/gpt-image-2": {"prompt": "a fox"},
    "/image/generate": {"prompt": "a fox", "customer_id": 1},
}
WAITING: Mapping[str, Mapping[str, Any]] = {
    **CALLS,
    "/api/images/generate": ORDER,
    "/api/generation": ORDER,
    "/v1/predictions": {"version": "gpt-image-2", "input": {"prompt": "a fox"}},
}


def _headers(path: str) -> dict[str, str]:
    return {**(FAL if path.startswith("/fal/") else MINE), "Prefer": "wait=5"}


@pytest.fixture
def full() -> Edge:
    """An app whose one account has a place, which is taken."""
    edge = make_edge(DARKROOM_MAX_WAITING_PER_ACCOUNT=1)
    edge.rows.add(make_task())
    assert edge.waits.places.take("acct_a")
    return edge


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_of_a_dialect_takes_no_place_that_is_not_there(full: Edge, path: str) -> None:
    refused = full.client.get(path, headers=_headers(path))
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")


@pytest.mark.parametrize("path", CALLS)
def test_a_call_that_would_wait_beyond_the_places_is_refused_before_it_costs(full: Edge, path: str) -> None:
    headers = {name: value for name, value in _headers(path).items() if name != "Prefer"}
    refused = full.client.post(path, json=CALLS[path], headers=headers)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    assert full.submission.orders == []


def test_a_prediction_beyond_the_places_is_answered_unfinished(full: Edge) -> None:
    made = full.client.post("/v1/predictions", json=WAITING["/v1/predictions"], headers=_headers("/v1/predictions"))
    assert (made.status_code, made.json["status"]) == (201, "starting")


@pytest.mark.parametrize("path", WAITING)
def test_what_waits_holds_no_body(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    edge = make_edge()
    held: list[bytes] = []

    def until(find: Callable[[], Task], _done: Any, **_: Any) -> Task:
        held.append(request.get_data())
        return replace(find(), status="failed", failure_code="internal_error", finished_at=NOW)

    monkeypatch.setattr(edge.waits, "until", until)
    headers = _headers(path) if path not in CALLS else {**_headers(path), "Prefer": ""}
    edge.client.post(path, json=WAITING[path], headers=headers)
    assert len(edge.submission.orders) == 1
    assert held and set(held) == {b""}


def test_a_fal_client_that_left_and_comes_back_gets_its_own_job(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = make_edge()
    path = "/fal/run/fal-ai/gpt-image-2"
    monkeypatch.setattr(waits, "EARLY_PAUSE_S", 0.0)
    monkeypatch.setattr(seats, "current", Gone)
    left = edge.client.post(path, json=CALLS[path], headers=FAL, buffered=False)
    [job] = edge.rows.unanswered.values()  # before the answer has found out by writing
    left.close()
    monkeypatch.undo()
    edge.rows.add(replace(edge.rows.known[job], status="failed", failure_code="internal_error", finished_at=NOW))
    again = edge.client.post(path, json=CALLS[path], headers=FAL)
    assert again.headers["X-Task-Id"] == job
    assert (len(edge.submission.orders), edge.rows.unanswered) == (1, {})


class Gone:
    """A connection that its client has closed."""

    gone = True

    @contextmanager
    def waiting(self, wake: Callable[[], None]) -> Iterator[None]:
        wake()
        yield
