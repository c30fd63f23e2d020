"""Reports to Flower of job ends outside a Celery task: on a real Redis, as a listener receives them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from core.embedded.ports import free_ports
from jobs.states import Ended
from tests.event_listener import Listener
from workers.broker.options import connect
from workers.flower import task_events
from workers.flower.task_events import BATCH, TaskEvents

NODE = "worker@here"


@pytest.fixture(autouse=True)
def urls(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


@pytest.fixture
def listener(redis_url: str) -> Iterator[Listener]:
    return Listener(redis_url)


def reporter(url: str, node: str | None = NODE, *, enabled: bool = True) -> TaskEvents:
    return TaskEvents(lambda: connect(url, timeout_s=1), node=node, enabled=enabled)


def test_each_kind_of_end_is_reported_as_celery_does(redis_url: str, listener: Listener) -> None:
    reporter(redis_url).report(
        [
            Ended("job_1", "succeeded", runtime_s=4.5),
            Ended("job_2", "failed", code="content_refused", runtime_s=1.5),
            Ended("job_3", "cancelled"),
            Ended("job_4", "retried", code="rate_limited"),
        ]
    )
    events = listener.heard(4)
    assert [(each["type"], each["uuid"]) for each in events] == [
        ("task-succeeded", "job_1"),
        ("task-failed", "job_2"),
        ("task-revoked", "job_3"),
        ("task-retried", "job_4"),
    ]
    for each in events:
        assert (each["name"], each["args"], each["kwargs"]) == ("jobs.run", f"('{each['uuid']}',)", "{}")
        assert each["hostname"] == NODE
        assert {"timestamp", "clock", "pid", "utcoffset"} <= each.keys()
    assert (events[0]["runtime"], events[0]["result"]) == (4.5, "None")
    assert (events[1]["runtime"], events[1]["exception"]) == (1.5, "content_refused")
    assert "runtime" not in events[2]
    assert events[3]["exception"] == "rate_limited"


def test_ends_reported_together_are_sent_in_few_messages(redis_url: str, listener: Listener) -> None:
    reporter(redis_url).report([Ended(f"job_{n}", "succeeded") for n in range(2 * BATCH + 2)])
    assert [len(listener.batch()) for _ in range(3)] == [BATCH, BATCH, 2]


def test_a_web_process_reports_in_the_name_of_the_worker_that_ran_the_job(redis_url: str, listener: Listener) -> None:
    events = reporter(redis_url, None)
    events.report([Ended("job_1", "cancelled", node="worker1@there"), Ended("job_2", "cancelled")])
    events.report([Ended("job_3", "cancelled", node="worker2@there")])
    assert [(each["uuid"], each["hostname"]) for each in listener.heard(2)] == [
        ("job_1", "worker1@there"),
        ("job_3", "worker2@there"),
    ]


def test_nothing_is_reported_after_the_end_of_a_job(redis_url: str, listener: Listener) -> None:
    events = reporter(redis_url)
    events.report([Ended("job_1", "retried", code="rate_limited")])
    events.report([Ended("job_1", "retried", code="upstream_down")])
    events.report([Ended("job_1", "failed", code="attempts_exhausted")])
    events.report([Ended("job_1", "retried", code="late"), Ended("job_1", "failed", code="again")])
    events.reported_by_celery("job_2")
    events.report([Ended("job_2", "retried", code="late")])
    said = [(each["type"], each["exception"]) for each in listener.heard(3)]
    assert said[-1] == ("task-failed", "attempts_exhausted")
    assert not {"late", "again"} & {code for _, code in said}
    assert events.has_ended("job_1") and events.has_ended("job_2") and not events.has_ended("job_3")


def test_nothing_is_reported_when_switched_off(redis_url: str, listener: Listener) -> None:
    before = threading.active_count()
    reporter(redis_url, enabled=False).report([Ended("job_1", "succeeded")])
    assert listener.batch(within_s=0.5) == []
    assert threading.active_count() == before


def test_while_the_broker_is_away_the_latest_ends_wait_and_the_rest_is_counted(
    redis_url: str, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_events, "AGAIN_AFTER_S", 0.05)
    monkeypatch.setattr(task_events, "MOST_WAITING", 30)
    [free_port] = free_ports(1)
    url = [f"redis://127.0.0.1:{free_port}/0"]
    events = TaskEvents(lambda: connect(url[0], timeout_s=1), node=NODE)
    began = time.monotonic()
    for number in range(100):
        events.report([Ended(f"job_{number}", "succeeded")])
    assert time.monotonic() - began < 0.5
    url[0] = redis_url
    reported = [each["uuid"] for each in listener.heard(30)]
    assert reported == [f"job_{number}" for number in range(70, 100)]
    assert events.dropped == 70


def test_close_sends_waiting_ends_at_once(redis_url: str, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_events, "WAIT_S", 60)
    events = reporter(redis_url)
    events.report([Ended("job_1", "succeeded")])
    events.close()
    assert [each["uuid"] for each in listener.heard(1)] == ["job_1"]
