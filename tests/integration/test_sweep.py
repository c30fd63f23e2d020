"""What no message, no hook and no worker moved, the sweep moves."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from job_engine import ASYNC_PRICE, Engine
from sqlalchemy import text

from accounts.keys import Caller
from jobs.dispatch import heartbeats
from jobs.execution import claim
from jobs.execution.context import WorkerContext
from jobs.maintenance import sweep
from jobs.states import Nudge
from providers import registry
from sandbox.testing import Sandbox


def dropped(engine: Engine, customer: Caller) -> str:
    """A job claimed by a worker that does not come back."""
    job_id = engine.order(customer, publish=False).task.id
    assert claim.claim(engine.context, job_id) is not None
    return job_id


def silence(engine: Engine, seconds: float) -> None:
    engine.sql("UPDATE workers SET heartbeat_at = heartbeat_at - make_interval(secs => :s)", s=seconds)


def why(engine: Engine, job_id: str) -> list[str]:
    rows = engine.rows("SELECT data ->> 'code' AS code FROM job_events WHERE job_id = :i AND type = 'lapsed'", i=job_id)
    return [row.code for row in rows]


def test_a_job_whose_owner_is_gone_lapses_at_once(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = dropped(engine, account)
    with engine.database.autocommit() as connection:
        heartbeats.leave(connection, engine.context.owner)
    fence = engine.job(job_id).fence
    assert engine.sweeper.sweep() == [Nudge("jobs.poll", "polls", "chatgpt2api")]
    row = engine.job(job_id)
    assert (row.status, row.fence, row.owner) == ("waiting", fence + 1, None)
    assert (why(engine, job_id), engine.calls(job_id)[0].outcome) == (["owner_gone"], "uncertain")
    engine.poll()
    engine.sql("UPDATE upstream_calls SET missing_since = missing_since - interval '5 seconds'")
    engine.drive()  # it was never sent: missing, then sent under its own key
    assert (engine.job(job_id).status, sandbox.counts()["chatgpt2api"]["submits"]) == ("succeeded", 1)
    engine.assert_books_balance()


def test_a_table_that_has_grown_is_analysed_so_that_plans_of_its_small_days_end(
    engine: Engine, account: Caller
) -> None:
    analysed = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'job_events'"
    engine.sweeper.sweep()
    before = engine.one(analysed)
    engine.sweeper.sweep()
    assert engine.one(analysed) == before, "nothing has grown"
    engine.sql("INSERT INTO job_events (job_id, type) SELECT 'job_x', 'x' FROM generate_series(1, 20000)")
    engine.sql("SELECT pg_stat_force_next_flush()")
    engine.sweeper.sweep()
    assert engine.one(analysed) == before + 1
    engine.sql("DELETE FROM job_events WHERE job_id = 'job_x'")


def test_a_silent_owner_is_dead_only_to_workers_that_beat_steadily(engine: Engine, account: Caller) -> None:
    job_id = dropped(engine, account)
    silence(engine, 60)
    engine.sweeper.sweep()
    assert engine.job(job_id).status == "running"
    engine.steady = True
    engine.sweeper.sweep()
    assert why(engine, job_id) == ["owner_silent"]


def test_an_owner_that_beats_keeps_its_job(engine: Engine, account: Caller) -> None:
    job_id = dropped(engine, account)
    engine.steady = True
    silence(engine, 8)
    engine.sweeper.sweep()
    assert engine.job(job_id).status == "running"


def test_an_overdue_step_lapses_though_its_owner_lives(engine: Engine, account: Caller) -> None:
    job_id = dropped(engine, account)
    left_s = engine.one("SELECT extract(epoch FROM step_deadline_at - clock_timestamp()) FROM jobs")
    assert left_s == pytest.approx(engine.context.spec("chatgpt2api").call_timeout_s + 60, abs=2)
    engine.steady = True
    engine.sql("UPDATE jobs SET step_deadline_at = clock_timestamp()")
    engine.sweeper.sweep()
    assert why(engine, job_id) == ["step_overdue"]


def test_neighbours_whose_process_is_gone_are_buried(engine: Engine, account: Caller) -> None:
    job_id = dropped(engine, account)
    engine.sql("UPDATE workers SET pid = 2147483646")
    engine.sweeper.sweep()
    assert (why(engine, job_id), engine.one("SELECT count(*) FROM workers")) == (["owner_gone"], 0)


def test_a_process_of_another_host_is_not_judged_by_its_number(engine: Engine, account: Caller) -> None:
    dropped(engine, account)
    engine.sql("UPDATE workers SET pid = 2147483646, host = 'elsewhere'")
    engine.sweeper.sweep()
    assert engine.one("SELECT count(*) FROM workers") == 1


def test_jobs_past_their_start_deadline_expire_free(engine: Engine, account: Caller) -> None:
    before = engine.balance(account)
    job_id = engine.order(account, deadline_s=5, publish=False).task.id
    engine.sweeper.sweep()
    assert engine.job(job_id).status == "queued"
    engine.sql("UPDATE jobs SET start_deadline_at = clock_timestamp()")
    engine.sweeper.sweep()
    assert engine.job(job_id).failure_code == "deadline_expired"
    assert engine.balance(account) == before
    engine.assert_books_balance()


def test_sweepers_at_once_do_the_work_once(engine: Engine, account: Caller) -> None:
    for number in range(10):
        engine.order(account, f"number {number}", publish=False)
    engine.sql("UPDATE jobs SET published_at = NULL")
    start, sent = threading.Barrier(4), []

    def run() -> None:
        start.wait()
        sent.extend(engine.sweeper.sweep())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({nudge.argument for nudge in sent}) == len(sent) == 10


def test_while_another_sweeps_nothing_is_done(engine: Engine, account: Caller) -> None:
    engine.order(account, publish=False)
    engine.sql("UPDATE jobs SET published_at = NULL")
    with engine.database.engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": sweep.SWEEP_LOCK})
        assert engine.sweeper.sweep() == []
        other.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": sweep.SWEEP_LOCK})
    assert len(engine.sweeper.sweep()) == 1


def test_a_retrying_job_keeps_its_place_past_the_start_deadline(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account, "soon [sandbox:fail=500 times=1]").task.id
    engine.drive(until=lambda: engine.job(job_id).status == "queued" and engine.job(job_id).attempt == 1)
    engine.sql("UPDATE jobs SET start_deadline_at = clock_timestamp()")
    engine.drive()
    assert engine.job(job_id).captured == ASYNC_PRICE


def test_a_job_whose_provider_was_taken_out_of_the_configuration_ends_and_costs_nothing(
    engine: Engine, account: Caller, context: WorkerContext
) -> None:
    job_id = engine.order(account, "orphan [sandbox:latency=1000]").task.id
    engine.drive(until=lambda: engine.job(job_id).status == "waiting")
    without = replace(context, registry=registry.load({"OPENAI_API_KEY": "k"}))
    sweeper = sweep.Sweeper(without, steady=lambda: True, epoch=lambda: None)
    sweeper.sweep()
    assert engine.job(job_id).status == "waiting"

    engine.sql("UPDATE jobs SET due_at = clock_timestamp() - interval '1 hour' WHERE id = :id", id=job_id)
    sweeper.sweep()
    assert engine.job(job_id).status == "waiting"  # its call may still be answered

    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp() WHERE job_id = :id", id=job_id)
    sweeper.sweep()
    job = engine.job(job_id)
    assert (job.status, job.failure_code, job.captured) == ("failed", "upstream_uncertain", 0)
    assert engine.calls(job_id)[0].written_off
    engine.assert_books_balance()
