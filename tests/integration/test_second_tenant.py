"""A second account at every route: nothing of the first is read, changed, deleted, joined or paid for.

Every route of the app needs a case below; a new one fails the first test until it has one.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from job_engine import SYNC_MODEL, Engine, image_bytes
from sqlalchemy import text
from werkzeug.test import TestResponse

from accounts.keys import create_key
from app import create_app
from app.dialects.fal.request_ids import request_id_of
from app.services import build
from core.db import Database
from core.settings import Settings
from webhooks import messages
from webhooks.messages import Filters

CANARY = "canary-9f27c1"
ALL = ("jobs:write", "jobs:read", "webhooks", "usage:read")
CLIENT_TASK = "shop-order-7"

# ---------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """``names``: what the owner gets where the path, the query or the body names something of the owner's (the proof
    that the case does name it); the other account gets ``refused``. ``names`` None: the route is about the caller's
    own, and nothing of the owner's may be in the answer."""

    names: tuple[int, ...] | None = None
    refused: tuple[int, ...] = (404,)
    path: str = ""  # where the rule's own path is not all of it
    body: Mapping[str, Any] | None = None
    form: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


OWN = Case()
BAD = (400, 404, 422)
JSON = {"Accept": "application/json"}
ORDER = {"prompt": "a hat", "model": SYNC_MODEL}


def case(*names: int, **more: Any) -> Case:
    return Case(names, **more)


# Paths are filled in from :class:`Owner`: {job}, {live}, {fal}, {upload}, {webhook}, {delivery}.
CASES: dict[str, Case | list[Case]] = {
    # open to everyone, the same for all
    **dict.fromkeys(
        (
            *("GET /", "GET /docs", "GET /docs/errors", "GET /openapi.json", "GET /static/<path:filename>"),
            *("GET /healthz", "GET /readyz", "GET /fal/.well-known/jwks.json"),
            *("GET /api/models", "GET /api/models/recommend", "GET /api/providers", "GET /v1/models"),
            *("GET /api/models/<path:model_id>", "GET /v1/models/<model_id>", "GET /v1/models/<owner>/<name>"),
            "GET /v1/models/<owner>/<name>/versions",
            "GET /v1/models/<owner>/<name>/versions/<version_id>",
        ),
        OWN,
    ),
    # the caller's own alone
    **dict.fromkeys(
        (
            *("GET /api/images/tasks", "GET /api/quota", "GET /api/quota/ledger", "GET /api/uploads", "GET /v1/files"),
            *("GET /v1/predictions", "GET /v1/account", "GET /api/webhooks", "GET /api/webhooks/deliveries"),
            *("GET /api/images/batches", "POST /v1/batches", "GET /v1/batches", "GET /api/usage"),
            *("GET /api/webhooks/secret", "POST /api/webhooks/secret/rotate", "GET /v1/webhooks/default/secret"),
            *("POST /api/prompts/enhance", "POST /v1/chat/completions", "POST /fal/rest/storage/upload/initiate"),
            *("POST /api/uploads", "POST /v1/files", "POST /api/webhooks"),
        ),
        OWN,
    ),
    # One that is stored here would change the prices of what follows.
    "GET /api/provider-keys": OWN,
    "PUT /api/provider-keys/<provider>": Case(body={"key": "bad"}),
    "PATCH /api/provider-keys/<provider>": Case(body={"paused": True}),
    "DELETE /api/provider-keys/<provider>": OWN,
    # of the operator
    **{
        rule: case(200, 404, 422, refused=(403,))
        for rule in (
            "GET /metrics",
            "GET /api/admin/audit",
            "GET /api/admin/accounts",
            "POST /api/admin/accounts",
            "GET /api/admin/accounts/<account_id>",
            "PATCH /api/admin/accounts/<account_id>",
            "GET /api/admin/keys",
            "POST /api/admin/keys",
            "GET /api/admin/keys/<key_id>",
            "PATCH /api/admin/keys/<key_id>",
            "POST /api/admin/keys/<key_id>/revoke",
            "POST /api/admin/keys/<key_id>/rotate",
            "POST /api/admin/keys/<key_id>/pause",
            "POST /api/admin/keys/<key_id>/resume",
            "GET /api/admin/abuse/rules",
            "PATCH /api/admin/abuse/rules/<rule>",
            "DELETE /api/admin/abuse/rules/<rule>",
            "GET /api/admin/abuse/events",
            "GET /api/admin/abuse/events/<event_id>",
            "POST /api/admin/abuse/events/<event_id>/acknowledge",
            "POST /api/admin/abuse/test",
            "GET /api/admin/grants",
            "POST /api/admin/grants",
            "GET /api/admin/actions",
            "GET /api/admin/tasks",
            "GET /api/admin/tasks/<job_id>",
            "GET /api/admin/provider-keys",
            "POST /api/admin/provider-keys/rotate",
            "PUT /api/admin/accounts/<account>/provider-keys/<provider>",
            "PATCH /api/admin/accounts/<account>/provider-keys/<provider>",
            "DELETE /api/admin/accounts/<account>/provider-keys/<provider>",
            "POST /api/admin/providers/<name>/pause",
            "POST /api/admin/providers/<name>/resume",
            "POST /api/admin/providers/<name>/credentials/<label>/pause",
            "POST /api/admin/providers/<name>/credentials/<label>/resume",
        )
    },
    # tasks
    "GET /api/images/tasks/<job_id>": [case(200), case(200, path="/api/images/tasks/{job}?include=raw")],
    "GET /api/images/tasks/<job_id>/image": [case(200), case(200, path="/api/images/tasks/{job}/image?width=16")],
    "GET /api/images/tasks/<job_id>/image/link": case(200),
    "GET /api/images/tasks/<job_id>/events": case(200),
    "GET /api/images/tasks/<job_id>/timeline": case(200),
    "POST /api/images/tasks/<job_id>/rerun": [case(202), case(202, body={"prompt": "a coat"})],
    "POST /api/images/tasks/<job_id>/cancel": case(200, path="/api/images/tasks/{live}/cancel"),
    "DELETE /api/images/tasks/<job_id>": case(200, 204, path="/api/images/tasks/{doomed}"),
    "GET /api/images/events": OWN,
    "POST /api/images/estimate": OWN,
    "POST /api/images/<operation:operation>": [
        Case((202,), BAD, "/api/images/edit", {**ORDER, "images": ["{job}"]}),
        Case((202,), BAD, "/api/images/edit", {**ORDER, "images": ["{job}#0"]}),
        Case((202,), BAD, "/api/images/edit", {**ORDER, "images": ["{upload}"]}),
        Case((202,), BAD, "/api/images/edit", {**ORDER, "upload_id": "{upload}"}),
        Case((202,), BAD, "/api/images/edit", {**ORDER, "images": ["{base}/api/uploads/{upload}/content"]}),
        Case((202,), BAD, "/api/images/edit", {**ORDER, "images": ["{base}{image_link}"]}),
        Case((202,), BAD, "/api/images/edit", {**ORDER, "images": ["{base}/v1/files/{upload}"]}),
    ],
    # OpenAI
    "POST /v1/images/generations": OWN,
    "POST /v1/images/generations/async": OWN,
    "POST /v1/images/edits/async": [
        Case((202,), BAD, body={**ORDER, "images": [{"file_id": "{upload}"}]}),
        Case((202,), BAD, body={**ORDER, "images": [{"image_url": "{base}/api/uploads/{upload}/content"}]}),
    ],
    "POST /v1/images/edits": Case(
        (202,), BAD, body={**ORDER, "images": [{"file_id": "{upload}"}]}, headers={"Prefer": "respond-async"}
    ),
    "POST /v1/images/variations": OWN,  # takes a file alone
    "GET /v1/images/tasks/<task_id>": case(200),
    "GET /v1/batches/<batch_id>": case(200),
    "POST /v1/batches/<batch_id>/cancel": case(200),
    # batches
    "POST /api/images/batches": Case((202,), BAD, body={"input_file_id": "{lines}"}),
    "GET /api/images/batches/<batch_id>": [case(200), case(200, path="/api/images/batches/{batch}?lines=10")],
    "GET /api/images/batches/<batch_id>/results": [
        case(200),
        case(200, path="/api/images/batches/{batch}/results?format=zip"),
    ],
    "POST /api/images/batches/<batch_id>/cancel": case(202),
    # Files of OpenAI and Replicate
    "GET /v1/files/<file_id>": [case(200), case(200, path="/v1/files/{lines}")],
    "GET /v1/files/<file_id>/content": [case(200), case(200, path="/v1/files/{lines}/content")],
    "DELETE /v1/files/<file_id>": [
        case(200, 204, path="/v1/files/{spare}"),
        case(200, path="/v1/files/{spare_lines}"),
    ],
    # uploads
    "GET /api/uploads/<upload_id>": case(200),
    "GET /api/uploads/<upload_id>/content": case(200),
    "DELETE /api/uploads/<upload_id>": case(200, path="/api/uploads/{spare2}"),
    # Replicate
    "GET /v1/predictions/<job_id>": case(200),
    "GET /v1/predictions/<job_id>/stream": case(200),
    "POST /v1/predictions/<job_id>/cancel": case(200),
    **{
        rule: Case((201,), BAD, path, {**version, "input": {"prompt": "a hat", "input_images": ["{base}{file}"]}})
        for rule, path, version in (
            ("POST /v1/predictions", "/v1/predictions", {"version": SYNC_MODEL}),
            (
                "POST /v1/models/<owner>/<name>/predictions",
                f"/v1/models/openai/{SYNC_MODEL}/predictions",
                {},
            ),
            (
                "POST /v1/deployments/<owner>/<name>/predictions",
                f"/v1/deployments/openai/{SYNC_MODEL}/predictions",
                {},
            ),
        )
    },
    # fal
    "POST /fal/queue/<path:app>": Case(
        (200,),
        BAD,
        f"/fal/queue/darkroom/{SYNC_MODEL}/edit",
        {"prompt": "a hat", "image_urls": ["{base}/api/uploads/{upload}/content"]},
    ),
    "POST /fal/run/<path:app>": OWN,
    "GET /fal/queue/<path:app>/requests/<request_id>": case(200),
    "GET /fal/queue/<path:app>/requests/<request_id>/response": case(200),
    "GET /fal/queue/<path:app>/requests/<request_id>/status": [case(200), case(200, path="{status}?logs=1")],
    "GET /fal/queue/<path:app>/requests/<request_id>/status/stream": case(200),
    "PUT /fal/queue/<path:app>/requests/<request_id>/cancel": case(202, 400),
    "PUT /fal/rest/storage/upload/<upload_id>": Case(None),  # test_a_link_to_upload_to_names_one_account
    # the replaced services
    "POST /image/generate": OWN,
    "POST /api/generation": OWN,
    "GET /api/generation": case(200, path="/api/generation?sessionId={job}", headers=JSON),
    "GET /api/generation/<session_id>": case(200, headers=JSON),
    "DELETE /api/generation": case(200, path="/api/generation?sessionId={job}"),
    "GET /api/image-tasks": OWN,
    "POST /api/image-tasks/<path:task_id>/resume-poll": OWN,  # 400 for all; test_ids_of_a_client_are_an_accounts_own
    "POST /api/image-tasks/generations": OWN,
    "POST /api/image-tasks/edits": Case(
        (200,),
        BAD,
        body={"client_task_id": "e-1", "prompt": "a hat", "image_url": "{base}/api/uploads/{upload}/content"},
    ),
    # webhooks
    "GET /api/webhooks/<webhook_id>": case(200),
    "PATCH /api/webhooks/<webhook_id>": case(200, body={"description": CANARY}),
    "POST /api/webhooks/<webhook_id>/rotate": case(200),
    "POST /api/webhooks/<webhook_id>/test": case(202),
    "DELETE /api/webhooks/<webhook_id>": case(204, path="/api/webhooks/{spare_webhook}"),
    "GET /api/webhooks/deliveries/<delivery_id>": case(200),
    "POST /api/webhooks/deliveries/<delivery_id>/replay": case(202),
    # guarded by the token in its address
    "POST /hooks/<provider>/<call_id>/<token>": OWN,
}

# ---------------------------------------------------------------- the two accounts


@dataclass
class Owner:
    """The first account, what it has, and the words that fill in the paths above."""

    account_id: str
    key: str
    words: dict[str, str]
    secrets: list[str]  # what no answer to the other account may hold


@dataclass
class House:
    client: FlaskClient
    engine: Engine
    owner: Owner
    other_id: str
    other: str

    def call(self, key: str, rule: str, asked: Case) -> tuple[int, str]:
        """Status and text of an answer; of a stream that goes on, its beginning."""
        method, path = rule.split(" ", 1)
        path = self.fill(asked.path or path)
        headers = {"Authorization": f"{'Key' if path.startswith('/fal/') else 'Bearer'} {key}", **asked.headers}
        body = json.loads(self.fill(json.dumps(asked.body))) if asked.body is not None else None
        answer = self.client.open(path, method=method, json=body, headers=headers, buffered=False)
        return answer.status_code, said(answer)

    def fill(self, path: str) -> str:
        words = self.owner.words
        path = re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), path)
        for name, value in _IN_RULES.items():
            path = path.replace(name, words.get(value, value))
        return path

    def rows(self) -> dict[str, Any]:
        """All that the owner has, as the database knows it."""
        tables = (
            *("jobs", "uploads", "webhook_endpoints", "webhook_account_secrets", "webhook_messages", "transfers"),
            *("balances", "idempotency_keys", "sdk_attempts", "files", "batches", "own_keys"),
        )
        found = {}
        with self.engine.database.autocommit() as connection:
            for table in tables:
                query = text(f"SELECT CAST(t AS text) FROM {table} AS t WHERE CAST(t AS text) LIKE :mine ORDER BY 1")
                found[table] = list(connection.execute(query, {"mine": f"%{self.owner.account_id}%"}).scalars())
        assert found["jobs"] and found["uploads"] and found["webhook_messages"] and found["balances"]
        assert found["own_keys"]
        return found


_IN_RULES = {
    "<job_id>": "job",
    "<task_id>": "job",
    "<path:task_id>": "job",
    "<session_id>": "job",
    "<request_id>": "fal",
    "<upload_id>": "upload",
    "<file_id>": "upload",
    "<batch_id>": "batch",
    "<webhook_id>": "webhook",
    "<delivery_id>": "delivery",
    "<path:app>": f"darkroom/{SYNC_MODEL}",
    "<path:model_id>": SYNC_MODEL,
    "<model_id>": SYNC_MODEL,
    "<owner>": "openai",
    "<version_id>": "0" * 64,
    "<path:filename>": "app.css",
    "<operation:operation>": "generate",
    "<provider>": "openai",
    "<call_id>": "call_01HZZZZZZZZZZZZZZZZZZZZZZZ",
    "<token>": "x",
    "<label>": "default",
    "<name>": "openai",
}


def said(answer: TestResponse) -> str:
    if answer.mimetype != "text/event-stream":
        return answer.get_data().decode(errors="replace")
    pieces = iter(answer.response)
    first = b"".join(
        bytes(next(pieces, b"")) for _ in range(2 if "/api/images/events" not in answer.request.path else 1)
    )
    answer.close()
    return first.decode()


@pytest.fixture
def house(engine: Engine, tmp_path: Path, upstreams: dict[str, str]) -> Iterator[House]:
    (tmp_path / "blobs").symlink_to(engine.context.store.root)  # type: ignore[attr-defined]
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        DARKROOM_VAR=tmp_path,
        DATABASE_URL=_url(engine.database),
        REDIS_URL="redis://127.0.0.1:1/0",
        DARKROOM_DECODERS=1,
        DARKROOM_DB_POOL_SIZE=2,
        DARKROOM_RATE_LIMIT_ACCOUNT="100000/minute",
        DARKROOM_PUBLIC_URL="https://darkroom.example",
        DARKROOM_OWN_KEYS_SECRET=base64.b64encode(b"s" * 32).decode(),
    )
    services = replace(build(settings, upstreams), publish=engine.sent)
    client = create_app(settings, services).test_client()
    mine, other = engine.account(), engine.account()
    with engine.database.autocommit() as connection:
        keys = [create_key(connection, each.account_id, scopes=ALL).token for each in (mine, other)]
    owner = Owner(mine.account_id, keys[0], {"base": "https://darkroom.example"}, [CANARY])
    _furnish(client, engine, owner)
    yield House(client, engine, owner, other.account_id, keys[1])
    services.uploads.references.media.close()


def _url(database: Database) -> str:
    return database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def _furnish(client: FlaskClient, engine: Engine, owner: Owner) -> None:
    headers, words = {"Authorization": f"Bearer {owner.key}"}, owner.words

    def made(method: str, path: str, **body: Any) -> Any:
        answer = client.open(path, method=method, headers=headers, **body)
        assert answer.status_code in (200, 201, 202), answer.text
        return answer.json

    def upload(*size: int) -> str:
        file = (io.BytesIO(image_bytes(*size)), f"{CANARY}.png")
        return str(made("POST", "/api/uploads", data={"file": file})["id"])

    hook = made("POST", "/api/webhooks", json={"url": f"https://shop.example/{CANARY}", "description": CANARY})
    words["webhook"], secret = hook["id"], hook["secret"]
    words["spare_webhook"] = made("POST", "/api/webhooks", json={"url": "https://shop.example/"})["id"]
    words["upload"], words["spare"], words["spare2"] = upload(40, 30), upload(41, 30), upload(42, 30)
    order = {"prompt": CANARY, "model": SYNC_MODEL, "metadata": {"of": CANARY}}
    words["job"] = made("POST", "/api/images/generate", json=order)["id"]
    words["doomed"] = made("POST", "/api/images/generate", json=order)["id"]
    engine.drive()
    task = {**order, "client_task_id": CLIENT_TASK}
    made("POST", "/api/image-tasks/generations", json=task)
    data = {"purpose": "batch", "file": (io.BytesIO(json.dumps(order).encode()), "x.jsonl")}
    words["lines"] = made("POST", "/v1/files", data=data)["id"]
    data = {"purpose": "batch", "file": (io.BytesIO(json.dumps({"prompt": CANARY}).encode()), "x.jsonl")}
    words["spare_lines"] = made("POST", "/v1/files", data=data)["id"]
    wanted = {"input_file_id": words["lines"], "endpoint": "/v1/images/edits", "completion_window": "24h"}
    words["batch"] = made("POST", "/v1/batches", json=wanted)["id"]
    words["live"] = made("POST", "/api/images/generate", json=order)["id"]
    words["fal"] = request_id_of(words["job"])
    words["status"] = f"/fal/queue/darkroom/{SYNC_MODEL}/requests/{words['fal']}/status"
    words["file"] = f"/v1/files/{words['upload']}"
    words["image_link"] = made("GET", f"/api/images/tasks/{words['job']}")["images"][0]["url"].removeprefix(
        words["base"]
    )
    words["signed_image"] = made("GET", f"/api/images/tasks/{words['job']}/image/link")["url"].removeprefix(
        words["base"]
    )
    with engine.database.autocommit() as connection:
        words["delivery"] = messages.every(connection, owner.account_id, Filters())[0].id
    account_secret = made("GET", "/api/webhooks/secret")["secret"]
    words["provider_key"] = made("PUT", "/api/provider-keys/openai", json={"key": f"{CANARY}.of.openai"})["id"]
    owner.secrets += [secret, account_secret, owner.account_id, owner.key]


# ---------------------------------------------------------------- the tests


def _cases() -> Iterator[tuple[str, Case]]:
    for rule, found in CASES.items():
        for each in found if isinstance(found, list) else [found]:
            yield rule, each


def test_nothing_of_an_account_is_another_ones(house: House) -> None:
    rules = {
        f"{method} {rule.rule}"
        for rule in house.client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
    }
    assert rules == set(CASES), "a route has no case, or a case no route"
    owner, before, faults = house.owner, house.rows(), []
    for rule, asked in _cases():
        status, words = house.call(house.other, rule, asked)
        if asked.names is not None and status not in asked.refused:
            faults.append(f"{rule} {asked.path}: {status}, not {asked.refused}: {words[:200]}")
        if status >= 500:
            faults.append(f"{rule}: {status}: {words[:200]}")
        # An id that was asked for may be said back; a list, or another member, may not tell it.
        told = owner.secrets if asked.names is not None else [*owner.secrets, *owner.words.values()]
        told = [each for each in told if asked.names is not None or each not in house.fill(asked.path or rule)]
        faults += [f"{rule} tells {each}" for each in told if each != owner.words["base"] and each in words]
    assert faults == []
    assert house.rows() == before
    for rule, asked in _cases():
        if asked.names is not None and asked.refused != (403,):
            status, words = house.call(owner.key, rule, asked)
            if status not in asked.names:
                faults.append(f"{rule} {asked.path}: the owner got {status}: {words[:300]}")
    assert faults == []


def _placed(house: House, key: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    scheme = "Key" if path.startswith("/fal/") else "Bearer"
    answer = house.client.post(path, json=body, headers={"Authorization": f"{scheme} {key}", **headers})
    assert answer.status_code in (200, 201, 202), answer.text
    found = answer.get_json()
    return str(answer.headers.get("X-Task-Id") or found.get("request_id") or found["id"])


ROUTES = {
    "/api/images/generate": ORDER,
    "/v1/images/generations/async": ORDER,
    "/v1/predictions": {"version": SYNC_MODEL, "input": {"prompt": "a hat"}},
    f"/fal/queue/darkroom/{SYNC_MODEL}": {"prompt": "a hat"},
    "/api/generation": ORDER,
}


def test_repeats_are_joined_within_one_account_alone(house: House) -> None:
    mine, theirs = house.owner.key, house.other
    with house.engine.database.autocommit() as connection:
        second = create_key(connection, house.owner.account_id, scopes=ALL).token
    for path, body in ROUTES.items():
        keyed, retried = {"Idempotency-Key": path[1:]}, {"x-stainless-retry-count": "1"}
        first = _placed(house, mine, path, body, keyed)
        assert _placed(house, mine, path, body, keyed) == first, path
        assert _placed(house, theirs, path, body, keyed) != first, path
        began = _placed(house, mine, path, body, {"x-stainless-retry-count": "0"})
        # Neither another account's retry is this call's, nor one by another key, nor one of another order.
        assert _placed(house, theirs, path, body, retried) != began, path
        assert _placed(house, second, path, body, retried) != began, path
        other = {**body, "input": {"prompt": "a coat"}} if "input" in body else {**body, "prompt": "a coat"}
        assert _placed(house, mine, path, other, retried) != began, path
        assert _placed(house, mine, path, body, retried) == began, path


def test_ids_of_a_client_are_an_accounts_own(house: House) -> None:
    path, body = "/api/image-tasks/generations", {**ORDER, "client_task_id": CLIENT_TASK}
    asked = f"/api/image-tasks?ids={CLIENT_TASK},{house.owner.words['job']}"
    headers = {"Authorization": f"Bearer {house.other}"}
    found = house.client.get(asked, headers=headers).get_json()
    assert found == {"items": [], "missing_ids": [CLIENT_TASK, house.owner.words["job"]]}
    resumed = house.client.post(f"/api/image-tasks/{CLIENT_TASK}/resume-poll", headers=headers).get_json()
    assert resumed == {"detail": {"error": "task not found"}}
    theirs = _placed(house, house.other, path, body, {})
    assert theirs != _placed(house, house.owner.key, path, body, {})
    assert len(house.client.get(asked, headers=headers).get_json()["items"]) == 1


def test_a_link_to_upload_to_names_one_account(house: House) -> None:
    """Every part of the link is signed, and what opens it is no key."""
    headers = {"Authorization": f"Key {house.owner.key}"}
    asked = house.client.post("/fal/rest/storage/upload/initiate", json={"file_name": "None a.png"}, headers=headers)
    path = asked.get_json()["upload_url"].removeprefix(house.owner.words["base"])
    upload_id = path.split("?")[0].rsplit("/", 1)[1]

    def put(link: str) -> int:
        return house.client.put(link, data=image_bytes(50, 50)).status_code

    before = house.rows()
    changed = [
        path.replace(house.owner.account_id, house.other_id),
        path.replace(upload_id, f"{upload_id[:-1]}{'1' if upload_id.endswith('0') else '0'}"),
        path.replace("expires=", "expires=9"),
        path.replace("name=None%20a.png", "name=b.png"),
        path.replace(f"{upload_id}?", f"{upload_id}%20None?").replace("name=None%20a.png", "name=a.png"),
        f"{path}&keep_s=60",
        path.replace("index=0", "index=1"),
    ]
    assert path not in changed
    assert [put(link) for link in changed] == [403] * len(changed)
    assert house.rows() == before
    assert put(path) == 200


def test_a_signed_link_opens_what_it_names_alone(house: House) -> None:
    words, headers = house.owner.words, {"Authorization": f"Bearer {house.owner.key}"}
    prediction, upload = (
        house.client.get(path, headers=headers).get_json()
        for path in (f"/v1/predictions/{words['job']}", f"/api/uploads/{words['upload']}")
    )
    for link in (prediction["urls"]["stream"], upload["signed_url"], words["signed_image"]):
        _opens_alone(house, link)


def _opens_alone(house: House, link: str) -> None:
    words = house.owner.words
    path, _, query = link.removeprefix(words["base"]).partition("?")
    others = [
        f"/v1/predictions/{words['job']}/stream",
        f"/v1/predictions/{words['doomed']}/stream",
        f"/api/images/tasks/{words['job']}/image",
        f"/api/images/tasks/{words['doomed']}/image",
        f"/api/uploads/{words['upload']}/content",
        f"/v1/files/{words['upload']}/content",
        f"/api/uploads/{words['spare']}/content",
        f"/api/generation/{words['job']}",
    ]
    assert path in others

    def status(asked: str, method: str = "GET", **more: Any) -> int:
        answer = house.client.open(asked, method=method, buffered=False, **more)
        answer.close()
        return answer.status_code

    assert status(f"{path}?{query}") == 200
    assert [status(f"{each}?{query}") for each in others if each != path] == [403] * (len(others) - 1)
    tampered = [
        query.replace(house.owner.account_id, house.other_id),
        query.replace("index=0", "index=1"),
        query.replace("expires=", "expires=9"),
        query.replace("signature=", "signature=0"),
        query.replace("kid=", "kid=x"),
        f"{query}&width=16",
    ]
    assert [status(f"{path}?{each}") for each in tampered] == [403] * len(tampered)
    assert status(f"/v1/predictions/{words['live']}/cancel?{query}", "POST") == 401
    assert status(f"/api/images/tasks/{words['job']}?{query}") == 401
