"""How often upstreams are called for one job, as docs/errors.md promises, counted by the emulators."""

from __future__ import annotations

from dataclasses import replace

import pytest
from job_engine import ASYNC_MODEL, SYNC_MODEL, Engine, Recorder

from jobs.execution.context import WorkerContext
from jobs.submission.service import SubmissionService
from sandbox.testing import Sandbox

SIZE = "1024x640"
MOST = 4


def submits(sandbox: Sandbox, *providers: str) -> list[int]:
    return [int(sandbox.counts().get(provider, {}).get("submits", 0)) for provider in providers]


@pytest.fixture
def four(context: WorkerContext, submission: SubmissionService, sent: Recorder) -> Engine:
    """An engine with the default number of calls."""
    return Engine(replace(context, max_attempts=MOST), submission, sent)


def test_two_models_that_fail_share_the_calls(four: Engine, sandbox: Sandbox) -> None:
    account = four.account()
    for provider in ("openai", "chatgpt2api"):
        sandbox.add_fault("fail", provider=provider)
    job_id = four.order(account, model=SYNC_MODEL, size=SIZE, fallback_models=[ASYNC_MODEL]).task.id
    four.drive()
    assert four.job(job_id).status == "failed"
    assert submits(sandbox, "openai", "chatgpt2api") == [MOST - 1, 1]


def test_calls_that_ran_nothing_do_not_count(four: Engine, sandbox: Sandbox) -> None:
    account = four.account()
    sandbox.add_fault("429", provider="openai", route="submit")
    sandbox.add_fault("fail", provider="chatgpt2api")
    job_id = four.order(account, model=SYNC_MODEL, size=SIZE, fallback_models=[ASYNC_MODEL]).task.id
    four.drive()
    assert four.job(job_id).status == "failed"
    assert submits(sandbox, "openai", "chatgpt2api") == [MOST, MOST]


@pytest.mark.parametrize("reason", ["pool", "429"])
def test_no_failure_code_adds_calls(four: Engine, sandbox: Sandbox, reason: str) -> None:
    """Both codes ask for a later retry, but the upstream had accepted each call."""
    account = four.account()
    sandbox.add_fault(f"fail={reason}", provider="chatgpt2api")
    job_id = four.order(account, model=ASYNC_MODEL, size=SIZE).task.id
    four.drive()
    assert four.job(job_id).status == "failed"
    assert submits(sandbox, "chatgpt2api") == [MOST]


def test_each_image_of_a_job_has_its_own_calls(four: Engine, sandbox: Sandbox) -> None:
    account = four.account()
    sandbox.add_fault("fail", provider="chatgpt2api")
    job_id = four.order(account, model=ASYNC_MODEL, size=SIZE, n=2).task.id
    four.drive()
    assert four.job(job_id).status == "failed"
    assert submits(sandbox, "chatgpt2api") == [2 * MOST]


def test_after_a_failover_the_first_call_goes_at_once(four: Engine, sandbox: Sandbox) -> None:
    account = four.account()
    sandbox.add_fault("fail", provider="openai")
    job_id = four.order(account, model=SYNC_MODEL, size=SIZE, fallback_models=[ASYNC_MODEL]).task.id
    four.drive(until=lambda: four.job(job_id).model == ASYNC_MODEL)
    wait_s = four.one(
        "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM jobs WHERE id = :i AND status = 'queued'", i=job_id
    )
    assert wait_s <= 0
    four.drive()
    assert four.job(job_id).status == "succeeded"
