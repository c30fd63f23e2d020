"""The publishing window: no account's backlog delays another's job by more than a window, and messages may be lost."""

from __future__ import annotations

import pytest
from job_engine import SYNC_MODEL, Engine

from accounts.keys import Caller
from jobs import lifecycle
from jobs.dispatch import publishing
from jobs.states import Nudge
from jobs.submission.service import SubmissionService


@pytest.fixture
def submission(submission: SubmissionService) -> SubmissionService:
    submission._publish_window = 2
    return submission


@pytest.fixture
def engine(engine: Engine) -> Engine:
    object.__setattr__(engine.context, "publish_window", 2)
    engine.sql("INSERT INTO marks (name, value) VALUES ('epoch', 'first')")
    return engine


def submit(engine: Engine, customer: Caller, count: int = 1, **fields: object) -> list[list[str]]:
    """Submit ``count`` jobs and return the jobs published by each submit."""
    return [
        [nudge.argument for nudge in engine.order(customer, f"number {n}", publish=False, **fields).nudges]
        for n in range(count)
    ]


def published(engine: Engine, customer: Caller) -> int:
    counted = "SELECT count(*) FROM jobs WHERE status='queued' AND published_at IS NOT NULL AND account_id=:a"
    return int(engine.one(counted, a=customer.account_id))


def ids(engine: Engine) -> list[str]:
    return [row.id for row in engine.rows("SELECT id FROM jobs ORDER BY id")]


def test_each_account_has_a_window(engine: Engine, account: Caller) -> None:
    assert [len(nudges) for nudges in submit(engine, account, 4)] == [1, 1, 0, 0]
    assert engine.sweeper.sweep() == []
    assert published(engine, account) == 2


def test_one_job_is_published_at_once_although_another_account_has_ten_thousand(
    engine: Engine, account: Caller
) -> None:
    submit(engine, account)
    columns = "account_id, operation, model, provider, n, weight, money, unit_price, quoted, start_deadline_at"
    engine.sql(
        f"INSERT INTO jobs (id, status, {columns}) SELECT 'job_' || g, 'queued', {columns} FROM jobs,"
        " generate_series(1, 10000) AS g"
    )
    other = engine.account()
    assert len(submit(engine, other)[0]) == 1
    assert len(engine.sweeper.sweep()) == 1  # one more of the large account's window
    assert (published(engine, account), published(engine, other)) == (2, 1)


def test_a_weight_widens_the_window(engine: Engine) -> None:
    heavy = engine.account(weight=2)
    assert [len(nudges) for nudges in submit(engine, heavy, 5)] == [1, 1, 1, 1, 0]


def test_each_provider_has_its_own_window(engine: Engine, account: Caller) -> None:
    submit(engine, account, 3)
    assert len(submit(engine, account, 1, model=SYNC_MODEL, size="1024x640")[0]) == 1


def test_a_claim_publishes_the_accounts_next_job(engine: Engine, account: Caller) -> None:
    submit(engine, account, 3)
    first, _, third = ids(engine)
    engine.sent.take()
    engine.run(first)
    assert engine.sent.take()[0] == Nudge("jobs.run", "chatgpt2api", third)
    assert published(engine, account) == 2


def test_low_priority_waits_for_normal_jobs_of_the_same_account(engine: Engine, account: Caller) -> None:
    [alone] = submit(engine, account, 1, priority="low")
    assert len(alone) == 1  # no normal job waits
    [normal] = submit(engine, account)
    [behind] = submit(engine, account, 1, priority="low")
    assert (len(normal), behind) == (1, [])
    engine.run(alone[0])
    assert published(engine, account) == 1
    engine.run(normal[0])
    assert published(engine, account) == 1  # now the low one


def test_low_priority_does_not_wait_for_normal_jobs_of_another_account(engine: Engine, account: Caller) -> None:
    submit(engine, account)
    assert len(submit(engine, engine.account(), 1, priority="low")[0]) == 1


def test_a_lost_message_is_sent_again(engine: Engine, account: Caller) -> None:
    [[job_id]] = submit(engine, account)
    assert engine.sweeper.sweep() == []
    engine.sql("UPDATE jobs SET published_at = published_at - interval '11 seconds'")
    assert engine.sweeper.sweep() == [Nudge("jobs.run", "chatgpt2api", job_id)]
    assert engine.sweeper.sweep() == []  # at most one more per period


def test_no_message_counts_as_lost_while_the_broker_is_away(engine: Engine, account: Caller) -> None:
    submit(engine, account)
    engine.epoch = None
    engine.sql("UPDATE jobs SET published_at = published_at - interval '1 hour'")
    assert engine.sweeper.sweep() == []


def test_every_message_is_sent_again_to_a_new_broker(engine: Engine, account: Caller) -> None:
    submit(engine, account, 2)
    engine.sweeper.sweep()
    assert engine.sweeper.sweep() == []
    engine.epoch = "second"
    assert sorted(nudge.argument for nudge in engine.sweeper.sweep()) == ids(engine)
    assert engine.sweeper.sweep() == []


def test_the_first_broker_counts_as_new(engine: Engine, account: Caller) -> None:
    """After a move to another Redis while no worker ran, jobs must not wait for time-outs."""
    submit(engine, account)
    engine.sql("DELETE FROM marks")
    assert len(engine.sweeper.sweep()) == 1


def test_jobs_whose_message_could_not_be_sent_are_published_by_the_next_sweep(engine: Engine, account: Caller) -> None:
    submit(engine, account)
    engine.sweeper.sweep()
    with engine.database.autocommit() as connection:
        publishing.mark_unpublished(connection, ids(engine))
    assert len(engine.sweeper.sweep()) == 1


def test_jobs_not_due_are_not_published(engine: Engine, account: Caller) -> None:
    [[job_id]] = submit(engine, account)
    engine.sweeper.sweep()
    with engine.database.transaction() as connection:
        lifecycle.defer(connection, job_id, after_s=60)
    assert engine.sweeper.sweep() == []
    engine.sql("UPDATE jobs SET due_at = clock_timestamp()")
    assert len(engine.sweeper.sweep()) == 1


def test_the_oldest_job_is_published_first(engine: Engine, account: Caller) -> None:
    submit(engine, account, 5)
    every = ids(engine)
    engine.sql("UPDATE jobs SET published_at = NULL")
    assert [nudge.argument for nudge in engine.sweeper.sweep()] == every[:2]
