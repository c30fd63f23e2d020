"""Which workers count as alive: by their heartbeat rows, and by the process table of their own machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from core.db import Database, make_engine
from jobs.dispatch import heartbeats
from workers.heartbeat import Heartbeat

DEAD_PID = 2**31 - 2


def ages(database: Database) -> dict[str, float]:
    """Return the seconds since each worker's last heartbeat."""
    with database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT boot_id, extract(epoch FROM clock_timestamp() - heartbeat_at) AS age_s FROM workers")
        )
        return {row.boot_id: float(row.age_s) for row in rows}


@pytest.fixture
def heart(database: Database) -> Iterator[Heartbeat]:
    own = Database(make_engine(database.engine.url.render_as_string(hide_password=False), pool_size=2))
    yield Heartbeat(own, "wkr_beating")
    own.dispose()


def test_only_dead_processes_of_this_machine_are_removed(database: Database) -> None:
    with database.transaction() as connection:
        for boot_id in ("wkr_here", "wkr_elsewhere", "wkr_alive"):
            heartbeats.beat(connection, boot_id)
        connection.execute(text(f"UPDATE workers SET pid = {DEAD_PID} WHERE boot_id <> 'wkr_alive'"))
        # Another machine of the same name writes its own boot id, and the number of the first PID namespace, which
        # is the same everywhere.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        connection.execute(
            text(
                "UPDATE workers SET host = replace(host, :boot, '00000000-0000-4000-8000-000000000000')"
                " WHERE boot_id = 'wkr_elsewhere'"
            ),
            {"boot": boot},
        )
        assert heartbeats.delete_dead_neighbours(connection) == 1
    assert ages(database).keys() == {"wkr_elsewhere", "wkr_alive"}


def test_no_heartbeat_follows_signing_off(database: Database, heart: Heartbeat) -> None:
    heart.beat()
    assert "wkr_beating" in ages(database)
    heart.leave()
    heart.beat()
    assert "wkr_beating" not in ages(database)


def test_signing_off_waits_for_a_heartbeat_being_written(database: Database, heart: Heartbeat) -> None:
    """A heartbeat waits for a lock on its row while signing off begins; the sign-off comes after it."""
    heart.beat()
    with database.transaction() as connection:
        connection.execute(text("SELECT 1 FROM workers WHERE boot_id = 'wkr_beating' FOR UPDATE"))
        beating = threading.Thread(target=heart.beat)
        beating.start()
        _until_waiting(database)
        leaving = threading.Thread(target=heart.leave)
        leaving.start()
    beating.join(10)
    leaving.join(10)
    assert "wkr_beating" not in ages(database)


def _until_waiting(database: Database) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    for _ in range(500):
        with database.autocommit() as connection:
            if connection.execute(waiting).scalar_one():
                return
        threading.Event().wait(0.01)
    raise AssertionError("no statement waits for the row")
