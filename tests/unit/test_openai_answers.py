"""OpenAI's answers where something is missing or breaks: files, amounts, hosts, clients that leave."""

from __future__ import annotations

import base64
import io
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from app_doubles import MINE, PNG, Edge, done_task, job_id, make_edge, make_image, make_task

from app.dialects.openai import answers, calls
from app.dialects.openai.usage import usage_of
from app.http.held import BrokenOff
from core.turns import Turns
from jobs import lifecycle
from jobs.lifecycle import Cancellation
from jobs.reads.tasks import Task
from storage.base import StorageUnavailableError

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
FOX = {"prompt": "a fox"}


@pytest.fixture(scope="module")
def built() -> Edge:
    return make_edge(DARKROOM_HOLD_QUIET_S=5)


@pytest.fixture
def edge(built: Edge) -> Edge:
    built.submission.becomes = lambda task: replace(done_task(1, id=task.id), client=task.client)
    built.submission.orders.clear()
    built.store.opened.clear()
    return built


class Piecemeal(io.BytesIO):
    """A file that gives at most so many bytes at a time, and breaks at the end of them where it is told to."""

    breaks: Exception | None = None

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(min(size or 7, 7))
        if not data and self.breaks:
            raise self.breaks
        return data


def test_a_file_that_comes_in_small_pieces_is_one_base64() -> None:
    found = b"".join(answers.base64_of(Piecemeal(PNG)))
    assert found == base64.b64encode(PNG)


@pytest.mark.parametrize("error", [OSError("gone"), StorageUnavailableError("away")])
def test_an_image_that_breaks_in_the_middle_breaks_the_answer_off(error: Exception) -> None:
    file = Piecemeal(PNG)
    file.breaks = error
    with pytest.raises(BrokenOff):
        list(answers.base64_of(file))


def test_no_file_stays_open_where_a_later_image_is_gone(edge: Edge) -> None:
    images = [make_image(0), make_image(1, deleted_at=make_task().created_at)]
    edge.submission.becomes = lambda task: replace(done_task(1, id=task.id), images=images)
    assert edge.client.post(GENERATIONS, headers=MINE, json=FOX).status_code == 410
    assert [file.closed for file in edge.store.opened] == [True]


def test_cost_is_what_was_taken_and_words_of_other_models_are_not_repeated(edge: Edge) -> None:
    request = {**make_task().request, "params": {"quality": "ultra", "background": "pink"}}
    edge.submission.becomes = lambda task: replace(
        done_task(1, id=task.id, request=request), captured_microcredits=1_300_000
    )
    answer = edge.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert answer.json["cost"] == {"microcredits": 1_300_000, "credits": "1.3"}
    assert answer.headers["X-Cost-Captured"] == "1.3"
    assert not {"quality", "background"} & answer.json.keys()


def test_links_are_refused_before_an_order_where_the_host_may_not_be_named(edge: Edge) -> None:
    stranger = {**MINE, "Host": "elsewhere.example"}
    answer = edge.client.post(GENERATIONS, headers=stranger, json={**FOX, "response_format": "url"})
    assert (answer.status_code, answer.json["error"]["code"]) == (421, "host_not_allowed")
    assert edge.submission.orders == []
    assert edge.client.post(GENERATIONS, headers=stranger, json=FOX).json["data"][0].keys() == {"b64_json"}


class Client:
    """The connection of a request, which its client has closed or not; ``cancelled`` has the jobs it took with it."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.here, self.there = socket.socketpair()
        self.cancelled: list[str] = []

    def cancel(self, _account_id: str, job_id: str, **_charge: Any) -> Cancellation:
        self.cancelled.append(job_id)
        return Cancellation("freed_in_queue", [])

    def post(self, header: str | None, **more: Any) -> str:
        headers = {**MINE, **({calls.CANCEL_HEADER: header} if header else {})}
        with self.edge.client.post(
            GENERATIONS, headers=headers, json={**FOX, **more}, environ_overrides={"gunicorn.socket": self.here}
        ) as answer:
            return str(answer.headers["X-Task-Id"])


@pytest.fixture
def client(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    found = Client(edge)
    monkeypatch.setitem(edge.rows.answers, lifecycle.cancel, found.cancel)
    with found.here, found.there:
        yield found


@pytest.mark.parametrize(("header", "stream"), [("1", False), ("true", True)])
def test_a_client_that_leaves_takes_its_job_with_it_where_it_asked_for_that(
    edge: Edge, client: Client, header: str, stream: bool
) -> None:
    edge.submission.becomes = lambda task: task
    client.there.close()
    assert [client.post(header, stream=stream)] == client.cancelled


@pytest.mark.parametrize(("header", "leaves"), [("0", True), (None, True), ("1", False)])
def test_nothing_is_cancelled_unasked_or_for_a_client_that_has_its_answer(
    client: Client, header: str | None, leaves: bool
) -> None:
    if leaves:
        client.there.close()
    client.post(header)
    assert client.cancelled == []


@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_an_answer_that_went_out_is_noted_so_that_no_retry_joins_it(edge: Edge, more: Any) -> None:
    edge.rows.answered.clear()
    headers = {**MINE, "x-stainless-retry-count": "0"}
    with edge.client.post(GENERATIONS, headers=headers, json={**FOX, **more}) as answer:
        assert answer.data
    assert edge.rows.answered == [answer.headers["X-Task-Id"]]


def test_a_stream_of_a_job_that_has_failed_already_has_its_true_status(edge: Edge) -> None:
    edge.submission.becomes = _cancelled
    key = {**MINE, "Idempotency-Key": "k"}
    edge.client.post(GENERATIONS, headers=key, json={**FOX, "stream": True}).close()
    answer = edge.client.post(GENERATIONS, headers=key, json={**FOX, "stream": True})
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "cancelled")


def test_large_bodies_of_an_account_are_read_a_few_at_a_time(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(0.01, 1)
    monkeypatch.setattr(calls, "_bodies", turns)
    large = {**FOX, "made_up": "x" * calls.LARGE_BODY_BYTES}
    with turns.turn("acct_a"):
        answer = edge.client.post(GENERATIONS, headers=MINE, json=large)
        assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "true")
        assert edge.client.post(GENERATIONS, headers=MINE, json=FOX).status_code == 200
    assert edge.client.post(GENERATIONS, headers=MINE, json=large).status_code == 200


def _cancelled(task: Task) -> Task:
    return replace(task, status="cancelled", finished_at=task.created_at, captured_microcredits=0)


def test_a_cancelled_task_is_a_conflict_and_no_reason_to_try_again(edge: Edge) -> None:
    edge.submission.becomes = _cancelled
    answer = edge.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "cancelled")
    assert answer.headers["x-should-retry"] == "false"


# ---------------------------------------------------------------- later


def test_who_asks_for_no_wait_gets_the_task_even_where_it_has_ended(edge: Edge) -> None:
    headers = {**MINE, "Idempotency-Key": "k2"}
    assert edge.client.post(GENERATIONS, headers=headers, json=FOX).status_code == 200
    answer = edge.client.post(GENERATIONS, headers={**headers, "Prefer": "respond-async"}, json=FOX)
    assert (answer.status_code, answer.json["status"]) == (202, "completed")


def test_an_edit_that_is_collected_later_is_an_edit(edge: Edge) -> None:
    form = {**FOX, "image": (io.BytesIO(PNG), "a.png")}
    assert edge.client.post(f"{EDITS}/async", headers=MINE, data=form).status_code == 202
    assert edge.submission.orders[-1][1] == "edit"


def test_a_task_that_goes_on_says_when_to_look_again_and_one_that_has_ended_does_not(edge: Edge) -> None:
    path = f"/v1/images/tasks/{job_id(5)}"
    edge.rows.add(make_task(5, status="waiting"))
    answer = edge.client.get(path, headers=MINE)
    assert (answer.json["status"], answer.headers["Retry-After"]) == ("in_progress", "2")
    edge.rows.add(_cancelled(make_task(5)))
    answer = edge.client.get(path, headers=MINE)
    assert (answer.json["status"], "Retry-After" in answer.headers) == ("cancelled", False)


def test_a_stream_asks_proxies_not_to_hold_it_back(edge: Edge) -> None:
    with edge.client.post(GENERATIONS, headers=MINE, json={**FOX, "stream": True}) as answer:
        assert (answer.headers["X-Accel-Buffering"], answer.headers["Cache-Control"]) == ("no", "no-store")


@pytest.mark.parametrize(
    ("report", "members"),
    [
        ({"input_tokens": 10, "output_tokens": 20, "total_tokens": 31}, {"total_tokens": 31}),
        (
            {"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"image_tokens": 5}},
            {"total_tokens": 3, "output_tokens_details": {"image_tokens": 5, "text_tokens": 0}},
        ),
        ({"input_tokens": True, "output_tokens": 2}, None),
    ],
)
def test_a_report_is_taken_by_its_word_and_only_where_it_counts(report: Any, members: Any) -> None:
    found = usage_of([report])
    assert found is None if members is None else members.items() <= (found or {}).items()


def test_as_many_partial_images_as_openai_allows_are_no_fault(edge: Edge) -> None:
    answer = edge.client.post(GENERATIONS, headers=MINE, json={**FOX, "partial_images": 3})
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
