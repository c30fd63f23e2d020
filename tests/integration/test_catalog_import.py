"""A model taken over from an upstream's list is ordered at once; and the workers' daily comparison."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from test_catalog_reload import Service, outcome, service  # noqa: F401 - the fixture

from accounts.keys import Caller
from app.cli import main
from core import key_values
from core.db import Database
from jobs.execution.context import WorkerContext
from jobs.maintenance import catalog_check
from sandbox.testing import Sandbox

MODEL = "bytedance/seedream-v5.0-lite"


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    """WaveSpeed and OpenAI."""
    sandbox.settings(latency_s=0.0, prepared=True)
    return {**sandbox.environ("wavespeed"), **sandbox.environ("openai")}


@pytest.fixture(autouse=True)
def lists_as_they_are(sandbox: Sandbox) -> None:
    sandbox.change_models("wavespeed")


def taken_over(service: Service, upstreams: dict[str, str], name: str, model_id: str) -> None:  # noqa: F811
    env = {**upstreams, "DARKROOM_CATALOG_LOCAL": str(service.file), "DARKROOM_VAR": str(service.file.parent)}
    done = CliRunner(env=env).invoke(main, ["catalog", "import", "wavespeed", name, "--as", model_id])
    assert done.exit_code == 0, done.output
    service.until(lambda: service.get(f"/api/models/{model_id}").status_code == 200)


def test_an_imported_model_makes_an_image_at_the_vendors_price(
    service: Service,  # noqa: F811
    account: Caller,
    upstreams: dict[str, str],
) -> None:
    assert service.get("/api/models/mine").status_code == 404
    taken_over(service, upstreams, MODEL, "mine")
    ordered = service.order(model="mine", size="2048x1536")
    assert ordered.status_code == 202, ordered.text
    job_id = ordered.json()["id"]
    service.engine.context.catalogs.renewed()
    service.engine.run(job_id)
    service.engine.drive(until=lambda: outcome(service, job_id)[0] not in {"queued", "running"})
    assert outcome(service, job_id) == ("succeeded", None, 3_500_000)  # 0.035 USD
    service.engine.assert_books_balance()


def test_a_formula_prices_each_order(
    service: Service,  # noqa: F811
    upstreams: dict[str, str],
) -> None:
    taken_over(service, upstreams, "google/nano-banana-2/text-to-image", "banana")

    def price(**fields: object) -> int:
        asked = {"prompt": "a fox", "model": "banana", **fields}
        told = service.http.post(f"{service.url}/api/images/estimate", json=asked, timeout=10)
        assert told.status_code == 200, told.text
        total: int = told.json()["price"]["total_microcredits"]
        return total

    assert price() == 7_000_000
    assert price(resolution="4k") == 14_000_000
    assert price(resolution="0.5k", enable_web_search=True) == 5_900_000
    assert price(resolution="2k", n=2) == 21_000_000


def test_an_order_that_the_formula_cannot_price_is_refused_and_free(
    service: Service,  # noqa: F811
    account: Caller,
    upstreams: dict[str, str],
) -> None:
    formula = 'base_price * (resolution = "4k" ? "dear" : 1)'
    taken_over(service, upstreams, "google/nano-banana-2/text-to-image", "banana")
    entry = service.file.read_text()
    service.write(entry.partition("    cost_formula:")[0] + f"    cost_formula: {json.dumps(formula)}\n")
    service.until(lambda: service.order(model="banana", resolution="4k").status_code == 422)
    refused = service.order(model="banana", resolution="4k").json()
    assert [(each["field"], each["code"]) for each in refused["errors"]] == [("model", "price_unknown")]
    service.engine.assert_books_balance()


def test_an_endless_formula_never_reaches_the_web_process(
    service: Service,  # noqa: F811
    upstreams: dict[str, str],
) -> None:
    taken_over(service, upstreams, MODEL, "mine")
    good = service.get("/api/models").json()["catalog_version"]
    endless = "($f := function($x){ $f($x + 1) }; $f(1))"
    service.write(service.file.read_text() + f"    cost_formula: {json.dumps(endless)}\n")
    service.until(lambda: service.get("/readyz").json()["status"] == "degraded")
    assert service.get("/api/models").json()["catalog_version"] == good
    assert service.order(model="mine").status_code == 202


# ---------------------------------------------------------------- the comparison of the workers


def test_one_worker_of_the_fleet_compares_once_in_a_while(
    context: WorkerContext, database: Database, sandbox: Sandbox
) -> None:
    sandbox.change_models("openai", drop=["gpt-image-2"])
    with database.autocommit() as connection:
        assert key_values.find(connection, catalog_check.RESULT) is None
    found = catalog_check.check_in_turn(context, every_s=3600)
    sandbox.change_models("openai")
    assert found is not None
    assert found["providers"]["openai"] == {"asked": True, "differences": {"missing": 1}, "new": 3}
    assert catalog_check.check_in_turn(context, every_s=3600) is None  # it was another's turn just now
    with database.autocommit() as connection:
        kept = key_values.find(connection, catalog_check.RESULT)
        assert kept is not None
        assert json.loads(kept.value) == found
        connection.execute(text("UPDATE marks SET at = at - interval '2 hours' WHERE name = 'catalog_check'"))
    again = catalog_check.check_in_turn(context, every_s=3600)
    assert again is not None
    assert again["providers"]["openai"]["differences"] == {}


def test_an_upstream_that_is_away_disturbs_nothing(
    context: WorkerContext,
    sandbox: Sandbox,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sandbox.add_fault("500", provider="openai", route="models")
    sandbox.change_models("wavespeed", drop=["wavespeed-ai/qwen-image/text-to-image"])
    found = catalog_check.check_in_turn(context, every_s=3600)
    sandbox.clear_faults()
    assert found is not None
    assert found["providers"]["openai"] == {"asked": False, "differences": {}, "new": 0}
    assert found["providers"]["wavespeed"]["differences"] == {"missing": 1}
    # Printed, or passed to logging where an earlier test of this process has set logs up.
    said = capsys.readouterr().err + caplog.text
    assert said.count("catalog_not_checked") == 1
    assert said.count("catalog_drift") == 1
    assert "test-key" not in said
