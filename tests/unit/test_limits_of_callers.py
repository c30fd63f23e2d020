"""Limits of requests and of load as callers meet them: who is counted where, and how each dialect says it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from accounts.keys import Caller
from app import create_app
from app.http.cors import EXPOSED
from jobs import counts
from jobs.screening.screening import Screening
from jobs.submission.admission import Installation
from jobs.submission.building import submission_of
from jobs.submission.load import LoadLimitError, LoadStanding
from tests.unit.app_doubles import (
    CATALOG,
    MINE,
    Edge,
    KeptReferences,
    OrdersDatabase,
    job_id,
    make_edge,
    settings_of,
)
from webhooks.receivers import policy

ORDER = {"prompt": "a fox"}
FLUX = "black-forest-labs/flux-schnell"
JOBS = LoadStanding("account-in-flight", "concurrent-requests", 2, 0, 5)
IMAGES = LoadStanding("key-images", "images", 10, 0, 42)
POSTS: dict[str, tuple[str, dict[str, Any]]] = {
    "native": ("/api/images/generate", ORDER),
    "openai": ("/v1/images/generations", ORDER),
    "replicate": ("/v1/predictions", {"version": FLUX, "input": ORDER}),
    "fal": (f"/fal/queue/{FLUX}", ORDER),
    "chatgpt2api": ("/api/image-tasks/generations", {**ORDER, "client_task_id": "t-1"}),
    "generation": ("/api/generation", ORDER),
}


def ask(edge: Edge, path: str, address: str = "203.0.113.5", method: str = "GET", **headers: str) -> Any:
    return edge.client.open(path, method=method, headers=headers, environ_overrides={"REMOTE_ADDR": address})


def with_caller(caller: Caller, **variables: Any) -> Edge:
    """An edge at which everyone is this caller."""
    edge = make_edge(**variables)
    services = replace(edge.app.extensions["darkroom"], authenticate=lambda _token: caller)
    app = create_app(settings_of(variables), services)
    return replace(edge, app=app, client=app.test_client())


def refusals(policy: str) -> float:
    value: float = counts.LIMITED.of(policy)._value.get()
    return value


# ---------------------------------------------------------------- requests


def test_an_address_that_has_not_signed_in_has_a_bucket_of_its_own() -> None:
    edge, before = make_edge(DARKROOM_RATE_LIMIT_ADDRESS="4/minute"), refusals("address")
    left = [
        ask(edge, "/api/quota").headers["RateLimit"],  # without a key
        ask(edge, "/openapi.json").headers["RateLimit"],  # needs none
        ask(edge, "/no/such/route").headers["RateLimit"],
        ask(edge, "/api/quota", Authorization="Bearer dk_wrong_key").headers["RateLimit"],
    ]
    assert [re.match(r'"address";r=(\d);t=\d+', each)[1] for each in left] == ["3", "2", "1", "0"]  # type: ignore[index]
    for path in ("/api/quota", "/docs", "/v1/predictions", "/no/such/route", f"/api/images/tasks/{job_id(1)}"):
        refused = ask(edge, path)
        assert refused.status_code == 429, path
        assert int(refused.headers["Retry-After"]) >= int(refused.headers["RateLimit"].rpartition("t=")[2]) > 0
    assert ask(edge, "/api/quota").json["violated-policies"] == ["address"]
    assert refusals("address") - before == 6
    # Other addresses, keys, probes, upstreams and the questions of browsers go on.
    assert ask(edge, "/api/quota", "198.51.100.7").status_code == 401
    assert ask(edge, "/api/quota", **MINE).status_code == 200
    assert {ask(edge, path).status_code for path in ("/healthz", "/readyz")} == {200}
    assert ask(edge, "/api/quota", method="OPTIONS").status_code == 200
    assert ask(edge, "/hooks/replicate/call_1/token", method="POST").status_code != 429


def test_a_key_has_a_lower_limit_of_its_own_on_all_routes() -> None:
    edge = with_caller(Caller("acct_a", key_id="k1", scopes=frozenset({"admin"}), key_requests_per_minute=2))
    first = edge.client.get("/api/quota", headers=MINE)
    assert first.headers["RateLimit-Policy"] == '"account";q=600;w=60;qu="requests", "key";q=2;w=60;qu="requests"'
    assert first.headers["RateLimit"].startswith('"key";r=1;t=')
    assert {"name": "key", "unit": "requests", "limit": 2, "requests": 2, "window_s": 60} in first.json["limits"]
    assert edge.client.post("/api/images/generate", headers=MINE, json=ORDER).status_code == 202
    for _ in range(3):
        refused = edge.client.get("/api/quota", headers=MINE)
    assert (refused.status_code, refused.json["violated-policies"]) == (429, ["key"])
    assert refused.json["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    # What the key's limit refuses costs its account nothing.
    assert edge.app.extensions["darkroom"].limits.buckets._buckets["account", "acct_a"].tokens == pytest.approx(
        599, 0.01
    )


def test_an_account_has_a_limit_of_its_own_in_place_of_the_installations() -> None:
    caller = Caller("acct_a", key_id="k1", scopes=frozenset({"admin"}), account_requests_per_minute=3)
    edge = with_caller(caller, DARKROOM_RATE_LIMIT_ACCOUNT="1/minute", DARKROOM_RATE_LIMIT_SUBMIT="1/minute")
    for _ in range(2):
        assert edge.client.get("/api/quota", headers=MINE).status_code == 200
    answer = edge.client.post("/api/images/generate", headers=MINE, json=ORDER)
    assert (answer.status_code, answer.headers["RateLimit-Policy"]) == (202, '"account";q=3;w=60;qu="requests"')
    assert edge.client.post("/api/images/generate", headers=MINE, json=ORDER).status_code == 429


def test_the_installation_has_a_limit_of_all_requests() -> None:
    edge = make_edge(DARKROOM_RATE_LIMIT_GLOBAL="3/minute", DARKROOM_RATE_LIMIT_ADDRESS="2/minute")
    assert ask(edge, "/api/quota", **MINE).status_code == 200
    assert [ask(edge, "/openapi.json").status_code for _ in range(4)] == [200, 200, 429, 429]
    refused = ask(edge, "/api/quota", **MINE)  # what the address was refused did not count
    assert (refused.status_code, refused.json["violated-policies"]) == (429, ["installation"])
    both = ask(edge, "/openapi.json")
    assert both.json["violated-policies"] == ["address", "installation"]
    assert int(both.headers["Retry-After"]) == 30  # the longer of both
    assert ask(edge, "/healthz").status_code == 200


def test_wrong_keys_are_told_how_long_to_wait() -> None:
    edge = make_edge(DARKROOM_RATE_LIMIT_WRONG_KEYS="1/minute")
    ask(edge, "/api/quota", Authorization="Bearer dk_wrong_key")
    refused = ask(edge, "/api/quota", Authorization="Bearer dk_wrong_key")
    assert refused.headers["RateLimit"] == f'"wrong-keys";r=0;t={refused.headers["Retry-After"]}'


def test_the_installations_limits_are_settings() -> None:
    given = {"MAX_IN_FLIGHT": "5", "IMAGES_PER_MINUTE": "60", "BUDGET_DAY_CREDITS": "300"}
    assert _installation(**given) == Installation(5, 60, 300_000_000)
    assert not _installation(**dict.fromkeys(given, " ")).limited
    assert not _installation().limited
    for name in given:
        with pytest.raises(ValidationError):
            _installation(**{name: "0"})


def _installation(**variables: str) -> Installation:
    settings = settings_of({f"DARKROOM_{name}": value for name, value in variables.items()})
    service = submission_of(
        *(settings, OrdersDatabase(), CATALOG, KeptReferences.__new__(KeptReferences)),
        configured=(),
        receivers=policy(),
        screening=Screening(),
    )
    return service.admission.installation


# ---------------------------------------------------------------- load, in every dialect


@pytest.fixture(scope="module")
def edge() -> Edge:
    return make_edge(configured=("openai", "replicate"))


@pytest.mark.parametrize("standing", [JOBS, IMAGES], ids=lambda standing: standing.policy)
@pytest.mark.parametrize("dialect", POSTS)
def test_a_limit_of_load_is_told_in_the_words_of_each_dialect(
    edge: Edge, dialect: str, standing: LoadStanding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.submission, "refuse", LoadLimitError(standing, "account"))
    path, body = POSTS[dialect]
    answer = edge.client.post(path, json=body, headers=MINE)
    assert answer.status_code == 429, answer.text
    assert answer.headers["Retry-After"] == str(standing.reset_s)
    assert answer.headers["RateLimit"] == f'"{standing.policy}";r=0;t={standing.reset_s}'
    policies = answer.headers["RateLimit-Policy"].split(", ")
    window = ";w=60" if standing.unit == "images" else ""
    assert f'"{standing.policy}";q={standing.limit}{window};qu="{standing.unit}"' in policies
    assert policies[0].startswith('"submit";q=6000;w=60')
    if dialect == "native":
        assert (answer.json["code"], answer.json["violated-policies"]) == ("rate_limited", [standing.policy])
        assert answer.json["type"].endswith("#quota-exceeded")
    if dialect == "openai":
        assert (answer.json["error"]["code"], answer.headers["x-should-retry"]) == ("rate_limit_exceeded", "true")
        assert answer.headers["x-ratelimit-limit-requests"] == "6000"
        assert answer.headers.get("x-ratelimit-reset-images") == ("42s" if standing is IMAGES else None)
    if dialect == "replicate":
        assert "throttled" in answer.json["detail"]
        told = [answer.headers[f"ratelimit-{each}"] for each in ("limit", "remaining", "reset")]
        assert told == [str(standing.limit), "0", str(standing.reset_s)]
    if dialect == "fal":
        assert answer.headers["x-fal-error-type"] == "rate_limited"


def test_an_accepted_order_tells_where_it_leaves_its_caller(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, standings = edge.submission.submit, (replace(JOBS, left=1), replace(IMAGES, left=8, reset_s=12))
    monkeypatch.setattr(edge.submission, "submit", lambda *a, **k: replace(submit(*a, **k), standings=standings))
    native = edge.client.post("/api/images/generate", json=ORDER, headers=MINE)
    assert (native.status_code, native.headers["RateLimit"]) == (202, '"account-in-flight";r=1')
    assert len(native.headers["RateLimit-Policy"].split(", ")) == 3
    prediction = edge.client.post(POSTS["replicate"][0], json=POSTS["replicate"][1], headers=MINE)
    assert (prediction.status_code, prediction.headers["ratelimit-remaining"]) == (201, "1")
    monkeypatch.setattr(edge.submission, "becomes", lambda task: replace(task, status="failed", failure_code="x"))
    read = edge.client.get(f"/v1/predictions/{prediction.json['id']}", headers=MINE)
    assert read.headers["RateLimit-Policy"].startswith('"read";q=60000;w=60')


def test_pages_of_other_origins_may_read_what_is_left(edge: Edge) -> None:
    named = {name.lower() for name in EXPOSED}
    assert {"ratelimit", "ratelimit-policy", "retry-after", "ratelimit-remaining"} <= named
    assert {f"x-ratelimit-remaining-{unit}" for unit in ("requests", "images")} <= named
