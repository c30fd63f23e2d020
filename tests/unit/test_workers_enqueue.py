"""Publishing to the queues never raises and never waits long."""

from __future__ import annotations

import time

import pytest
from kombu.exceptions import LimitExceeded

from core.embedded.ports import free_ports
from core.redis import make_client
from jobs.states import poll, run, wake
from tests.odd_brokers import IS_FULL, LEAVES, rabbit, rubbish
from workers import enqueue
from workers.enqueue import Publisher

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def away() -> Publisher:
    unreachable = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    return Publisher(unreachable, unreachable)


@pytest.fixture(autouse=True)
def urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", NOWHERE)


@pytest.mark.parametrize("nudge", [run("openai", "job_x"), poll("openai"), wake("job_x")])
def test_a_broker_that_is_away_delays_only_the_first_publish(away: Publisher, nudge: object) -> None:
    began = time.monotonic()
    assert away.publish([nudge]) is False
    assert time.monotonic() - began < 3
    assert away.skipping
    began = time.monotonic()
    assert away.publish([nudge]) is False
    assert time.monotonic() - began < 0.1


def test_publishing_nothing_succeeds(away: Publisher) -> None:
    assert away.publish([]) is True


def test_the_broker_is_tried_again_after_a_while(away: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    away.publish([wake("job_x")])
    later = time.monotonic() + enqueue.SKIP_AFTER_FAILURE_S
    monkeypatch.setattr(enqueue.time, "monotonic", lambda: later)
    assert not away.skipping


def test_a_full_producer_pool_raises_nothing(away: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise LimitExceeded(50)

    monkeypatch.setattr(away._producers, "acquire", full)
    assert away.publish([run("openai", "job_x")]) is False


@pytest.mark.parametrize("to_a_message", [LEAVES, IS_FULL, b""], ids=["leaves", "is full", "is silent"])
def test_a_rabbitmq_that_fails_during_a_request_raises_nothing(to_a_message: bytes) -> None:
    with rabbit(to_a_message) as port:
        url = f"amqp://127.0.0.1:{port}//"
        assert Publisher(url, NOWHERE).send_canary("canary.1") is False
        began = time.monotonic()
        assert Publisher(url, NOWHERE).publish([run("openai", "job_x")]) is False
        assert time.monotonic() - began < 3


def test_a_server_that_is_no_broker_raises_nothing() -> None:
    with rubbish() as port:
        for scheme in ("redis", "amqp"):
            url = f"{scheme}://127.0.0.1:{port}//"
            assert Publisher(url, f"redis://127.0.0.1:{port}/0").publish([run("openai", "job_x")]) is False


def test_any_exception_of_a_client_library_is_only_logged(
    away: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(**_: object) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(away._producers, "acquire", broken)
    assert away.publish([run("openai", "job_x")]) is False
    # By the one or the other, as an earlier test of this process has configured logging or not.
    assert "publishing_crashed" in capsys.readouterr().err + caplog.text


def test_messages_are_sent_while_only_the_redis_for_wake_ups_is_away(redis_url: str) -> None:
    unreachable = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    publisher = Publisher(redis_url, unreachable)
    assert publisher.publish([wake("job_y"), run("queue_of_this_test", "job_y")]) is False
    assert not publisher.skipping
    client = make_client(redis_url)
    [message] = client.lrange("queue_of_this_test", 0, -1)
    client.delete("queue_of_this_test")
    assert '"id": "job_y"' in message  # the task id is the job's id, under which Flower shows it
