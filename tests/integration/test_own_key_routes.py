"""Own keys of providers over HTTP and by the command, with the real database and an upstream that is asked."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from job_engine import SYNC_MODEL, Engine
from own_key_accounts import OWN_KEY
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from accounts import keys
from accounts.keys import Caller, create_key
from app import create_app
from app.cli import main
from app.services import build
from app.shapes.schemas.provider_keys import ProviderKeyList, ProviderKeyOut
from core.settings import Settings, SettingsError
from sandbox.testing import Sandbox

SECRET = base64.b64encode(b"s" * 32).decode()
WHOLE = ("jobs:write", "jobs:read", "usage:read", "webhooks")
ORDER = {"prompt": "a hat", "model": SYNC_MODEL, "size": "1024x1024", "n": 2}


@dataclass
class Office:
    client: FlaskClient
    engine: Engine
    owner: Caller
    key: str
    admin: str

    def call(self, method: str, path: str, *, token: str | None = None, **more: Any) -> TestResponse:
        return self.client.open(
            f"/api/{path}", method=method, headers={"Authorization": f"Bearer {token or self.key}"}, **more
        )

    def token(self, *scopes: str, **more: Any) -> str:
        with self.engine.database.transaction() as connection:
            return create_key(connection, self.owner.account_id, scopes=scopes, **more).token

    def trail(self) -> list[str]:
        return [row.action for row in self.engine.rows("SELECT action FROM admin_actions ORDER BY id")]


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    return {**sandbox.environ("chatgpt2api"), **sandbox.environ("openai")}


def settings_of(engine: Engine, folder: Path, **more: Any) -> Settings:
    url = engine.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return Settings(  # type: ignore[call-arg]
        _env_file=None,
        DARKROOM_VAR=folder,
        DATABASE_URL=url,
        REDIS_URL="redis://127.0.0.1:1/0",
        DARKROOM_DECODERS=1,
        DARKROOM_DB_POOL_SIZE=4,
        **more,
    )


@pytest.fixture
def office(engine: Engine, tmp_path: Path, upstreams: dict[str, str]) -> Iterator[Office]:
    settings = settings_of(engine, tmp_path, DARKROOM_OWN_KEYS_SECRET=SECRET, DARKROOM_OWN_KEY_FEE="5%")
    services = replace(build(settings, upstreams), publish=engine.sent)
    owner, root = engine.account(), engine.account()
    with engine.database.transaction() as connection:
        key = create_key(connection, owner.account_id, scopes=WHOLE).token
        admin = create_key(connection, root.account_id, scopes=keys.SCOPES).token
    yield Office(create_app(settings, services).test_client(), engine, owner, key, admin)
    services.uploads.references.media.close()


def test_a_key_is_stored_shown_without_itself_changed_and_deleted(office: Office) -> None:
    stored = office.call("PUT", "provider-keys/openai", json={"key": f" {OWN_KEY} ", "limits": {"max_active": 3}})
    assert stored.status_code == 201, stored.text
    ProviderKeyOut.model_validate_json(stored.data)
    assert (stored.json["last_four"], stored.json["limits"]) == (".key", {"max_active": 3, "max_per_minute": None})
    listed = office.call("GET", "provider-keys")
    ProviderKeyList.model_validate_json(listed.data)
    assert listed.json["data"] == [stored.json]
    replaced = office.call("PUT", "provider-keys/openai", json={"key": "another.key", "check": True})
    assert (replaced.status_code, replaced.json["last_four"]) == (200, "")  # four characters of so short a key tell it
    assert replaced.json["limits"] == stored.json["limits"]
    assert replaced.json["checked_at"] is not None
    assert replaced.json["id"] != stored.json["id"]
    path = "provider-keys/openai"
    paused = office.call("PATCH", path, json={"paused": True, "reason": "holiday", "limits": {"max_per_minute": 9}})
    assert (paused.json["pause_reason"], paused.json["limits"]) == ("holiday", {"max_active": 3, "max_per_minute": 9})
    assert office.call("POST", "images/generate", json=ORDER).json["code"] == "provider_key_paused"
    assert office.call("PATCH", path, json={"paused": False}).json["paused_at"] is None
    assert [office.call("DELETE", path).status_code for _ in range(2)] == [204, 404]
    assert office.trail() == [
        f"provider_key.{verb}" for verb in ("store", "replace", "change", "pause", "resume", "delete")
    ]


def test_the_fee_is_what_an_order_is_quoted_and_reserved(office: Office) -> None:
    price = office.call("POST", "images/estimate", json=ORDER).json["price"]
    office.call("PUT", "provider-keys/openai", json={"key": OWN_KEY})
    fee = office.call("POST", "images/estimate", json=ORDER).json["price"]
    assert fee["total_microcredits"] == 2 * -(-price["unit_microcredits"] * 5 // 100)
    ordered = office.call("POST", "images/generate", json=ORDER)
    assert office.engine.job(ordered.json["id"]).quoted == fee["total_microcredits"]
    assert office.engine.balance(office.owner).queued == fee["total_microcredits"]


@pytest.mark.parametrize("missing", WHOLE)
def test_only_a_key_that_may_do_all_for_its_account_stores_one(office: Office, missing: str) -> None:
    token = office.token(*(scope for scope in WHOLE if scope != missing))
    for method, body in (("PUT", {"key": OWN_KEY}), ("PATCH", {"paused": True}), ("DELETE", None)):
        refused = office.call(method, "provider-keys/openai", token=token, json=body)
        assert (refused.status_code, refused.json["code"]) == (403, "scope_missing")


def test_a_key_for_other_providers_stores_none_here(office: Office) -> None:
    token = office.token(*WHOLE, providers=["chatgpt2api"])
    refused = office.call("PUT", "provider-keys/openai", token=token, json={"key": OWN_KEY})
    assert (refused.status_code, refused.json["code"]) == (403, "model_not_allowed")


@pytest.mark.parametrize(
    ("provider", "body", "status", "faults"),
    [
        ("openai", {"key": "short"}, 422, ["key"]),
        ("openai", {"key": "with blanks in it"}, 422, ["key"]),
        ("openai", {"key": OWN_KEY, "limits": {"max_active": 0}}, 422, ["limits.max_active"]),
        ("openai", {"key": OWN_KEY, "limits": {"max_active": 1001}}, 422, ["limits.max_active"]),
        ("openai", {}, 422, ["key"]),
        ("chatgpt2api", {"key": "x"}, 422, ["provider", "key"]),
        ("flux", {"key": OWN_KEY}, 422, ["provider"]),  # not configured here
        ("nowhere", {"key": OWN_KEY}, 404, None),
    ],
)
def test_what_cannot_be_stored_is_said_and_nothing_is_kept(
    office: Office, provider: str, body: dict[str, Any], status: int, faults: list[str] | None
) -> None:
    refused = office.call("PUT", f"provider-keys/{provider}", json=body)
    assert refused.status_code == status, refused.text
    if faults is not None:
        assert [each["field"] for each in refused.json["errors"]] == faults
    assert office.engine.one("SELECT count(*) FROM own_keys") == 0


def test_a_key_that_the_provider_refuses_is_not_stored(office: Office) -> None:
    refused = office.call("PUT", "provider-keys/openai", json={"key": "bad-key", "check": True})
    assert (refused.status_code, refused.json["code"]) == (422, "provider_key_refused")
    assert office.engine.one("SELECT count(*) FROM own_keys") == 0


def test_without_a_secret_it_is_off_and_keys_of_other_processes_still_count(
    office: Office, tmp_path: Path, upstreams: dict[str, str]
) -> None:
    services = build(settings_of(office.engine, tmp_path), upstreams)
    without = replace(
        office,
        client=create_app(
            settings_of(office.engine, tmp_path), replace(services, publish=office.engine.sent)
        ).test_client(),
    )
    refused = without.call("PUT", "provider-keys/openai", json={"key": OWN_KEY})
    assert (refused.status_code, refused.json["code"]) == (503, "provider_keys_off")
    assert "DARKROOM_OWN_KEYS_SECRET" in refused.json["detail"]
    assert without.call("POST", "admin/provider-keys/rotate", token=office.admin).status_code == 503
    office.call("PUT", "provider-keys/openai", json={"key": OWN_KEY})
    ordered = without.call("POST", "images/generate", json=ORDER)
    assert office.engine.job(ordered.json["id"]).own_key
    services.uploads.references.media.close()


@pytest.mark.parametrize("secret", ["short", "!", f"{SECRET},", f"{SECRET},x"])
def test_a_secret_that_is_none_stops_the_start_and_is_not_quoted(
    engine: Engine, tmp_path: Path, upstreams: dict[str, str], secret: str
) -> None:
    settings = settings_of(engine, tmp_path, DARKROOM_OWN_KEYS_SECRET=secret)
    if secret == f"{SECRET},":  # a comma too many is no key too many
        assert build(settings, upstreams).sealer is not None
        return
    with pytest.raises(SettingsError, match="DARKROOM_OWN_KEYS_SECRET: a key is 32 bytes") as told:
        build(settings, upstreams)
    assert secret not in str(told.value)


def test_the_command_does_it_over_http(office: Office, tmp_path: Path) -> None:
    server = make_server("127.0.0.1", 0, office.client.application, threaded=True)
    address = ("--server", f"http://127.0.0.1:{server.server_port}", "--key", office.admin)

    def run(*words: str, given: str | None = None) -> str:
        result = CliRunner().invoke(main, ["ownkey", *words, *address], input=given)
        assert result.exit_code == 0, result.output
        assert OWN_KEY not in result.output
        return result.output

    name = office.owner.account_id
    (tmp_path / "key").write_text(f"{OWN_KEY}\n")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert "ending in .key" in run("set", name, "openai", "--check", given=f"{OWN_KEY}\n")
        assert "ending in .key" in run("set", name, "openai", "--key-file", str(tmp_path / "key"), "--max-active", "4")
        assert name in run("list")
        assert "paused (a test)" in run("change", name, "openai", "--pause", "--reason", "a test")
        assert "paused" not in run("change", name, "openai", "--resume", "--no-limits")
        assert "0 encrypted again" in run("rotate")
        assert "deleted" in run("delete", name, "openai")
    finally:
        server.shutdown()
        server.server_close()
    assert [each.removeprefix("provider_key") for each in office.trail()] == [
        *(".store", ".replace", ".pause", ".change", ".resume"),
        *("s.rotate", ".delete"),
    ]
