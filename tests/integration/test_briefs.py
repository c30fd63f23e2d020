"""The cheapest read of a job says what the whole read says; calls that were not answered are found once."""

from __future__ import annotations

import pytest
from job_engine import ASYNC_MODEL, SYNC_MODEL, Engine

from app.task_reads import TaskReads
from core.ids import new_id
from jobs import lifecycle
from jobs.errors import JobNotFoundError
from jobs.reads.brief import find_briefs
from jobs.submission import unanswered
from webhooks import installation_key


def test_a_brief_agrees_with_the_task_in_every_state(engine: Engine) -> None:
    account = engine.account()
    account_id = account.account_id
    ids = [
        engine.order(account, "a fox").task.id,
        engine.order(account, "b [sandbox:never]", model=ASYNC_MODEL).task.id,
        engine.order(account, "a fox [sandbox:refuse]").task.id,
        engine.order(account, "a fox", model=SYNC_MODEL).task.id,
        engine.order(account, "a cat").task.id,
    ]
    for job_id in ids[1:4]:
        engine.run(job_id)
    with engine.database.transaction() as connection:
        lifecycle.cancel(connection, account_id, ids[4])
    reads = TaskReads(engine.database)
    for job_id in ids:
        brief, task = reads.brief(account_id, job_id), reads.task(account_id, job_id)
        assert (brief.id, brief.account_id, brief.version, brief.ended) == (
            task.id,
            account_id,
            task.version,
            task.ended,
        )
        assert brief.ahead == (task.queue_position or 0)
        assert (brief.failure_code, brief.failure_detail) == (task.failure_code, task.failure_detail)
        assert brief.cancel_outcome == task.cancel_outcome
        if task.started_at and task.finished_at:
            assert brief.run_s == pytest.approx((task.finished_at - task.started_at).total_seconds())
        else:
            assert brief.run_s is None
    assert {reads.brief(account_id, job_id).status for job_id in ids} == {
        *("queued", "waiting", "failed", "succeeded", "cancelled"),
    }
    assert [reads.brief(account_id, job_id).made for job_id in ids[2:]] == [False, True, False]


def test_many_briefs_are_one_query_and_events_come_where_asked(engine: Engine) -> None:
    account = engine.account()
    account_id = account.account_id
    first, second = (engine.order(account, "a fox").task.id for _ in range(2))
    asked = [(account_id, first, True), (account_id, first, False), (account_id, second, False)]
    with engine.database.hot() as hot:
        found = find_briefs(hot, [*asked, (engine.account().account_id, first, False), (account_id, "nope", False)])
    assert set(found) == set(asked)
    assert [event["type"] for event in found[asked[0]].events or ()] == ["queued"]
    assert found[asked[1]].events is None
    assert found[asked[2]].ahead == found[asked[1]].ahead + 1


def test_another_accounts_job_has_no_brief(engine: Engine) -> None:
    job_id = engine.order(engine.account(), "a fox").task.id
    with pytest.raises(JobNotFoundError):
        TaskReads(engine.database).brief(engine.account().account_id, job_id)


def test_a_call_that_was_not_answered_is_taken_once_and_within_its_account(engine: Engine) -> None:
    account_id, other = engine.account().account_id, engine.account().account_id
    attempt, job_ids = b"a" * 32, [new_id("job"), new_id("job")]
    with engine.database.transaction() as connection:
        for job_id in job_ids:
            unanswered.note(connection, account_id, attempt, job_id)
        assert unanswered.take(connection, other, attempt, life_s=60) is None
        assert unanswered.take(connection, account_id, b"b" * 32, life_s=60) is None
        assert unanswered.take(connection, account_id, attempt, life_s=60) == job_ids[1]
        assert unanswered.take(connection, account_id, attempt, life_s=60) is None
        unanswered.note(connection, account_id, attempt, job_ids[0])
    with engine.database.transaction() as connection:
        assert unanswered.take(connection, account_id, attempt, life_s=0) is None


def test_the_key_of_callbacks_is_made_once(engine: Engine) -> None:
    with engine.database.transaction() as connection:
        first = installation_key.seed(connection)
    with engine.database.transaction() as connection:
        assert installation_key.seed(connection) == first
    assert len(first) == 32
