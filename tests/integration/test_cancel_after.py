"""A job with a time by which its caller wants it: the sweep cancels it then, as the caller would."""

from __future__ import annotations

from job_engine import ASYNC_MODEL, Engine

from accounts.keys import Caller
from jobs.reads import tasks
from jobs.reads.tasks import Filters
from jobs.submission.order import Order
from sandbox.testing import Sandbox


def wanted_within(engine: Engine, customer: Caller, prompt: str, after_s: int | None) -> str:
    order = Order("generate", {"prompt": prompt, "model": ASYNC_MODEL, "size": "64x64"}, cancel_after_s=after_s)
    submitted = engine.submission.submit(customer, order)
    engine.context.publish(submitted.nudges)
    return submitted.task.id


def pass_by(engine: Engine, seconds: float) -> None:
    engine.sql("UPDATE jobs SET cancel_after_at = cancel_after_at - make_interval(secs => :s)", s=seconds)


def test_a_queued_job_is_cancelled_and_free_once_its_time_is_over(engine: Engine, account: Caller) -> None:
    before = engine.balance(account).spendable
    late = wanted_within(engine, account, "a fox", 90)
    patient = wanted_within(engine, account, "a hare", None)
    engine.sweeper.sweep()
    assert engine.job(late).status == "queued"
    pass_by(engine, 91)
    engine.sweeper.sweep()
    assert (engine.job(late).status, engine.job(late).cancel_outcome) == ("cancelled", "freed_in_queue")
    assert engine.job(patient).status == "queued"
    engine.drive()
    assert engine.job(patient).status == "succeeded"
    assert engine.balance(account).spendable == before - engine.job(patient).captured
    engine.assert_books_balance()


def test_a_running_job_is_asked_to_stop_once(engine: Engine, account: Caller, sandbox: Sandbox) -> None:
    job_id = wanted_within(engine, account, "a fox [sandbox:never]", 90)
    engine.run(job_id)
    assert engine.job(job_id).status == "waiting"
    pass_by(engine, 91)
    assert engine.sweeper.sweep()
    requested = engine.job(job_id)
    assert requested.cancel_requested_at is not None
    assert engine.sweeper.sweep() == []
    assert engine.job(job_id).version == requested.version


def test_an_ended_job_is_left_alone(engine: Engine, account: Caller) -> None:
    job_id = wanted_within(engine, account, "a fox", 90)
    engine.drive()
    pass_by(engine, 91)
    engine.sweeper.sweep()
    assert engine.job(job_id).status == "succeeded"
    assert engine.job(job_id).cancel_requested_at is None


def test_the_page_before_a_job(engine: Engine, account: Caller) -> None:
    ids = [wanted_within(engine, account, f"fox {number}", None) for number in range(4)]
    wanted_within(engine, engine.account(), "another's", None)
    with engine.database.autocommit() as connection:
        found = [tasks.newest_before(connection, account.account_id, each, 2) for each in ids]
        whole = tasks.list_tasks(connection, account.account_id, Filters())
        older = Filters(created_before=whole[1].created_at, cursor=f"{ids[3]}~")
        assert [task.id for task in tasks.list_tasks(connection, account.account_id, older)] == [ids[1], ids[0]]
    assert found == [ids[2], ids[3], ids[3], None]
