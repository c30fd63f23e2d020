"""Celery's own events of a worker are sent in few messages, in order, and never delay a step."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from core.embedded.ports import free_ports
from tests.event_listener import Listener
from workers.broker.options import connect
from workers.celery_app import app
from workers.flower import event_batches
from workers.flower.event_batches import BATCH, BatchingDispatcher


@pytest.fixture(autouse=True)
def urls(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


@pytest.fixture
def listener(redis_url: str) -> Listener:
    return Listener(redis_url)


def dispatcher_on(url: str) -> BatchingDispatcher:
    return app.events.Dispatcher(connect(url, timeout_s=1), hostname="worker@here")


@pytest.fixture
def dispatcher(redis_url: str) -> Iterator[BatchingDispatcher]:
    dispatcher = dispatcher_on(redis_url)
    yield dispatcher
    dispatcher.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make events wait without limit, so that none is sent because of its age."""
    monkeypatch.setattr(event_batches, "WAIT_S", 60)


def started(dispatcher: BatchingDispatcher, count: int) -> list[str]:
    ids = [f"job_{number}" for number in range(count)]
    for job_id in ids:
        dispatcher.send("task-started", uuid=job_id)
    return ids


def test_many_events_are_sent_in_few_messages_and_in_order(dispatcher: BatchingDispatcher, listener: Listener) -> None:
    ids = started(dispatcher, 4 * BATCH)
    batches = []
    while sum(map(len, batches)) < len(ids) and (batch := listener.batch()):
        batches.append(batch)
    assert [event["uuid"] for batch in batches for event in batch] == ids
    assert len(batches) <= 5


def test_a_full_batch_does_not_wait(patient: None, dispatcher: BatchingDispatcher, listener: Listener) -> None:
    ids = started(dispatcher, BATCH)
    assert [event["uuid"] for event in listener.heard(BATCH)] == ids


def test_a_few_events_wait_until_send_now(patient: None, dispatcher: BatchingDispatcher, listener: Listener) -> None:
    ids = started(dispatcher, 3)
    assert listener.batch(within_s=0.5) == []
    event_batches.send_all_now()
    assert [event["uuid"] for event in listener.heard(3)] == ids


def test_waiting_events_are_sent_before_close(
    patient: None, dispatcher: BatchingDispatcher, listener: Listener
) -> None:
    ids = started(dispatcher, 3)
    dispatcher.close()
    assert [event["uuid"] for event in listener.heard(3)] == ids


def test_worker_events_are_sent_at_once(dispatcher: BatchingDispatcher, listener: Listener) -> None:
    dispatcher.send("worker-heartbeat", active=1)
    [event] = listener.heard(1)
    assert event["type"] == "worker-heartbeat"


def test_a_broker_that_is_away_does_not_delay_a_step(patient: None) -> None:
    [free_port] = free_ports(1)
    dispatcher = dispatcher_on(f"redis://127.0.0.1:{free_port}/0")
    began = time.monotonic()
    started(dispatcher, BATCH - 1)
    assert time.monotonic() - began < 0.1
    dispatcher.send_now()  # which raises nothing
