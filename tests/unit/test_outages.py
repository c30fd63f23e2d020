"""An outage is told once when it begins and once when it is over."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from core import outages
from core.db import Database, make_engine
from core.embedded.ports import free_ports
from core.errors import DatabaseAwayError
from core.outages import SETTLE_S, Outage


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test of this process may have configured logging, and the module's logger remembers that."""
    monkeypatch.setattr(outages, "log", structlog.get_logger())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_changes_are_logged_with_how_long_it_lasted() -> None:
    clock = Clock()
    outage = Outage("redis", clock)
    with capture_logs() as logs:
        outage.back()
        for _ in range(50):
            outage.away(error="ConnectionError")
            clock.now += 0.5
        outage.back()
        outage.back()
    assert [(each["event"], each.get("lasted_s")) for each in logs] == [("redis_away", None), ("redis_back", 25.0)]


def test_a_connection_from_before_the_outage_that_fails_late_is_no_second_outage() -> None:
    clock = Clock()
    outage = Outage("redis", clock)
    outage.away()
    outage.back()
    with capture_logs() as logs:
        outage.away()
        outage.back()
        clock.now += SETTLE_S
        outage.away()
    assert [each["event"] for each in logs] == ["redis_away"]


def test_two_names_of_one_server_are_one_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_outages", {})
    outages.are_one("broker", "redis")
    assert outages.of("redis") is outages.of("broker")
    assert outages.of("database") is not outages.of("broker")


def test_a_database_that_is_away_is_told_once_for_every_way_to_it() -> None:
    engine = make_engine(f"postgresql+psycopg://me@127.0.0.1:{free_ports(1)[0]}/none")
    database = Database(engine, Outage("database"))
    with capture_logs() as logs:
        for way in (database.transaction, database.autocommit, database.hot, database.hot):
            with pytest.raises(DatabaseAwayError), way():
                pass
    assert [each["event"] for each in logs] == ["database_away"]
