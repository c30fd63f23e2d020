"""A key that is paused: refused on every route, in the words of each dialect. And what is counted of wrong keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from app_doubles import KEYS, make_edge, settings_of

from app import create_app
from app.http.tallies import LEAST_REQUESTS, MAX_SUBJECTS, Tallies
from app.services import EXTENSION

ORDER = {"prompt": "a hat"}
PAUSED = {"dk_p_secret": replace(KEYS["dk_a_secret"], key_id="p", paused=True)}
WORDS = "The operator has to let this key on; its accepted tasks go on."

# By dialect: method, path and scheme; then the status and the members that its clients read.
SAID: dict[str, tuple[str, str, str, int, dict[str, Any]]] = {
    "native": (
        *("POST", "/api/images/generate", "Bearer", 403),
        {"code": "key_paused", "title": "Key paused", "detail": WORDS, "status": 403},
    ),
    "native, a look": ("GET", "/api/quota", "Bearer", 403, {"code": "key_paused"}),
    "openai": (
        *("POST", "/v1/images/generations", "Bearer", 403),
        {"error": {"message": WORDS, "type": "permission_error", "param": None, "code": "key_paused"}},
    ),
    "openai, chat": ("POST", "/v1/chat/completions", "Bearer", 403, {"status": 403}),
    "replicate": (
        *("POST", "/v1/predictions", "Bearer", 403),
        {"title": "Key paused", "detail": WORDS, "status": 403},
    ),
    "fal, queue": (
        *("POST", "/fal/queue/fal-ai/flux/dev", "Key", 403),
        {"detail": WORDS, "error_type": "permission_error", "message": WORDS},
    ),
    "fal, run": ("POST", "/fal/run/fal-ai/flux/dev", "Key", 403, {"error_type": "permission_error"}),
    "fal, storage": ("POST", "/fal/rest/storage/upload/initiate", "Key", 403, {"message": WORDS}),
    "image_generate": (
        *("POST", "/image/generate", "Bearer", 403),
        {"success": False, "code": 403, "message": WORDS, "data": None, "error": "key_paused"},
    ),
    "generation": ("POST", "/api/generation", "Bearer", 403, {"status": "failed", "error": WORDS}),
    "chatgpt2api": ("POST", "/api/image-tasks/generations", "Bearer", 403, {}),
}


@pytest.mark.parametrize("dialect", SAID)
def test_a_paused_key_is_refused_in_each_dialects_words(dialect: str) -> None:
    method, path, scheme, status, members = SAID[dialect]
    edge = make_edge()
    services = replace(edge.app.extensions[EXTENSION], authenticate=PAUSED.get)
    client = create_app(settings_of({}), services).test_client()
    answer = client.open(path, method=method, json=ORDER, headers={"Authorization": f"{scheme} dk_p_secret"})
    assert answer.status_code == status
    assert WORDS in answer.text
    assert {name: answer.json[name] for name in members} == members
    if dialect.startswith("openai"):
        assert answer.headers["x-should-retry"] == "false"
    assert edge.submission.orders == []


# ---------------------------------------------------------------- what is counted


class Book:
    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, int]]] = []

    def write(self, kind: str, counted: Mapping[str, int]) -> None:
        self.written.append((kind, dict(counted)))


class Quiet(Tallies):
    """Without the background thread: the test says when to write."""

    def _start(self) -> None:
        pass


def test_wrong_keys_count_by_address_and_by_the_key_they_name_and_are_written_once() -> None:
    book = Book()
    tallies = Quiet(book.write)
    services = replace(make_edge().app.extensions[EXTENSION], tallies=tallies)
    client = create_app(settings_of({}), services).test_client()
    for token in ("dk_0123456789ab_wrong", "dk_0123456789ab_worse", "nonsense"):
        assert client.get("/api/quota", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    tallies.write()
    tallies.write()
    assert book.written == [("wrong_key", {"0123456789ab": 2}), ("wrong_address", {"127.0.0.1": 3})]


def test_requests_count_for_keys_that_send_many() -> None:
    book = Book()
    tallies = Quiet(book.write)
    for _ in range(LEAST_REQUESTS):
        tallies.request("busy")
    tallies.request("quiet")
    tallies.write()
    assert book.written == [("requests", {"busy": LEAST_REQUESTS})]


def test_one_process_counts_a_bounded_number_of_addresses() -> None:
    book = Book()
    tallies = Quiet(book.write)
    for number in range(MAX_SUBJECTS + 10):
        tallies.wrong_key("x", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    tallies.write()
    assert len(book.written[0][1]) == MAX_SUBJECTS


def test_nothing_is_counted_without_a_place_to_write_to() -> None:
    tallies = Tallies()
    tallies.wrong_key("dk_0123456789ab_wrong", "10.0.0.1")
    tallies.request("a")
    tallies.write()
    assert not any(tallies._counted.values())
