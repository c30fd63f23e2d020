"""A provider that answers most orders with the image and some with an id (Stability), run by the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from job_engine import Engine, image_bytes, refuse_to_keep

from accounts.keys import Caller
from jobs.dispatch import heartbeats
from jobs.execution import claim
from jobs.submission.order import ReferenceImage
from providers.base import Accepted, CallRef, CheckResult, Finished
from sandbox.testing import Sandbox
from storage.local import LocalStore

NOW_MODEL, LATER_MODEL = "stable-image-core", "stability-upscale-creative"


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    sandbox.settings(latency_s=0.0, prepared=True)
    return {"STABILITY_BASE_URL": sandbox.stability_url, "STABILITY_API_KEY": "test-key"}


def order_now(engine: Engine, account: Caller) -> str:
    return engine.order(account, "a kite", model=NOW_MODEL, publish=False).task.id


def order_later(engine: Engine, account: Caller, prompt: str = "a hill") -> str:
    return engine.order(
        account,
        prompt,
        model=LATER_MODEL,
        operation="upscale",
        references=[ReferenceImage("image", image_bytes(), "image")],
        output_format="jpeg",
        publish=False,
    ).task.id


def tally(sandbox: Sandbox) -> dict[str, Any]:
    return dict(sandbox.counts()["stability"])


def vanish(engine: Engine) -> None:
    """Let the owners of all claimed jobs be dead, and let the sweep find them."""
    engine.sql("DELETE FROM workers")
    engine.context.publish(engine.sweeper.sweep())


def test_sync_and_async_answers_both_succeed(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    now, later = order_now(engine, account), order_later(engine, account)
    engine.run(now)
    engine.run(later)
    assert (engine.job(now).status, engine.job(later).status) == ("succeeded", "waiting")
    [call] = engine.calls(later)
    assert (call.outcome, len(call.upstream_id)) == ("accepted", 64)
    engine.poll("stability")
    assert engine.job(later).status == "succeeded"
    assert engine.one("SELECT count(*) FROM images WHERE seed > 0") == 2
    assert (tally(sandbox)["submits"], tally(sandbox)["accepted"]) == (2, 2)
    engine.assert_books_balance()


def test_a_3d_file_is_kept_as_one(engine: Engine, account: Caller, store: LocalStore) -> None:
    job_id = engine.order(
        account,
        "",
        model="stable-fast-3d",
        operation="image_to_3d",
        references=[ReferenceImage("image", image_bytes(), "image")],
        publish=False,
    ).task.id
    engine.run(job_id)
    assert engine.job(job_id).status == "succeeded"
    [row] = engine.rows("SELECT key, mime FROM images")
    assert (row.mime, store.read(row.key)[:4]) == ("model/gltf-binary", b"glTF")
    engine.assert_books_balance()


def test_the_next_status_check_is_ten_seconds_later(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = order_later(engine, account, "a hill [sandbox:latency=100]")
    engine.run(job_id)
    engine.poll("stability")
    wait_s = engine.one("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM jobs WHERE id = :id", id=job_id)
    assert 9.5 < wait_s <= 20
    sandbox.advance_clock(100)
    engine.poll("stability")
    assert engine.job(job_id).status == "succeeded"
    assert "looked_too_soon" not in tally(sandbox)["faults"]


def test_a_result_found_by_one_worker_is_fetched_by_another(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = order_later(engine, account)
    engine.run(job_id)
    with monkeypatch.context() as away:
        refuse_to_keep(away)
        engine.poll("stability")
    assert engine.calls(job_id)[0].outcome == "finished"
    engine.poll("stability")
    assert engine.job(job_id).status == "succeeded"
    assert tally(sandbox)["accepted"] == 1
    engine.assert_books_balance()


def test_a_call_without_an_upstream_id_is_left_out_of_status_requests(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [adapter] = engine.context.registry.of("stability")
    check_many, asked = adapter.check_many, []

    def remembered(calls: Sequence[CallRef]) -> dict[str, CheckResult]:
        asked.extend(call.id for call in calls)
        return check_many(calls)

    monkeypatch.setattr(adapter, "check_many", remembered)
    later, lost = order_later(engine, account, "a hill [sandbox:never]"), order_now(engine, account)
    engine.run(later)
    assert claim.claim(engine.context, lost) is not None
    vanish(engine)
    engine.poll("stability")
    assert {engine.calls(job_id)[0].outcome for job_id in (later, lost)} == {"accepted", "uncertain"}
    assert asked == [engine.calls(later)[0].id]
    assert (tally(sandbox)["submits"], tally(sandbox)["checks"]) == (1, 1)
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp() WHERE job_id = :id", id=lost)
    engine.poll("stability")
    assert (engine.job(lost).failure_code, engine.calls(lost)[0].written_off) == ("upstream_uncertain", True)
    assert engine.job(later).status == "waiting"
    engine.assert_books_balance()


@pytest.mark.parametrize("model", [NOW_MODEL, LATER_MODEL])
def test_an_unanswered_call_is_given_up_after_a_minute(engine: Engine, account: Caller, model: str) -> None:
    job_id = order_now(engine, account) if model == NOW_MODEL else order_later(engine, account)
    assert claim.claim(engine.context, job_id) is not None
    vanish(engine)
    left_s = engine.one("SELECT extract(epoch FROM give_up_at - clock_timestamp()) FROM upstream_calls")
    assert 55 < left_s <= 60


def test_a_call_whose_id_came_late_has_its_whole_deadline(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [adapter] = engine.context.registry.of("stability")
    submit = adapter.submit

    def submit_while_given_up_for_dead(*args: Any, **kwargs: Any) -> Finished | Accepted:
        done = submit(*args, **kwargs)
        vanish(engine)
        return done

    monkeypatch.setattr(adapter, "submit", submit_while_given_up_for_dead)
    job_id = order_later(engine, account)
    engine.run(job_id)
    left_s = engine.one("SELECT extract(epoch FROM give_up_at - clock_timestamp()) FROM upstream_calls")
    assert engine.calls(job_id)[0].outcome == "accepted"
    assert 590 < left_s <= 600
    with engine.database.autocommit() as connection:  # the worker was only slow
        heartbeats.beat(connection, engine.context.owner)
    engine.poll("stability")
    assert engine.job(job_id).status == "succeeded"
    assert tally(sandbox)["submits"] == 1
    engine.assert_books_balance()


def test_an_accepted_call_that_the_upstream_lost_is_not_bought_again(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    job_id = order_later(engine, account, "a hill [sandbox:expire=0]")
    engine.run(job_id)
    engine.poll("stability")
    assert engine.calls(job_id)[0].outcome == "accepted"  # one miss proves nothing
    engine.sql("UPDATE upstream_calls SET missing_since = missing_since - interval '5 seconds'")
    engine.poll("stability")
    row = engine.job(job_id)
    assert (row.status, row.failure_code, row.released) == ("failed", "upstream_lost", row.quoted)
    assert engine.calls(job_id)[0].written_off
    assert tally(sandbox)["submits"] == 1
    engine.assert_books_balance()


@pytest.mark.parametrize(
    ("marker", "code", "bill_is_ours"),
    [("fail=moderation", "content_refused", True), ("fail=policy", "content_refused", False)],
)
def test_refused_content_ends_the_job_and_returns_the_credits(
    engine: Engine, account: Caller, marker: str, code: str, bill_is_ours: bool
) -> None:
    job_id = order_later(engine, account, f"a hill [sandbox:{marker}]")
    engine.run(job_id)
    engine.poll("stability")
    row = engine.job(job_id)
    assert (row.status, row.failure_code, row.released) == ("failed", code, row.quoted)
    assert engine.calls(job_id)[0].written_off is bill_is_ours
    engine.assert_books_balance()


def test_a_lockout_pauses_the_credential_for_all_workers(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    sandbox.add_fault("429", provider="stability", route="submit")
    job_id = order_now(engine, account)
    engine.run(job_id)
    assert engine.calls(job_id)[0].retry_after_s == 60
    away_s = engine.one("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM credentials")
    assert 55 < away_s <= 90
