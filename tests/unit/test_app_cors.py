"""Pages of other origins: let in by a setting, and told nothing without it."""

from __future__ import annotations

import pytest
from app_doubles import MINE, done_task, job_id, make_edge

from app.http import cors
from core.settings import SettingsError

ORIGIN = "https://app.example"
TASK = f"/api/images/tasks/{job_id(1)}"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,x-mine",
}


def test_without_the_setting_nothing_is_said_and_nothing_installed() -> None:
    edge = make_edge()
    answer = edge.client.options("/api/images/generate", headers=PREFLIGHT)
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
    with_origins = make_edge(DARKROOM_CORS_ORIGINS=ORIGIN)
    count = len(edge.app.after_request_funcs.get(None, []))
    assert len(with_origins.app.after_request_funcs[None]) == count + 1


@pytest.mark.parametrize("path", ["/api/images/generate", "/v1/files", "/fal/rest/storage/upload/initiate"])
def test_a_preflight_needs_no_key(path: str) -> None:
    answer = make_edge(DARKROOM_CORS_ORIGINS=f"http://localhost:3000,{ORIGIN}").client.options(path, headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, x-mine"
    assert {"GET", "POST", "PUT", "PATCH", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    assert answer.headers["Access-Control-Max-Age"] == str(cors.MAX_AGE_S)
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" in answer.headers["Vary"]


def test_answers_and_errors_may_be_read_with_our_headers() -> None:
    edge = make_edge(DARKROOM_CORS_ORIGINS=ORIGIN)
    made = edge.client.post("/api/images/generate", json={"prompt": "a fox"}, headers={**MINE, "Origin": ORIGIN})
    refused = edge.client.get("/api/images/tasks/x", headers={"Origin": ORIGIN})
    for answer, status in ((made, 202), (refused, 401)):
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        unsafe = {name for name, _ in answer.headers if name.startswith(("X-", "Rate", "Location", "Retry", "WWW"))}
        assert unsafe - {"X-Content-Type-Options"} <= set(exposed)
        # Of the dialects, whose clients look for theirs in a page, too.
        assert {"x-fal-request-id", "x-fal-error-type", "x-should-retry", "x-ratelimit-reset-requests"} <= set(exposed)


@pytest.mark.parametrize(
    "origin", ["https://app.example.evil.example", "https://app-example", "http://app.example", "https://app.example:1"]
)
def test_an_origin_is_meant_exactly(origin: str) -> None:
    answer = make_edge(DARKROOM_CORS_ORIGINS=ORIGIN).client.get("/api/models", headers={**MINE, "Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("given", "origin", "allowed"),
    [
        ("*", ORIGIN, "*"),  # whoever asks, so that a cache may keep one answer for all
        ("http://[::1]:3000", "http://[::1]:3000", "http://[::1]:3000"),
        ("https://App.Example", ORIGIN, ORIGIN),  # browsers write it in lower case
    ],
)
def test_every_origin_or_one_with_brackets_or_capitals(given: str, origin: str, allowed: str) -> None:
    answer = make_edge(DARKROOM_CORS_ORIGINS=given).client.get("/api/models", headers={**MINE, "Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == allowed


def test_what_is_no_origin_stops_the_start() -> None:
    with pytest.raises(SettingsError, match=r"DARKROOM_CORS_ORIGINS: app\.example, https://a/b"):
        make_edge(DARKROOM_CORS_ORIGINS=f"app.example,https://a/b,{ORIGIN}")


def test_who_may_embed_an_image() -> None:
    shut, open_ = make_edge(), make_edge(DARKROOM_CORS_ORIGINS=ORIGIN)
    policies = []
    for edge in (shut, open_):
        edge.rows.add(done_task(1))
        link = edge.client.get(TASK, headers=MINE).json["images"][0]["signed_url"]
        answers = [edge.client.get(f"{TASK}/image", headers=MINE), edge.client.get(link)]
        policies += [answer.headers["Cross-Origin-Resource-Policy"] for answer in answers]
        # One that was kept for an <img> must not answer a page that calls.
        assert ["Origin" in answer.headers["Vary"] for answer in answers] == [edge is open_] * 2
    assert policies == ["same-site", "cross-origin", "cross-origin", "cross-origin"]
