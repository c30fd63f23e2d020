"""Polling in batches: which jobs a worker takes, and what it does with their results."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from job_engine import SYNC_MODEL, Engine, refuse_to_keep
from sqlalchemy import text

from accounts.keys import Caller
from core.errors import DatabaseAwayError
from jobs.dispatch import due
from jobs.execution import claim, collect, poll
from jobs.execution import finish as finishing
from jobs.execution.context import WorkerContext
from jobs.reads.worker import LiveJob
from jobs.states import Nudge
from providers.base import Running
from sandbox.testing import Sandbox


def waiting(engine: Engine, customer: Caller, count: int, prompt: str = "wait") -> list[str]:
    ids = [engine.order(customer, f"{prompt} {number}", publish=False).task.id for number in range(count)]
    for job_id in ids:
        engine.run(job_id)
    engine.sent.take()
    engine.sql("UPDATE jobs SET due_at = clock_timestamp()")
    return ids


def test_one_status_request_covers_many_jobs(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    ids = waiting(engine, account, 12)
    engine.context.publish(poll.poll_provider(engine.context, "chatgpt2api"))
    assert sandbox.counts()["chatgpt2api"]["checks"] == 1
    assert engine.sent.take() == []  # there is no message per job
    assert {engine.job(job_id).status for job_id in ids} == {"succeeded"}
    engine.assert_books_balance()


def test_a_finished_call_is_collected_and_not_checked_again(
    engine: Engine, account: Caller, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = waiting(engine, account, 1)
    with monkeypatch.context() as away:
        refuse_to_keep(away)
        engine.poll()
    assert engine.calls(job_id)[0].outcome == "finished"
    checks = sandbox.counts()["chatgpt2api"]["checks"]
    engine.poll()
    assert sandbox.counts()["chatgpt2api"]["checks"] == checks
    assert engine.job(job_id).status == "succeeded"


def test_a_call_still_running_writes_nothing(engine: Engine, account: Caller) -> None:
    [job_id] = waiting(engine, account, 1, "slow [sandbox:never]")
    before, call = engine.job(job_id), engine.calls(job_id)
    engine.poll()
    after = engine.job(job_id)
    assert (after.version, after.fence, engine.calls(job_id)) == (before.version, before.fence, call)
    assert after.due_at > before.due_at


def test_two_pollers_at_once_take_disjoint_batches(engine: Engine, account: Caller) -> None:
    ids = waiting(engine, account, 20, "slow [sandbox:never]")
    start, taken = threading.Barrier(2, timeout=3), []

    def take() -> None:
        with engine.database.engine.begin() as connection:
            start.wait()
            batch = due.take_due(connection, "chatgpt2api", limit=10, interval_s=5, interval_max_s=10)
            start.wait()  # both hold their batch before either commits
            taken.append([job.id for job in batch])

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken[0] + taken[1]) == sorted(ids)


def test_a_full_batch_publishes_the_next_look_before_it_looks(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(engine, account, 3, "slow [sandbox:never]")
    monkeypatch.setattr(poll, "BATCH", 2)
    [adapter] = engine.context.registry.of("chatgpt2api")
    seen: list[list[Nudge]] = []
    monkeypatch.setattr(adapter, "check_many", lambda calls: seen.append(engine.sent.take()) or {})
    engine.context.publish(poll.poll_provider(engine.context, "chatgpt2api"))
    assert seen == [[Nudge("jobs.poll", "polls", "chatgpt2api")]]


def test_two_pollers_that_find_the_same_image_keep_it_once(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = waiting(engine, account, 1)
    [adapter] = engine.context.registry.of("chatgpt2api")
    check, other = adapter.check_many, threading.Event()

    def overtaken(calls: object) -> object:
        said = check(calls)
        if not other.is_set():
            other.set()
            engine.poll()
        return said

    monkeypatch.setattr(adapter, "check_many", overtaken)
    engine.poll()
    assert engine.job(job_id).status == "succeeded"
    assert engine.events(job_id).count("collecting") == 1
    engine.assert_books_balance()


def test_an_error_in_one_job_does_not_stop_the_others_of_its_batch(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = waiting(engine, account, 3)
    keep = collect.collect

    def poisoned(context: WorkerContext, job: LiveJob, made: object) -> object:
        if job.id == ids[0]:
            raise ZeroDivisionError
        return keep(context, job, made)

    monkeypatch.setattr(collect, "collect", poisoned)
    engine.poll()
    assert [engine.job(job_id).status for job_id in ids] == ["waiting", "succeeded", "succeeded"]


def test_fetched_images_are_kept_although_the_database_fails_for_the_rest_of_the_batch(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = waiting(engine, account, 4)
    bad = set(ids[:2])
    finish = finishing.finish

    def away(context: WorkerContext, job: LiveJob, *args: Any, **facts: Any) -> object:
        if job.id in bad:
            raise DatabaseAwayError("a lock was waited for too long")
        return finish(context, job, *args, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(poll, "finish", away)
        engine.poll()
    assert {engine.job(job_id).status for job_id in bad} == {"waiting"}
    assert {engine.job(job_id).status for job_id in set(ids) - bad} == {"succeeded"}
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status = 'waiting'")
    engine.poll()
    assert {engine.job(job_id).status for job_id in ids} == {"succeeded"}
    engine.assert_books_balance()


def test_calls_of_a_removed_credential_end_at_their_deadline(engine: Engine, account: Caller) -> None:
    [job_id] = waiting(engine, account, 1)
    engine.sql("INSERT INTO credentials (id, provider) VALUES ('chatgpt2api/old', 'chatgpt2api')")
    engine.sql("UPDATE upstream_calls SET credential_id = 'chatgpt2api/old'")
    engine.poll()
    assert engine.job(job_id).status == "waiting"
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp()")
    engine.poll()
    assert engine.job(job_id).failure_code == "upstream_timeout"
    engine.assert_books_balance()


@pytest.mark.parametrize("marker", ["500 at=check", "401 at=check", "garbage at=check", "drop at=check"])
def test_a_failed_status_check_leaves_the_call_open(
    engine: Engine, account: Caller, sandbox: Sandbox, marker: str
) -> None:
    [job_id] = waiting(engine, account, 1, f"look [sandbox:{marker} times=2]")
    engine.poll()
    assert (engine.job(job_id).status, engine.calls(job_id)[0].outcome) == ("waiting", "accepted")
    engine.drive()
    assert engine.job(job_id).status == "succeeded"
    assert sandbox.counts()["chatgpt2api"]["submits"] == 1


def test_only_misses_in_a_row_count(engine: Engine, account: Caller) -> None:
    [job_id] = waiting(engine, account, 1, "slow [sandbox:never]")
    engine.sql("UPDATE upstream_calls SET missing_since = clock_timestamp() - interval '1 hour'")
    engine.poll()
    assert engine.calls(job_id)[0].missing_since is None


def test_an_unanswered_synchronous_call_is_given_up_at_its_deadline(
    engine: Engine, account: Caller, sandbox: Sandbox
) -> None:
    job_id = engine.order(account, model=SYNC_MODEL, size="1024x640", publish=False).task.id
    [call] = claim_and_vanish(engine, job_id)
    engine.context.publish(engine.sweeper.sweep())
    left_s = engine.one("SELECT extract(epoch FROM give_up_at - clock_timestamp()) FROM upstream_calls")
    assert (engine.job(job_id).status, 58 < left_s <= 60) == ("waiting", True)
    engine.poll("openai")
    assert engine.job(job_id).status == "waiting"
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp()")
    engine.poll("openai")
    row = engine.job(job_id)
    assert (row.status, row.failure_code, row.released) == ("failed", "upstream_uncertain", row.quoted)
    [call] = engine.calls(job_id)
    assert (call.outcome, call.written_off) == ("lost", True)
    assert sandbox.counts().get("openai", {"submits": 0})["submits"] == 0
    engine.assert_books_balance()


def test_status_checks_become_rarer_with_the_age_of_the_job(engine: Engine, account: Caller) -> None:
    spec = engine.context.spec("chatgpt2api")
    [job_id] = waiting(engine, account, 1, "slow [sandbox:never]")
    for age_s, wanted_s in ((0, spec.check_interval_s), (3600, spec.check_interval_max_s)):
        engine.sql("UPDATE jobs SET started_at = clock_timestamp() - make_interval(secs => :age)", age=age_s)
        engine.poll()
        wait_s = engine.one("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM jobs WHERE id=:i", i=job_id)
        assert float(wait_s) == pytest.approx(wanted_s, abs=0.5)


def test_an_uncertain_call_that_is_found_running_counts_as_accepted(engine: Engine, account: Caller) -> None:
    [job_id] = waiting(engine, account, 1, "slow [sandbox:never, drop]")
    engine.poll()
    [call] = engine.calls(job_id)
    assert (call.outcome, call.upstream_id) == ("accepted", call.dedupe_key)
    engine.assert_books_balance()


def test_a_call_left_out_of_a_status_answer_counts_as_not_answered(
    engine: Engine, account: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = waiting(engine, account, 1, "slow [sandbox:never, drop]")
    [adapter] = engine.context.registry.of("chatgpt2api")
    monkeypatch.setattr(adapter, "check_many", lambda calls: {"call_of_somebody_else": Running()})
    engine.poll()
    assert engine.calls(job_id)[0].outcome == "uncertain"


def claim_and_vanish(engine: Engine, job_id: str) -> list[object]:
    """Let the worker die after its COMMIT, before or after its POST; which one cannot be known."""
    claimed = claim.claim(engine.context, job_id)
    assert claimed is not None
    with engine.database.autocommit() as connection:
        connection.execute(text("DELETE FROM workers"))
    return engine.calls(job_id)
