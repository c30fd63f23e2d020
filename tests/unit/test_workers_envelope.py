"""The messages we build ourselves equal those that Celery and kombu would send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection

from core.redis import make_client
from jobs.states import poll, run
from workers.broker.envelope import redis_message
from workers.celery_app import app
from workers.enqueue import Publisher

QUEUE = "queue_of_envelopes"
JOB = "job_" + "7" * 26


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    client = make_client(redis_url)
    client.delete(QUEUE)
    yield client
    client.delete(QUEUE)


def by_celery(redis_url: str, client: Any, task: str, argument: str, task_id: str, **options: Any) -> dict[str, Any]:
    with Connection(redis_url) as connection, connection.Producer() as producer:
        app.send_task(
            task,
            args=(argument,),
            task_id=task_id,
            queue=QUEUE,
            producer=producer,
            ignore_result=True,
            argsrepr=f"('{argument}',)",
            **options,
        )
    return json.loads(client.rpop(QUEUE))


def without_chance(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without the fields that differ from message to message or are about results."""
    ignored = ("delivery_tag", "reply_to", "argsrepr")
    properties = {name: value for name, value in message["properties"].items() if name not in ignored}
    return {**message, "properties": properties}


@pytest.mark.parametrize(("task", "argument"), [("jobs.run", JOB), ("jobs.poll", "openai")])
def test_our_message_equals_celerys(redis_url: str, client: Any, task: str, argument: str) -> None:
    theirs = by_celery(redis_url, client, task, argument, "id-1")
    ours = json.loads(redis_message(task, argument, task_id="id-1", queue=QUEUE))
    assert without_chance(ours) == without_chance(theirs)
    assert set(theirs["properties"]) - set(ours["properties"]) <= {"argsrepr"}  # the headers have it, too


def test_a_message_carries_its_trace_as_celery_would_send_it(redis_url: str, client: Any) -> None:
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    theirs = by_celery(redis_url, client, "jobs.run", JOB, JOB, headers=trace)
    ours = json.loads(redis_message("jobs.run", JOB, task_id=JOB, queue=QUEUE, headers=trace))
    assert without_chance(ours) == without_chance(theirs)
    assert ours["headers"]["traceparent"] == trace["traceparent"]


def test_every_message_has_its_own_delivery_tag() -> None:
    tags = {
        json.loads(redis_message("jobs.run", JOB, task_id=JOB, queue=QUEUE))["properties"]["delivery_tag"]
        for _ in range(100)
    }
    assert len(tags) == 100


def test_a_consumer_reads_what_was_published(redis_url: str, client: Any) -> None:
    assert Publisher(redis_url, redis_url).publish([run(QUEUE, JOB)]) is True
    assert client.llen(QUEUE) == 1
    with Connection(redis_url) as connection:
        message = connection.SimpleQueue(QUEUE).get(timeout=5)
        message.ack()
    assert message.payload[:2] == [[JOB], {}]
    assert (message.headers["id"], message.headers["task"]) == (JOB, "jobs.run")
    assert message.headers["argsrepr"] == f"('{JOB}',)"


def test_tasks_other_than_run_get_new_ids(redis_url: str, client: Any) -> None:
    nudge = poll("openai")
    client.delete(nudge.queue)
    assert Publisher(redis_url, redis_url).publish([nudge, nudge]) is True
    ids = [json.loads(each)["headers"]["id"] for each in client.lrange(nudge.queue, 0, -1)]
    client.delete(nudge.queue)
    assert len(set(ids)) == 2
    assert "openai" not in ids


def test_publishing_reconnects_after_redis_dropped_the_connection(redis_url: str, client: Any) -> None:
    publisher = Publisher(redis_url, redis_url)
    assert publisher.publish([run(QUEUE, JOB)]) is True
    with publisher._producers.acquire(block=True) as producer:
        client.client_kill_filter(_id=producer.channel.client.client_id())
    publisher.publish([run(QUEUE, JOB)])  # this one may fail because of the closed connection
    publisher._broker._skip_until = 0.0
    assert publisher.publish([run(QUEUE, JOB)]) is True
