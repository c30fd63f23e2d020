"""Running jobs against the sandbox: every kind of answer, and no answer."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from job_engine import ASYNC_PRICE, SYNC_MODEL, Engine, make_context, refuse_to_keep
from sqlalchemy import text

from accounts.keys import Caller
from core.db import Hot, Statement
from core.embedded.ports import free_ports
from core.errors import DatabaseAwayError
from jobs import lifecycle
from jobs.call import KeptImage
from jobs.dispatch import heartbeats
from jobs.execution import collect, give_up, outcomes, poll, run
from jobs.execution import finish as finishing
from jobs.execution.context import WorkerContext
from jobs.execution.outcomes import CallOutcome
from jobs.reads import worker
from jobs.states import Nudge, Outcome, Signal
from jobs.submission.order import ReferenceImage
from providers import registry
from providers.base import Accepted, Finished, UpstreamCancel
from providers.catalog.catalog import UnknownModelError
from sandbox.testing import Sandbox
from storage.local import LocalStore

SYNC_SIZE = "1024x640"
SYNC: dict[str, Any] = {"model": SYNC_MODEL, "size": SYNC_SIZE}


def counts(sandbox: Sandbox, provider: str = "chatgpt2api") -> dict[str, Any]:
    return dict(sandbox.counts().get(provider) or {"submits": 0, "accepted": 0, "submits_by_key": {}})


def outcome(engine: Engine, job_id: str) -> tuple[str, str | None]:
    row = engine.job(job_id)
    return row.status, row.failure_code


# ------------------------------------------------------------------ success


def test_an_asynchronous_job_ends_with_its_image_kept_and_paid(
    engine: Engine, account: Caller, sandbox: Sandbox, store: LocalStore
) -> None:
    job_id = engine.order(account, metadata={"for": "me"}).task.id
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, task.captured_microcredits, task.released_microcredits, task.warnings) == (
        "succeeded",
        ASYNC_PRICE,
        0,
        [],
    )
    [image] = task.images
    assert (image.width_px, image.height_px, image.mime) == (64, 64, "image/png")
    assert hashlib.sha256(store.read(image.key)).hexdigest() == image.sha256
    assert engine.events(job_id) == ["queued", "started", "waiting", "collecting", "succeeded"]
    assert engine.transfers(job_id) == {"hold": ASYNC_PRICE, "capture": ASYNC_PRICE}
    [call] = engine.calls(job_id)
    assert counts(sandbox)["submits_by_key"] == {call.dedupe_key: 1}
    engine.assert_books_balance()


def test_a_synchronous_job_ends_in_one_step(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = engine.order(account, **SYNC).task.id
    engine.run(job_id)
    assert outcome(engine, job_id) == ("succeeded", None)
    assert engine.events(job_id) == ["queued", "started", "succeeded"]
    assert counts(sandbox, "openai")["submits"] == 1
    engine.assert_books_balance()


def test_three_images_at_one_image_per_call_make_three_calls(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = engine.order(account, n=3).task.id
    engine.drive()
    assert [image.index for image in engine.task(account, job_id).images] == [0, 1, 2]
    assert counts(sandbox)["submits"] == 3
    assert engine.transfers(job_id) == {"hold": 3 * ASYNC_PRICE, "capture": 3 * ASYNC_PRICE}
    engine.assert_books_balance()


def test_two_images_at_several_images_per_call_make_one_call(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = engine.order(account, n=2, **SYNC).task.id
    engine.drive()
    assert len(engine.task(account, job_id).images) == 2
    assert counts(sandbox, "openai")["submits"] == 1
    engine.assert_books_balance()


def test_an_edit_sends_its_reference_images(engine: Engine, account: Caller, sandbox: Sandbox, png: bytes) -> None:
    job_id = engine.order(account, operation="edit", references=[ReferenceImage("image", png)]).task.id
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert any("/edits" in request["path"] for request in sandbox.requests("chatgpt2api"))


def test_only_the_images_made_are_charged(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account, "two [sandbox:fewer=1]", n=2, **SYNC).task.id
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, task.captured_microcredits, task.released_microcredits) == (
        "succeeded",
        task.quoted_microcredits // 2,
        task.quoted_microcredits // 2,
    )
    assert task.warnings == ["1 of 2 images were made; the others were not charged"]
    engine.assert_books_balance()


def test_more_images_than_asked_are_neither_kept_nor_charged(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    [adapter] = engine.context.registry.of("openai")
    submit = adapter.submit

    def generous(*args: Any, **kwargs: Any) -> Finished:
        return Finished(list(submit(*args, **kwargs).images) * 3)

    monkeypatch.setattr(adapter, "submit", generous)
    job_id = engine.order(account, **SYNC).task.id
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, len(task.images), task.captured_microcredits) == ("succeeded", 1, task.quoted_microcredits)
    engine.assert_books_balance()


def test_one_refused_image_of_three_is_not_charged(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account, "three [sandbox:fail=policy times=1]", n=3).task.id
    engine.drive()
    task = engine.task(account, job_id)
    assert (task.status, task.captured_microcredits, task.released_microcredits) == (
        "succeeded",
        2 * ASYNC_PRICE,
        ASYNC_PRICE,
    )
    assert task.warnings == ["2 of 3 images were made (content_refused); the others were not charged"]
    engine.assert_books_balance()


# ------------------------------------------------------------------ known failures


@pytest.mark.parametrize(
    ("marker", "fields", "code"),
    [
        ("refuse", {}, "content_refused"),
        ("fail=policy", {}, "content_refused"),
        ("fail=guardrails", {}, "content_refused"),
        ("fail=sorry", {}, "content_refused"),
        ("refuse", SYNC, "content_refused"),
        ("fail=policy", SYNC, "content_refused"),
    ],
)
def test_a_refusal_is_final_and_free(  # noqa: PLR0917 - fixtures come by name
    engine: Engine, account: Caller, sandbox: Sandbox, marker: str, fields: dict[str, Any], code: str
) -> None:
    before = engine.balance(account)
    job_id = engine.order(account, f"no [sandbox:{marker}]", **fields).task.id
    engine.drive()
    assert outcome(engine, job_id) == ("failed", code)
    assert engine.balance(account) == before
    quoted = engine.job(job_id).quoted
    assert engine.transfers(job_id) == {"hold": quoted, "release": quoted}
    assert counts(sandbox, "openai" if fields else "chatgpt2api")["submits"] == 1
    engine.assert_books_balance()


@pytest.mark.parametrize("fields", [{}, SYNC])
def test_a_retryable_failure_is_retried_under_a_new_key(
    engine: Engine, account: Caller, sandbox: Sandbox, fields: dict[str, Any]
) -> None:
    job_id = engine.order(account, "soon [sandbox:fail=500 times=1]", **fields).task.id
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    first, second = engine.calls(job_id)
    assert (first.outcome, second.outcome) == ("failed", "kept")
    assert first.dedupe_key != second.dedupe_key
    assert (getattr(first, "try"), getattr(second, "try")) == (1, 2)
    assert "retry" in engine.events(job_id)
    engine.assert_books_balance()


def test_a_retry_waits_for_its_back_off(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account, "later [sandbox:fail=500 times=1]", **SYNC).task.id
    engine.run(job_id)
    wait_s = engine.one("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM jobs WHERE id = :i", i=job_id)
    assert engine.job(job_id).status == "queued"
    assert 1 < wait_s < 3
    engine.run(job_id)  # an early message does not start it early
    assert engine.job(job_id).status == "queued"


def test_after_the_last_attempt_the_credits_are_returned(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    before = engine.balance(account)
    job_id = engine.order(account, "never [sandbox:fail=500]").task.id
    engine.drive()
    assert outcome(engine, job_id) == ("failed", "upstream_failed")
    assert counts(sandbox)["submits"] == engine.context.max_attempts == engine.job(job_id).attempt
    assert engine.balance(account) == before
    engine.assert_books_balance()


@pytest.mark.parametrize("fields", [{}, SYNC])
def test_a_job_for_an_upstream_that_is_away_is_retried_with_back_off_and_then_fails(
    engine: Engine, account: Caller, fields: dict[str, Any], upstreams: dict[str, str]
) -> None:
    unreachable = f"http://127.0.0.1:{free_ports(1)[0]}"
    away = {**upstreams, "CHATGPT2API_BASE_URL": unreachable, "OPENAI_BASE_URL": f"{unreachable}/v1"}
    engine.context = replace(engine.context, registry=registry.load(away))
    engine.sweeper.context = engine.context
    before = engine.balance(account)
    job_id = engine.order(account, **fields).task.id
    engine.drive()
    assert outcome(engine, job_id) == ("failed", "upstream_unreachable")
    assert [call.outcome for call in engine.calls(job_id)] == ["not_run"] * 3
    assert engine.balance(account) == before
    engine.assert_books_balance()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        *((fault, "upstream_failed") for fault in ("curl", "incomplete", "unfetched", "dav", "disk", "code", "decode")),
        ("text", "upstream_said_no"),
        ("a_fault_of_tomorrow", "upstream_said_no"),
    ],
)
def test_a_fault_of_the_gateway_itself_is_tried_again(
    engine: Engine, account: Caller, sandbox: Sandbox, fault: str, code: str
) -> None:
    job_id = engine.order(account, f"soon [sandbox:fail={fault} times=1]").task.id
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert [call.error_code for call in engine.calls(job_id)] == [code, None]
    assert counts(sandbox)["submits"] == 2
    engine.assert_books_balance()


@pytest.mark.parametrize("fault", ["quota", "tried", "plus", "limit", "spent"])
def test_a_task_says_that_it_waits_for_an_empty_pool_and_until_when(
    engine: Engine, account: Caller, fault: str
) -> None:
    job_id = engine.order(account, f"soon [sandbox:fail={fault}]").task.id
    assert engine.task(account, job_id).waiting is None
    engine.drive(until=lambda: engine.job(job_id).status == "queued" and engine.job(job_id).attempt == 1)
    task = engine.task(account, job_id)
    assert (task.status, task.failure_code) == ("queued", None)
    assert engine.transfers(job_id) == {"hold": task.quoted_microcredits}
    assert task.waiting is not None
    assert task.waiting.code == "upstream_pool_empty"
    assert task.waiting.first_call_at == task.started_at
    assert 290 < (task.waiting.retry_at - task.waiting.first_call_at).total_seconds() < 400
    assert task.waiting.until(3600) == task.waiting.first_call_at + timedelta(hours=1)


@pytest.mark.parametrize(("fault", "fields"), [("fail=quota", {}), ("429 retry_after=77", {}), ("429", SYNC)])
@pytest.mark.parametrize("changed", [{"max_attempts": 1}, {"max_wait_s": 0.0}])
def test_the_settings_bound_the_calls_and_the_wait(  # noqa: PLR0917 - fixtures come by name
    engine: Engine,
    account: Caller,
    sandbox: Sandbox,
    fault: str,
    fields: dict[str, Any],
    changed: dict[str, Any],
) -> None:
    if changed == {"max_wait_s": 0.0} and fault == "429":
        changed = {"max_wait_s": -1.0}  # without a pause that the upstream asks for, the first try again is at once
    engine.context = replace(engine.context, **changed)
    engine.sweeper.context = engine.context
    before = engine.balance(account)
    job_id = engine.order(account, f"no [sandbox:{fault}]", **fields).task.id
    engine.drive()
    code = "upstream_pool_empty" if fault == "fail=quota" else "upstream_rate_limited"
    assert outcome(engine, job_id) == ("failed", code)
    assert counts(sandbox, "openai" if fields else "chatgpt2api")["submits"] == 1
    assert engine.balance(account) == before
    engine.assert_books_balance()


@pytest.mark.parametrize("fields", [{}, SYNC])
def test_a_429_waits_as_long_as_asked_and_gets_more_tries(
    engine: Engine, account: Caller, fields: dict[str, Any]
) -> None:
    job_id = engine.order(account, "busy [sandbox:429 retry_after=77 times=4]", **fields).task.id
    engine.run(job_id)
    wait_s = engine.one("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM jobs WHERE id = :i", i=job_id)
    assert 76 < wait_s <= 77
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert [call.outcome for call in engine.calls(job_id)] == ["not_run"] * 4 + ["kept"]
    engine.assert_books_balance()


def test_a_very_long_retry_after_is_bounded(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account, "busy [sandbox:429 retry_after=1000000000]").task.id
    engine.run(job_id)
    wait_s = engine.one("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM jobs WHERE id = :i", i=job_id)
    assert wait_s <= 600


# ------------------------------------------------------------------ unknown outcomes


def test_a_dropped_answer_is_looked_up_and_not_bought_again(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = engine.order(account, "gone [sandbox:drop]").task.id
    engine.run(job_id)
    [call] = engine.calls(job_id)
    assert (engine.job(job_id).status, call.outcome) == ("waiting", "uncertain")
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert (counts(sandbox)["submits"], counts(sandbox)["accepted"]) == (1, 1)
    engine.assert_books_balance()


def test_a_request_that_never_arrived_is_resent_once_under_the_same_key(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    job_id = engine.order(account, "lost [sandbox:drop accept=0 times=1]").task.id
    engine.run(job_id)
    engine.poll()
    [call] = engine.calls(job_id)
    assert call.missing_since is not None
    engine.poll()  # missing again, but not for long enough
    assert counts(sandbox)["submits"] == 1
    engine.sql("UPDATE upstream_calls SET missing_since = missing_since - interval '5 seconds'")
    engine.poll()
    assert counts(sandbox)["submits_by_key"] == {call.dedupe_key: 2}
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert (counts(sandbox)["accepted"], engine.calls(job_id)[0].resends) == (1, 1)
    engine.assert_books_balance()


def test_a_request_that_never_arrives_is_given_up(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = engine.order(account, "lost [sandbox:drop accept=0]").task.id
    engine.run(job_id)
    for _ in range(6):
        engine.poll()
        engine.sql("UPDATE upstream_calls SET missing_since = missing_since - interval '5 seconds'")
    assert outcome(engine, job_id) == ("failed", "upstream_uncertain")
    assert counts(sandbox)["submits"] == 3
    assert engine.calls(job_id)[0].written_off
    engine.assert_books_balance()


@pytest.mark.parametrize("marker", ["drop", "504", "garbage", "garbage=html", "wrong_type", "garbage=deep"])
def test_an_unknown_outcome_of_a_call_that_cannot_be_looked_up_is_never_repeated(
    engine: Engine, account: Caller, sandbox: Sandbox, marker: str
) -> None:
    before = engine.balance(account)
    job_id = engine.order(account, f"hm [sandbox:{marker}]", **SYNC).task.id
    engine.drive()
    row, [call] = engine.job(job_id), engine.calls(job_id)
    assert (row.status, call.outcome, call.written_off) == ("failed", "lost", True)
    assert counts(sandbox, "openai")["submits"] == 1
    assert engine.balance(account) == before
    engine.assert_books_balance()


@pytest.mark.parametrize("marker", ["garbage", "garbage=empty", "wrong_type", "wrong_id", "huge=6", "cut"])
def test_a_broken_answer_to_a_submit_is_looked_up(
    engine: Engine, account: Caller, sandbox: Sandbox, marker: str
) -> None:
    job_id = engine.order(account, f"hm [sandbox:{marker} times=1]").task.id
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert counts(sandbox)["submits"] == 1
    engine.assert_books_balance()


@pytest.mark.parametrize(
    ("marker", "code"),
    [("truncated", "bad_result"), ("html", "bad_result"), ("svg", "bad_result"), ("bomb", "result_too_large")],
)
def test_a_result_that_is_no_image_is_neither_delivered_nor_charged(
    engine: Engine, account: Caller, store: LocalStore, marker: str, code: str
) -> None:
    job_id = engine.order(account, f"bad [sandbox:{marker}]").task.id
    engine.drive()
    assert outcome(engine, job_id) == ("failed", code)
    assert engine.calls(job_id)[0].written_off
    assert list(store.iter_keys(f"jobs/{job_id}/")) == []
    assert engine.job(job_id).captured == 0
    engine.assert_books_balance()


def test_an_image_behind_a_dead_link_is_not_bought_again(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = engine.order(account, "dead [sandbox:dead_link times=1]").task.id
    engine.drive()
    assert outcome(engine, job_id) == ("failed", "result_gone")
    assert counts(sandbox)["accepted"] == 1
    assert engine.calls(job_id)[0].written_off
    engine.assert_books_balance()


def test_a_task_lost_by_the_upstream_is_ordered_again_under_a_new_key(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    job_id = engine.order(account, "old [sandbox:latency=100 times=1, expire=0 times=1]").task.id
    engine.run(job_id)
    sandbox.advance_clock(200)
    engine.poll()
    assert engine.calls(job_id)[0].outcome == "accepted"  # missing once proves nothing
    engine.sql("UPDATE upstream_calls SET missing_since = missing_since - interval '5 seconds'")
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    first, second = engine.calls(job_id)
    assert (first.error_code, second.outcome) == ("upstream_lost", "kept")
    assert first.dedupe_key != second.dedupe_key


def test_a_call_past_its_deadline_is_given_up_after_a_last_status_check(engine: Engine, account: Caller) -> None:
    before = engine.balance(account)
    job_id = engine.order(account, "slow [sandbox:never]").task.id
    done = engine.order(account, "ready").task.id
    for each in (job_id, done):
        engine.run(each)
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp()")
    engine.drive()
    assert outcome(engine, job_id) == ("failed", "upstream_timeout")
    [call] = engine.calls(job_id)
    assert (call.outcome, call.written_off) == ("timed_out", True)
    assert outcome(engine, done) == ("succeeded", None)  # the last look found it
    assert engine.balance(account).available == before.available - ASYNC_PRICE
    engine.assert_books_balance()


# ------------------------------------------------------------------ permits


def test_a_full_credential_puts_jobs_off_without_hold_event_or_attempt(engine: Engine, account: Caller) -> None:
    engine.limit("chatgpt2api", max_active=1)
    first, second = (engine.order(account, f"one of two {i} [sandbox:never]").task.id for i in range(2))
    engine.run(first)
    before, timeline = engine.balance(account), engine.events(second)
    engine.run(second)
    row = engine.job(second)
    assert (row.status, row.attempt, row.money, row.published_at) == ("queued", 0, "queued", None)
    assert engine.one("SELECT due_at > clock_timestamp() FROM jobs WHERE id = :id", id=second)
    assert (engine.events(second), engine.balance(account)) == (timeline, before)
    engine.assert_books_balance()


@pytest.mark.parametrize("prompt", ["well", "no [sandbox:refuse]", "no [sandbox:fail=policy]", "hm [sandbox:429]"])
def test_every_end_of_a_call_releases_its_permit(engine: Engine, account: Caller, prompt: str) -> None:
    engine.limit("chatgpt2api", max_active=1)
    for number in range(2):
        engine.order(account, f"{prompt} {number}")
    engine.drive(until=lambda: engine.one("SELECT count(*) FROM upstream_calls WHERE closed_at IS NOT NULL") >= 2)
    engine.drive(until=lambda: engine.one("SELECT count(call_id) FROM permits") == 0)
    engine.assert_books_balance()


def test_calls_without_a_permit_are_made_when_one_is_free(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    engine.limit("chatgpt2api", max_active=2)
    job_id = engine.order(account, n=3).task.id
    engine.run(job_id)
    assert len(engine.calls(job_id)) == 2
    engine.drive()
    assert len(engine.task(account, job_id).images) == 3
    assert counts(sandbox)["submits"] == 3
    engine.assert_books_balance()


def test_a_paused_credential_is_not_used(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    engine.sql("UPDATE credentials SET paused_at = clock_timestamp()")
    job_id = engine.order(account).task.id
    engine.run(job_id)
    assert (engine.job(job_id).status, counts(sandbox)["submits"]) == ("queued", 0)


# ------------------------------------------------------------------ cancel


@pytest.mark.parametrize(("charge", "captured"), [("full", True), ("none", False)])
def test_a_synchronous_call_cannot_be_stopped(
    engine: Engine, account: Caller, charge: Any, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancel comes while the call is open, before its answer is recorded."""
    engine.context = replace(engine.context, cancel_charge=charge)
    job_id = engine.order(account, **SYNC).task.id
    [openai] = engine.context.registry.of("openai")
    submit = openai.submit

    def submit_and_cancel(*args: Any, **kwargs: Any) -> Finished | Accepted:
        done = submit(*args, **kwargs)
        cancel(engine, account, job_id)
        return done

    monkeypatch.setattr(openai, "submit", submit_and_cancel)
    engine.run(job_id)
    row = engine.job(job_id)
    assert (row.status, row.cancel_outcome) == ("cancelled", "too_late")
    assert row.captured == (row.quoted if captured else 0)
    assert len(engine.task(account, job_id).images) == 1
    engine.assert_books_balance()


def test_a_call_that_cannot_be_stopped_upstream_is_followed_to_its_end(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    job_id = engine.order(account, "on [sandbox:latency=100]").task.id
    engine.run(job_id)
    assert cancel(engine, account, job_id) == "stop_requested"
    engine.poll()
    assert (engine.job(job_id).status, engine.calls(job_id)[0].cancel_asked_at is not None) == ("waiting", True)
    sandbox.advance_clock(200)
    engine.drive()
    row = engine.job(job_id)
    assert (row.status, row.cancel_outcome, row.captured) == ("cancelled", "too_late", ASYNC_PRICE)
    engine.assert_books_balance()


def test_a_call_stopped_by_the_upstream_is_free(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    [adapter] = engine.context.registry.of("chatgpt2api")
    monkeypatch.setattr(adapter, "cancel", lambda call: UpstreamCancel.STOPPED)
    job_id = engine.order(account, "on [sandbox:never]", n=2).task.id
    engine.run(job_id)
    cancel(engine, account, job_id)
    engine.drive()
    row = engine.job(job_id)
    assert (row.status, row.cancel_outcome, row.captured) == ("cancelled", "stopped_upstream", 0)
    assert {call.outcome for call in engine.calls(job_id)} == {"cancelled"}
    engine.assert_books_balance()


def test_a_cancelled_job_is_not_retried(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = engine.order(account, "no [sandbox:latency=100, fail=500]").task.id
    engine.run(job_id)
    cancel(engine, account, job_id)
    sandbox.advance_clock(200)
    engine.drive()
    assert (engine.job(job_id).status, counts(sandbox)["submits"]) == ("cancelled", 1)
    engine.assert_books_balance()


# ------------------------------------------------------------------ crashes and outages


def test_an_order_that_cannot_be_built_is_not_sent(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "build_order", lambda *args: 1 / 0)
    job_id = engine.order(account, **SYNC).task.id
    engine.drive()
    assert outcome(engine, job_id) == ("failed", "internal_error")
    assert [call.outcome for call in engine.calls(job_id)] == ["not_run"] * 3
    engine.assert_books_balance()


def test_a_lost_reference_image_fails_the_job_with_its_credits_back(
    engine: Engine, account: Caller, sandbox: Sandbox, store: LocalStore, png: bytes
) -> None:
    job_id = engine.order(account, operation="edit", references=[ReferenceImage("image", png)]).task.id
    for key in list(store.iter_keys(f"inputs/{job_id}/")):
        store.delete(key)
    engine.drive()
    assert outcome(engine, job_id) == ("failed", "storage_unavailable")
    assert counts(sandbox)["submits"] == 0
    engine.assert_books_balance()


def test_an_exception_after_a_paid_request_makes_its_call_uncertain(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [adapter] = engine.context.registry.of("chatgpt2api")
    submit = adapter.submit

    def broken(*args: Any, **kwargs: Any) -> None:
        submit(*args, **kwargs)
        raise KeyError("a bug")

    monkeypatch.setattr(adapter, "submit", broken)
    job_id = engine.order(account).task.id
    engine.run(job_id)
    assert engine.calls(job_id)[0].outcome == "uncertain"
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert counts(sandbox)["submits"] == 1


def test_a_crashed_step_is_taken_over_at_once(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = engine.order(account).task.id
    with monkeypatch.context() as patch:
        patch.setattr(run, "finish", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(run.CrashedStepError) as crash:
            run.run_job(engine.context, job_id)
    assert give_up.after_crash(engine.context, crash.value) == [Nudge("jobs.poll", "polls", "chatgpt2api")]
    assert (engine.job(job_id).status, engine.calls(job_id)[0].outcome) == ("waiting", "uncertain")
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert counts(sandbox)["submits"] == 1
    engine.assert_books_balance()


def test_a_model_that_left_the_catalogue_fails_its_jobs(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = engine.order(account).task.id

    def gone(*args: Any, **kwargs: Any) -> None:
        raise UnknownModelError("gone", ())

    monkeypatch.setattr(WorkerContext, "model", gone)
    before = engine.balance(account).spendable
    engine.run(job_id)
    assert outcome(engine, job_id) == ("failed", "model_unavailable")
    assert engine.balance(account).spendable == before + ASYNC_PRICE
    engine.assert_books_balance()


def test_an_answer_is_recorded_after_a_short_database_outage(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A synchronous image is paid for, so it is held in memory until it can be recorded."""
    tries = []

    def away(*args: Any, **kwargs: Any) -> object:
        tries.append(args)
        if len(tries) < 3:
            raise DatabaseAwayError("gone for a moment")
        return end(*args, **kwargs)

    end = lifecycle.end
    monkeypatch.setattr(lifecycle, "end", away)
    job_id = engine.order(account, **SYNC).task.id
    engine.run(job_id)
    assert len(tries) == 3
    assert outcome(engine, job_id) == ("succeeded", None)
    assert counts(sandbox, "openai")["submits"] == 1
    engine.assert_books_balance()


@pytest.mark.parametrize("fields", [{}, SYNC])
def test_a_commit_whose_answer_was_lost_is_recognised(  # noqa: PLR0917 - fixtures come by name
    engine: Engine,
    account: Caller,
    sandbox: Sandbox,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
) -> None:
    """Every statement that moves the job is committed, and the first answer to each is lost."""
    lost = set()
    ask = Hot.all

    def lose_the_answer(hot: Hot, statement: Statement, values: Any) -> Any:
        rows = ask(hot, statement, values)
        if b"UPDATE jobs" in statement.query and statement not in lost:
            lost.add(statement)
            raise DatabaseAwayError("the answer to COMMIT was lost")
        return rows

    job_id = engine.order(account, **fields).task.id
    with monkeypatch.context() as cut:
        cut.setattr(Hot, "all", lose_the_answer)
        engine.run(job_id)
    assert len(lost) > 1
    engine.drive()
    task = engine.task(account, job_id)
    assert task.status == "succeeded"
    assert all(store.exists(image.key) for image in task.images)
    assert counts(sandbox, task.provider)["submits"] == 1
    engine.assert_books_balance()


def test_a_claim_that_was_not_committed_sends_nothing(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Hot.all

    def never_arrives(hot: Hot, statement: Statement, values: Any) -> Any:
        if b"UPDATE jobs" in statement.query:
            raise DatabaseAwayError("gone before it was sent")
        return ask(hot, statement, values)

    job_id = engine.order(account).task.id
    with monkeypatch.context() as cut:
        cut.setattr(Hot, "all", never_arrives)
        with pytest.raises(DatabaseAwayError):  # the next statement finds it away, too
            engine.run(job_id)
    assert (engine.job(job_id).status, counts(sandbox)["submits"]) == ("queued", 0)


# ------------------------------------------------------------------ late workers


def zombie(engine: Engine, upstreams: dict[str, str], owner: str = "wkr_zombie") -> Engine:
    """Another worker, which the tests let count as dead."""
    context = make_context(
        database=engine.database,
        models=engine.context.catalog,
        media=engine.context.media,
        store=engine.context.store,
        environ=upstreams,
        sent=engine.sent,
        owner=owner,
    )
    return Engine(context, engine.submission, engine.sent)


def leave(engine: Engine, owner: str = "wkr_zombie") -> None:
    with engine.database.autocommit() as connection:
        heartbeats.leave(connection, owner)


@pytest.mark.parametrize("wait_for", ["lapse", "found", "end"])
def test_a_worker_that_wakes_up_late_records_its_outcome_and_changes_nothing_else(  # noqa: PLR0917 - fixtures come by name
    engine: Engine,
    account: Caller,
    sandbox: Sandbox,
    upstreams: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    wait_for: str,
) -> None:
    late = zombie(engine, upstreams)
    [adapter] = late.context.registry.of("chatgpt2api")
    submit = adapter.submit

    def asleep(*args: Any, **kwargs: Any) -> Finished | Accepted:
        answer = submit(*args, **kwargs)
        leave(engine)
        engine.context.publish(engine.sweeper.sweep())
        if wait_for == "found":  # and not yet collected
            with monkeypatch.context() as away:
                refuse_to_keep(away)
                engine.poll()
            assert engine.calls(job_id)[0].outcome == "finished"
        elif wait_for == "end":
            engine.drive()
        return answer

    monkeypatch.setattr(adapter, "submit", asleep)
    job_id = engine.order(account).task.id
    late.run(job_id)
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert [call.outcome for call in engine.calls(job_id)] == ["kept"]
    assert engine.events(job_id).count("succeeded") == 1
    assert counts(sandbox)["submits"] == 1
    engine.assert_books_balance()


def test_a_late_synchronous_image_is_delivered_to_a_waiting_job(
    engine: Engine, account: Caller, sandbox: Sandbox, upstreams: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = zombie(engine, upstreams)
    [adapter] = late.context.registry.of("openai")
    submit = adapter.submit

    def asleep(*args: Any, **kwargs: Any) -> Finished | Accepted:
        answer = submit(*args, **kwargs)
        leave(engine)
        engine.context.publish(engine.sweeper.sweep())
        engine.poll("openai")
        assert engine.job(job_id).status == "waiting"  # not given up before its time
        return answer

    monkeypatch.setattr(adapter, "submit", asleep)
    job_id = engine.order(account, **SYNC).task.id
    late.run(job_id)
    engine.drive()
    assert outcome(engine, job_id) == ("succeeded", None)
    assert counts(sandbox, "openai")["submits"] == 1
    engine.assert_books_balance()


def test_a_late_image_for_an_ended_job_is_written_off_and_deleted(
    engine: Engine, account: Caller, upstreams: dict[str, str], store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, before = zombie(engine, upstreams), engine.balance(account)
    [adapter] = late.context.registry.of("openai")
    submit = adapter.submit

    def asleep(*args: Any, **kwargs: Any) -> Finished | Accepted:
        answer = submit(*args, **kwargs)
        leave(engine)
        engine.context.publish(engine.sweeper.sweep())
        engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp()")
        engine.drive()
        return answer

    monkeypatch.setattr(adapter, "submit", asleep)
    job_id = engine.order(account, **SYNC).task.id
    late.run(job_id)
    assert outcome(engine, job_id) == ("failed", "upstream_uncertain")
    [call] = engine.calls(job_id)
    assert (call.outcome, call.written_off) == ("lost", True)
    assert list(store.iter_keys(f"jobs/{job_id}/")) == []
    assert engine.balance(account) == before
    engine.assert_books_balance()


def test_a_late_answer_does_not_delete_the_same_image_of_a_later_call(
    engine: Engine, account: Caller, store: LocalStore
) -> None:
    """The first call failed and was repeated; then its worker gets images after all, with the same bytes."""
    job_id = engine.order(account, "soon [sandbox:fail=500 times=1]", **SYNC).task.id
    engine.drive()
    [image] = engine.task(account, job_id).images
    with engine.database.autocommit() as connection:
        job = worker.load(connection, job_id)
    assert job is not None
    kept = KeptImage(0, image.key, image.mime, image.width_px, image.height_px, image.size_bytes, image.sha256)
    assert finishing.finish(engine.context, job, [CallOutcome(job.calls[0], Outcome.KEPT, images=[kept])]) == []
    assert store.exists(image.key)
    engine.assert_books_balance()


def test_a_second_collector_does_not_delete_the_first_ones_image(
    engine: Engine, account: Caller, upstreams: dict[str, str], store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both store the same bytes under the same key; the later one finds the job ended."""
    late = zombie(engine, upstreams)
    job_id = engine.order(account).task.id
    engine.run(job_id)
    finish = finishing.finish

    def overtaken(*args: Any, **kwargs: Any) -> list[Signal]:
        monkeypatch.setattr(poll, "finish", finish)
        leave(engine)
        engine.context.publish(engine.sweeper.sweep())
        engine.drive()
        return finish(*args, **kwargs)

    monkeypatch.setattr(poll, "finish", overtaken)
    late.poll()
    [image] = engine.task(account, job_id).images
    assert hashlib.sha256(store.read(image.key)).hexdigest() == image.sha256
    engine.assert_books_balance()


def test_a_link_that_cannot_be_fetched_yet_is_retried_later_and_not_at_once(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect._keep_one.retry, "wait", lambda state: 0)
    sandbox.add_fault("503", provider="chatgpt2api", route="download")
    job_id = engine.order(account).task.id
    engine.sent.take()
    engine.run(job_id)
    engine.poll()
    assert (engine.job(job_id).status, engine.calls(job_id)[0].outcome) == ("waiting", "finished")
    wait_s = engine.one("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM jobs WHERE id = :i", i=job_id)
    assert wait_s > 8
    assert engine.sent.take() == []
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp()")
    engine.drive()
    assert outcome(engine, job_id) == ("failed", "result_unavailable")
    engine.assert_books_balance()


def cancel(engine: Engine, customer: Caller, job_id: str) -> str:
    with engine.database.transaction() as connection:
        answer = lifecycle.cancel(connection, customer.account_id, job_id)
    engine.context.publish(answer.signals)
    return answer.outcome


def test_an_answer_and_a_lapse_at_once_do_not_deadlock(engine: Engine, account: Caller) -> None:
    """A lapse locks the job and then its calls; an answer must lock them in the same order."""
    job_id = engine.order(account, "on [sandbox:never]").task.id
    engine.run(job_id)
    with engine.database.autocommit() as connection:
        job = worker.load(connection, job_id)
    assert job is not None
    answer = CallOutcome(job.calls[0], Outcome.NOT_RUN)

    def write() -> None:
        with engine.database.transaction() as connection:
            outcomes.record(connection, answer)

    writer = threading.Thread(target=write)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with engine.database.transaction() as connection:
        connection.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
        writer.start()
        until = time.monotonic() + 5
        while not engine.one(waits) and time.monotonic() < until:
            time.sleep(0.01)
        connection.execute(text("SELECT 1 FROM upstream_calls WHERE job_id = :id FOR UPDATE NOWAIT"), {"id": job_id})
    writer.join()
    assert engine.calls(job_id)[0].outcome == "not_run"
