"""Reading jobs: within one account, in the words callers see."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from job_engine import ASYNC_MODEL, Engine

from accounts.keys import Caller
from jobs.errors import ImageGoneError, ImageNotFoundError, ImageNotReadyError, JobNotFoundError
from jobs.reads import tasks
from jobs.reads.tasks import Filters, Task

UNKNOWN = "job_" + "0" * 26


def listed(engine: Engine, customer: Caller, **filters: Any) -> list[Task]:
    with engine.database.autocommit() as connection:
        return tasks.list_tasks(connection, customer.account_id, Filters(**filters))


def image(engine: Engine, customer: Caller, job_id: str, index: int = 0) -> tasks.Image:
    with engine.database.autocommit() as connection:
        return tasks.find_image(connection, customer.account_id, job_id, index)


@pytest.mark.parametrize("job_id", [UNKNOWN, "job_x", "", "acct_" + "0" * 26, "job_\x00", "job_" + "0" * 27])
def test_what_is_not_there_cannot_be_told_from_what_is_not_yours(engine: Engine, account: Caller, job_id: str) -> None:
    mine = engine.order(account).task.id
    for customer, wanted in ((account, job_id), (engine.account(), mine)):
        with pytest.raises(JobNotFoundError):
            engine.task(customer, wanted)
        with pytest.raises(JobNotFoundError):
            image(engine, customer, wanted)
        with engine.database.autocommit() as connection, pytest.raises(JobNotFoundError):
            tasks.timeline(connection, customer.account_id, wanted)


def test_running_and_waiting_are_both_shown_as_running(engine: Engine, account: Caller) -> None:
    queued = engine.order(account, "a [sandbox:never]").task.id
    waiting = engine.order(account, "b [sandbox:never]").task.id
    engine.run(waiting)
    assert engine.job(waiting).status == "waiting"
    assert (engine.task(account, queued).status, engine.task(account, waiting).status) == ("queued", "running")
    assert [task.id for task in listed(engine, account, status="running")] == [waiting]
    assert [task.id for task in listed(engine, account, status="queued")] == [queued]


def test_the_place_in_the_queue_counts_all_who_came_before(engine: Engine, account: Caller) -> None:
    first, second = engine.order(engine.account()).task.id, engine.order(account).task.id
    assert engine.task(account, second).queue_position == 1
    engine.run(first)
    assert engine.task(account, second).queue_position == 0
    engine.drive()
    assert engine.task(account, second).queue_position is None


def test_pages_join_without_gap_or_overlap_newest_first(engine: Engine, account: Caller) -> None:
    every = sorted((engine.order(account, f"number {n}").task.id for n in range(7)), reverse=True)
    engine.order(engine.account())
    seen: list[str] = []
    while page := listed(engine, account, limit=3, cursor=seen[-1] if seen else None):
        seen += [task.id for task in page]
    assert seen == every


def test_a_list_is_narrowed_by_what_it_is_asked_for(engine: Engine, account: Caller) -> None:
    mine = engine.order(account, metadata={"shop": "north", "kind": "hat"}).task
    other = engine.order(account, "more", metadata={"shop": "south"}).task
    for filters, wanted in (
        ({"metadata": {"shop": "north"}}, [mine.id]),
        ({"metadata": {"shop": "north", "kind": "shoe"}}, []),
        ({"model": ASYNC_MODEL, "operation": "generate"}, [other.id, mine.id]),
        ({"model": "gpt-image-2"}, []),
        ({"operation": "edit"}, []),
        ({"cursor": "\0"}, []),
        ({"metadata": {"shop": "\ud800"}}, []),
        ({"created_after": mine.created_at}, [other.id]),
        ({"created_after": mine.created_at - timedelta(seconds=1)}, [other.id, mine.id]),
    ):
        assert [task.id for task in listed(engine, account, **filters)] == wanted


def test_a_list_carries_no_extra_neither_of_the_order_nor_of_its_fallbacks(engine: Engine, account: Caller) -> None:
    extra = {"user": "x" * 100}
    job_id = engine.order(
        account, model="gpt-image-2", fallback_models=["gpt-image-1-mini"], size="1024x1024", extra=extra
    ).task.id
    for model in ("gpt-image-2", "gpt-image-1-mini"):
        engine.sql("UPDATE jobs SET model = :model WHERE id = :id", model=model, id=job_id)
        assert engine.task(account, job_id).request.get("extra") == extra
        [shown] = listed(engine, account)
        assert (shown.model, shown.request.get("extra")) == (model, None)


def test_an_image_is_not_ready_not_there_there_or_gone(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account).task.id
    with pytest.raises(ImageNotReadyError):
        image(engine, account, job_id)
    engine.drive()
    assert image(engine, account, job_id).width_px == 64
    with pytest.raises(ImageNotFoundError):
        image(engine, account, job_id, 1)
    engine.sql("UPDATE images SET deleted_at = clock_timestamp()")
    with pytest.raises(ImageGoneError):
        image(engine, account, job_id)
    assert engine.task(account, job_id).images[0].deleted_at is not None


def test_the_timeline_is_numbered_and_in_order(engine: Engine, account: Caller) -> None:
    job_id = engine.order(account).task.id
    engine.drive()
    with engine.database.autocommit() as connection:
        steps = tasks.timeline(connection, account.account_id, job_id)
    assert [step.seq for step in steps] == [1, 2, 3, 4, 5]
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert (steps[0].type, steps[-1].type, steps[1].data["attempt"]) == ("queued", "succeeded", 0)


def test_a_visible_change_makes_a_new_version(engine: Engine, account: Caller) -> None:
    ids = [engine.order(account, f"number {n}").task.id for n in range(2)]
    with engine.database.autocommit() as connection:
        before = tasks.versions(connection, ids)
        engine.run(ids[0])
        after = tasks.versions(connection, [*ids, UNKNOWN])
    assert before == dict.fromkeys(ids, (1, False))
    assert after[ids[0]][0] > 1
    assert after[ids[1]] == (1, False)
    assert UNKNOWN not in after
