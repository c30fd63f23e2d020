"""The routes of webhooks over the real tables: what callers may see and do, and what they may not."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from job_engine import Engine

from accounts.keys import Caller, create_key
from app import create_app
from app.services import build
from core.settings import Settings
from webhooks import forms


class Shop:
    """An account's client; ``call`` returns status and document."""

    def __init__(self, client: FlaskClient, token: str) -> None:
        self.client, self.token = client, token

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = self.client.open(f"/api/webhooks{path}", method=method, json=body, headers=headers)
        return answer.status_code, answer.get_json(silent=True)


@pytest.fixture
def client(engine: Engine, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    url = engine.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = Settings(
        _env_file=None,
        DARKROOM_VAR=tmp_path,
        DATABASE_URL=url,
        REDIS_URL="redis://127.0.0.1:1/0",
        DARKROOM_DECODERS=1,
        DARKROOM_DB_POOL_SIZE=2,
    )
    return create_app(settings, build(settings, {})).test_client()


def shop_of(engine: Engine, client: FlaskClient, *scopes: str, customer: Caller | None = None) -> Shop:
    customer = customer or engine.account()
    with engine.database.autocommit() as connection:
        return Shop(client, create_key(connection, customer.account_id, scopes=scopes or ("webhooks",)).token)


URL = "https://shop.example/hook?token=s3cret"


def test_a_webhook_lives_and_its_secret_is_shown_once(engine: Engine, client: FlaskClient) -> None:
    shop = shop_of(engine, client)
    status, made = shop.call("POST", "", {"url": URL, "description": "orders"})
    assert (status, made["events"], made["enabled"]) == (201, list(forms.ENDS), True)
    assert made["secret"].startswith("whsec_")
    path = f"/{made['id']}"
    _, listed = shop.call("GET", "")
    assert [each["id"] for each in listed["data"]] == [made["id"]]
    assert listed["data"][0] == shop.call("GET", path)[1] == {k: v for k, v in made.items() if k != "secret"}
    changed = shop.call("PATCH", path, {"events": ["image.task.failed"] * 2, "enabled": False})[1]
    assert (changed["events"], changed["disabled_reason"], changed["url"]) == (["image.task.failed"], "owner", URL)
    assert shop.call("POST", f"{path}/test")[0] == 409
    assert shop.call("PATCH", path, {"enabled": True})[1]["disabled_reason"] is None
    rotated = shop.call("POST", f"{path}/rotate?overlap_s=60")[1]
    assert rotated["secret"] != made["secret"]
    assert rotated["old_secret_until"] == shop.call("GET", path)[1]["old_secret_until"] is not None
    assert shop.call("DELETE", path) == (204, None)
    assert [shop.call(method, path)[0] for method in ("GET", "DELETE")] == [404, 404]


def test_another_accounts_webhook_and_delivery_are_not_there(engine: Engine, client: FlaskClient) -> None:
    shop, stranger = shop_of(engine, client), shop_of(engine, client)
    made = shop.call("POST", "", {"url": URL})[1]
    sent = shop.call("POST", f"/{made['id']}/test")[1]
    path = f"/{made['id']}"
    asked = [
        stranger.call("GET", path),
        stranger.call("PATCH", path, {"enabled": False}),
        stranger.call("DELETE", path),
        stranger.call("POST", f"{path}/rotate"),
        stranger.call("POST", f"{path}/test"),
        stranger.call("GET", f"/deliveries/{sent['id']}"),
        stranger.call("POST", f"/deliveries/{sent['id']}/replay"),
        shop.call("GET", "/whe_nothing"),
        shop.call("GET", "/deliveries/msg_nothing"),
    ]
    assert [(status, body["code"]) for status, body in asked] == [(404, "not_found")] * len(asked)
    assert stranger.call("GET", "/deliveries")[1]["data"] == []
    assert shop.call("GET", path)[1]["enabled"]


def test_keys_of_before_may_not_and_an_admin_may(engine: Engine, client: FlaskClient) -> None:
    old = shop_of(engine, client, "jobs:read", "jobs:write")
    assert [old.call(*asked)[0] for asked in (("GET", ""), ("GET", "/secret"), ("GET", "/deliveries"))] == [403] * 3
    assert shop_of(engine, client, "admin").call("GET", "")[0] == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"url"}),
        ({"url": "http://shop.example/"}, {"url"}),
        ({"url": "https://192.168.0.1/"}, {"url"}),
        ({"url": "https://127.0.0.1.nip.example:444/"}, {"url"}),
        ({"url": URL, "events": [], "colour": 1, "description": "x" * 201}, {"events", "colour", "description"}),
        ({"url": URL, "events": ["image.task.done"]}, {"events[0]"}),
    ],
)
def test_every_fault_of_a_webhook_is_named(engine: Engine, client: FlaskClient, body: Any, fields: set[str]) -> None:
    shop = shop_of(engine, client)
    status, problem = shop.call("POST", "", body)
    assert (status, {fault["field"] for fault in problem["errors"]}) == (422, fields)
    assert "s3cret" not in str(problem)
    assert shop.call("GET", "")[1]["data"] == []


def test_the_accounts_own_secret_is_there_at_any_time_and_rotates(engine: Engine, client: FlaskClient) -> None:
    shop = shop_of(engine, client)
    first = shop.call("GET", "/secret")[1]
    assert first == shop.call("GET", "/secret")[1]
    assert shop_of(engine, client).call("GET", "/secret")[1]["secret"] != first["secret"]
    rotated = shop.call("POST", "/secret/rotate")[1]
    assert rotated == shop.call("GET", "/secret")[1]
    assert (rotated["secret"] != first["secret"], first["old_secret_until"]) == (True, None)


def test_the_log_is_filtered_and_paged(engine: Engine, client: FlaskClient) -> None:
    shop = shop_of(engine, client)
    first, second = (shop.call("POST", "", {"url": URL})[1]["id"] for _ in range(2))
    for endpoint in (first, second, first):
        assert shop.call("POST", f"/{endpoint}/test")[0] == 202
    whole = shop.call("GET", "/deliveries")[1]
    assert [each["webhook_id"] for each in whole["data"]] == [first, second, first]
    page = shop.call("GET", "/deliveries?limit=2")[1]
    rest = shop.call("GET", f"/deliveries?limit=2&cursor={page['next_cursor']}")[1]
    assert [*page["data"], *rest["data"]] == whole["data"]
    assert rest["next_cursor"] is None
    assert len(shop.call("GET", f"/deliveries?webhook_id={first}&state=pending&event=webhook.test")[1]["data"]) == 2
    assert shop.call("GET", "/deliveries?state=delivered")[1]["data"] == []
    assert shop.call("GET", "/deliveries?state=lost&cursor=1")[0] == 422
    assert [each["field"] for each in shop.call("GET", "/deliveries?event=image.task.lost")[1]["errors"]] == ["event"]
    one = whole["data"][0]
    assert shop.call("GET", f"/deliveries/{one['id']}")[1] == one
    engine.sql("UPDATE webhook_messages SET state = 'failed', error = 'gone', ended_at = clock_timestamp()")
    status, again = shop.call("POST", f"/deliveries/{one['id']}/replay")
    assert (status, again["id"], again["state"], again["error"]) == (202, one["id"], "pending", None)
