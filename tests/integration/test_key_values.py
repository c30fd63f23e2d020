"""The key-value table: one value for a name, and one turn for all processes."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from core import key_values
from core.db import Database


def test_a_value_is_found_by_its_name_with_its_age(database: Database) -> None:
    with database.autocommit() as connection:
        assert key_values.find(connection, "a") is None
        key_values.put(connection, "a", "1")
        connection.execute(text("UPDATE marks SET at = at - interval '90 s'"))
        old = key_values.find(connection, "a")
        key_values.put(connection, "a", "2")
        new = key_values.find(connection, "a")
    assert old is not None and (old.value, 90 <= old.age_s < 120) == ("1", True)
    assert new is not None and (new.value, 0 <= new.age_s < 30) == ("2", True)


def test_the_first_value_stays(database: Database) -> None:
    with database.transaction() as connection:
        assert key_values.put_if_absent(connection, "key", "first") == "first"
        assert key_values.put_if_absent(connection, "key", "second") == "first"


@pytest.mark.parametrize(("seconds_later", "again"), [(59, False), (61, True)])
def test_a_turn_comes_again_after_its_time(database: Database, seconds_later: int, again: bool) -> None:
    with database.autocommit() as connection:
        assert key_values.take_turn(connection, "round", every_s=60, value="wkr_a")
        connection.execute(text("UPDATE marks SET at = at - make_interval(secs => :s)"), {"s": seconds_later})
        assert key_values.take_turn(connection, "round", every_s=60, value="wkr_b") is again
        owner = key_values.find(connection, "round")
    assert owner is not None and owner.value == ("wkr_b" if again else "wkr_a")


def test_of_many_at_once_one_gets_the_turn(database: Database) -> None:
    start, taken = threading.Barrier(8), []

    def take() -> None:
        with database.autocommit() as connection:
            start.wait()
            taken.append(key_values.take_turn(connection, "round", every_s=60))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]
