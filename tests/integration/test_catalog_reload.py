"""An operator's catalogue file, changed under a running service: the real app over HTTP, and a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from job_engine import Engine, Recorder, make_context
from werkzeug.serving import make_server

from accounts.keys import Caller, create_key
from app import create_app
from app.services import build
from core.db import Database
from core.settings import Settings
from jobs.submission.service import SubmissionService
from providers.catalog.live import LiveCatalog
from storage.local import LocalStore
from storage.media import Media

HOUSE = "house: {like: gpt-image-2, cost_usd: 0.05, cost_tiers: [], markup: 2}"
AKIN = "gpt-image-mine: {like: gpt-image-2}"  # as an unknown name it would mean gpt-image-2, by alias
PRICE = 10_000_000
DEAR_AND_HIDDEN = HOUSE.replace("markup: 2", "markup: 7, hidden: true")


class Clock:
    """The worker's clock: it reads the file when a test lets a second pass, or when it does not know a model."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Service:
    """The web process and a worker, both following ``file``."""

    url: str
    http: requests.Session
    file: Path
    engine: Engine
    clock: Clock

    def write(self, text: str) -> None:
        """Replace the file atomically: write a temporary file and rename it."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.file)

    def get(self, path: str) -> Any:
        return self.http.get(self.url + path, timeout=10)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds``; the file is checked at requests, at most once a second."""
        give_up = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < give_up, "the file was not followed"
            time.sleep(0.05)  # between two looks

    def order(self, **fields: Any) -> Any:
        asked = {"prompt": "a small fox", **fields}
        return self.http.post(f"{self.url}/api/images/generate", json=asked, timeout=10)

    def price(self, model: str) -> int:
        unit: int = self.get(f"/api/models/{model}").json()["price"]["unit_microcredits"]
        return unit


@pytest.fixture
def service(  # noqa: PLR0917 - fixtures come by name
    engine: Engine,
    account: Caller,
    database: Database,
    store: LocalStore,
    media: Media,
    upstreams: dict[str, str],
    redis_url: str,
    tmp_path: Path,
    submission: SubmissionService,
    sent: Recorder,
) -> Iterator[Service]:
    file = tmp_path / "catalog.local.yaml"
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        DARKROOM_VAR=tmp_path / "var",
        DARKROOM_CATALOG_LOCAL=file,
        DATABASE_URL=str(database.engine.url.render_as_string(hide_password=False)),
        REDIS_URL=redis_url,
        DARKROOM_MINIMUM_UNIT_PRICE=0,
    )
    clock = Clock()
    following = LiveCatalog(file, clock=clock)
    context = make_context(
        database=database,
        models=following,
        media=media,
        store=store,
        environ=upstreams,
        sent=sent,
        owner="wkr_reload",
    )
    with database.transaction() as connection:
        token = create_key(connection, account.account_id, name="r", scopes=("jobs:write", "jobs:read")).token
    # The test runs the jobs itself, so nothing needs to be published.
    services = replace(build(settings, upstreams), publish=sent)
    server = make_server("127.0.0.1", 0, create_app(settings, services), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with requests.Session() as http:
        http.trust_env = False
        http.headers["Authorization"] = f"Bearer {token}"
        yield Service(f"http://127.0.0.1:{server.server_port}", http, file, Engine(context, submission, sent), clock)
    server.shutdown()


def outcome(service: Service, job_id: str) -> tuple[Any, ...]:
    task = service.get(f"/api/images/tasks/{job_id}").json()
    return task["status"], task["error"] and task["error"]["code"], task["price"]["captured_microcredits"]


def test_web_and_workers_follow_the_file_without_a_restart(service: Service, account: Caller) -> None:
    before = service.get("/api/models").json()
    assert service.get("/api/models/house").status_code == 404

    # A new model at a price of its own; another one hidden.
    service.write(f"{{models: {{{HOUSE}, {AKIN}, flux-2-pro: {{hidden: true}}}}}}")
    service.until(lambda: service.get("/api/models/house").status_code == 200)
    after = service.get("/api/models").json()
    assert {model["id"] for model in before["data"]} - {model["id"] for model in after["data"]} == {"flux-2-pro"}
    assert service.price("house") == PRICE
    assert service.order(model="flux-2-pro").json()["code"] == "unknown_model"

    akin = service.order(model="gpt-image-mine").json()
    accepted = [service.order(model="house").json() for _ in range(3)]
    first, second, third = (each["id"] for each in accepted)
    assert accepted[0]["price"]["quoted_microcredits"] == PRICE
    versions = service.engine.rows("SELECT DISTINCT price_version FROM orders")
    assert [row.price_version for row in versions] == [after["catalog_version"]]

    # The worker has not read the new file yet; it does so before it fails a job.
    service.engine.run(first)
    assert outcome(service, first) == ("succeeded", None, PRICE)

    # A faulty file changes nothing, and its fault is reported.
    service.write("{models: {house: {markup: 0}, nobody: {}}}")
    service.until(lambda: service.get("/readyz").json()["checks"]["catalog"]["ok"] is False)
    ready = service.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert "faults: 2" in ready.json()["checks"]["catalog"]["detail"]
    assert service.price("house") == PRICE

    # Hidden and more expensive: no longer offered, but accepted jobs run at their price.
    service.write(f"{{models: {{{DEAR_AND_HIDDEN}}}}}")
    service.until(lambda: service.get("/api/models/house").status_code == 404)
    service.until(lambda: service.get("/readyz").json()["checks"]["catalog"]["ok"] is True)
    assert service.order(model="house").json()["code"] == "unknown_model"
    service.clock.now += 1
    service.engine.run(second)
    assert service.engine.context.catalog.models["house"].hidden
    assert outcome(service, second) == ("succeeded", None, PRICE)

    # Removed: its jobs fail and are free.
    service.file.unlink()
    service.until(lambda: service.get("/api/models").json()["catalog_version"] == before["catalog_version"])
    service.until(lambda: "house" not in service.engine.context.catalogs.renewed().models)
    service.engine.run(third)
    assert outcome(service, third) == ("failed", "model_unavailable", 0)
    assert akin["model"] == "gpt-image-mine"
    service.engine.run(akin["id"])
    assert outcome(service, akin["id"]) == ("failed", "model_unavailable", 0)
    service.engine.assert_books_balance()


def test_multipart_orders_use_the_types_of_a_new_models_settings(service: Service) -> None:
    service.write("{models: {house: {like: gpt-image-2, params: {shine: {type: int, min: 0, max: 9}}}}}")
    service.until(lambda: service.get("/api/models/house").status_code == 200)
    parts = {"prompt": (None, "a fox"), "model": (None, "house"), "shine": (None, "3")}
    answer = service.http.post(f"{service.url}/api/images/generate", files=parts, timeout=10)
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["shine"] == 3


def test_an_order_without_a_model_is_shown_the_chosen_model_and_the_reason(service: Service) -> None:
    service.write(f"{{models: {{{HOUSE}}}, default_model: house}}")
    service.until(lambda: service.get("/api/models/house").status_code == 200)
    unnamed = service.order().json()
    reason = "the default model of this service"
    assert unnamed["chosen"] == {"asked": None, "model": "house", "rule": "operator_default", "reason": reason}
    best = service.order(model="auto:quality", background="transparent").json()
    assert best["model"] == best["chosen"]["model"] == "gpt-image-2"
    assert best["chosen"]["asked"] == "auto:quality"
    assert "chosen" not in best["request"]
    named = service.order(model="house").json()
    assert (named["model"], named["chosen"]) == ("house", None)
    refused = service.order(model="auto", seed=1, background="transparent").json()
    assert [error["code"] for error in refused["errors"]] == ["no_model_fits", "not_supported"]
    kinds = service.get("/api/models/recommend?operation=generate").json()["data"]
    assert "default" in [
        reason["code"] for each in kinds for reason in each["reasons"] if each["model"]["id"] == "house"
    ]
