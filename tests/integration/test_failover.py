"""Failing over to another model: when it happens, when it does not, and at which price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from job_engine import ASYNC_MODEL, ASYNC_PRICE, SYNC_MODEL, Engine, Recorder

from accounts.keys import Caller
from jobs import lifecycle
from jobs.dispatch import health
from jobs.errors import InvalidOrderError
from jobs.execution.context import WorkerContext
from jobs.submission.order import Order
from jobs.submission.quoting import Quote
from jobs.submission.service import SubmissionService
from sandbox.testing import Sandbox

SIZE = "1024x640"


def ordered(engine: Engine, account: Caller, prompt: str = "a fox", **fields: Any) -> str:
    """Order an image of the expensive synchronous model with the cheap one as fallback."""
    asked = {"model": SYNC_MODEL, "size": SIZE, "fallback_models": [ASYNC_MODEL], **fields}
    return engine.order(account, prompt, **asked).task.id


def submits(sandbox: Sandbox, provider: str) -> int:
    return int(sandbox.counts().get(provider, {}).get("submits", 0))


def quote(submission: SubmissionService, **fields: Any) -> Quote:
    return submission.quoting.quote(Order("generate", {"prompt": "x", "model": SYNC_MODEL, "size": SIZE, **fields}))


def price(engine: Engine) -> int:
    """Return the price of one image of the expensive model."""
    return int(quote(engine.submission).unit_price_microcredits)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("429", "upstream_rate_limited"),
        ("401", "upstream_bad_credentials"),
        ("quota", "upstream_out_of_credit"),
        ("fail", "upstream_failed"),
    ],
)
def test_a_model_that_surely_made_nothing_is_followed_by_the_next(
    engine: Engine, account: Caller, sandbox: Sandbox, fault: str, code: str
) -> None:
    sandbox.add_fault(fault, provider="openai")
    job_id = ordered(engine, account)
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, task.model, task.provider) == ("succeeded", ASYNC_MODEL, "chatgpt2api")
    assert engine.events(job_id).count("failover") == 1
    [warning] = task.warnings
    assert warning.startswith(f"{SYNC_MODEL}: ")
    assert warning.endswith(f"{ASYNC_MODEL} was asked instead")
    assert task.fallback_models == [ASYNC_MODEL]
    assert {call.error_code for call in engine.calls(job_id) if call.provider == "openai"} == {code}
    dear = price(engine)
    assert engine.transfers(job_id) == {"hold": dear, "capture": ASYNC_PRICE, "release": dear - ASYNC_PRICE}
    engine.assert_books_balance()


@pytest.mark.parametrize(("fault", "code"), [("curl", "upstream_failed"), ("text", "upstream_said_no")])
def test_a_fault_of_chatgpt2api_that_is_no_refusal_is_followed_by_the_next_model(
    engine: Engine, account: Caller, sandbox: Sandbox, fault: str, code: str
) -> None:
    sandbox.add_fault(f"fail={fault}", provider="chatgpt2api")
    job_id = engine.order(account, model=ASYNC_MODEL, size=SIZE, fallback_models=[SYNC_MODEL]).task.id
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, task.model, task.provider) == ("succeeded", SYNC_MODEL, "openai")
    assert {call.error_code for call in engine.calls(job_id) if call.provider == "chatgpt2api"} == {code}
    engine.assert_books_balance()


def test_an_image_over_the_limit_was_billed_and_is_bought_of_no_one_again(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    before = engine.balance(account)
    sandbox.add_fault("bomb", provider="chatgpt2api")
    job_id = engine.order(account, model=ASYNC_MODEL, size=SIZE, fallback_models=[SYNC_MODEL]).task.id
    engine.drive()
    assert (engine.job(job_id).status, engine.job(job_id).failure_code) == ("failed", "result_too_large")
    [call] = engine.calls(job_id)
    assert (call.outcome, call.error_code, call.written_off) == ("failed", "result_too_large", True)
    assert (submits(sandbox, "chatgpt2api"), submits(sandbox, "openai")) == (1, 0)
    assert engine.balance(account) == before
    engine.assert_books_balance()


@pytest.mark.parametrize("fault", ["refuse", "drop", "garbage", "400"])
def test_a_refusal_or_an_uncertain_call_never_fails_over(
    engine: Engine, account: Caller, sandbox: Sandbox, fault: str
) -> None:
    sandbox.add_fault(fault, provider="openai", route="submit")
    job_id = ordered(engine, account)
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, task.model, task.captured_microcredits) == ("failed", SYNC_MODEL, 0)
    assert "failover" not in engine.events(job_id)
    assert submits(sandbox, "chatgpt2api") == 0
    engine.assert_books_balance()


def test_the_hold_is_for_the_most_expensive_model_of_the_order(engine: Engine, account: Caller) -> None:
    job_id = engine.order(
        account, model=ASYNC_MODEL, size=SIZE, n=2, fallback_models=[SYNC_MODEL], publish=False
    ).task.id
    assert engine.job(job_id).quoted == 2 * price(engine) > 2 * ASYNC_PRICE
    engine.run(job_id)
    engine.drive()
    assert engine.transfers(job_id) == {
        "hold": 2 * price(engine),
        "capture": 2 * ASYNC_PRICE,
        "release": 2 * (price(engine) - ASYNC_PRICE),
    }
    engine.assert_books_balance()


def test_images_made_before_a_failover_keep_their_price(
    context: WorkerContext, submission: SubmissionService, sent: Recorder, sandbox: Sandbox
) -> None:
    """One of two calls of one image each fails; the fallback model fills its slot."""
    engine = Engine(replace(context, max_attempts=1), submission, sent)
    account = engine.account()
    sandbox.add_fault("fail=none", provider="chatgpt2api", count=1)
    job_id = engine.order(account, model=ASYNC_MODEL, size=SIZE, n=2, fallback_models=[SYNC_MODEL]).task.id
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, task.model, len(task.images)) == ("succeeded", SYNC_MODEL, 2)
    assert [call.outcome for call in engine.calls(job_id)].count("kept") == 2
    assert task.captured_microcredits == price(engine) + ASYNC_PRICE
    engine.assert_books_balance()


def test_orders_of_a_paused_provider_fail_over_at_once(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    with engine.database.transaction() as connection:
        health.pause(connection, "openai")
    waiting = engine.order(account, model=SYNC_MODEL, size=SIZE).task.id
    job_id = ordered(engine, account)
    engine.drive(until=lambda: engine.job(job_id).finished_at is not None)
    task = engine.task(account, job_id)
    assert (task.status, task.model) == ("succeeded", ASYNC_MODEL)
    assert engine.job(waiting).status == "queued"
    assert submits(sandbox, "openai") == 0


def test_if_every_model_fails_the_credits_are_returned(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    before = engine.balance(account)
    sandbox.add_fault("401", provider="openai", route="submit")
    sandbox.add_fault("401", provider="chatgpt2api", route="submit")
    job_id = ordered(engine, account)
    engine.drive()
    assert (engine.job(job_id).status, engine.job(job_id).failure_code) == ("failed", "upstream_bad_credentials")
    assert engine.balance(account) == before
    engine.assert_books_balance()


def test_a_cancelled_job_does_not_fail_over(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    sandbox.add_fault("429", provider="openai", route="submit")
    job_id = ordered(engine, account)
    engine.run(job_id)
    with engine.database.transaction() as connection:
        lifecycle.cancel(connection, account.account_id, job_id)
    engine.drive()
    assert engine.job(job_id).status == "cancelled"
    assert submits(sandbox, "chatgpt2api") == 0


def test_faults_in_fallback_models_name_their_position(engine: Engine, account: Caller) -> None:
    with pytest.raises(InvalidOrderError) as caught:
        ordered(engine, account, quality="high", fallback_models=["nobody", ASYNC_MODEL, "flux-2-pro"])
    faults = {(fault.field, fault.code) for fault in caught.value.faults}
    assert ("fallback_models[0]", "unknown_model") in faults
    assert ("fallback_models[2]", "provider_not_configured") in faults


def test_an_operators_fallbacks_leave_out_models_that_cannot_take_the_order(
    engine: Engine, submission: SubmissionService
) -> None:
    submission.quoting._chains = {SYNC_MODEL: ["flux-2-pro", ASYNC_MODEL, SYNC_MODEL]}
    assert [each.model.id for each in quote(submission).fallbacks] == [ASYNC_MODEL]
    assert quote(submission, fallback_models=[]).fallbacks == []


def test_a_model_may_be_named_only_once(engine: Engine, submission: SubmissionService) -> None:
    names = [ASYNC_MODEL, SYNC_MODEL, ASYNC_MODEL]
    assert [each.model.id for each in quote(submission, fallback_models=names).fallbacks] == [ASYNC_MODEL]
