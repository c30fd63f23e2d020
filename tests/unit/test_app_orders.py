"""Orders in, by JSON and by form: what is understood, what is refused, and that refusals keep nothing."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import replace
from typing import Any

import pytest
from app_doubles import MINE, PNG, Edge, done_task, job_id, make_edge, make_image, make_task

from app.http.bodies import MAX_COMMAS
from app.orders.forms import kinds_of
from app.shapes.schemas.orders import Estimate
from app.shapes.schemas.tasks import TaskOut
from jobs.errors import BadImageError, FieldFault
from jobs.lifecycle import Submitted
from jobs.states import Nudge
from providers.catalog.catalog import load

GENERATE = "/api/images/generate"
EDIT = "/api/images/edit"
BASE64 = base64.b64encode(PNG).decode()


@pytest.fixture
def edge() -> Edge:
    return make_edge()


def _post(edge: Edge, path: str = GENERATE, headers: Any = None, **body: Any) -> Any:
    return edge.client.post(path, json=body, headers={**MINE, **(headers or {})})


def _codes(answer: Any) -> dict[str, str]:
    return {fault["field"]: fault["code"] for fault in answer.json["errors"]}


def test_an_order_is_accepted_kept_and_published(edge: Edge) -> None:
    wanted = {"prompt": "a fox", "size": "1024x1024", "metadata": {"a": "b"}}
    answer = _post(edge, headers={"X-Request-Id": "r-7"}, **wanted)
    assert answer.status_code == 202
    task = TaskOut.model_validate(answer.json)
    assert answer.headers["Location"] == f"http://localhost/api/images/tasks/{task.id}" == task.urls.self
    assert (answer.headers["X-Task-Id"], answer.headers["X-Cost-Quoted"]) == (task.id, "5.3")
    assert int(answer.headers["Retry-After"]) >= 1
    caller, operation, fields, references, request_id = edge.submission.orders[0]
    assert (caller.account_id, operation, references, request_id) == ("acct_a", "generate", [], "r-7")
    assert fields == wanted
    assert edge.published == [Nudge("jobs.run", "openai", task.id)]


@pytest.mark.parametrize(("quality", "faults"), [(4, set()), ("4", set()), (True, {"quality"}), ([4], {"quality"})])
def test_a_quality_may_be_a_number(edge: Edge, quality: object, faults: set[str]) -> None:
    found = _codes(_post(edge, prompt="a fox", model="midjourney", quality=quality))
    assert found.keys() - {"model"} == faults  # its provider is not configured here


def test_every_bad_field_is_named_at_once_by_schema_and_catalogue(edge: Edge) -> None:
    answer = _post(
        edge, n="two", deadline_s=0, steps=9, colour="red", webhook_url="http://x.test", priority="high",
        images=[7],
    )  # fmt: skip
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_order")
    found = _codes(answer)
    assert found["n"] == "wrong_type"
    assert found["deadline_s"] == "out_of_range"
    assert found["priority"] == "not_allowed"
    assert found["webhook_url"] == "url_not_allowed"
    assert found["images[0]"] == "wrong_type"
    assert found["colour"] == found["steps"] == "not_supported"
    assert found["prompt"] == "required"
    assert not edge.submission.orders
    assert not edge.published


def test_an_order_names_the_receiver_of_its_events_and_says_so_in_the_task(edge: Edge) -> None:
    url, ends = (
        "https://shop.example/hook?token=s",
        ["image.task.succeeded", "image.task.failed", "image.task.cancelled"],
    )
    assert _post(edge, prompt="a fox", webhook_url=url).json["webhook"] == {"url": url, "events": ends}
    chosen = _post(edge, prompt="a fox", webhook_url=url, webhook_events=["image.task.failed", "image.task.queued"])
    assert chosen.json["webhook"]["events"] == ["image.task.queued", "image.task.failed"]
    assert _post(edge, prompt="a fox").json["webhook"] is None


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/hook",
        "https://shop.example:8443/hook",
        "https://user:word@shop.example/hook",
        "https://10.0.0.7/hook",
        "https://[::1]/hook",
        "https://169.254.169.254/latest",
        "ftp://shop.example/hook",
        "shop.example/hook",
        f"https://shop.example/{'x' * 2048}",
    ],
)
def test_a_receiver_that_may_not_be_reached_is_refused_with_every_other_fault(edge: Edge, url: str) -> None:
    answer = _post(edge, prompt="a fox", webhook_url=url, colour="red")
    assert _codes(answer)["webhook_url"] in {"url_not_allowed", "too_long"}
    assert _codes(answer)["colour"] == "not_supported"
    assert not edge.submission.orders


def test_events_want_a_receiver_and_are_known_ones(edge: Edge) -> None:
    assert _codes(_post(edge, prompt="a fox", webhook_events=["image.task.failed"])) == {
        "webhook_events": "not_allowed"
    }
    unknown = _post(edge, prompt="a fox", webhook_url="https://shop.example/h", webhook_events=["image.task.done"])
    assert _codes(unknown) == {"webhook_events[0]": "not_allowed"}


def test_every_form_of_an_image_is_described(edge: Edge) -> None:
    shown = [edge.client.get(path, headers=MINE).text for path in ("/openapi.json", "/api/models/gpt-image-2")]
    assert all("job_id#index" in text and "upload_id" in text for text in shown)


def test_an_unknown_model_has_its_own_code(edge: Edge) -> None:
    answer = _post(edge, prompt="a fox", model="no-such-model")
    assert (answer.status_code, answer.json["code"]) == (422, "unknown_model")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "seed": NaN}',
        b'{"prompt": "a", "seed": -Infinity}',
        b'{"prompt": "a", "guidance": 1e999}',
        b'{"seed": ' + b"1" * 5000 + b"}",
        b'{"prompt": "a',
        b'["prompt"]',
        b"",
        b'{"prompt": "\xff"}',
        b'{"prompt": "a\\u0000b"}',
        b'{"prompt": "\\ud800"}',
        b'{"\\u0000": 1}',
        b'{"extra": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}",
        b"[" * 200_000,
        b'{"extra": [' + b"1," * (MAX_COMMAS + 1) + b"1]}",
    ],
)
def test_json_that_means_two_things_or_none_is_refused(edge: Edge, raw: bytes) -> None:
    answer = edge.client.post(GENERATE, data=raw, content_type="application/json", headers=MINE)
    assert (answer.status_code, answer.json["code"]) == (400, "malformed_json")
    assert not edge.submission.orders


def test_malformed_json_says_where(edge: Edge) -> None:
    raw = b'{"prompt":\n  oops}'
    answer = edge.client.post(GENERATE, data=raw, content_type="application/json", headers=MINE)
    assert (answer.json["line"], answer.json["column"], answer.json["position"]) == (2, 3, 13)


def test_other_media_types_are_refused(edge: Edge) -> None:
    answer = edge.client.post(GENERATE, data=b"prompt=a", content_type="text/plain", headers=MINE)
    assert (answer.status_code, answer.json["code"]) == (415, "unsupported_media_type")


def test_too_large_bodies_and_images_are_413(edge: Edge) -> None:
    small = make_edge(DARKROOM_MAX_REQUEST_BYTES=2048, DARKROOM_MAX_IMAGE_BYTES=1024)
    answer = _post(small, prompt="a" * 4000)
    assert (answer.status_code, answer.json["code"]) == (413, "request_too_large")
    answer = _post(small, EDIT, prompt="a", images=[base64.b64encode(b"x" * 1100).decode()])
    assert (answer.status_code, answer.json["code"]) == (413, "image_too_large_bytes")
    form = {"prompt": "a", "image": (io.BytesIO(b"x" * 1100), "a.png")}
    answer = small.client.post(EDIT, data=form, headers=MINE)
    assert (answer.status_code, answer.json["code"]) == (413, "image_too_large_bytes")
    answer = edge.client.post(GENERATE, data={"prompt": "a" * 300_000, "image": (io.BytesIO(b"x"), "a")}, headers=MINE)
    assert answer.status_code == 413
    parts = {f"p{n}": "x" for n in range(80)} | {"image": (io.BytesIO(b"x"), "a")}
    assert edge.client.post(GENERATE, data=parts, headers=MINE).status_code == 413


def test_images_come_as_data_url_base64_url_and_earlier_task(edge: Edge) -> None:
    edge.rows.add(done_task())
    answer = _post(
        edge, EDIT, prompt="hat", model="gpt-image-2", mask=f"data:image/png;base64,{BASE64}",
        images=[BASE64, "https://pictures.test/a.png", f"{job_id(1)}#0", f"data:image/png;base64,{BASE64}"],
    )  # fmt: skip
    assert answer.status_code == 202, answer.json
    references = edge.submission.orders[0][3]
    assert [(each.role, each.field_name) for each in references] == [
        *(("image", f"images[{n}]") for n in range(4)),
        ("mask", "mask"),
    ]
    assert {each.data for each in references} == {PNG}
    assert edge.fetched == ["https://pictures.test/a.png"]


def test_images_that_cannot_be_had_are_all_named(edge: Edge) -> None:
    edge.rows.add(make_task(1))
    edge.rows.add(done_task(2, account_id="acct_b"))
    edge.rows.add(replace(done_task(3), images=[make_image(deleted_at=done_task().created_at)]))
    answer = _post(
        edge, EDIT, prompt="hat",
        images=[
            "https://private.test/", f"{job_id(1)}#0", f"{job_id(2)}#0", f"{job_id(3)}#0", "???", "upl_1",
            f"data:text/html;base64,{BASE64[:-1]}!",
        ],
    )  # fmt: skip
    assert answer.status_code == 422
    assert _codes(answer) == {
        "images[0]": "url_unreachable",  # as if there were nothing: it must not tell what exists on our side
        "images[1]": "image_not_ready",
        "images[2]": "not_found",
        "images[3]": "image_gone",
        "images[4]": "wrong_type",
        "images[5]": "upload_not_found",
        "images[6]": "wrong_type",
    }
    assert not edge.submission.orders


def test_nothing_is_fetched_for_an_order_that_cannot_run(edge: Edge) -> None:
    assert _post(edge, EDIT, images=["https://pictures.test/a.png"], steps=4).status_code == 422
    assert edge.fetched == []


def test_an_order_with_a_remote_image_is_quoted_once_and_its_image_read_once(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoting, quoted = edge.submission.quoting, []
    quote = quoting.quote
    monkeypatch.setattr(quoting, "quote", lambda order, **asked: quoted.append(order) or quote(order, **asked))
    url = "https://pictures.test/a.png"
    assert _post(edge, EDIT, headers={"Idempotency-Key": "k"}, prompt="hat", images=[url]).status_code == 202
    assert (len(quoted), edge.fetched) == (1, [url])


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("not_an_image", 415),
        ("image_too_many_pixels", 422),
        ("mask_size_mismatch", 422),
        ("brand_new_code", 422),
    ],
)
def test_a_bad_image_names_its_part(edge: Edge, code: str, status: int) -> None:
    edge.submission.refuse = BadImageError([FieldFault("images[0]", code, "is bad")])
    answer = _post(edge, EDIT, prompt="hat", images=[BASE64])
    assert answer.status_code == status
    assert _codes(answer) == {"images[0]": code}


@pytest.mark.parametrize("part", ["image", "image[]", "images", "images[]"])
def test_a_form_says_the_same_as_json(edge: Edge, part: str) -> None:
    form = {
        "prompt": "hat", "model": "gpt-image-2", "n": "2", "output_compression": "80", "lenient": "true",
        "metadata": '{"a": "b"}', "extra": '{"x": [1]}', "quality": "", "output_format": "jpeg",
        part: [(io.BytesIO(PNG), "../../etc/passwd"), (io.BytesIO(PNG + b"2"), "b.png")],
        "mask": (io.BytesIO(PNG), "m.png"),
    }  # fmt: skip
    answer = edge.client.post(EDIT, data=form, headers=MINE)
    assert answer.status_code == 202, answer.json
    _, _, fields, references, _ = edge.submission.orders[0]
    assert fields == {
        "prompt": "hat", "model": "gpt-image-2", "n": 2, "output_compression": 80, "lenient": True,
        "metadata": {"a": "b"}, "extra": {"x": [1]}, "output_format": "jpeg",
    }  # fmt: skip
    assert [(each.role, each.field_name, each.data[-1:]) for each in references] == [
        ("image", "images[0]", PNG[-1:]),
        ("image", "images[1]", b"2"),
        ("mask", "mask", PNG[-1:]),
    ]


def test_a_bad_form_names_every_fault(edge: Edge) -> None:
    form = {
        "prompt": "hat\x00", "n": "2.5", "metadata": "{", "avatar": (io.BytesIO(PNG), "a.png"),
        "size": ["1", "2"], "image": "https://pictures.test/a.png",
    }  # fmt: skip
    found = _codes(edge.client.post(EDIT, data=form, headers=MINE))
    assert found["n"] == "wrong_type"
    assert found["metadata"] == "wrong_type"
    assert found["avatar"] == "not_supported"
    assert found["size"] == "conflict"
    assert found["prompt"] == "wrong_type"


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=xx"])
def test_a_broken_form_is_no_empty_form(edge: Edge, content_type: str) -> None:
    raw = b'--xx\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na fox'
    answer = edge.client.post(GENERATE, data=raw, content_type=content_type, headers=MINE)
    assert (answer.status_code, answer.json["code"]) == (400, "malformed_form")


# ---------------------------------------------------------------- doing it twice


@pytest.mark.parametrize("keys", [("abc", "abc"), ('"abc"', "abc")])
def test_the_same_key_and_order_answer_the_same_task(edge: Edge, keys: tuple[str, str]) -> None:
    first = _post(edge, headers={"Idempotency-Key": keys[0]}, prompt="a fox", n=2)
    again = edge.client.post(
        GENERATE, data=b'{"n":2,  "prompt":"a fox"}', content_type="application/json",
        headers={**MINE, "Idempotency-Key": keys[1]},
    )  # fmt: skip
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json["id"] == again.json["id"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    edge.rows.known[first.json["id"]] = replace(done_task(), id=first.json["id"])
    assert _post(edge, headers={"Idempotency-Key": "abc"}, prompt="a fox", n=2).status_code == 200
    assert len(edge.submission.orders) == 1


def test_the_same_key_with_another_body_or_route_is_refused(edge: Edge) -> None:
    _post(edge, headers={"Idempotency-Key": "abc"}, prompt="a fox")
    for answer in (
        _post(edge, headers={"Idempotency-Key": "abc"}, prompt="a cat"),
        _post(edge, EDIT, headers={"Idempotency-Key": "abc"}, prompt="a fox"),
    ):
        assert (answer.status_code, answer.json["code"]) == (422, "idempotency_mismatch")


def test_a_form_sent_again_has_another_boundary_and_the_same_fingerprint(edge: Edge) -> None:
    answers = [
        edge.client.post(
            EDIT,
            data={"prompt": "hat", "image": (io.BytesIO(content), "a.png")},
            headers={**MINE, "Idempotency-Key": "abc"},
        )
        for content in (PNG, PNG, PNG + b"other")
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 422]


@pytest.mark.parametrize("key", ["", "a" * 256, "a b", '"open', "häm"])
def test_a_bad_idempotency_key_is_refused(edge: Edge, key: str) -> None:
    answer = _post(edge, headers={"Idempotency-Key": key.encode().decode("latin-1")}, prompt="a fox")
    assert (answer.status_code, answer.json["code"]) == (422, "idempotency_key_invalid")
    assert not edge.submission.orders


def test_a_replay_fetches_no_image_again(edge: Edge) -> None:
    edge.rows.earlier_task = edge.rows.add(done_task())
    answer = _post(edge, EDIT, headers={"Idempotency-Key": "k"}, prompt="hat", images=["https://private.test/gone.png"])
    assert (answer.status_code, answer.json["id"]) == (200, job_id(1))
    assert edge.fetched == []


# ---------------------------------------------------------------- waiting, pricing


def test_prefer_wait_answers_200_when_the_task_ends_in_time(edge: Edge) -> None:
    submit = edge.submission.submit

    def submit_and_finish(*args: Any, **named: Any) -> Submitted:
        submitted = submit(*args, **named)
        ended = replace(done_task(), id=submitted.task.id)
        threading.Timer(0.05, edge.rows.add, [ended]).start()
        return submitted

    edge.submission.submit = submit_and_finish  # type: ignore[method-assign]
    answer = _post(edge, headers={"Prefer": "respond-async, wait=30"}, prompt="a fox")
    assert (answer.status_code, answer.json["status"]) == (200, "succeeded")
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("prefer", ["wait=0", "wait=x", "wait=-1", "respond-async", ""])
def test_a_preference_we_cannot_honour_is_ignored(edge: Edge, prefer: str) -> None:
    answer = _post(edge, headers={"Prefer": prefer}, prompt="a fox")
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def test_an_estimate_prices_and_submits_nothing(edge: Edge) -> None:
    answer = _post(edge, "/api/images/estimate", prompt="a fox", n=3, size="1000x1000")
    assert answer.status_code == 200, answer.json
    estimate = Estimate.model_validate(answer.json)
    assert (estimate.operation, estimate.n, estimate.price.total) == ("generate", 3, "15.69")  # 1008x1008
    assert estimate.normalised["size"]["asked"] == "1000x1000"
    assert not edge.submission.orders
    with_image = _post(edge, "/api/images/estimate", prompt="hat", images=["https://pictures.test/a.png"])
    assert with_image.json["operation"] == "edit"
    assert edge.fetched == []
    assert _post(edge, "/api/images/estimate", prompt="a", operation="paint").status_code == 404


def test_an_order_whose_nudge_could_not_be_sent_is_left_to_the_next_sweep(edge: Edge) -> None:
    edge.trouble["redis"] = "away"
    answer = _post(edge, prompt="a fox")
    assert answer.status_code == 202
    assert edge.rows.unpublished == [answer.json["id"]]
    edge.trouble["redis"] = None
    assert _post(edge, prompt="a fox").status_code == 202
    assert len(edge.rows.unpublished) == 1


def test_a_mask_goes_with_sixteen_images(edge: Edge) -> None:
    order = {"prompt": "x", "model": "gpt-image-2", "mask": BASE64}
    assert _post(edge, EDIT, **order, images=[BASE64] * 16).status_code == 202
    assert _codes(_post(edge, EDIT, **order, images=[BASE64] * 17)) == {"images": "too_many"}


def test_a_form_field_is_a_number_where_any_model_says_so() -> None:
    assert kinds_of(load())["safety_tolerance"] == "integer"


@pytest.mark.parametrize(("name", "near"), [("image-to-3d", "to-3d"), ("removebackground", "remove-background")])
def test_an_unknown_operation_is_answered_with_the_nearest(edge: Edge, name: str, near: str) -> None:
    answer = _post(edge, f"/api/images/{name}", prompt="x")
    assert (answer.status_code, f"did you mean {near}?" in answer.json["detail"]) == (404, True)
