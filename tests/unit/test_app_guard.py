"""Who gets in, what an error looks like, and how often one may ask."""

from __future__ import annotations

import re

import pytest
from app_doubles import MINE, THEIRS, Edge, done_task, job_id, make_edge
from flask import Blueprint

from app.api import docs_page
from app.http.endpoint import about, check_described
from app.shapes.schemas.problems import ProblemOut
from core.errors import DatabaseAwayError
from core.ids import is_id
from quota.errors import InsufficientCreditsError


@pytest.fixture
def edge() -> Edge:
    return make_edge()


def _routes(edge: Edge) -> list[tuple[str, str]]:
    found = []
    for rule in edge.app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", job_id(1), rule.rule)
        found += [(method, path) for method in sorted(rule.methods - {"OPTIONS"})]
    return found


def test_every_api_route_is_closed_without_a_valid_key() -> None:
    edge = make_edge(DARKROOM_RATE_LIMIT_WRONG_KEYS="1000/minute")
    closed = [(method, path) for method, path in _routes(edge) if path.startswith("/api/")]
    assert len(closed) >= 12
    for method, path in closed:
        for headers in ({}, {"Authorization": "Bearer dk_x_wrong"}, {"Authorization": "Basic YTpi"}):
            answer = edge.client.open(path, method=method, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_only_pages_health_and_hooks_are_open(edge: Edge) -> None:
    opened = {
        rule.rule
        for rule in edge.app.url_map.iter_rules()
        if (known := about(edge.app.view_functions[rule.endpoint])) is None or known.scope is None
    }
    hooks = "/hooks/<provider>/<call_id>/<token>"  # guarded by its token
    storage = "/fal/rest/storage/upload/<upload_id>"  # guarded by the signature of its link
    pages = {"/", "/docs", "/docs/errors", "/openapi.json", "/static/<path:filename>"}
    keys = "/fal/.well-known/jwks.json"  # public keys, for receivers of callbacks
    assert opened == {*pages, "/healthz", "/readyz", hooks, storage, keys}


def test_every_route_of_another_accounts_task_answers_404(edge: Edge) -> None:
    edge.rows.add(done_task())
    paths = [f"/api/images/tasks/{job_id(1)}{tail}" for tail in ("", "/image", "/timeline")]
    for path in paths:
        assert edge.client.get(path, headers=MINE).status_code == 200
        assert edge.client.get(path, headers=THEIRS).status_code == 404
    assert edge.client.post(f"{paths[0]}/cancel", headers=THEIRS).status_code == 404
    assert edge.client.get("/api/images/tasks", headers=THEIRS).json["data"] == []


@pytest.mark.parametrize(
    ("key", "method", "path", "status"),
    [
        ("dk_r_secret", "POST", "/api/images/generate", 403),
        ("dk_r_secret", "POST", f"/api/images/tasks/{job_id(1)}/cancel", 403),
        ("dk_r_secret", "GET", "/api/quota", 200),
        ("dk_r_secret", "POST", "/api/images/estimate", 200),
        ("dk_w_secret", "GET", "/api/quota", 403),
        ("dk_w_secret", "POST", "/api/images/generate", 202),
        ("dk_admin_secret", "GET", "/api/quota", 200),
        ("dk_admin_secret", "POST", "/api/images/generate", 202),
    ],
)
def test_scopes_decide_who_reads_and_who_writes(edge: Edge, key: str, method: str, path: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    answer = edge.client.open(path, method=method, headers=headers, json={"prompt": "a fox"})
    assert answer.status_code == status
    if status == 403:
        assert answer.json["code"] == "scope_missing"
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("path", "scheme", "status"),
    [
        ("/api/quota", "Key", 401),
        ("/api/quota", "Basic", 401),
        ("/v1/models", "Token", 401),
        ("/v1/predictions", "Token", 200),
        ("/v1/predictions", "Key", 401),
        (f"/fal/queue/a/b/requests/{job_id(1)}/status", "Key", 404),
        (f"/fal/queue/a/b/requests/{job_id(1)}/status", "Token", 401),
    ],
)
def test_a_key_comes_by_a_scheme_that_its_route_knows(edge: Edge, path: str, scheme: str, status: int) -> None:
    assert edge.client.get(path, headers={"Authorization": f"{scheme} dk_a_secret"}).status_code == status


# What is open, or a question that is asked by POST.
_NOT_WRITES = ("/hooks/", "/fal/rest/storage/upload/<upload_id>", "/api/images/estimate")


def test_a_key_that_may_only_read_changes_nothing_by_any_route_and_one_that_may_only_write_reads_nothing(
    edge: Edge,
) -> None:
    wrong: list[str] = []
    for rule in edge.app.url_map.iter_rules():
        known = about(edge.app.view_functions[rule.endpoint])
        path = re.sub(r"<[^>]+>", "x", rule.rule.replace("<operation:operation>", "generate"))
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            key = "dk_w_secret" if method == "GET" else "dk_r_secret"
            if known is None or known.scope is None or rule.rule.startswith(_NOT_WRITES):
                continue
            answer = edge.client.open(path, method=method, headers={"Authorization": f"Bearer {key}"})
            if answer.status_code != 403:
                wrong.append(f"{method} {rule.rule}: {answer.status_code}")
    assert wrong == []


def test_a_route_without_a_description_does_not_start(edge: Edge) -> None:
    bare = Blueprint("bare", __name__)
    bare.add_url_rule("/api/bare", view_func=lambda: "open")
    edge.app._got_first_request = False
    edge.app.register_blueprint(bare)
    with pytest.raises(LookupError, match="bare"):
        check_described(edge.app)


def test_a_harmless_request_id_is_echoed_and_any_other_replaced(edge: Edge) -> None:
    assert edge.client.get("/healthz", headers={"X-Request-Id": "trace-1.a:b"}).headers["X-Request-Id"] == "trace-1.a:b"
    for bad in ("x" * 101, "a b", "<script>", ""):
        made = edge.client.get("/healthz", headers={"X-Request-Id": bad}).headers["X-Request-Id"]
        assert is_id(made, "req")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
        ("GET", "/api/images/tasks/nonsense", 404, "not_found"),
        ("POST", "/api/images/paint", 404, "unknown_operation"),
        ("GET", "/api/images/tasks?limit=0", 422, "invalid_request"),
        ("GET", "/api/images/tasks?limit=1&limit=2", 422, "invalid_request"),
        ("GET", "/api/images/tasks?model=%00", 422, "invalid_request"),
        ("GET", "/api/quota?colour=red", 422, "invalid_request"),
    ],
)
def test_every_refusal_is_one_problem_document(edge: Edge, method: str, path: str, status: int, code: str) -> None:
    answer = edge.client.open(path, method=method, headers={**MINE, "X-Request-Id": "r1"}, json={})
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert answer.content_type == "application/problem+json"
    body = ProblemOut.model_validate(answer.json)
    assert (body.status, body.request_id, body.error.code) == (status, "r1", code)
    assert body.instance == path.split("?", maxsplit=1)[0]
    assert body.message == body.detail == body.error.message


def test_a_wrong_method_names_the_right_ones(edge: Edge) -> None:
    assert "GET" in edge.client.delete("/healthz").headers["Allow"]


def test_an_accident_tells_the_caller_nothing_and_the_log_no_message(
    edge: Edge, capsys: pytest.CaptureFixture[str]
) -> None:
    edge.rows.away = RuntimeError("the prompt was CANARY")
    answer = edge.client.get("/api/quota", headers=MINE)
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert b"CANARY" not in answer.data
    output = capsys.readouterr()
    assert "CANARY" not in output.out + output.err


def test_a_database_away_is_503_with_a_time_to_retry(edge: Edge) -> None:
    edge.rows.away = DatabaseAwayError("away")
    answer = edge.client.get(f"/api/images/tasks/{job_id(1)}", headers=MINE)
    assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_an_empty_purse_is_402_with_balance_and_price(edge: Edge) -> None:
    edge.submission.refuse = InsufficientCreditsError(price_microcredits=5_300_000, spendable_microcredits=100)
    answer = edge.client.post("/api/images/generate", headers=MINE, json={"prompt": "a fox"})
    assert answer.status_code == 402
    assert (answer.json["price_microcredits"], answer.json["balance_microcredits"]) == (5_300_000, 100)


def test_submits_have_a_bucket_per_account() -> None:
    edge = make_edge(DARKROOM_RATE_LIMIT_SUBMIT="2/minute")
    for _ in range(2):
        answer = edge.client.post("/api/images/generate", headers=MINE, json={"prompt": "a fox"})
        assert answer.status_code == 202
    assert answer.headers["RateLimit"].startswith('"submit";r=0;t=')
    refused = edge.client.post("/api/images/generate", headers=MINE, json={"prompt": "a fox"})
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert refused.json["violated-policies"] == ["submit"]
    reset_s = int(re.search(r"t=(\d+)", refused.headers["RateLimit"])[1])
    assert int(refused.headers["Retry-After"]) >= reset_s > 0
    assert '"submit";q=2;w=60' in refused.headers["RateLimit-Policy"]
    assert len(edge.submission.orders) == 2
    other = edge.client.post("/api/images/generate", headers=THEIRS, json={"prompt": "a fox"})
    assert other.status_code == 202


def test_other_routes_share_a_bucket_per_account() -> None:
    edge = make_edge(DARKROOM_RATE_LIMIT_ACCOUNT="2/minute")
    assert edge.client.get("/api/quota", headers=MINE).headers["RateLimit"].startswith('"account";r=1;t=')
    edge.client.get("/api/models", headers=MINE)
    refused = edge.client.get("/api/quota", headers=MINE)
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["RateLimit"].startswith('"account";r=0;t=')
    assert edge.client.get("/api/quota", headers=THEIRS).status_code == 200
    assert edge.client.get("/healthz").status_code == 200


def test_a_path_that_was_asked_for_before_is_still_told_by_its_method(edge: Edge) -> None:
    edge.rows.add(done_task())
    path = f"/api/images/tasks/{done_task().id}"
    for _ in range(2):
        assert edge.client.get(path, headers=MINE).status_code == 200
        assert edge.client.post(path, headers=MINE).status_code == 405
        assert edge.client.get(f"{path}x", headers=MINE).status_code == 404
        assert edge.client.get(f"{path}/timeline", headers=MINE).json["object"] == "image.timeline"


def test_what_anyone_may_ask_for_is_made_once(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [edge.client.get(path).data for path in ("/openapi.json", "/fal/.well-known/jwks.json")]

    def again(*_: object, **__: object) -> str:
        raise AssertionError("made again")

    monkeypatch.setattr(docs_page, "json_text", again)
    edge.rows.away = DatabaseAwayError("away")
    assert [edge.client.get(path).data for path in ("/openapi.json", "/fal/.well-known/jwks.json")] == first
