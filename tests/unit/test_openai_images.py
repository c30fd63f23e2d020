"""OpenAI's image routes over the doubles: what is understood, how it is answered, what is refused in which words."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import flask
import pytest
from app_doubles import MINE, PNG, THEIRS, Edge, Rows, done_task, job_id, make_edge, make_image, make_task
from openai.types import ImageGenCompletedEvent, ImagesResponse

from app.http.held import BrokenOff
from core.errors import DatabaseAwayError
from jobs.errors import IdempotencyMismatchError
from jobs.reads.made import Made
from jobs.reads.tasks import Task
from jobs.submission import sdk_attempts
from quota.errors import InsufficientCreditsError

GENERATIONS, EDITS, VARIATIONS = (f"/v1/images/{name}" for name in ("generations", "edits", "variations"))
FOX = {"prompt": "a fox"}
TOKENS = {
    "input_tokens": 10,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 10},
    "output_tokens": 200,
    "output_tokens_details": {"image_tokens": 200, "text_tokens": 0},
    "total_tokens": 210,
}
SDK = {**MINE, "x-stainless-lang": "python", "User-Agent": "OpenAI/Python"}


def _done(task: Task, **changes: Any) -> Task:
    ended = done_task(1, id=task.id, request=task.request, client=task.client, n=task.n)
    return replace(ended, images=[make_image(at) for at in range(task.n)], **changes)


def _failed(task: Task, code: str = "content_refused") -> Task:
    changes = {"failure_code": code, "failure_detail": "refused", "finished_at": task.created_at}
    return replace(
        task, status="failed", captured_microcredits=0, released_microcredits=task.quoted_microcredits, **changes
    )


@cache
def _app(**variables: float) -> Edge:
    """An app takes a fifth of a second to build, which is most of a test here."""
    return make_edge(**variables)


def _fresh(edge: Edge) -> Edge:
    """The same app as if nothing had been asked of it; its jobs have succeeded by the time they are read."""
    rows, submission = edge.rows, edge.submission
    rows.made, rows.task = Made({}, []), Rows.task.__get__(rows)  # type: ignore[method-assign]
    rows.answers[sdk_attempts.answered] = rows.answered.append
    submission.becomes, submission.refuse = _done, None
    for state in (rows.known, rows.answered, submission.orders, submission.kept, submission.attempts, edge.fetched):
        state.clear()
    edge.store.blobs |= {f"k/{at}": PNG for at in range(10)}
    return edge


@pytest.fixture
def edge() -> Edge:
    """Silent for no time at all, so that an answer that waits is kept alive at once."""
    return _fresh(_app(DARKROOM_HOLD_QUIET_S=0, DARKROOM_HOLD_BEAT_S=0.1))


@pytest.fixture
def patient() -> Edge:
    """Silent until the end."""
    return _fresh(_app(DARKROOM_HOLD_QUIET_S=5))


def _order(edge: Edge) -> dict[str, Any]:
    return dict(edge.submission.orders[-1][2])


# ---------------------------------------------------------------- answers


def test_the_answer_is_openais_own_shape_with_ours_beside_it(patient: Edge) -> None:
    patient.rows.made = Made({0: "a red fox"}, [TOKENS])
    answer = patient.client.post(GENERATIONS, headers=MINE, json={**FOX, "quality": "low", "background": "opaque"})
    assert answer.status_code == 200
    body = answer.json
    ImagesResponse.model_validate(
        {name: body[name] for name in body if name not in ("id", "task", "cost")}, strict=True
    )
    assert body["data"] == [{"b64_json": base64.b64encode(PNG).decode(), "revised_prompt": "a red fox"}]
    assert body["usage"] == TOKENS
    assert (body["quality"], body["background"], body["output_format"], body["size"]) == (
        "low",
        "opaque",
        "png",
        "64x32",
    )
    assert body["task"] == f"http://localhost/api/images/tasks/{body['id']}"
    assert body["cost"] == {"microcredits": 5_300_000, "credits": "5.3"}
    assert answer.headers["X-Task-Id"] == body["id"]
    assert int(answer.headers["Content-Length"]) == len(answer.data)


def test_links_are_whole_and_open_without_a_key_and_with_it(patient: Edge) -> None:
    body = patient.client.post(GENERATIONS, headers=MINE, json={**FOX, "n": 2, "response_format": "url"}).json
    assert len(body["data"]) == 2
    for at, each in enumerate(body["data"]):
        assert each["url"].startswith(f"http://localhost/api/images/tasks/{body['id']}/image?index={at}&")
        path = each["url"].removeprefix("http://localhost")
        assert patient.client.get(path).data == patient.client.get(path, headers=MINE).data == PNG


def test_the_operator_says_how_images_come_where_the_caller_does_not() -> None:
    edge = make_edge(DARKROOM_HOLD_QUIET_S=5, DARKROOM_OPENAI_RESPONSE_FORMAT="url")
    edge.submission.becomes = _done
    assert edge.client.post(GENERATIONS, headers=MINE, json=FOX).json["data"][0].keys() == {"url"}
    asked = {**FOX, "response_format": "b64_json"}
    assert edge.client.post(GENERATIONS, headers=MINE, json=asked).json["data"][0].keys() == {"b64_json"}


@pytest.mark.parametrize(
    ("reports", "usage"),
    [
        ([], None),
        ([None], None),
        ([TOKENS, None], None),  # half a count is no count
        ([{"credits": 4}], None),
        ([TOKENS, TOKENS], {"input_tokens": 20, "output_tokens": 400, "total_tokens": 420}),
        (
            [{"promptTokenCount": 7, "candidatesTokenCount": 1290, "thoughtsTokenCount": 3, "totalTokenCount": 1300}],
            {"input_tokens": 7, "output_tokens": 1293, "total_tokens": 1300, "input_tokens_details": None},
        ),
    ],
)
def test_usage_is_what_every_upstream_call_counted_or_null(patient: Edge, reports: Any, usage: Any) -> None:
    patient.rows.made = Made({}, reports)
    found = patient.client.post(GENERATIONS, headers=MINE, json=FOX).json["usage"]
    assert found is None if usage is None else usage.items() <= found.items()


def test_images_that_were_deleted_are_said_to_be_gone(patient: Edge) -> None:
    patient.submission.becomes = lambda task: replace(_done(task), images=[make_image(deleted_at=task.created_at)])
    answer = patient.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert (answer.status_code, answer.json["error"]["code"]) == (410, "image_gone")


# ---------------------------------------------------------------- orders


def test_openais_fields_become_an_orders_own(patient: Edge) -> None:
    asked = {
        **FOX, "model": "dall-e-3", "size": "auto", "quality": "hd", "moderation": "auto", "background": "auto",
        "user": "anna", "n": 2, "style": "vivid", "partial_images": 0, "output_format": "webp",
        "output_compression": 80, "seed": 4, "made_up": 1,
    }  # fmt: skip
    answer = patient.client.post(GENERATIONS, headers=MINE, json=asked)
    assert answer.status_code == 200
    order = _order(patient)
    assert order == {
        "prompt": "a fox", "model": "dall-e-3", "quality": "high", "n": 2, "style": "vivid", "seed": 4, "lenient": True,
        "output_format": "webp", "output_compression": 80, "metadata": {"user": "anna"},
    }  # fmt: skip
    ignored = answer.headers["X-Darkroom-Ignored-Fields"].split(", ")
    assert set(ignored) == {"made_up", "style", "seed"}
    assert patient.rows.known[answer.json["id"]].client == {
        "dialect": "openai", "route": "generations", "response_format": "b64_json",
    }  # fmt: skip


def test_a_form_takes_images_mask_and_typed_fields(patient: Edge) -> None:
    data = {"prompt": "a hat", "n": "2", "stream": "false", "input_fidelity": "high"}
    files = {"image[]": [(io.BytesIO(PNG), "blob"), (io.BytesIO(PNG), "blob")], "mask": (io.BytesIO(PNG), "m.png")}
    answer = patient.client.post(EDITS, headers=MINE, data={**data, **files})
    assert answer.status_code == 200, answer.text
    _, operation, fields, images, _ = patient.submission.orders[-1]
    assert (operation, fields["n"], [image.role for image in images]) == ("edit", 2, ["image", "image", "mask"])
    assert "input_fidelity" in answer.headers["X-Darkroom-Ignored-Fields"]


def test_json_edits_take_addresses_and_file_ids(patient: Edge) -> None:
    data_url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    body = {
        **FOX,
        "images": [{"image_url": "https://example.org/a.png"}, {"image_url": data_url}],
        "mask": {"image_url": data_url},
    }
    assert patient.client.post(EDITS, headers=MINE, json=body).status_code == 200
    assert [image.role for image in patient.submission.orders[-1][3]] == ["image", "image", "mask"]
    assert patient.fetched == ["https://example.org/a.png"]
    answer = patient.client.post(EDITS, headers=MINE, json={**FOX, "images": [{"file_id": "a", "image_url": "b"}, {}]})
    assert answer.status_code == 400
    assert [each["field"] for each in answer.json["errors"][:2]] == ["images[0]", "images[1]"]


def test_a_variation_by_a_former_model_goes_to_one_that_varies() -> None:
    edge = make_edge(configured=("openai", "wavespeed"), DARKROOM_HOLD_QUIET_S=5)
    edge.submission.becomes = _done
    data = {"image": (io.BytesIO(PNG), "a.png"), "model": "dall-e-2"}
    answer = edge.client.post(VARIATIONS, headers=MINE, data=data)
    assert answer.status_code == 200, answer.text
    assert edge.submission.orders[-1][1] == "variations"
    assert answer.headers["X-Darkroom-Ignored-Fields"] == "model"


# ---------------------------------------------------------------- refusals


def test_every_error_has_the_four_keys_and_is_plain_json(patient: Edge) -> None:
    for answer in (
        patient.client.post(GENERATIONS, json=FOX),
        patient.client.get(GENERATIONS, headers=MINE),
        patient.client.post(GENERATIONS, headers=MINE, data="{"),
        patient.client.get("/v1/nowhere", headers=MINE),
        patient.client.get(f"/v1/images/tasks/{job_id(9)}", headers=MINE),
    ):
        assert answer.content_type == "application/json"
        assert answer.json["error"].keys() == {"message", "type", "param", "code"}
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({**FOX, "model": "gpt-imag-2"}, 404, "model_not_found", "model"),
        ({**FOX, "model": "flux-2-pro"}, 404, "model_not_found", "model"),  # its provider is not configured here
        ({}, 400, "missing_required_parameter", "prompt"),
        ({**FOX, "n": 11}, 400, "invalid_value", "n"),
        ({**FOX, "size": "huge"}, 400, "invalid_value", "size"),
        ({**FOX, "response_format": "jpeg"}, 400, "invalid_value", "response_format"),
        ({**FOX, "stream": "yes"}, 400, "invalid_value", "stream"),
        ({**FOX, "partial_images": 4}, 400, "invalid_value", "partial_images"),
    ],
)
def test_a_bad_order_is_refused_in_openais_words(patient: Edge, body: Any, status: int, code: str, param: str) -> None:
    answer = patient.client.post(GENERATIONS, headers=MINE, json=body)
    error = answer.json["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert patient.submission.orders == []


def test_an_unknown_model_names_the_nearest(patient: Edge) -> None:
    error = patient.client.post(GENERATIONS, headers=MINE, json={**FOX, "model": "gpt-imag-2"}).json["error"]
    assert "gpt-image-2" in error["message"]


@pytest.mark.parametrize(
    ("refusal", "status", "code", "retry"),
    [
        (InsufficientCreditsError(price_microcredits=2, spendable_microcredits=1), 429, "insufficient_quota", "false"),
        (DatabaseAwayError("away"), 503, "service_unavailable", "true"),
        (IdempotencyMismatchError("another"), 422, "idempotency_mismatch", "false"),
    ],
)
def test_what_is_refused_says_whether_to_try_again(
    patient: Edge, refusal: Exception, status: int, code: str, retry: str
) -> None:
    patient.submission.refuse = refusal
    answer = patient.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)
    assert answer.headers["x-should-retry"] == retry
    assert ("Retry-After" in answer.headers) == (retry == "true")


def test_a_limit_is_told_in_openais_headers() -> None:
    edge = make_edge(DARKROOM_RATE_LIMIT_SUBMIT="1/hour", DARKROOM_HOLD_QUIET_S=5)
    edge.submission.becomes = _done
    first = edge.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"1h0m0s|59m[0-9]+s", first.headers["x-ratelimit-reset-requests"])
    second = edge.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert (second.status_code, second.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert second.headers["x-should-retry"] == "true"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("content_refused", 400, "moderation_blocked"),
        ("upstream_failed", 502, "upstream_failed"),
        ("upstream_overloaded", 503, "upstream_overloaded"),
        ("upstream_timeout", 504, "upstream_timeout"),
        ("upstream_rejected", 400, "upstream_rejected"),
    ],
)
def test_a_failed_job_has_its_true_status_and_is_not_to_be_tried_again(
    patient: Edge, code: str, status: int, said: str
) -> None:
    patient.submission.becomes = lambda task: _failed(task, code)
    answer = patient.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, said)
    assert answer.headers["x-should-retry"] == "false"


# ---------------------------------------------------------------- waiting


class Later:
    """A job that ends at the n-th reading of it."""

    def __init__(self, edge: Edge, end: Any, readings: int) -> None:
        self.edge, self.end, self.left = edge, end, readings
        edge.submission.becomes = lambda task: task
        self.read = edge.rows.task
        edge.rows.task = self._task  # type: ignore[method-assign]

    def _task(self, account_id: str, job_id: str) -> Task:
        found = self.read(account_id, job_id)
        self.left -= 1
        return self.edge.rows.add(self.end(found)) if self.left <= 0 and not found.ended else found


def test_white_space_keeps_an_answer_alive_until_the_images_come(edge: Edge) -> None:
    Later(edge, _done, 6)
    answer = edge.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert answer.data.startswith(b"  ")
    assert answer.json["data"][0]["b64_json"]
    assert answer.headers["X-Accel-Buffering"] == "no"


def test_a_late_failure_is_told_in_the_body_to_who_does_not_count_retries(edge: Edge) -> None:
    Later(edge, _failed, 3)
    answer = edge.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert (answer.status_code, answer.json["error"]["code"]) == (200, "moderation_blocked")


def test_a_late_failure_breaks_off_the_answer_of_an_sdk_whose_retry_gets_the_true_error(edge: Edge) -> None:
    Later(edge, _failed, 3)
    with pytest.raises(BrokenOff):
        _ = edge.client.post(GENERATIONS, headers={**SDK, "x-stainless-retry-count": "0"}, json=FOX).data
    again = edge.client.post(GENERATIONS, headers={**SDK, "x-stainless-retry-count": "1"}, json=FOX)
    assert (again.status_code, again.json["error"]["code"]) == (400, "moderation_blocked")
    assert again.headers["x-should-retry"] == "false"
    assert len(edge.submission.orders) == 1


@pytest.mark.parametrize("form", [True, False])
def test_a_call_that_waits_holds_nothing_of_its_request(patient: Edge, form: bool) -> None:
    seen: list[tuple[int, int]] = []

    def look(task: Task) -> Task:
        files = flask.request.files
        seen.append((len(files), len(flask.request.get_data())))
        return _done(task)

    Later(patient, look, 1)
    if form:
        patient.client.post(EDITS, headers=MINE, data={**FOX, "image": (io.BytesIO(PNG), "a.png")})
    else:
        image = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        patient.client.post(EDITS, headers=MINE, json={**FOX, "images": [{"image_url": image}]})
    assert set(seen) == {(0, 0)}


def test_a_large_body_is_read_from_the_disk_and_capped_on_its_way(patient: Edge) -> None:
    noise = {**FOX, "made_up": "x" * 100_000}
    assert patient.client.post(GENERATIONS, headers=MINE, json=noise).status_code == 200
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    for size, status in ((100_000, 200), (17 * 2**20, 413)):
        body = io.BytesIO(json.dumps({**FOX, "made_up": "x" * size}).encode())
        answer = patient.client.post(
            GENERATIONS, headers=MINE, input_stream=body, content_type="application/json", environ_overrides=chunked
        )
        assert answer.status_code == status


def test_an_answer_is_not_held_for_ever() -> None:
    edge = make_edge(DARKROOM_HOLD_QUIET_S=0, DARKROOM_HOLD_BEAT_S=1, DARKROOM_HOLD_MOST_S=1)
    answer = edge.client.post(GENERATIONS, headers=MINE, json=FOX)
    assert "/v1/images/tasks/job_" in answer.json["error"]["message"]


# ---------------------------------------------------------------- repeats


def _attempt(edge: Edge, count: int, body: Any = FOX, **headers: str) -> str:
    every = {**SDK, "x-stainless-retry-count": str(count), "x-stainless-read-timeout": str(600 + count), **headers}
    with edge.client.post(GENERATIONS, headers={**every, "Prefer": "respond-async"}, json=body) as answer:
        return str(answer.json["id"])


def test_a_retry_joins_its_own_first_attempt_and_no_other(edge: Edge) -> None:
    edge.rows.answers[sdk_attempts.answered] = lambda _job_id: None  # every answer is lost on its way
    first = _attempt(edge, 0)
    assert _attempt(edge, 1, **{"User-Agent": "OpenAI/JS"}) != first
    assert _attempt(edge, 1, **{"x-stainless-lang": "js"}) != first
    assert _attempt(edge, 1, {**FOX, "made_up": 1}) != first
    assert [_attempt(edge, 1), _attempt(edge, 2)] == [first, first]


def test_an_attempt_whose_answer_went_out_is_not_joined(edge: Edge) -> None:
    first = _attempt(edge, 0)
    assert edge.rows.answered == [first]
    assert _attempt(edge, 1) != first


def test_a_forms_boundary_does_not_make_a_retry_another_request(edge: Edge) -> None:
    edge.rows.answers[sdk_attempts.answered] = lambda _job_id: None

    def edit(count: int, image: bytes) -> str:
        headers = {**SDK, "x-stainless-retry-count": str(count), "Prefer": "respond-async"}
        form = {**FOX, "image": (io.BytesIO(image), "a.png", "image/png")}
        return str(edge.client.post(EDITS, headers=headers, data=form).json["id"])

    first = edit(0, PNG)
    assert edit(1, PNG + b"x") != first
    assert edit(1, PNG) == first


def test_a_repeat_under_a_key_is_answered_by_the_same_job(patient: Edge) -> None:
    headers = {**MINE, "Idempotency-Key": "k1"}
    first = patient.client.post(GENERATIONS, headers=headers, json=FOX)
    again = patient.client.post(GENERATIONS, headers=headers, json=FOX)
    assert first.json == again.json
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = patient.client.post(GENERATIONS, headers=headers, json={**FOX, "response_format": "url"})
    assert other.status_code == 422


# ---------------------------------------------------------------- streams


def _events(text: str) -> list[tuple[str, dict[str, Any]]]:
    records = [record for record in text.split("\n\n") if record and not record.startswith(":")]
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ")))
        for lines in map(str.splitlines, records)
    ]


@pytest.mark.parametrize("stream", [True, "true"])
def test_a_stream_ends_with_each_image_complete(edge: Edge, stream: Any) -> None:
    edge.rows.made = Made({}, [TOKENS])
    Later(edge, _done, 4)
    if stream is True:
        answer = edge.client.post(GENERATIONS, headers=MINE, json={**FOX, "stream": True, "n": 2, "partial_images": 2})
        kind = "image_generation.completed"
    else:
        form = {**FOX, "stream": "true", "n": "2", "image": (io.BytesIO(PNG), "a.png"), "partial_images": "1"}
        answer, kind = edge.client.post(EDITS, headers=MINE, data=form), "image_edit.completed"
    assert answer.content_type.startswith("text/event-stream")
    assert answer.headers["X-Darkroom-Ignored-Fields"] == "partial_images"
    assert ": working" in answer.text
    events = _events(answer.text)
    assert [(name, event["type"]) for name, event in events] == [(kind, kind)] * 2
    event = {**events[-1][1], "type": "image_generation.completed"}
    ImageGenCompletedEvent.model_validate(
        {name: event[name] for name in event if name not in ("id", "task", "cost")}, strict=True
    )
    assert [event["usage"] for _, event in events] == [None, TOKENS]
    assert base64.b64decode(event["b64_json"]) == PNG


def test_a_failure_in_a_stream_is_a_record_with_an_error(edge: Edge) -> None:
    Later(edge, _failed, 3)
    answer = edge.client.post(GENERATIONS, headers=MINE, json={**FOX, "stream": True})
    [(name, event)] = _events(answer.text)
    assert (name, event["error"]["code"]) == ("error", "moderation_blocked")
    assert event["error"].keys() == {"message", "type", "param", "code"}


# ---------------------------------------------------------------- later


@pytest.mark.parametrize(
    ("path", "headers", "applied"),
    [
        (f"{GENERATIONS}/async", {}, None),
        (GENERATIONS, {"Prefer": "respond-async"}, "respond-async"),
        (GENERATIONS, {"Prefer": "wait=1"}, "wait=1"),
    ],
)
def test_an_order_is_collected_later(edge: Edge, path: str, headers: Any, applied: str | None) -> None:
    edge.submission.becomes = lambda task: task
    answer = edge.client.post(path, headers={**MINE, **headers}, json={**FOX, "response_format": "url"})
    assert answer.status_code == 202
    body = answer.json
    assert body["id"] == body["task_id"]
    assert (body["object"], body["status"], body["error"]) == ("image.generation.task", "queued", None)
    assert body["expires_at"] > body["created_at"]
    assert answer.headers["Location"] == body["poll_url"] == f"http://localhost/v1/images/tasks/{body['id']}"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Retry-After"]
    assert answer.headers.get("Preference-Applied") == applied
    poll = body["poll_url"].removeprefix("http://localhost")
    edge.rows.add(replace(edge.rows.known[body["id"]], status="running", progress=0.5))
    waiting = edge.client.get(poll, headers=MINE).json
    assert (waiting["status"], waiting["progress"]) == ("in_progress", 50)
    edge.rows.add(_done(edge.rows.known[body["id"]]))
    done = edge.client.get(poll, headers=MINE).json
    assert (done["status"], done["progress"]) == ("completed", 100)
    assert done["result"]["data"][0].keys() == {"url"}
    assert "b64_json" in edge.client.get(f"{poll}?response_format=b64_json", headers=MINE).json["result"]["data"][0]
    assert edge.client.get(poll, headers=THEIRS).status_code == 404


def test_an_end_within_the_wait_is_answered_as_such(edge: Edge) -> None:
    answer = edge.client.post(GENERATIONS, headers={**MINE, "Prefer": "wait=5"}, json=FOX)
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=5")
    assert answer.json["data"]


def test_a_task_of_another_route_is_read_and_its_failure_told(edge: Edge) -> None:
    edge.rows.add(_failed(make_task(3), "upstream_timeout"))
    body = edge.client.get(f"/v1/images/tasks/{job_id(3)}", headers=MINE).json
    assert (body["status"], body["error"]["code"]) == ("failed", "upstream_timeout")
    edge.rows.add(done_task(4))
    body = edge.client.get(f"/v1/images/tasks/{job_id(4)}", headers=MINE).json
    assert body["result"]["data"][0]["b64_json"]
