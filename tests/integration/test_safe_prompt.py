"""``safe_prompt``: a prompt refused at no cost is adjusted once, whatever crashes, and asked for at the same price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from job_engine import ASYNC_MODEL, SYNC_MODEL, Engine, Recorder

from accounts.keys import Caller
from core import failpoints
from jobs import lifecycle
from jobs.errors import StaleJobError
from jobs.execution.context import WorkerContext
from jobs.lifecycle.adjusting import NOTE
from jobs.submission.service import SubmissionService
from sandbox.counts import prompt_hash
from sandbox.testing import Sandbox

REFUSED = "a duel at dawn [sandbox:refuse at=submit]"


class Killed(BaseException):
    """The process dies here."""


@pytest.fixture
def adjusting(context: WorkerContext, submission: SubmissionService, sent: Recorder) -> Engine:
    """An engine whose workers have a language model."""
    return Engine(replace(context, prompt_providers=["openai"]), submission, sent)


def ordered(engine: Engine, account: Caller, prompt: str = REFUSED, **fields: Any) -> str:
    return engine.order(account, prompt, **{"safe_prompt": True, **fields}).task.id


def accepts(sandbox: Sandbox, provider: str) -> dict[str, int]:
    return dict(sandbox.counts().get(provider, {}).get("accepted_by_prompt", {}))


def chats(sandbox: Sandbox) -> int:
    return int(sandbox.counts().get("openai", {}).get("chats", 0))


@pytest.mark.parametrize(("model", "provider"), [(ASYNC_MODEL, "chatgpt2api"), (SYNC_MODEL, "openai")])
def test_a_refused_prompt_is_adjusted_once_and_both_wordings_stand(
    adjusting: Engine, account: Caller, sandbox: Sandbox, model: str, provider: str
) -> None:
    job_id = ordered(adjusting, account, model=model, size="64x64" if model == ASYNC_MODEL else "1024x640")
    quoted = adjusting.job(job_id).quoted
    adjusting.drive()
    task = adjusting.task(account, job_id)
    assert (task.status, task.captured_microcredits) == ("succeeded", quoted)
    assert task.request["original_prompt"] == REFUSED
    assert task.request["prompt"] not in (REFUSED, "")
    assert "sandbox:" not in (task.request["prompt"] or "")
    assert task.warnings == [NOTE]
    assert accepts(sandbox, provider) == {prompt_hash(task.request["prompt"] or ""): 1}
    assert chats(sandbox) == 1
    told = [name for name in adjusting.events(job_id) if name in ("adjusting", "adjusted")]
    assert told == ["adjusting", "adjusted"]
    adjusting.assert_books_balance()


def test_refused_again_is_final_and_free(adjusting: Engine, account: Caller, sandbox: Sandbox) -> None:
    sandbox.add_fault("refuse", provider="chatgpt2api", route="submit")
    job_id = ordered(adjusting, account, "a duel at dawn")
    adjusting.drive()
    task = adjusting.task(account, job_id)
    assert (task.status, task.failure_code, task.captured_microcredits) == ("failed", "content_refused", 0)
    assert task.warnings == [NOTE, "safe_prompt: the adjusted prompt was refused, too"]
    assert len(adjusting.calls(job_id)) == 2
    assert chats(sandbox) == 1
    adjusting.assert_books_balance()


def test_who_did_not_ask_keeps_the_wording(adjusting: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = adjusting.order(account, REFUSED).task.id
    adjusting.drive()
    task = adjusting.task(account, job_id)
    assert (task.status, task.request["prompt"], task.warnings) == ("failed", REFUSED, [])
    assert chats(sandbox) == 0


def test_without_a_language_model_the_refusal_stands_and_says_so(engine: Engine, account: Caller) -> None:
    job_id = ordered(engine, account)
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, task.failure_code) == ("failed", "content_refused")
    assert task.warnings == [
        "safe_prompt: no language model is configured here, so the refused prompt was not adjusted"
    ]


def test_a_language_model_that_refuses_too_leaves_the_refusal(
    adjusting: Engine, account: Caller, sandbox: Sandbox
) -> None:
    sandbox.add_fault("refuse", provider="openai", route="chat")
    job_id = ordered(adjusting, account)
    adjusting.drive()
    task = adjusting.task(account, job_id)
    assert (task.status, task.failure_code, task.captured_microcredits) == ("failed", "content_refused", 0)
    assert task.warnings == ["safe_prompt: the language model gave no other wording for the refused prompt"]
    assert "original_prompt" not in task.request
    adjusting.assert_books_balance()


def test_a_refusal_that_was_billed_is_final(adjusting: Engine, account: Caller) -> None:
    """Its images may be asked for only once: the upstream charged for this one."""
    job_id = ordered(adjusting, account, "a duel at dawn [sandbox:refuse at=submit]", model=SYNC_MODEL, size="1024x640")
    adjusting.drive(until=lambda: adjusting.job(job_id).safe_prompt == "adjusting")
    adjusting.sql("UPDATE upstream_calls SET written_off = true WHERE job_id = :id", id=job_id)
    adjusting.sql("UPDATE jobs SET safe_prompt = 'wanted', status = 'waiting' WHERE id = :id", id=job_id)
    adjusting.poll("openai")
    assert adjusting.job(job_id).failure_code == "content_refused"
    assert len(adjusting.calls(job_id)) == 1


def test_a_price_named_in_advance_is_no_charge(adjusting: Engine, account: Caller) -> None:
    """Flux names the price of a task when it takes it, and charges nothing for a prompt that it refuses."""
    job_id = ordered(adjusting, account)
    adjusting.drive(until=lambda: adjusting.job(job_id).safe_prompt == "adjusting")
    adjusting.sql("UPDATE upstream_calls SET reported_cost = 40000 WHERE job_id = :id", id=job_id)
    adjusting.drive()
    assert (adjusting.job(job_id).status, adjusting.job(job_id).attempt) == ("succeeded", 2)


@pytest.mark.parametrize("point", ["prompt.rewritten", "prompt.adjusted"])
def test_a_crash_around_the_rewriting_repeats_no_paid_call(
    adjusting: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    dead: list[str] = []

    def hit(name: str) -> None:
        if name == point and not dead:
            dead.append(name)
            raise Killed

    monkeypatch.setattr(failpoints, "hit", hit)
    job_id = ordered(adjusting, account)
    with pytest.raises(Killed):
        adjusting.drive()
    assert adjusting.job(job_id).safe_prompt == ("adjusting" if point == "prompt.rewritten" else "adjusted")
    adjusting.drive()
    task = adjusting.task(account, job_id)
    assert (task.status, task.attempt) == ("succeeded", 2)
    assert list(accepts(sandbox, "chatgpt2api").values()) == [1]
    adjusting.assert_books_balance()


def test_no_claim_takes_a_job_before_it_has_its_new_wording(adjusting: Engine, account: Caller) -> None:
    job_id = ordered(adjusting, account)
    adjusting.drive(until=lambda: adjusting.job(job_id).safe_prompt == "adjusting")
    with adjusting.database.transaction() as connection, pytest.raises(StaleJobError):
        lifecycle.claim(connection, job_id, owner="wkr_test", step_s={})


def test_a_prompt_is_adjusted_once_in_the_life_of_a_job(adjusting: Engine, account: Caller) -> None:
    job_id = adjusting.order(account, publish=False).task.id
    adjusting.sql("UPDATE jobs SET safe_prompt = 'adjusted' WHERE id = :id", id=job_id)
    adjusting.drive(until=lambda: adjusting.job(job_id).status == "waiting")
    version = adjusting.job(job_id).version
    with adjusting.database.transaction() as connection, pytest.raises(StaleJobError):
        lifecycle.adjust(connection, job_id, version, code="content_refused", deadline_s={})


def test_a_second_rewriting_is_dropped(adjusting: Engine, account: Caller) -> None:
    job_id = ordered(adjusting, account)
    adjusting.drive(until=lambda: adjusting.job(job_id).safe_prompt == "adjusting")
    with adjusting.database.hot() as hot:
        taken = lifecycle.take_adjusting(hot, job_id, lease_s=60)
        assert taken is not None
        assert lifecycle.take_adjusting(hot, job_id, lease_s=60) is None
        lifecycle.adjusted(hot, job_id, taken.version, prompt="first")
        with pytest.raises(StaleJobError):
            lifecycle.adjusted(hot, job_id, taken.version, prompt="second")
    assert adjusting.task(account, job_id).request["prompt"] == "first"


def test_a_cancel_while_the_prompt_is_rewritten_is_final(adjusting: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = ordered(adjusting, account)
    adjusting.drive(until=lambda: adjusting.job(job_id).safe_prompt == "adjusting")
    with adjusting.database.transaction() as connection:
        lifecycle.cancel(connection, account.account_id, job_id, charge="full")
    adjusting.drive()
    assert adjusting.job(job_id).status == "cancelled"
    assert accepts(sandbox, "chatgpt2api") == {}
    adjusting.assert_books_balance()


def test_the_models_behind_are_asked_with_the_new_wording(adjusting: Engine, account: Caller, sandbox: Sandbox) -> None:
    sandbox.add_fault("fail", provider="openai", route="submit", prompt_contains=", ")
    job_id = ordered(adjusting, account, model=SYNC_MODEL, size="1024x640", fallback_models=[ASYNC_MODEL])
    adjusting.drive()
    task = adjusting.task(account, job_id)
    assert (task.status, task.model, task.request["original_prompt"]) == ("succeeded", ASYNC_MODEL, REFUSED)
    assert accepts(sandbox, "chatgpt2api") == {prompt_hash(task.request["prompt"] or ""): 1}
