"""Accounts, keys, grants and the trail of deeds, over HTTP with the real database."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from job_engine import ASYNC_MODEL, ASYNC_PRICE, CREDIT, SYNC_MODEL, Engine
from sqlalchemy import text as sql
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from accounts import keys, trail
from accounts.keys import create_key
from app import create_app
from app.cli import main
from app.services import build
from app.shapes.schemas.abuse import AbuseEventList, RuleList
from app.shapes.schemas.accounts import AccountOut, ActionList, GrantMade, KeyList, KeyMade, KeyOut
from core.settings import Settings
from jobs.abuse import events
from jobs.abuse.figures import Figure
from jobs.abuse.judging import trips
from jobs.abuse.rules import Rule, Rules
from jobs.maintenance import audit
from jobs.maintenance.retention import Retention
from quota import ledger

ORDER = {"prompt": "a hat", "model": ASYNC_MODEL, "size": "64x64"}


@dataclass
class Office:
    client: FlaskClient
    engine: Engine
    admin: str
    admin_id: str
    now: list[float]

    def call(self, method: str, path: str, *, token: str | None = None, **body: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {token or self.admin}", **body.pop("headers", {})}
        return self.client.open(path, method=method, headers=headers, **body)

    def made(self, path: str, status: int = 201, **body: Any) -> dict[str, Any]:
        answer = self.call("POST", f"/api/admin/{path}", json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json or {})

    def order(self, token: str, **more: Any) -> TestResponse:
        return self.call("POST", "/api/images/generate", token=token, json={**ORDER, **more})

    def pass_cache(self) -> None:
        """The time after which every process knows of a change."""
        self.now[0] += keys.CACHE_S + 0.01

    def actions(self, **query: Any) -> list[dict[str, Any]]:
        answer = self.call("GET", "/api/admin/actions", query_string=query)
        assert answer.status_code == 200, answer.text
        ActionList.model_validate_json(answer.data)
        return list(answer.json["data"])


@pytest.fixture
def office(
    engine: Engine, tmp_path: Path, upstreams: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Office]:
    url = engine.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        DARKROOM_VAR=tmp_path,
        DATABASE_URL=url,
        REDIS_URL="redis://127.0.0.1:1/0",
        DARKROOM_DECODERS=1,
        DARKROOM_DB_POOL_SIZE=4,
        DARKROOM_RATE_LIMIT_ACCOUNT="100000/minute",
        DARKROOM_OPERATOR_WEBHOOK_URL="https://ops.example/",
    )
    services = replace(build(settings, upstreams), publish=engine.sent)
    root = engine.account()
    with engine.database.transaction() as connection:
        admin = create_key(connection, root.account_id, scopes=keys.SCOPES).token
    now = [1000.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    yield Office(create_app(settings, services).test_client(), engine, admin, root.account_id, now)
    services.uploads.references.media.close()


# ---------------------------------------------------------------- accounts


def test_an_account_is_made_read_changed_and_listed(office: Office) -> None:
    made = office.made("accounts", name=" studio ", weight=3, external_id="u-1", limits={"day_microcredits": 7})
    AccountOut.model_validate_json(office.call("GET", f"/api/admin/accounts/{made['id']}").data)
    assert (made["name"], made["weight"], made["external_id"]) == ("studio", 3, "u-1")
    none = dict.fromkeys(("month_microcredits", "requests_per_minute", "in_flight", "images_per_minute"))
    assert made["limits"] == {**none, "day_microcredits": 7}
    path = f"/api/admin/accounts/{made['id']}"
    changed = office.call(
        "PATCH", path, json={"name": "atelier", "external_id": None, "limits": {"month_microcredits": 9}}
    )
    assert (changed.json["name"], changed.json["weight"], changed.json["external_id"]) == ("atelier", 3, None)
    assert changed.json["limits"] == {**none, "day_microcredits": 7, "month_microcredits": 9}
    assert office.call("GET", "/api/admin/accounts/atelier").json == changed.json
    pages, cursor = [], None
    while True:
        page = office.call(
            "GET", "/api/admin/accounts", query_string={"limit": 1, **({"cursor": cursor} if cursor else {})}
        )
        pages += [each["id"] for each in page.json["data"]]
        if not (cursor := page.json["next_cursor"]):
            break
    assert pages == [office.admin_id, made["id"]]


def test_a_disabled_account_is_shut_out_within_the_caches_time_and_let_in_again(office: Office) -> None:
    made = office.made("accounts", name="studio")
    token = office.made("keys", account="studio")["token"]
    assert office.call("GET", "/api/quota", token=token).status_code == 200
    path = f"/api/admin/accounts/{made['id']}"
    assert office.call("PATCH", path, json={"disabled": True}).json["disabled_at"]
    office.pass_cache()
    assert office.call("GET", "/api/quota", token=token).status_code == 401
    assert office.call("PATCH", path, json={"disabled": False}).json["disabled_at"] is None
    office.pass_cache()
    assert office.call("GET", "/api/quota", token=token).status_code == 200


def test_administrators_do_not_lock_themselves_out(office: Office) -> None:
    answer = office.call("PATCH", f"/api/admin/accounts/{office.admin_id}", json={"disabled": True})
    assert (answer.status_code, answer.json["code"]) == (409, "own_account")


BAD: tuple[tuple[str, str, dict[str, Any], int, set[str]], ...] = (
    (
        *("POST", "accounts", {"name": " ", "weight": 0, "limits": {"day_microcredits": -1, "in_flight": 0}}),
        *(422, {"name", "weight", "limits.day_microcredits", "limits.in_flight"}),
    ),
    ("POST", "accounts", {"name": "x" * 101, "colour": 1}, 422, {"name", "colour"}),
    ("PATCH", "accounts/nobody", {"weight": 2}, 404, set()),
    ("PATCH", "accounts/a%00b", {"weight": 2}, 404, set()),
    ("PATCH", "accounts/studio", {"weight": None}, 422, {""}),
    ("POST", "accounts", {"name": "studio"}, 409, set()),
    ("POST", "keys", {"account": "studio", "scopes": ["jobs:steal"], "models": []}, 422, {"scopes[0]", "models"}),
    (
        *("POST", "keys", {"account": "studio", "models": ["nothing"], "providers": ["nowhere"]}),
        *(422, {"models[0]", "providers[0]"}),
    ),
    ("POST", "keys", {"account": "studio", "expires_at": "2020-01-01T00:00:00Z"}, 422, {"expires_at"}),
    ("POST", "keys", {"account": "nobody"}, 404, set()),
    ("POST", "keys/0123456789ab/rotate", {}, 404, set()),
    ("POST", "grants", {"account": "studio", "amount_microcredits": 0}, 422, {""}),
    ("POST", "grants", {"account": "studio", "amount_microcredits": 1.5}, 422, {"amount_microcredits"}),
    ("POST", "grants", {"account": "nobody", "amount_microcredits": 1}, 404, set()),
)


def test_bad_requests_name_every_fault_and_change_nothing(office: Office) -> None:
    office.made("accounts", name="studio")
    before = office.engine.rows("SELECT * FROM admin_actions")
    for method, path, body, status, fields in BAD:
        answer = office.call(method, f"/api/admin/{path}", json=body)
        found = (answer.status_code, {each["field"] for each in answer.json.get("errors", ())})
        assert found == (status, fields), (path, body, answer.text)
    assert office.engine.rows("SELECT * FROM admin_actions") == before


# ---------------------------------------------------------------- keys


def test_a_key_is_made_with_all_it_may_do_and_its_secret_is_shown_once(office: Office) -> None:
    made = office.made(
        "keys", account=office.admin_id, name="shop", scopes=["jobs:write", "usage:read"], expires_in_s=3600,
        models=[ASYNC_MODEL], providers=["chatgpt2api"], limits={"day_microcredits": 5, "month_microcredits": 6},
    )  # fmt: skip
    KeyMade.model_validate_json(office.client.application.json.dumps(made))
    secret = made.pop("token").split("_", 2)[2]
    read = office.call("GET", f"/api/admin/keys/{made['id']}")
    assert KeyOut.model_validate_json(read.data) and read.json == made
    assert (made["models"], made["limits"]["month_microcredits"]) == ([ASYNC_MODEL], 6)
    listed = office.call("GET", "/api/admin/keys", query_string={"account": office.admin_id})
    KeyList.model_validate_json(listed.data)
    assert [each["id"] for each in listed.json["data"]][1:] == [made["id"]]
    for text in (read.text, listed.text, str(office.actions()), str(office.engine.rows("SELECT * FROM api_keys"))):
        assert secret not in text


def test_pages_of_keys_have_each_once_in_the_order_of_their_making(office: Office) -> None:
    ids = [office.made("keys", account=office.admin_id)["id"] for _ in range(4)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = office.call("GET", "/api/admin/keys", query_string=query).json
        seen += [each["id"] for each in page["data"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen[1:] == ids


def test_a_rotated_key_opens_with_both_secrets_until_the_overlap_ends(office: Office) -> None:
    made = office.made("keys", account=office.admin_id)
    old = made["token"]
    assert office.order(old).status_code == 202
    new = office.made(f"keys/{made['id']}/rotate", 200, overlap_s=60)
    assert new["id"] == made["id"] and new["previous_until"] and new["token"] != old
    office.pass_cache()
    assert [office.order(token).status_code for token in (old, new["token"])] == [202, 202]
    assert {row.key_id for row in office.engine.rows("SELECT key_id FROM jobs")} == {made["id"]}
    office.engine.sql("UPDATE api_keys SET previous_until = clock_timestamp() WHERE previous_until IS NOT NULL")
    office.pass_cache()
    assert [office.order(token).status_code for token in (old, new["token"])] == [401, 202]
    newest = office.made(f"keys/{made['id']}/rotate", 200, overlap_s=0)
    office.pass_cache()
    assert [office.order(token).status_code for token in (new["token"], newest["token"])] == [401, 202]


def test_a_revoked_key_stops_with_both_secrets_and_cannot_come_back(office: Office) -> None:
    made = office.made("keys", account=office.admin_id)
    new = office.made(f"keys/{made['id']}/rotate", 200)
    assert office.order(new["token"]).status_code == 202
    revoked = office.made(f"keys/{made['id']}/revoke", 200)
    assert revoked["revoked_at"] and office.made(f"keys/{made['id']}/revoke", 200) == revoked
    office.pass_cache()
    assert [office.order(token).status_code for token in (made["token"], new["token"])] == [401, 401]
    for method, path, body in (("POST", "/rotate", {}), ("PATCH", "", {"name": "x"})):
        answer = office.call(method, f"/api/admin/keys/{made['id']}{path}", json=body)
        assert (answer.status_code, answer.json["code"]) == (409, "key_ended")


def test_a_changed_key_has_what_it_may_do_within_the_caches_time(office: Office) -> None:
    made = office.made("keys", account=office.admin_id, name="shop", models=[SYNC_MODEL])
    assert office.order(made["token"]).json["code"] == "model_not_allowed"
    changed = office.call("PATCH", f"/api/admin/keys/{made['id']}", json={"models": None, "scopes": ["jobs:write"]})
    assert (changed.json["models"], changed.json["scopes"], changed.json["name"]) == (None, ["jobs:write"], "shop")
    office.pass_cache()
    assert office.order(made["token"]).status_code == 202
    assert office.call("GET", "/api/quota", token=made["token"]).status_code == 403


# ---------------------------------------------------------------- two administrators at once


def test_of_two_changes_of_what_was_read_before_both_the_second_is_refused(office: Office) -> None:
    account = office.made("accounts", name="studio")
    key = office.made("keys", account="studio", name="shop")
    for path, body in ((f"accounts/{account['id']}", {"weight": 3}), (f"keys/{key['id']}", {"name": "till"})):
        read = [office.call("GET", f"/api/admin/{path}") for _ in range(2)]
        tags = [answer.headers["ETag"] for answer in read]
        assert tags[0] == tags[1]
        first, second = (
            office.call("PATCH", f"/api/admin/{path}", json=body, headers={"If-Match": tag}) for tag in tags
        )
        assert (first.status_code, second.status_code, second.json["code"]) == (200, 412, "precondition_failed")
        now = office.call("GET", f"/api/admin/{path}")
        assert now.headers["ETag"] == first.headers["ETag"] != tags[0]
        assert now.json == first.json, "the refused one changed nothing"
    assert len(office.actions(action="account.change")) == len(office.actions(action="key.change")) == 1


def test_what_changes_by_itself_is_no_other_version(office: Office) -> None:
    account = office.made("accounts", name="studio")
    made = office.call("POST", "/api/admin/keys", json={"account": "studio"})
    path = f"/api/admin/accounts/{account['id']}"
    tag = office.call("GET", path).headers["ETag"]
    office.made("grants", account="studio", amount_microcredits=5 * ASYNC_PRICE)
    assert office.order(made.json["token"]).status_code == 202
    assert office.call("GET", path).headers["ETag"] == tag
    office.engine.sql("UPDATE api_keys SET last_used_at = clock_timestamp()")
    assert office.call("GET", made.headers["Location"]).headers["ETag"] == made.headers["ETag"]


def test_a_key_is_rotated_and_revoked_only_as_it_was_read(office: Office) -> None:
    made = office.call("POST", "/api/admin/keys", json={"account": office.admin_id})
    path, stale = made.headers["Location"], {"If-Match": made.headers["ETag"]}
    office.call("PATCH", path, json={"name": "other"})
    for verb, body in (("rotate", {}), ("revoke", None)):
        refused = office.call("POST", f"{path}/{verb}", json=body, headers=stale)
        assert (refused.status_code, refused.json["code"]) == (412, "precondition_failed")
    assert office.order(made.json["token"]).status_code == 202
    tag = office.call("GET", path).headers["ETag"]
    rotated = office.call("POST", f"{path}/rotate", json={}, headers={"If-Match": f'"other", {tag}'})
    assert rotated.status_code == 200
    revoked = office.call("POST", f"{path}/revoke", headers={"If-Match": rotated.headers["ETag"]})
    assert (revoked.status_code, revoked.json["revoked_at"] is not None) == (200, True)


def test_if_match_is_read_as_http_says(office: Office) -> None:
    made = office.call("POST", "/api/admin/accounts", json={"name": "studio"})
    tag, found = made.headers["ETag"], {}
    for header in ("", "nonsense", f"W/{tag}", '"other"', f'"other", {tag}', "*"):
        answer = office.call("PATCH", made.headers["Location"], json={"weight": 1}, headers={"If-Match": header})
        found[header] = answer.status_code
    assert list(found.values()) == [412, 412, 412, 412, 200, 200]


# ---------------------------------------------------------------- limits of load


def test_limits_of_load_are_set_shown_told_and_kept(office: Office) -> None:
    account_id = office.made("accounts", name="studio", limits={"requests_per_minute": 40})["id"]
    with office.engine.database.transaction() as connection:
        ledger.grant(connection, account_id, 100 * CREDIT)
    made = office.made("keys", account="studio", limits={"in_flight": 1, "images_per_minute": 3})
    assert made["limits"]["in_flight"] == 1
    token = made["token"]
    assert [
        (each["name"], each["unit"], each["limit"])
        for each in office.call("GET", "/api/quota", token=token).json["limits"]
    ] == [
        *(("account", "requests", 40), ("enhance", "requests", 20)),
        *(("key-in-flight", "concurrent-requests", 1), ("key-images", "images", 3)),
    ]
    accepted = office.order(token, n=2)
    assert accepted.status_code == 202, accepted.text
    assert accepted.headers["RateLimit-Policy"].split(", ") == [
        *('"account";q=40;w=60;qu="requests"', '"key-in-flight";q=1;qu="concurrent-requests"'),
        '"key-images";q=3;w=60;qu="images"',
    ]
    assert accepted.headers["RateLimit"] == '"key-in-flight";r=0;t=5'
    refused = office.order(token)
    assert (refused.status_code, refused.json["violated-policies"]) == (429, ["key-in-flight"])
    body = {"limits": {"in_flight": None, "images_per_minute": 2}}
    assert office.call("PATCH", f"/api/admin/keys/{made['id']}", json=body).json["limits"]["in_flight"] is None
    office.pass_cache()
    refused = office.order(token, n=2)
    assert (refused.status_code, refused.json["violated-policies"]) == (429, ["key-images"])
    change = next(each for each in office.actions() if each["action"] == "key.change")
    assert change["before"] == {"max_in_flight": 1, "images_per_minute": 3}
    assert change["after"] == {"max_in_flight": None, "images_per_minute": 2}
    office.call("PATCH", "/api/admin/accounts/studio", json={"limits": {"images_per_minute": 1}})
    office.pass_cache()
    impossible = office.order(token, n=2)
    assert (impossible.status_code, [each["field"] for each in impossible.json["errors"]]) == (422, ["n"])
    assert office.engine.one("SELECT count(*) FROM jobs") == 1


# ---------------------------------------------------------------- refused orders, as every client is told

LIMITED = {"limits": {"day_microcredits": 0}}
UNLISTED = {"models": [SYNC_MODEL]}
DIALECTS: dict[str, tuple[str, dict[str, Any], int, str, int, str]] = {
    # path, body, then status and a part of the answer: over the limit, and for a model that is not listed
    "native": ("/api/images/generate", ORDER, 402, '"code": "spending_limit"', 403, '"code": "model_not_allowed"'),
    "openai": ("/v1/images/generations", ORDER, 429, '"code": "insufficient_quota"', 403, '"code": "model_not_found"'),
    "replicate": (
        "/v1/predictions", {"version": ASYNC_MODEL, "input": {"prompt": "a hat"}},
        402, '"title": "Spend limit reached"', 422, '"title": "Invalid version or not permitted"',
    ),
    "fal": (
        f"/fal/queue/darkroom/{ASYNC_MODEL}", {"prompt": "a hat"},
        402, '"error_type": "insufficient_credits"', 403, '"error_type": "permission_error"',
    ),
    "chatgpt2api": (
        "/api/image-tasks/generations", {**ORDER, "client_task_id": "t-1"},
        402, "no available image quota: this order costs", 403, "unsupported image model: this key",
    ),
    "image_generate": (
        "/image/generate", {"prompt": "a hat", "customer_id": 7, "settings": {"image": {"model": ASYNC_MODEL}}},
        402, '"error": "spending_limit"', 403, '"error": "model_not_allowed"',
    ),
    "generation": ("/api/generation", ORDER, 402, "this order costs", 403, "may not order from"),
}  # fmt: skip


def test_every_dialect_says_it_in_its_own_form(office: Office) -> None:
    limited = office.made("keys", account=office.admin_id, **LIMITED)["token"]
    unlisted = office.made("keys", account=office.admin_id, **UNLISTED)["token"]
    for dialect, (path, body, *expected) in DIALECTS.items():
        scheme = "Key" if dialect == "fal" else "Bearer"
        found: list[Any] = []
        for token, words in ((limited, expected[1]), (unlisted, expected[3])):
            answer = office.client.post(path, json=body, headers={"Authorization": f"{scheme} {token}"})
            found += [answer.status_code, words if str(words) in answer.text else answer.text]
            if dialect == "openai":
                assert answer.headers["x-should-retry"] == "false"
        assert found == expected, dialect
    assert office.engine.one("SELECT count(*) FROM jobs") == 0


# ---------------------------------------------------------------- grants


def test_a_grant_is_made_once_however_often_it_is_sent(office: Office) -> None:
    account_id = office.made("accounts", name="studio")["id"]
    body = {"account": "studio", "amount_microcredits": 5_300_000, "note": "invoice 7"}
    start = threading.Barrier(4)

    def send(_: int) -> TestResponse:
        start.wait(10)
        return office.client.application.test_client().post(
            "/api/admin/grants",
            json=body,
            headers={"Authorization": f"Bearer {office.admin}", "Idempotency-Key": '"inv-7"'},
        )

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(4)))
    assert sorted(each.status_code for each in answers) == [200, 200, 200, 201]
    assert len({each.json["id"] for each in answers}) == 1
    GrantMade.model_validate_json(answers[0].data)
    assert {each.headers.get("Idempotent-Replayed") for each in answers if each.status_code == 200} == {"true"}
    other = office.call("POST", "/api/admin/grants", json={**body, "note": "x"}, headers={"Idempotency-Key": "inv-7"})
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")
    assert office.engine.one("SELECT spendable FROM balances WHERE account_id = :id", id=account_id) == 5_300_000
    assert len(office.actions(action="credits.grant")) == 1


def test_credits_are_taken_back_as_far_as_they_are_free(office: Office) -> None:
    office.made("accounts", name="studio")
    token = office.made("keys", account="studio")["token"]
    office.made("grants", account="studio", amount_microcredits=3 * ASYNC_PRICE)
    assert office.order(token).status_code == 202
    taken = office.made("grants", account="studio", amount_microcredits=-ASYNC_PRICE, note="a mistake")
    assert (taken["kind"], taken["amount"], taken["balance"]["spendable_microcredits"]) == (
        "adjust",
        "-0.1",
        ASYNC_PRICE,
    )
    refused = office.call(
        "POST", "/api/admin/grants", json={"account": "studio", "amount_microcredits": -ASYNC_PRICE - 1}
    )
    assert (refused.status_code, refused.json["code"]) == (409, "not_enough_to_take")
    listed = office.call("GET", "/api/admin/grants", query_string={"account": "studio"}).json["data"]
    assert [each["amount_microcredits"] for each in listed] == [-ASYNC_PRICE, 3 * ASYNC_PRICE]
    with office.engine.database.transaction() as connection:
        assert audit.check(connection) == []


# ---------------------------------------------------------------- the trail


def test_every_deed_is_told_with_who_from_where_and_what_changed(office: Office) -> None:
    account_id = office.made("accounts", name="studio")["id"]
    key_id = office.made("keys", account="studio")["id"]
    office.call(
        "PATCH", f"/api/admin/keys/{key_id}", json={"limits": {"day_microcredits": 5}}, headers={"X-Request-Id": "r-1"}
    )
    office.made(f"keys/{key_id}/rotate", 200)
    office.made(f"keys/{key_id}/revoke", 200)
    office.made("grants", account="studio", amount_microcredits=5)
    office.call("PATCH", "/api/admin/accounts/studio", json={"weight": 2})
    office.call("PATCH", "/api/admin/accounts/studio", json={"weight": 2})  # changes nothing, tells nothing
    office.call("POST", "/api/admin/providers/openai/pause?reason=invoice")
    office.call("POST", "/api/admin/providers/openai/resume")
    told = office.actions()
    assert [each["action"] for each in reversed(told)] == [
        *("account.create", "key.create", "key.change", "key.rotate", "key.revoke", "credits.grant"),
        *("account.change", "provider.pause", "provider.resume"),
    ]
    change = next(each for each in told if each["action"] == "key.change")
    assert (change["target"], change["account_id"]) == (key_id, account_id)
    assert (change["before"], change["after"]) == ({"spend_day_limit": None}, {"spend_day_limit": 5})
    admin_key = office.admin.split("_")[1]
    assert change["actor"] | {"name": ""} == {
        "name": "", "account_id": office.admin_id, "key_id": admin_key, "address": "127.0.0.1", "request_id": "r-1",
    }  # fmt: skip
    mine = office.actions(account="studio", limit=2)
    assert [each["action"] for each in mine] == ["account.change", "credits.grant"]
    assert [each["action"] for each in office.actions(account="studio", cursor=mine[-1]["id"], limit=1)] == [
        "key.revoke"
    ]
    assert office.actions(key_id="000000000000") == []


def test_a_deed_whose_entry_fails_is_not_done(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(trail, "record", fail)
    for path, body in (("accounts", {"name": "studio"}), ("keys", {"account": office.admin_id})):
        assert office.call("POST", f"/api/admin/{path}", json=body).status_code == 500
    assert office.engine.one("SELECT count(*) FROM accounts") == office.engine.one("SELECT count(*) FROM api_keys") == 1


def test_old_entries_go_by_pages(office: Office) -> None:
    for number in range(3):
        office.made("accounts", name=f"a{number}")
    office.engine.sql("UPDATE admin_actions SET at = at - interval '2 days' WHERE after ->> 'name' <> 'a2'")
    context = office.engine.context
    kept = Retention("wkr_test", context.database, context.media, context.store, 0, 0)
    assert "admin_actions" not in {each.name for each in kept.expiry_backlogs()}  # unless the operator says so
    (backlog,) = [
        each for each in replace(kept, keep_admin_actions_days=1).expiry_backlogs() if each.name == "admin_actions"
    ]
    assert [backlog.page(1).rows for _ in range(3)] == [1, 1, 0]
    assert [each["after"]["name"] for each in office.actions()] == ["a2"]


def test_tasks_are_found_by_their_key(office: Office) -> None:
    made = office.made("keys", account=office.admin_id)
    job_id = office.order(made["token"]).json["id"]
    assert office.order(office.admin).status_code == 202
    (found,) = office.call("GET", "/api/admin/tasks", query_string={"key_id": made["id"]}).json["data"]
    assert (found["id"], found["key_id"]) == (job_id, made["id"])


# ---------------------------------------------------------------- the commands


def run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.splitlines()[-1]))  # the lines before are the log of the app in this process


VERBS: tuple[tuple[str, ...], ...] = (
    ("account", "create", "{name}", "--weight", "2", "--day-limit", "5.5", "--in-flight-limit", "3"),
    (
        *("account", "change", "{name}", "--weight", "3", "--day-limit", "none", "--month-limit", "0"),
        *("--in-flight-limit", "none", "--requests-limit", "50", "--images-limit", "7"),
    ),
    ("account", "change", "{name}", "--month-limit", "none", "--disable"),
    ("account", "change", "{name}", "--enable"),
    ("account", "link", "{name}", "sub-{name}"),
    ("account", "show", "{name}"),
    ("grant", "{name}", "7", "--note", "hello"),
    ("grant", "{name}", "2", "--take-back"),
    *[("grant", "{name}", "1", "--idempotency-key", "again-{name}")] * 2,
    (
        *("key", "create", "{name}", "--name", "shop", "--scope", "usage:read", "--expires-in", "30d"),
        *("--model", ASYNC_MODEL, "--provider", "chatgpt2api", "--month-limit", "9"),
        *("--requests-limit", "20", "--in-flight-limit", "2"),
    ),
    (
        "key",
        "change",
        "{key}",
        "--images-limit",
        "4",
        "--requests-limit",
        "none",
        "--name",
        "till",
        "--all-models",
        "--provider",
        "openai",
        "--expires-in",
        "1d",
    ),
    ("key", "rotate", "{key}", "--overlap", "1h"),
    ("key", "rotate", "{key}", "--at-once"),
    ("key", "pause", "{key}", "--reason", "leaked"),
    ("key", "list", "{name}"),
    ("key", "resume", "{key}"),
    ("key", "revoke", "{key}"),
    ("abuse", "rules", "--account", "{name}"),
    ("abuse", "set", "refusals", "{name}", "--at-least", "5", "--action", "pause_key"),
    ("abuse", "set", "refusals", "{name}", "--off"),
    ("abuse", "reset", "refusals", "{name}"),
    ("abuse", "events", "--account", "{name}"),
    ("abuse", "test"),
    ("key", "list", "{name}"),
    ("account", "list"),
    ("actions", "--account", "{name}", "--limit", "3"),
)
OWN = re.compile(r"acct_\w{26}|dk_\w{12}_[\w-]{43}|\b[0-9a-f]{12}\b|\d{4}-\d\d-\d\dT[\d:.]+Z|\b(studio|atelier)\b")


def test_the_commands_do_and_say_the_same_by_the_database_and_by_http(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARKROOM_VAR", str(tmp_path))
    monkeypatch.setenv("DARKROOM_OPERATOR_WEBHOOK_URL", "https://ops.example/")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    server = make_server("127.0.0.1", 0, office.client.application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("DARKROOM_SERVER", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("DARKROOM_KEY", office.admin)
        by_http = _told_by(VERBS, "studio")
    finally:
        server.shutdown()
        server.server_close()
    # Now the server is gone: what goes on working needs the database alone.
    url = office.engine.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    by_database = _told_by(VERBS, "atelier")
    for verb, http, database in zip(VERBS, by_http, by_database, strict=True):
        assert database == http, verb
    told = office.engine.rows(
        "SELECT actor, actor_key_id IS NULL AS here, count(*) AS deeds FROM admin_actions GROUP BY 1, 2"
    )
    assert {row.here: row.deeds for row in told} == {True: 18, False: 18}


def _told_by(verbs: tuple[tuple[str, ...], ...], name: str) -> list[str]:
    """What each command says, without what is of its own: ids, times, tokens and names."""
    words, told = {"name": name, "key": ""}, []
    for verb in verbs:
        found = run(*(part.format(**words) for part in verb))
        words["key"] = found["id"] if verb[:2] == ("key", "create") else words["key"]
        for each in found["data"] if verb[0] == "actions" else ():
            each["actor"] = None
        if verb == ("account", "list"):
            found["data"] = [each for each in found["data"] if each["name"] == name]
        told.append(re.sub(r'"(id|next_cursor)": \d+', '"id": 0', OWN.sub("own", json.dumps(found, sort_keys=True))))
    return told


def test_a_server_that_is_named_goes_before_a_database(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    url = office.engine.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    result = CliRunner().invoke(main, ["account", "list", "--server", "http://127.0.0.1:1", "--key", office.admin])
    assert (result.exit_code, "server_unreachable" in result.stderr) == (3, True)
    assert office.admin not in result.output


# ---------------------------------------------------------------- pauses, and rules on abuse


def test_a_paused_key_is_refused_within_the_caches_time_and_its_tasks_go_on(office: Office) -> None:
    account_id = office.made("accounts", name="studio")["id"]
    office.made("grants", account="studio", amount_microcredits=5 * ASYNC_PRICE)
    made = office.made("keys", account="studio")
    assert office.order(made["token"]).status_code == 202
    paused = office.made(f"keys/{made['id']}/pause", 200, reason="it is in a public repository")
    assert (paused["pause_reason"], paused["paused_at"] is None) == ("it is in a public repository", False)
    assert office.made(f"keys/{made['id']}/pause", 200, reason="again") == paused
    office.pass_cache()
    refused = office.order(made["token"])
    assert (refused.status_code, refused.json["code"]) == (403, "key_paused")
    assert "repository" not in refused.text
    assert office.call("GET", "/api/quota", token=made["token"]).status_code == 403
    office.engine.drive(at_most_s=20)
    assert office.engine.one("SELECT status FROM jobs") == "succeeded"
    assert office.made(f"keys/{made['id']}/resume", 200)["paused_at"] is None
    office.pass_cache()
    assert office.order(made["token"]).status_code == 202
    told = [each for each in reversed(office.actions()) if each["action"] in ("key.pause", "key.resume")]
    assert [(each["action"], each["target"], each["account_id"]) for each in told] == [
        ("key.pause", made["id"], account_id),
        ("key.resume", made["id"], account_id),
    ]


def test_the_last_admin_key_cannot_be_paused_and_another_one_can(office: Office) -> None:
    own_id = office.admin.split("_")[1]
    refused = office.call("POST", f"/api/admin/keys/{own_id}/pause", json={})
    assert (refused.status_code, refused.json["code"]) == (409, "last_admin_key")
    second = office.made("keys", account=office.admin_id, scopes=["admin"])
    assert office.made(f"keys/{own_id}/pause", 200)["paused_at"]
    refused = office.call("POST", f"/api/admin/keys/{second['id']}/pause", json={}, token=second["token"])
    assert (refused.status_code, refused.json["code"]) == (409, "last_admin_key")
    office.made(f"keys/{own_id}/revoke", 200)
    assert (
        office.call("POST", f"/api/admin/keys/{own_id}/pause", json={}, token=second["token"]).json["code"]
        == "key_ended"
    )


def test_rules_are_changed_for_an_account_and_events_are_seen_to(office: Office) -> None:
    account_id = office.made("accounts", name="studio")["id"]
    listed = office.call("GET", "/api/admin/abuse/rules")
    RuleList.model_validate_json(listed.data)
    assert "refusals" in [each["name"] for each in listed.json["data"]]
    path = "/api/admin/abuse/rules/refusals"
    changed = office.call("PATCH", path, json={"account": "studio", "at_least": 5, "action": "pause_key"})
    assert (changed.status_code, changed.json["own"]) == (200, {"at_least": 5.0, "action": "pause_key"})
    changed = office.call("PATCH", path, json={"account": "studio", "action": None})
    assert (changed.json["action"], changed.json["own"]) == ("notify", {"at_least": 5.0})
    of_account = office.call("GET", "/api/admin/abuse/rules", query_string={"account": "studio"}).json["data"]
    assert [each["name"] for each in of_account if each["own"]] == ["refusals"]
    for body, status, code in (
        ({"account": "studio", "percent": 5}, 422, "invalid_request"),
        ({"account": "studio"}, 422, "invalid_request"),
        ({"account": "nobody", "at_least": 5}, 404, "account_not_found"),
    ):
        answer = office.call("PATCH", path, json=body)
        assert (answer.status_code, answer.json["code"]) == (status, code)
    unknown = office.call("PATCH", "/api/admin/abuse/rules/nosuch", json={"account": "studio", "at_least": 5})
    assert (unknown.status_code, unknown.json["code"]) == (404, "rule_not_found")
    reset = office.call("DELETE", path, query_string={"account": "studio"})
    assert (reset.json["at_least"], reset.json["own"]) == (20.0, None)
    assert [each["action"] for each in office.actions(account="studio")][:3] == [
        *("rule.reset", "rule.change", "rule.change"),
    ]
    with office.engine.database.transaction() as connection:
        rule = Rule.model_validate({"name": "burst", "kind": "load", "window": "1m", "at_least": 1})
        now = connection.execute(sql("SELECT clock_timestamp()")).scalar_one()
        for key_id in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
            figure = Figure(3, account_id, key_id)
            found = list(trips(Rules({"burst": rule}, {}), "burst", [figure], {}, now))
            assert events.write(connection, found[0], now)
    page = office.call("GET", "/api/admin/abuse/events", query_string={"account": "studio", "limit": 1})
    AbuseEventList.model_validate_json(page.data)
    [newest] = page.json["data"]
    assert (newest["key_id"], page.json["next_cursor"]) == ("bbbbbbbbbbbb", newest["id"])
    seen = office.made(f"abuse/events/{newest['id']}/acknowledge", 200, note="their new shop")
    assert (bool(seen["acknowledged_by"]), seen["note"]) == (True, "their new shop")
    assert office.actions(action="abuse.acknowledge")[0]["target"] == newest["id"]
    assert office.call("GET", f"/api/admin/abuse/events/{newest['id']}").json == seen
    assert office.call("GET", "/api/admin/abuse/events/abuse_x").json["code"] == "event_not_found"
    left = office.call("GET", "/api/admin/abuse/events", query_string={"acknowledged": "false"}).json["data"]
    assert [each["key_id"] for each in left] == ["aaaaaaaaaaaa"]
