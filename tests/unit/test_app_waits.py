"""Waits: woken by a message, by the query alone when Redis is away, and never too many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import fakeredis
import pytest
from app_doubles import done_task, job_id, make_task

from app.http import waits as waits_module
from app.http.waits import CHANNEL, Waits
from core.errors import DatabaseAwayError
from jobs.reads.tasks import Task


class Job:
    """One job that changes; ``versions`` counts the questions asked about it."""

    def __init__(self) -> None:
        self.task = make_task(version=1)
        self.asked: list[list[str]] = []
        self.was_asked = threading.Event()
        self.read = threading.Event()
        self.away = False

    def find(self) -> Task:
        task = self.task
        self.read.set()
        return task

    def versions(self, job_ids: Sequence[str]) -> dict[str, tuple[int, bool]]:
        self.asked.append(list(job_ids))
        self.was_asked.set()
        if self.away:
            self.away = False
            raise DatabaseAwayError("away")
        return dict.fromkeys(job_ids, (self.task.version, self.task.ended))


def _ended(task: Task) -> bool:
    return task.ended


def _in_background(call: Callable[[], Task]) -> tuple[threading.Thread, list[Task]]:
    found: list[Task] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    return thread, found


def _wait(waits: Waits, job: Job, timeout_s: float = 30) -> tuple[threading.Thread, list[Task]]:
    return _in_background(lambda: waits.until(job.find, _ended, account_id="a", timeout_s=timeout_s))


def test_the_query_alone_ends_a_wait() -> None:
    job = Job()
    thread, found = _wait(Waits(job.versions, None, poll_s=0.01), job)
    assert job.was_asked.wait(5)
    job.task = done_task()
    thread.join(5)
    assert found == [job.task]


def test_a_database_away_for_a_moment_does_not_end_the_looking() -> None:
    job = Job()
    job.away = True
    thread, found = _wait(Waits(job.versions, None, poll_s=0.01), job)
    assert job.was_asked.wait(5)
    job.task = done_task()
    thread.join(5)
    assert found == [job.task]


def test_a_message_ends_a_wait_long_before_the_query() -> None:
    job, client = Job(), fakeredis.FakeRedis(decode_responses=True)
    waits = Waits(job.versions, client, poll_s=3600)
    thread, found = _wait(waits, job)
    assert job.was_asked.wait(5)  # the one look at the start is over
    job.task = done_task()
    heard = 0
    for _ in range(500):
        heard = client.publish(CHANNEL, job_id(1))
        thread.join(0.01)
        if heard and not thread.is_alive():
            break
    assert heard == 1
    assert found == [job.task]


def test_redis_away_is_only_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits_module, "LISTEN_PAUSE_S", 0.01)
    server = fakeredis.FakeServer()
    server.connected = False
    job = Job()
    waits = Waits(job.versions, fakeredis.FakeRedis(server=server, decode_responses=True), poll_s=0.01)
    thread, found = _wait(waits, job)
    assert job.was_asked.wait(5)
    job.task = done_task()
    thread.join(5)
    assert found == [job.task]


def test_all_jobs_waited_for_are_one_question() -> None:
    job = Job()
    waits = Waits(job.versions, None)
    with waits.watch(job_id(1), "a"), waits.watch(job_id(2), "a"), waits.watch(job_id(1), "b"):
        job.asked.clear()
        waits.look()
    assert sorted(job.asked[0]) == [job_id(1), job_id(2)]
    job.asked.clear()
    waits.look()
    assert job.asked == []


def test_no_change_falls_between_reading_and_waiting() -> None:
    """The job ends right after the first reading, before the watch: the second reading sees it."""
    job = Job()
    waits = Waits(job.versions, None, poll_s=3600)

    def find() -> Task:
        task, job.task = job.task, done_task()
        return task

    assert waits.until(find, _ended, account_id="a", timeout_s=30).ended


def test_time_runs_out_with_the_task_as_it_is() -> None:
    job = Job()
    assert not Waits(job.versions, None, poll_s=3600).until(job.find, _ended, account_id="a", timeout_s=0.02).ended


def test_too_many_waits_are_answered_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits_module, "EARLY_PAUSE_S", 0.0)
    job = Job()
    waits = Waits(job.versions, None, poll_s=3600, most=2, most_per_account=1)
    with waits.watch(job_id(1), "a"):
        assert not waits.until(job.find, _ended, account_id="a", timeout_s=3600).ended
        with waits.watch(job_id(1), "b"), waits.watch(job_id(1), "c") as third:
            assert third is None
    with waits.watch(job_id(1), "a") as again:
        assert again is not None


def test_a_job_that_vanished_wakes_who_waits() -> None:
    waits = Waits(lambda ids: {}, None, poll_s=3600)
    answers: list[Any] = [make_task(), make_task(), replace(done_task())]
    thread, found = _in_background(lambda: waits.until(lambda: answers.pop(0), _ended, account_id="a", timeout_s=30))
    for _ in range(500):
        waits.look()
        thread.join(0.01)
        if not thread.is_alive():
            break
    assert found[0].ended
