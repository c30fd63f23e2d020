"""Requests that are refused: by a wrong key too often, with an Accept that cannot be met, without credits."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from app_doubles import MINE, PNG, Edge, done_task, job_id, make_edge, settings_of
from gunicorn.http.body import ChunkedReader
from gunicorn.http.unreader import IterUnreader
from pydantic import ValidationError
from pydantic_core import core_schema

from app import create_app
from app.http.bodies import faults_of
from app.http.fault_words import message_of
from app.http.limits import RateLimits
from app.serving.addresses import block_of
from app.serving.bodies import (
    CHUNKS_IN_A_ROW,
    MAX_CHUNKS,
    SLOWEST_BYTES_PER_S,
    BodyTimeoutError,
    MalformedBodyError,
    TimedReader,
    bound_chunks,
)
from app.shapes.schemas.orders import OrderFields
from jobs.reads import funds
from jobs.reads.funds import Funds
from storage.variants import STEPS_PX

IMAGE = f"/api/images/tasks/{job_id(1)}/image"
GENERATE = "/api/images/generate"


@pytest.fixture
def edge() -> Edge:
    found = make_edge()
    found.rows.add(done_task())
    return found


# ---------------------------------------------------------------- wrong keys


def _try(edge: Edge, token: str, address: str = "203.0.113.5") -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return edge.client.get("/api/quota", headers=headers, environ_overrides={"REMOTE_ADDR": address})


def _guarded(good: frozenset[str] = frozenset()) -> tuple[Edge, list[str]]:
    """An edge that takes three wrong keys a minute; every look-up in the database is noted."""
    edge = make_edge(DARKROOM_RATE_LIMIT_WRONG_KEYS="3/minute")
    asked: list[str] = []
    services = edge.app.extensions["darkroom"]
    find = services.authenticate

    def noted(token: str) -> Any:
        asked.append(token)
        return find(token)

    return make_edge_with(edge, noted, good), asked


def make_edge_with(edge: Edge, authenticate: Any, good: frozenset[str]) -> Edge:
    services = replace(
        edge.app.extensions["darkroom"], authenticate=authenticate, knows_key=lambda token: token in good
    )
    app = create_app(settings_of({"DARKROOM_RATE_LIMIT_WRONG_KEYS": "3/minute"}), services)
    return replace(edge, app=app, client=app.test_client())


def test_wrong_keys_are_sent_away_before_the_database_is_asked() -> None:
    edge, asked = _guarded()
    assert [_try(edge, f"dk_x_{number}").status_code for number in range(3)] == [401] * 3
    answer = _try(edge, "dk_x_more")
    assert (answer.status_code, answer.json["code"]) == (429, "rate_limited")
    assert answer.json["violated-policies"] == ["wrong-keys"]
    assert int(answer.headers["Retry-After"]) > 0
    assert len(asked) == 3
    assert _try(edge, "dk_x_more", "198.51.100.7").status_code == 401


def test_a_key_that_was_good_lately_opens_from_an_address_that_others_spoil() -> None:
    edge, asked = _guarded(frozenset({"dk_a_secret"}))
    for number in range(5):
        _try(edge, f"dk_x_{number}")
    assert _try(edge, "dk_a_secret").status_code == 200
    assert _try(edge, "dk_b_secret").status_code == 429  # good, but never seen here: it opens once there is room
    assert asked[-1] == "dk_a_secret"


def test_right_keys_spend_nothing_of_what_wrong_keys_may() -> None:
    edge, _ = _guarded()
    assert [_try(edge, "dk_a_secret").status_code for _ in range(10)] == [200] * 10


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.5", "203.0.113.6", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:203.0.113.5", "203.0.113.5", True),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_a_host_is_counted_once_whatever_address_it_takes(one: str, other: str, same: bool) -> None:
    assert (block_of(one) == block_of(other)) is same


def test_addresses_of_one_network_share_their_wrong_keys() -> None:
    limits = RateLimits(account="6/minute", submit="2/minute", wrong_keys="1/minute", client=None)
    limits.charge_wrong_key("2001:db8::1")
    with pytest.raises(Exception, match="at most 1 requests"):
        limits.check_wrong_keys("2001:db8::2")
    limits.check_wrong_keys("2001:db8:0:1::2")


# ---------------------------------------------------------------- Accept and OPTIONS


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/api/quota", "application/json", 200),
        ("/api/quota", "text/html, */*;q=0.1", 200),
        ("/api/quota", "application/*", 200),
        ("/api/quota", "", 200),
        ("/api/quota", "text/html", 406),
        ("/api/quota", "application/json;q=0", 406),
        ("/api/models", "image/png", 406),
        ("/healthz", "image/png", 406),
        ("/openapi.json", "text/html", 406),
        (IMAGE, "image/avif,image/webp,image/*;q=0.8", 200),
        (IMAGE, "application/json, text/plain, */*", 200),
        (IMAGE, "image/jpeg", 406),
        (f"{IMAGE}?width=64&format=webp", "image/webp", 200),
        (f"/api/images/tasks/{job_id(1)}", "text/csv", 406),
    ],
)
def test_an_accept_is_met_or_refused(edge: Edge, path: str, accept: str, status: int) -> None:
    answer = edge.client.get(path, headers={**MINE, "Accept": accept})
    assert answer.status_code == status
    if status == 406:
        assert answer.json["code"] == "not_acceptable"
        assert answer.content_type == "application/problem+json"


def test_no_accept_takes_everything(edge: Edge) -> None:
    for path in ("/api/quota", IMAGE, "/healthz"):
        assert edge.client.get(path, headers=MINE).status_code == 200


def test_an_order_with_an_accept_that_cannot_be_met_is_not_taken(edge: Edge) -> None:
    answer = edge.client.post(GENERATE, json={"prompt": "x"}, headers={**MINE, "Accept": "video/mp4"})
    assert (answer.status_code, edge.submission.orders) == (406, [])


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (GENERATE, {"POST", "OPTIONS"}),
        ("/api/images/estimate", {"POST", "OPTIONS"}),
        ("/api/images/tasks", {"GET", "HEAD", "OPTIONS"}),
        (f"/api/images/tasks/{job_id(1)}", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        (IMAGE, {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_options_tells_the_methods_that_exist_and_needs_no_key(edge: Edge, path: str, methods: set[str]) -> None:
    answer = edge.client.options(path)
    assert answer.status_code == 200
    assert {each.strip() for each in answer.headers["Allow"].split(",")} == methods
    for method in {"GET", "POST", "DELETE", "PUT"} - methods:
        refused = edge.client.open(path, method=method, headers=MINE)
        assert refused.status_code == 405, method
        assert {each.strip() for each in refused.headers["Allow"].split(",")} <= methods | {"OPTIONS"}


# ---------------------------------------------------------------- enhancing


def test_enhancing_has_a_limit_of_its_own() -> None:
    edge = make_edge(DARKROOM_RATE_LIMIT_ENHANCE="2/minute")

    def ask() -> Any:
        return edge.client.post("/api/prompts/enhance", json={"prompt": "x"}, headers={**MINE, "Accept": "text/plain"})

    assert [ask().status_code for _ in range(3)] == [200, 200, 429]
    assert ask().json["violated-policies"] == ["enhance"]
    assert len(edge.writer.asked) == 2
    assert edge.client.get("/api/quota", headers=MINE).status_code == 200


@pytest.mark.parametrize(
    ("held", "status"), [(Funds(), 402), (Funds(queued=1), 200), (Funds(held=1), 200), (Funds(spendable=1), 200)]
)
def test_enhancing_is_for_accounts_that_hold_credits(edge: Edge, held: Funds, status: int) -> None:
    edge.rows.answers[funds.funds] = lambda account_id: held
    headers = {**MINE, "Accept": "text/plain"}
    answer = edge.client.post("/api/prompts/enhance", json={"prompt": "x"}, headers=headers)
    assert answer.status_code == status
    assert len(edge.writer.asked) == (status == 200)


def test_a_prompt_to_enhance_is_cleaned_as_an_order_is(edge: Edge) -> None:
    headers = {**MINE, "Accept": "text/plain"}
    edge.client.post("/api/prompts/enhance", json={"prompt": "a\x1b[31m \u202efox"}, headers=headers)
    assert edge.writer.asked[0][0][-1]["content"] == "a[31m fox"
    empty = edge.client.post("/api/prompts/enhance", json={"prompt": "\u202e\x07"}, headers=headers)
    assert (empty.status_code, empty.json["errors"][0]["field"]) == (422, "prompt")


# ---------------------------------------------------------------- variants


def _link(edge: Edge, query: str) -> str:
    answer = edge.client.get(f"{IMAGE}/link?{query}", headers=MINE)
    assert answer.status_code == 200, answer.json
    assert answer.json["expires_at"].endswith("Z")
    return str(answer.json["url"])


def test_a_link_to_an_image_makes_no_other_of_it(edge: Edge) -> None:
    whole = edge.client.get(f"/api/images/tasks/{job_id(1)}", headers=MINE).json["images"][0]["signed_url"]
    for added in ("&width=64", "&height=64", "&format=webp", "&width=64&format=webp"):
        answer = edge.client.get(whole + added)
        assert (answer.status_code, answer.json["code"]) == (403, "signature_invalid"), added
    assert edge.variants == []
    assert edge.client.get(f"{whole}&download=1").data == PNG


def test_a_link_to_a_variant_opens_that_one_alone(edge: Edge) -> None:
    link = _link(edge, "width=100&format=webp")
    assert edge.client.get(link).data == b"variant"
    assert edge.variants == [("k/0", {"width": 96, "height": None, "format": "webp"})]
    right = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
    for change in ({"width": "128"}, {"format": "png"}, {"height": "96"}, {"width": "096"}):
        assert edge.client.get(f"{IMAGE}?{urlencode({**right, **change})}").status_code == 403, change
    for gone in ("width", "format"):
        rest = {name: value for name, value in right.items() if name != gone}
        assert edge.client.get(f"{IMAGE}?{urlencode(rest)}").status_code == 403, gone
    assert len(edge.variants) == 1


def test_a_link_made_before_variants_were_signed_still_opens_the_image(edge: Edge) -> None:
    """Its signature is over method, path, account, index, expiry and key id."""
    expires = edge.signer.expiry_s()
    parts = "\n".join(("GET", IMAGE, "acct_a", "0", str(expires), "k1"))
    signature = hmac.new(b"s" * 32, parts.encode(), hashlib.sha256).hexdigest()
    query = f"index=0&account=acct_a&expires={expires}&kid=k1&signature={signature}"
    assert edge.client.get(f"{IMAGE}?{query}").data == PNG
    assert edge.client.get(f"{IMAGE}?{query}&width=64").status_code == 403


def test_every_width_leads_to_one_of_few(edge: Edge) -> None:
    for width in (1, 100, 111, 127, 128, 5000, 16_384):
        edge.client.get(f"{IMAGE}?width={width}", headers=MINE)
    assert [asked["width"] for _, asked in edge.variants] == [16, 96, 96, 96, 128, 4096, 16_384]
    assert {asked["width"] for _, asked in edge.variants} <= set(STEPS_PX)


def test_a_link_needs_an_image_of_ones_own(edge: Edge) -> None:
    assert edge.client.get(f"{IMAGE}/link").status_code == 401
    assert edge.client.get(f"{IMAGE}/link", headers={"Authorization": "Bearer dk_b_secret"}).status_code == 404
    assert edge.client.get(f"{IMAGE}/link?index=3", headers=MINE).json["code"] == "image_not_found"
    assert (
        edge.client.get(f"{IMAGE}/link?width=x", headers=MINE).json["errors"][0]["message"] == "must be a whole number"
    )


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"n": "two"}, "n", "must be a whole number"),
        ({"n": 1.5}, "n", "must be a whole number"),
        ({"n": 11}, "n", "must be at most 10"),
        ({"guidance": "x"}, "guidance", "must be a number"),
        ({"lenient": "yes"}, "lenient", "must be true or false"),
        ({"model": 5}, "model", "must be a text"),
        ({"size": "x" * 201}, "size", "may have at most 200 characters"),
        ({"priority": "high"}, "priority", "must be 'normal' or 'low'"),
        ({"fallback_models": "x"}, "fallback_models", "must be a list"),
        ({"extra": []}, "extra", "must be an object"),
        ({"fallback_models": [""]}, "fallback_models[0]", "must not be empty"),
        ({"promt": "x"}, "promt", "did you mean prompt?"),
        ({"imges": ["x"]}, "imges", "did you mean images?"),
    ],
)
def test_a_fault_is_told_in_the_words_of_a_caller(edge: Edge, body: dict[str, Any], field: str, message: str) -> None:
    path = "/api/images/edit" if "imges" in body else GENERATE
    answer = edge.client.post(path, json={"prompt": "x", **body}, headers=MINE)
    told = {fault["field"]: fault["message"] for fault in answer.json["errors"]}
    assert answer.status_code == 422
    assert message in told[field]
    assert "nput should" not in answer.text


def test_no_error_of_the_validator_keeps_its_jargon() -> None:
    for kind in get_args(core_schema.ErrorType):
        words = message_of(
            {"type": kind, "loc": ("f",), "msg": "Input should be a valid thing", "input": 1, "ctx": _AnyContext()}
        )
        assert "nput should" not in words, kind


class _AnyContext(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return "1"


def test_every_fault_of_an_order_of_rubbish_has_words_of_ours() -> None:
    rubbish = {name: object() for name in OrderFields.model_fields}
    with pytest.raises(ValidationError) as caught:
        OrderFields.model_validate(rubbish)
    for fault in faults_of(caught.value):
        assert fault.message.startswith(("must be", "may have")), fault


def test_a_parameter_that_does_not_exist_is_told_its_nearest(edge: Edge) -> None:
    for path, name, near in (
        ("/api/images/tasks", "stauts", "status"),
        ("/api/images/tasks", "metdata.x", None),
        (IMAGE, "widht", "width"),
        (f"/api/images/tasks/{job_id(1)}", "wiat", "wait"),
    ):
        [fault] = edge.client.get(f"{path}?{name}=1", headers=MINE).json["errors"]
        assert fault["field"] == name
        assert near is None or fault["message"].endswith(f"did you mean {near}?")


def test_an_unknown_model_does_not_hide_the_other_faults(edge: Edge) -> None:
    body = {"model": "gpt-imaeg-2", "promt": "a fox", "n": 50, "colour": "red"}
    answer = edge.client.post(GENERATE, json=body, headers=MINE)
    codes = {fault["field"]: fault["code"] for fault in answer.json["errors"]}
    assert answer.status_code == 422
    assert codes == {
        "model": "unknown_model", "promt": "not_supported", "n": "out_of_range",
        "colour": "not_supported", "prompt": "required",
    }  # fmt: skip
    alone = edge.client.post(GENERATE, json={"model": "nosuch", "prompt": "x"}, headers=MINE)
    assert (alone.status_code, alone.json["code"]) == (422, "unknown_model")


@pytest.mark.parametrize("moment", ["0.5", "5", "1e9", "2026-11-20", "2026-11-20T12:00:00"])
def test_a_number_is_no_time(edge: Edge, moment: str) -> None:
    answer = edge.client.get(f"/api/images/tasks?created_after={moment}", headers=MINE)
    assert answer.status_code == 422
    assert answer.json["errors"] == [
        {
            "field": "created_after",
            "code": "wrong_type",
            "message": "must be a time like 2026-11-20T12:00:00Z, with its zone",
        }
    ]


# ---------------------------------------------------------------- the deadline of a body


class _Sender:
    """Sends ``pieces``, one a second of the clock it carries."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.now = 0.0

    def read(self, size: int) -> bytes:
        self.now += 1.0
        return self.pieces.pop(0) if self.pieces else b""


def test_a_deadline_moves_with_what_arrives() -> None:
    ended: list[bool] = []
    for size, arrives in ((SLOWEST_BYTES_PER_S, True), (SLOWEST_BYTES_PER_S // 4, False)):
        sender = _Sender([b"x" * size] * 60)
        reader = TimedReader(sender, base_s=10.0, failed=lambda: ended.append(True), clock=lambda s=sender: s.now)
        if arrives:
            while reader.read(2**20):
                pass
            assert ended == []
            continue
        with pytest.raises(BodyTimeoutError):
            while reader.read(2**20):
                pass
        assert ended == [True]
        assert sender.pieces  # cut off before its end


def _reader_of(chunks: int) -> ChunkedReader:
    """gunicorn's own reader, of chunks of one byte that are all there."""
    reader = ChunkedReader(SimpleNamespace(), IterUnreader([b"1\r\nx\r\n" * chunks + b"0\r\n\r\n"]))
    bound_chunks(reader)
    return reader


def test_other_requests_are_let_in_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []
    monkeypatch.setattr("app.serving.bodies.gevent.sleep", turns.append)
    assert _reader_of(2_000).read(10_000) == b"x" * 2_000
    assert turns == [0] * (2_000 // CHUNKS_IN_A_ROW)


def test_a_body_has_so_many_chunks_and_no_more() -> None:
    with pytest.raises(MalformedBodyError, match="more than 65536 chunks"):
        _reader_of(MAX_CHUNKS).read(MAX_CHUNKS + 1)
