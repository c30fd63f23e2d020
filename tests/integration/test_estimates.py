"""The wait that a queued task is told, from what the database says happened lately."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from job_engine import Engine
from sqlalchemy import event

from accounts.keys import Caller
from jobs.dispatch import health, heartbeats
from jobs.reads.tasks import find_task
from jobs.submission.estimates import FRESH_S, Estimates
from jobs.submission.wait_model import Wait


@pytest.fixture(autouse=True)
def _worker_lives(engine: Engine) -> None:
    with engine.database.autocommit() as connection:
        heartbeats.beat(connection, engine.context.owner)
    engine.sql("INSERT INTO providers (name) VALUES ('chatgpt2api') ON CONFLICT DO NOTHING")


def orders(engine: Engine, count: int, customer: Caller) -> list[str]:
    return [engine.order(customer, f"number {number}").task.id for number in range(count)]


def history(
    engine: Engine, job_ids: list[str], *, every_s: float, took_s: float, ago_s: float = 30.0, pairs: bool = False
) -> None:
    """These jobs were ordered at once, started one after the other (or two by two), and took so long each."""
    engine.sql(
        "UPDATE jobs SET status = 'succeeded', money = 'settled', captured = 0, released = 0, created_at = t.began,"
        " started_at = t.began + make_interval(secs => :every_s * n.turn),"
        " finished_at = t.began + make_interval(secs => :every_s * n.turn + :took_s) FROM (SELECT id,"
        " CASE WHEN :pairs THEN (nth - 1) / 2 ELSE nth END AS turn"
        " FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS u (id, nth)) AS n,"
        " (SELECT clock_timestamp() - make_interval(secs => :ago_s) AS began) AS t WHERE jobs.id = n.id",
        ids=job_ids, every_s=every_s, took_s=took_s, ago_s=ago_s, pairs=pairs,
    )  # fmt: skip
    engine.sql(
        "INSERT INTO job_events (job_id, type, at) SELECT id, 'started', started_at FROM jobs WHERE id = ANY(:ids)",
        ids=job_ids,
    )


def waits(engine: Engine, customer: Caller, job_ids: list[str]) -> list[Wait | None]:
    estimates = Estimates(engine.database)
    with engine.database.autocommit() as connection:
        return [estimates.of(find_task(connection, customer.account_id, job_id)) for job_id in job_ids]


def test_a_burst_at_a_provider_without_limits_is_told_how_quickly_the_last_one_went(engine: Engine) -> None:
    """The defect: every one of 250 was told nought seconds."""
    customer = engine.account()
    history(engine, orders(engine, 40, customer), every_s=0.1, took_s=5.0)
    told = waits(engine, customer, orders(engine, 30, customer))
    # The gap that is open while this test runs counts, too: on a busy machine a little more than a tenth each.
    assert [wait.p50_s for wait in told if wait] == pytest.approx(
        [0.1 * place for place in range(1, 31)], rel=0.5, abs=0.1
    )
    assert all(wait and wait.p90_s > wait.p50_s for wait in told)


def test_jobs_still_under_way_tell_how_quickly_claims_go(engine: Engine) -> None:
    customer = engine.account()
    started = orders(engine, 20, customer)
    history(engine, started, every_s=0.5, took_s=1.0)
    engine.sql(
        "UPDATE jobs SET status = 'waiting', money = 'held', captured = NULL, released = NULL, finished_at = NULL"
    )
    [told] = waits(engine, customer, orders(engine, 1, customer))
    assert told is not None
    assert told.p50_s == pytest.approx(0.5, rel=0.5)


def test_where_the_wait_cannot_be_known_nothing_is_told(engine: Engine) -> None:
    customer = engine.account()
    history(engine, orders(engine, 10, customer), every_s=0.1, took_s=5.0)
    queued = orders(engine, 1, customer)
    assert waits(engine, customer, queued) != [None]
    with engine.database.autocommit() as connection:
        health.pause(connection, "chatgpt2api")
    assert waits(engine, customer, queued) == [None]
    with engine.database.autocommit() as connection:
        health.resume(connection, "chatgpt2api")
    engine.sql(
        "UPDATE providers SET trips = 2, opened_at = clock_timestamp(),"
        " open_until = clock_timestamp() + interval '1 minute' WHERE name = 'chatgpt2api'"
    )
    assert waits(engine, customer, queued) == [None]
    engine.sql("UPDATE providers SET trips = 0, opened_at = NULL, open_until = NULL")
    engine.sql("DELETE FROM workers")
    assert waits(engine, customer, queued) == [None]


def test_permits_taken_are_counted_from_open_calls_and_those_told_since(engine: Engine) -> None:
    engine.sql("UPDATE credentials SET max_active = 2 WHERE provider = 'chatgpt2api'")
    customer = engine.account()
    history(engine, orders(engine, 10, customer), every_s=10.0, took_s=10.0, ago_s=200.0, pairs=True)
    first = orders(engine, 3, customer)
    estimates = Estimates(engine.database)
    with engine.database.autocommit() as connection:
        tasks = [find_task(connection, customer.account_id, job_id) for job_id in first]
    assert [wait.p50_s >= 5 for wait in map(estimates.of, tasks) if wait] == [False, False, True]
    # Two have been started since the database was asked, as the place of the next says.
    [late] = [replace(tasks[2], id="job_late", queue_position=1)]
    told = estimates.of(late)
    assert told is not None
    assert told.p50_s >= 5


def test_the_database_is_asked_once_in_five_seconds(engine: Engine) -> None:
    customer = engine.account()
    history(engine, orders(engine, 10, customer), every_s=0.1, took_s=5.0)
    now, asked = 100.0, 0

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal asked
        asked += "upstream_calls" in statement and "job_events" in statement

    with engine.database.autocommit() as connection:
        queued = orders(engine, 1, customer)
        task = find_task(connection, customer.account_id, queued[0])
    estimates = Estimates(engine.database, now=lambda: now)
    event.listen(engine.database.engine, "before_cursor_execute", count)
    try:
        for _ in range(50):
            estimates.of(task)
        assert asked == 1
        now += FRESH_S
        estimates.of(task)
        assert asked == 2
    finally:
        event.remove(engine.database.engine, "before_cursor_execute", count)
