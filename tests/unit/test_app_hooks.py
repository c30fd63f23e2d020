"""Webhooks in: who may report, and that a report is no more than a hint."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import time
from dataclasses import replace

import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from jobs.execution.callbacks import Callbacks
from providers.shared.signatures import is_genuine
from tests.unit.app_doubles import Edge, make_edge

CALL = "call_01JABCDEFGHJKMNPQRSTVWXYZ0"
BODY = json.dumps({"id": "p1", "status": "succeeded"}).encode()
WAVESPEED_SECRET = "whsec_plain-text"
REPLICATE_SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()


@pytest.fixture(scope="module")
def shared() -> Edge:
    return make_edge(DARKROOM_PUBLIC_URL="https://pictures.example/")


@pytest.fixture
def edge(shared: Edge) -> Edge:
    shared.rows.reports.clear()
    shared.published.clear()
    return shared


def address(edge: Edge, provider: str = "replicate", call_id: str = CALL) -> str:
    callbacks: Callbacks = edge.app.extensions["darkroom"].callbacks
    url = callbacks.url(provider, call_id)
    assert url is not None
    assert url.startswith("https://pictures.example/hooks/")
    return url.removeprefix("https://pictures.example")


def test_a_report_makes_the_job_due_and_nothing_else(edge: Edge) -> None:
    for _ in range(2):
        assert edge.client.post(address(edge), data=BODY).status_code == 204
    assert edge.rows.reports == [(CALL, "p1")] * 2
    assert [nudge.task for nudge in edge.published] == ["jobs.poll"] * 2


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"id": {"a": 1}}', b"[" * 100_000])
def test_what_the_report_says_need_not_be_readable(edge: Edge, body: bytes) -> None:
    assert edge.client.post(address(edge), data=body).status_code == 204
    assert len(edge.rows.reports) == 1


@pytest.mark.parametrize("change", ["token", "call", "provider", "shape"])
def test_an_address_that_is_not_ours_is_not_found(edge: Edge, change: str) -> None:
    path = address(edge)
    wrong = {
        "token": path[:-1] + ("0" if path[-1] != "0" else "1"),
        "call": path.replace("WXYZ0", "WXYZ1"),
        "provider": path.replace("replicate", "wavespeed"),
        "shape": path.replace(CALL, "call_1"),
    }[change]
    assert edge.client.post(wrong, data=BODY).status_code == 404
    assert not edge.rows.reports
    assert not edge.published


def test_without_a_public_address_there_are_no_hooks(edge: Edge) -> None:
    closed = make_edge()
    assert closed.client.post(address(edge), data=BODY).status_code == 404
    assert closed.app.extensions["darkroom"].callbacks.url("replicate", CALL) is None


def test_a_report_too_large_is_not_read(edge: Edge) -> None:
    large = b"x" * 2_000_000
    answer = edge.client.post(address(edge), data=large)
    assert (answer.status_code, answer.json["code"]) == (413, "request_too_large")
    unannounced = edge.client.post(
        address(edge), input_stream=io.BytesIO(large), environ_overrides={"wsgi.input_terminated": True}
    )
    assert unannounced.status_code == 413
    assert not edge.rows.reports


def signed_by_wavespeed(secret: str, *, at: float, body: bytes = BODY) -> dict[str, str]:
    stamp = str(int(at))
    message = f"m1.{stamp}.".encode() + body
    digest = hmac.new(secret.removeprefix("whsec_").encode(), message, hashlib.sha256).hexdigest()
    return {"webhook-id": "m1", "webhook-timestamp": stamp, "webhook-signature": f"v3,{digest}"}


def signed_by_replicate(secret: str, *, at: float, body: bytes = BODY) -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    stamp = str(int(at))
    digest = hmac.new(key, f"m1.{stamp}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(b'another').decode()} v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": "m1", "webhook-timestamp": stamp, "webhook-signature": signature}


SIGNERS = {"wavespeed": (signed_by_wavespeed, WAVESPEED_SECRET), "replicate": (signed_by_replicate, REPLICATE_SECRET)}


@pytest.mark.parametrize("provider", SIGNERS)
def test_a_signature_counts_where_the_secret_is_known(edge: Edge, provider: str) -> None:
    sign, secret = SIGNERS[provider]
    parts = edge.app.extensions["darkroom"]
    edge.app.extensions["darkroom"] = replace(parts, hook_secrets={provider: SecretStr(secret)})
    try:
        path = address(edge, provider)
        assert edge.client.post(path, data=BODY, headers=sign(secret, at=time.time())).status_code == 204
        refused = [
            {},
            sign(secret, at=time.time(), body=b"other"),
            sign(secret, at=time.time() - 600),
            sign(secret, at=time.time() + 600),
            sign("whsec_" + base64.b64encode(b"x" * 24).decode(), at=time.time()),
            {**sign(secret, at=time.time()), "webhook-id": "m2"},
            {**sign(secret, at=time.time()), "webhook-signature": "v1"},
            {**sign(secret, at=time.time()), "webhook-timestamp": "soon"},
        ]
        answers = [edge.client.post(path, data=BODY, headers=headers) for headers in refused]
        assert {answer.status_code for answer in answers} == {403}
        assert {answer.json["code"] for answer in answers} == {"signature_invalid"}
        assert len(edge.rows.reports) == 1
    finally:
        edge.app.extensions["darkroom"] = parts


def test_standard_webhooks_own_signature_is_taken() -> None:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    signature = Webhook(REPLICATE_SECRET).sign("m1", now, BODY.decode())
    headers = {"Webhook-Id": "m1", "Webhook-Timestamp": str(int(now.timestamp())), "Webhook-Signature": signature}
    assert is_genuine("replicate", headers, BODY, secret=REPLICATE_SECRET)
    assert not is_genuine("openai", headers, BODY, secret=REPLICATE_SECRET)


def test_no_secret_shows_in_a_repr(edge: Edge) -> None:
    assert "c" * 8 not in repr(edge.app.extensions["darkroom"].callbacks)
