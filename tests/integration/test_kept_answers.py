"""The upstreams' own answers: kept with their calls, shown to the owner of the job, deleted with its images."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from job_engine import ASYNC_MODEL, SYNC_MODEL, Engine, Recorder

from accounts.keys import Caller
from jobs.execution.context import WorkerContext
from jobs.maintenance import deletion, retention
from jobs.maintenance.deletion import Reason
from jobs.reads import tasks
from jobs.reads.tasks import RawAnswer
from jobs.submission.service import SubmissionService
from sandbox.testing import Sandbox


def answers(engine: Engine, account: Caller, job_id: str) -> list[RawAnswer]:
    with engine.database.autocommit() as connection:
        return tasks.raw_answers(connection, account.account_id, job_id)


def made(engine: Engine, account: Caller, prompt: str = "a fox", *, model: str = ASYNC_MODEL) -> str:
    fields = {"model": model, **({"size": "1024x640"} if model == SYNC_MODEL else {})}
    job_id = engine.order(account, prompt, **fields).task.id
    engine.drive()
    return job_id


@pytest.mark.parametrize("model", [ASYNC_MODEL, SYNC_MODEL])
def test_the_answer_of_a_finished_call_is_kept_without_its_image(engine: Engine, account: Caller, model: str) -> None:
    [found] = answers(engine, account, made(engine, account, model=model))
    assert found.answer is not None
    assert (found.outcome, found.answer["status"], found.model) == ("kept", 200, model)
    told = json.dumps(found.answer)
    assert "test-key" not in told
    assert len(told) < 4000
    assert found.answer["body"]["data"]
    assert ("base64" in told) == (model == SYNC_MODEL)


def test_each_call_has_its_own_answer_in_a_look_at_many(engine: Engine, account: Caller) -> None:
    ids = [engine.order(account, f"fox {number}").task.id for number in range(3)]
    engine.drive()
    seen = [answers(engine, account, job_id)[0].answer for job_id in ids]
    assert len({json.dumps(answer) for answer in seen}) == 3
    assert all(answer and "items" not in answer["body"] for answer in seen)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (ASYNC_MODEL, "refuse at=submit"),
        (ASYNC_MODEL, "fail"),
        (SYNC_MODEL, "refuse at=submit"),
        (SYNC_MODEL, "fail"),
        (SYNC_MODEL, "500 times=1"),
    ],
)
def test_the_answer_of_a_call_that_failed_is_kept(engine: Engine, account: Caller, model: str, fault: str) -> None:
    job_id = made(engine, account, f"a fox [sandbox:{fault}]", model=model)
    first = answers(engine, account, job_id)[0]
    assert first.answer is not None
    assert first.outcome is not None
    assert "test-key" not in json.dumps(first.answer)


def test_another_account_sees_none(engine: Engine, account: Caller) -> None:
    assert answers(engine, engine.account(), made(engine, account)) == []


def test_nothing_is_kept_where_the_operator_wants_nothing(
    context: WorkerContext, submission: SubmissionService, sent: Recorder, sandbox: Sandbox
) -> None:
    engine = Engine(replace(context, keep_raw=False), submission, sent)
    account = engine.account()
    for prompt in ("a fox", "a fox [sandbox:fail]"):
        for model in (ASYNC_MODEL, SYNC_MODEL):
            made(engine, account, prompt, model=model)
    assert engine.one("SELECT count(*) FROM upstream_calls") > 0
    assert engine.one("SELECT count(*) FROM call_answers") == 0


def test_who_deletes_a_task_deletes_its_answers(engine: Engine, account: Caller) -> None:
    job_id, other = made(engine, account), made(engine, account)
    with engine.database.transaction() as connection:
        deletion.delete_images(connection, [job_id], reason=Reason.REQUESTED)
    assert [each.answer for each in answers(engine, account, job_id)] == [None]
    assert answers(engine, account, other)[0].answer is not None


def test_retention_deletes_what_is_old_page_by_page(engine: Engine, account: Caller) -> None:
    old, new = [made(engine, account) for _ in range(3)], made(engine, account)
    engine.sql(
        "UPDATE call_answers SET answered_at = answered_at - interval '31 days' WHERE call_id IN"
        " (SELECT id FROM upstream_calls WHERE job_id = ANY(:ids))",
        ids=old,
    )
    with engine.database.transaction() as connection:
        assert retention.delete_old_answers(connection, keep_s=30 * 86_400, size=2) == 2
        assert retention.delete_old_answers(connection, keep_s=30 * 86_400, size=2) == 1
    assert answers(engine, account, new)[0].answer is not None
    assert engine.one("SELECT count(*) FROM call_answers") == 1
