"""Which servers a worker checks before its consumer counts as deaf, and the worker's name in Flower."""

from __future__ import annotations

import socket

import pytest
from pydantic import SecretStr

from core.embedded.ports import free_ports
from core.settings import Settings
from workers import wiring


@pytest.fixture
def nowhere() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def answer(monkeypatch: pytest.MonkeyPatch, database: str, redis: str, broker: str) -> bool:
    values = Settings(
        database_url_set=SecretStr(database), redis_url_set=SecretStr(redis), broker_url_set=SecretStr(broker)
    )
    monkeypatch.setattr(wiring, "settings", lambda: values)
    return wiring.servers_answer()


def test_the_broker_is_checked_and_not_another_redis(
    monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str, nowhere: str
) -> None:
    database = database_url.replace("postgresql+psycopg://", "postgresql://")
    away = f"redis://{nowhere}/0"
    assert answer(monkeypatch, database, redis=away, broker=redis_url)
    assert not answer(monkeypatch, database, redis=redis_url, broker=away)
    assert not answer(monkeypatch, database, redis=redis_url, broker=f"amqp://{nowhere}//")


def test_an_outage_of_the_database_is_noticed(monkeypatch: pytest.MonkeyPatch, redis_url: str, nowhere: str) -> None:
    assert not answer(monkeypatch, f"postgresql://nobody@{nowhere}/none", redis=redis_url, broker=redis_url)


def test_a_worker_is_known_by_its_name_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "settings", lambda: Settings(worker_name="worker2"))
    assert wiring.node_name() == f"worker2@{socket.gethostname()}"
