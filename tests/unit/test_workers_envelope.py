"""The message we write ourselves is the one that Celery and kombu would have sent."""

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


def by_celery(redis_url: str, client: Any, task: str, argument: str, task_id: str) -> dict[str, Any]:
    with Connection(redis_url) as connection, connection.Producer() as producer:
        app.send_task(
            task,
            args=(argument,),
            task_id=task_id,
            queue=QUEUE,
            producer=producer,
            ignore_result=True,
            argsrepr=f"('{argument}',)",
        )
    return json.loads(client.rpop(QUEUE))


def without_chance(message: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from message to message, and what is about results, of which there are none."""
    beside = ("delivery_tag", "reply_to", "argsrepr")
    properties = {name: value for name, value in message["properties"].items() if name not in beside}
    return {**message, "properties": properties}


@pytest.mark.parametrize(("task", "argument"), [("jobs.run", JOB), ("jobs.poll", "openai")])
def test_it_is_what_celery_sends(redis_url: str, client: Any, task: str, argument: str) -> None:
    theirs = by_celery(redis_url, client, task, argument, "id-1")
    ours = json.loads(redis_message(task, argument, task_id="id-1", queue=QUEUE))
    assert without_chance(ours) == without_chance(theirs)
    assert set(theirs["properties"]) - set(ours["properties"]) <= {"argsrepr"}  # stands in the headers, too


def test_every_message_has_a_tag_of_its_own() -> None:
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


def test_tasks_that_stand_for_no_job_have_ids_of_their_own(redis_url: str, client: Any) -> None:
    nudge = poll("openai")
    client.delete(nudge.queue)
    assert Publisher(redis_url, redis_url).publish([nudge, nudge]) is True
    ids = [json.loads(each)["headers"]["id"] for each in client.lrange(nudge.queue, 0, -1)]
    client.delete(nudge.queue)
    assert len(set(ids)) == 2
    assert "openai" not in ids


def test_a_redis_that_dropped_the_connection_is_found_again(redis_url: str, client: Any) -> None:
    publisher = Publisher(redis_url, redis_url)
    assert publisher.publish([run(QUEUE, JOB)]) is True
    with publisher._producers.acquire(block=True) as producer:
        client.client_kill_filter(_id=producer.channel.client.client_id())
    publisher.publish([run(QUEUE, JOB)])  # may find out by this one
    publisher._broker._skip_until = 0.0
    assert publisher.publish([run(QUEUE, JOB)]) is True
