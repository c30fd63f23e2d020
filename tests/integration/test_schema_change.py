"""A migration under running processes: statements that their connections have prepared become invalid."""

from __future__ import annotations

import pytest
from job_engine import ASYNC_PRICE, Engine
from sqlalchemy import text

from accounts.keys import Caller
from core.db import Database, make_engine
from core.errors import DatabaseAwayError

PREPARED_AFTER = 10  # psycopg prepares a statement on its sixth use


@pytest.fixture
def table(database_url: str) -> Database:
    database = Database(make_engine(database_url, pool_size=3))
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE things (id int)"))
    return database


def read(database: Database) -> int:
    with database.autocommit() as connection:
        return len(connection.execute(text("SELECT * FROM things")).keys())


def test_an_outdated_plan_fails_only_once(table: Database, database_url: str) -> None:
    held = [table.engine.connect() for _ in range(3)]
    for connection in held:
        for _ in range(PREPARED_AFTER):
            connection.execute(text("SELECT * FROM things"))
        connection.commit()  # a rollback would discard them
    for connection in held:
        connection.close()
    migrator = make_engine(database_url)  # a session that alters a table drops its own plans
    with migrator.begin() as connection:
        connection.execute(text("ALTER TABLE things ADD COLUMN name text"))
    migrator.dispose()
    with pytest.raises(DatabaseAwayError):
        read(table)
    # Every connection of the pool had the outdated plan; none of them is left.
    assert [read(table) for _ in range(6)] == [2] * 6
    table.dispose()


def alter(engine: Engine, change: str) -> None:
    """On its own connection: a session that alters a table drops its own plans."""
    with make_engine(engine.database.engine.url.render_as_string(hide_password=False)).begin() as connection:
        connection.execute(text(f"ALTER TABLE jobs {change}"))


def test_a_migration_during_a_paid_call_loses_nothing(engine: Engine, account: Caller) -> None:
    """The answer to a call comes right after the table has changed, and is still recorded."""
    for _ in range(2 * PREPARED_AFTER):
        engine.order(account)
    engine.drive()
    job_id = engine.order(account).task.id
    engine.run(job_id)
    alter(engine, "ADD COLUMN later text")
    try:
        engine.drive()
    except DatabaseAwayError:  # a step without an answer in hand is dropped, and its message is sent again
        engine.drive()
    finally:
        alter(engine, "DROP COLUMN later")
    assert engine.transfers(job_id) == {"hold": ASYNC_PRICE, "capture": ASYNC_PRICE}
    assert len(engine.calls(job_id)) == 1
    engine.assert_books_balance()
