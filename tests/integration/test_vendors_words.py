"""Words of vendors that were misread: what becomes of an order whose upstream says them, over HTTP."""

from __future__ import annotations

import pytest
from job_engine import Engine
from submissions import make_submission

from accounts.keys import Caller
from core.db import Database
from jobs.submission.service import SubmissionService
from providers.catalog.catalog import Catalog
from providers.configured import configured_names
from sandbox.testing import Sandbox
from storage.local import LocalStore
from storage.media import Media


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    names = ("replicate", "xai", "stability", "huggingface", "gemini")
    return {name: value for provider in names for name, value in sandbox.environ(provider).items()}


@pytest.fixture
def submission(
    database: Database, media: Media, store: LocalStore, models: Catalog, upstreams: dict[str, str]
) -> SubmissionService:
    return make_submission(database, media, store, models, configured=configured_names(upstreams))


def test_replicates_high_demand_is_tried_again(engine: Engine, account: Caller) -> None:
    order = engine.order(account, "a fox [sandbox:fail=busy times=1]", model="replicate-flux-schnell")
    engine.drive()
    first, second = engine.calls(order.task.id)
    assert (first.error_code, first.retryable, second.outcome) == ("upstream_overloaded", True, "kept")
    assert engine.job(order.task.id).status == "succeeded"


@pytest.mark.parametrize("marker", ["quota", "quota=new", "quota=429"])
def test_xais_empty_account_is_out_of_credit(engine: Engine, account: Caller, marker: str) -> None:
    job_id = engine.order(account, f"a fox [sandbox:{marker}]", model="grok-imagine-image").task.id
    engine.drive()
    job = engine.job(job_id)
    assert (job.status, job.failure_code, job.captured) == ("failed", "upstream_out_of_credit", 0)


def test_xais_missing_permission_is_none(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account, "a fox [sandbox:403]", model="grok-imagine-image").task.id
    engine.drive()
    assert engine.job(job_id).failure_code == "upstream_forbidden"


def test_a_retiring_model_takes_orders_and_says_until_when(engine: Engine, account: Caller) -> None:
    order = engine.order(account, model="gemini-2.5-flash-image")
    engine.drive()
    job = engine.job(order.task.id)
    assert (job.status, job.model) == ("succeeded", "gemini-2.5-flash-image")
    assert "ends on 2027-03-15" in engine.task(account, order.task.id).warnings[0]
