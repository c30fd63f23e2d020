"""An account's own key, which an upstream echoes wherever it can, is looked for in every place that keeps or says
anything: it is in clear in none of them."""

from __future__ import annotations

import base64
import json
import logging
import traceback
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from flask.testing import FlaskClient
from job_engine import SYNC_MODEL, Engine, Recorder
from own_key_accounts import HOUSE_KEY, Proxy, listening_proxy, vault_of
from werkzeug.test import TestResponse

from accounts import keys
from accounts.keys import create_key
from app import create_app
from app.provider_keys import RESEAL_PAGE
from app.services import Services, build
from core.redis import make_client
from core.sealing import sealer_of
from core.settings import Settings
from jobs.execution.context import WorkerContext
from jobs.states import Signal
from sandbox.testing import Sandbox
from tests.span_memory import SpanMemory, remembered
from workers.enqueue import Publisher

SECRET = base64.b64encode(b"s" * 32).decode()
# No form that an upstream's keys are known by, so that nothing but the key itself tells it.
CANARY = "zebra.41.canary.own.key"
SPOILT = f"{CANARY} with blanks"
POLLED_MODEL = "flux-3-image"
FORMS = {
    "plain": CANARY,
    "base64": base64.b64encode(CANARY.encode()).decode().rstrip("=")[:-1],
    "hex": CANARY.encode().hex(),
    "quoted": urllib.parse.quote(CANARY, safe=""),
    "reversed": CANARY[::-1],
}


@dataclass
class Trap:
    """The service with all that it says and keeps, and an upstream that says the key whenever it is asked."""

    engine: Engine
    client: FlaskClient
    services: Services
    openai: Proxy
    flux: Proxy
    account: str
    admin: str
    memory: SpanMemory
    redis_url: str
    folder: Path
    said: list[tuple[str, str]] = field(default_factory=list)

    def call(self, method: str, path: str, *, token: str | None = None, **more: Any) -> TestResponse:
        headers = {"Authorization": f"Bearer {token or self.account}"}
        answer = self.client.open(path, method=method, headers=headers, **more)
        self.said.append((f"the answer of {method} {path}", answer.data.decode("latin-1") + str(answer.headers)))
        return answer

    def order(self, prompt: str, model: str = SYNC_MODEL) -> str:
        body = {"prompt": prompt, "model": model, "size": "1024x1024"}
        answer = self.call("POST", "/api/images/generate", json=body)
        assert answer.status_code == 202, answer.text
        self.engine.drive()
        return str(answer.json["id"])

    def read(self, job_id: str) -> dict[str, Any]:
        for path in (f"tasks/{job_id}?include=raw", f"tasks/{job_id}/timeline", f"tasks/{job_id}/image"):
            self.call("GET", f"/api/images/{path}")
        self.call("GET", f"/api/admin/tasks/{job_id}", token=self.admin)
        return dict(self.call("GET", f"/api/images/tasks/{job_id}").json)


@pytest.fixture
def openai(sandbox: Sandbox) -> Iterator[Proxy]:
    with listening_proxy(sandbox.base_url("openai")) as proxy:
        yield proxy


@pytest.fixture
def flux(sandbox: Sandbox) -> Iterator[Proxy]:
    with listening_proxy(sandbox.base_url("flux")) as proxy:
        yield proxy


@pytest.fixture
def upstreams(sandbox: Sandbox, openai: Proxy, flux: Proxy) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    return {
        **sandbox.environ("chatgpt2api"),
        **{"OPENAI_BASE_URL": f"{openai.url}/v1", "OPENAI_API_KEY": HOUSE_KEY},
        **{"BFL_API_BASE": flux.url, "BFL_API_KEY": HOUSE_KEY},
    }


@pytest.fixture
def trap(  # noqa: PLR0917 - fixtures come by name
    context: WorkerContext,
    sent: Recorder,
    upstreams: dict[str, str],
    openai: Proxy,
    flux: Proxy,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Trap]:
    monkeypatch.setenv("REDIS_URL", redis_url)  # Celery's own settings read it when the first message is made
    url = context.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    (tmp_path / "blobs").symlink_to(context.store.root)  # type: ignore[attr-defined]
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        DARKROOM_VAR=tmp_path,
        DATABASE_URL=url,
        REDIS_URL=redis_url,
        DARKROOM_DECODERS=1,
        DARKROOM_DB_POOL_SIZE=2,
        DARKROOM_OWN_KEYS_SECRET=SECRET,
    )
    publisher = Publisher(redis_url, redis_url)

    def publish(signals: Sequence[Signal]) -> bool:
        """To Redis as in a deployment, and to the engine, which works here."""
        publisher.publish(signals)
        return sent(signals)

    services = replace(build(settings, upstreams), publish=publish)
    sealer = sealer_of(SECRET, "test")
    assert sealer is not None
    vault = vault_of(context.database, sealer, upstreams)
    context = replace(context, registry=context.registry.with_own(vault.provider_of), publish=publish)
    engine = Engine(context, services.submission, sent)
    owner, root = engine.account(), engine.account()
    whole = ("jobs:write", "jobs:read", "usage:read", "webhooks")
    with context.database.transaction() as connection:
        token = create_key(connection, owner.account_id, scopes=whole).token
        admin = create_key(connection, root.account_id, scopes=keys.SCOPES).token
    openai.echo = flux.echo = True
    make_client(redis_url).flushdb()
    with remembered() as memory:
        client = create_app(settings, services).test_client()
        yield Trap(engine, client, services, openai, flux, token, admin, memory, redis_url, tmp_path)
    services.uploads.references.media.close()
    make_client(redis_url).flushdb()


# ---------------------------------------------------------------- where it is looked for


def in_tables(trap: Trap) -> Iterator[tuple[str, str]]:
    names = trap.engine.rows("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
    assert len(names) > 25
    for row in names:
        for found in trap.engine.rows(f'SELECT CAST(t AS text) AS row FROM "{row.name}" AS t'):
            yield f"the table {row.name}", found.row


def in_redis(trap: Trap) -> Iterator[tuple[str, str]]:
    client = make_client(trap.redis_url)
    for name in client.scan_iter(count=1000):
        key = name if isinstance(name, bytes) else name.encode()
        yield "the name of a Redis key", key.decode(errors="replace")
        match client.type(key):
            case b"list" | "list":
                values: Any = client.lrange(key, 0, -1)
            case b"hash" | "hash":
                values = client.hgetall(key)
            case b"set" | "set":
                values = client.smembers(key)
            case b"zset" | "zset":
                values = client.zrange(key, 0, -1)
            case b"stream" | "stream":
                values = client.xrange(key)
            case _:
                values = client.get(key)
        yield f"Redis at {key!r}", str(values) + _unpacked(values)


def _unpacked(values: Any) -> str:
    """The bodies of Celery's messages, which are base64 within JSON."""
    found = ""
    for value in values if isinstance(values, list) else ():
        with suppress(ValueError, KeyError, TypeError):
            found += base64.b64decode(json.loads(value)["body"]).decode()
    return found


def in_files(trap: Trap) -> Iterator[tuple[str, str]]:
    logs = [path for path in trap.folder.parent.glob("postgres*/**/log") if path.is_file()]
    assert logs, "PostgreSQL's log is not there"
    for path in [*logs, *trap.folder.rglob("*"), *(trap.folder / "blobs").resolve().rglob("*")]:
        if path.is_file():
            yield f"the file {path.name}", path.read_bytes().decode("latin-1")


def in_reprs(trap: Trap) -> Iterator[tuple[str, str]]:
    registry = trap.engine.context.registry
    for row in trap.engine.rows("SELECT credential_id FROM own_keys WHERE sealed IS NOT NULL"):
        provider = registry.by_credential(row.credential_id)
        config = provider._config  # type: ignore[attr-defined]
        assert CANARY in str(config.headers())  # this is where it is, and has to be
        parts = [provider, config, provider._session, provider._paid]  # type: ignore[attr-defined]
        for each in (*parts, registry._own, getattr(registry._own, "__self__", None)):
            yield f"the repr of {type(each).__name__}", repr(each) + str(each)
    yield "the repr of the services", repr(trap.services)


def in_logs(entries: Sequence[Any], records: Sequence[logging.LogRecord]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        error = entry.get("exc_info")
        trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
        yield f"the log {entry['event']}", str(entry) + trace
    for record in records:
        yield f"the log of {record.name}", record.getMessage() + str(record.args) + str(record.exc_text)


def in_spans(trap: Trap) -> Iterator[tuple[str, str]]:
    assert trap.memory.spans
    for span in trap.memory.spans:
        yield f"the span {span.name}", span.to_json()


def leaks(places: Iterator[tuple[str, str]]) -> list[str]:
    return [f"{place} ({name})" for place, words in places for name, form in FORMS.items() if form in words]


# ---------------------------------------------------------------- the test


def live_with_a_key(trap: Trap) -> None:
    """All that can happen to a key and to the jobs that go by it."""
    for provider in ("openai", "flux"):
        body = {"key": CANARY, "check": True, "limits": {"max_active": 5}}
        stored = trap.call("PUT", f"/api/provider-keys/{provider}", json=body)
        assert (stored.status_code, stored.json["last_four"]) == (201, ".key"), stored.text
    for path, bad in (
        ("/api/provider-keys/openai", {"key": SPOILT}),
        ("/api/provider-keys/openai", {"key": CANARY, CANARY: CANARY}),
        ("/api/provider-keys/openai", {"key": [CANARY]}),
        ("/api/provider-keys/openai", {"key": CANARY, "check": CANARY}),
        ("/api/provider-keys/chatgpt2api", {"key": CANARY}),
        ("/api/provider-keys/nowhere", {"key": CANARY}),
    ):
        refused = trap.call("PUT", path, json=bad)
        assert refused.status_code in (404, 422), refused.text
        if CANARY in bad:  # the caller's own name of a member is said back, and is no key to us
            trap.said.pop()
    assert trap.call("PUT", "/api/provider-keys/openai", data=f'{{"key": "{CANARY}"').status_code in (400, 415)
    trap.call("POST", "/api/webhooks", json={"url": "https://shop.example/hook"})
    made = trap.read(trap.order("a fox"))
    assert made["status"] == "succeeded", made
    assert trap.read(trap.order("a fox", POLLED_MODEL))["status"] == "succeeded"
    for model in (SYNC_MODEL, POLLED_MODEL):
        for fault in ("400", "fail", "refuse", "garbage times=1"):
            trap.read(trap.order(f"a fox [sandbox:{fault}]", model))
    trap.openai.refused.add(CANARY)
    failed = trap.read(trap.order("a fox that is not paid for"))
    assert failed["error"]["code"] == "upstream_bad_credentials", failed
    assert trap.call("PUT", "/api/provider-keys/openai", json={"key": CANARY, "check": True}).status_code == 422
    assert trap.call("POST", "/api/images/generate", json={"prompt": "x", "model": SYNC_MODEL}).status_code == 409
    trap.call("PATCH", "/api/provider-keys/openai", json={"paused": False})
    assert trap.call("POST", "/api/admin/provider-keys/rotate", token=trap.admin).status_code == 200
    for path in ("admin/provider-keys", "admin/actions?limit=100", "providers", "usage", "admin/audit"):
        trap.call("GET", f"/api/{path}", token=trap.admin)
    trap.call("GET", "/api/provider-keys")
    assert "darkroom_" in trap.call("GET", "/metrics", token=trap.admin).text


def test_an_own_key_is_in_clear_nowhere(trap: Trap, caplog: pytest.LogCaptureFixture) -> None:
    assert RESEAL_PAGE > 1
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as entries:
        live_with_a_key(trap)
    for proxy in (trap.openai, trap.flux):
        assert len(proxy.used()) > 5
        assert set(proxy.used()) - {""} == {CANARY}  # images are fetched without it
    kept = trap.engine.one("SELECT string_agg(CAST(answer AS text), '') FROM call_answers")
    assert kept.count("[redacted]") > 5  # it was echoed, and taken out
    messages = "".join(words for _, words in in_redis(trap))
    assert "jobs.run" in messages
    places = (
        iter(trap.said),
        in_tables(trap),
        in_redis(trap),
        in_files(trap),
        in_reprs(trap),
        in_logs(entries, caplog.records),
        in_spans(trap),
    )
    assert [leak for each in places for leak in leaks(each)] == []
    for provider in ("openai", "flux"):
        assert trap.call("DELETE", f"/api/provider-keys/{provider}").status_code == 204
    assert trap.engine.rows("SELECT 1 FROM own_keys WHERE sealed IS NOT NULL") == []


@pytest.mark.parametrize("form", FORMS)
def test_the_search_finds_what_is_there(form: str) -> None:
    assert leaks(iter([("a place", f"before {FORMS[form]} after")])) != []
