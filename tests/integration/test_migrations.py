"""Migrations lead to the tables that the models describe, from any revision and in any number of processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from job_engine import root
from sqlalchemy import create_engine, text

import accounts.models
import jobs.models
import quota.models
from app.http.readiness import _migrations
from core import key_values, schema
from core.db import Database, make_engine
from core.tables import metadata

# Importing these modules fills the metadata.
DESCRIBED = (accounts.models.accounts, jobs.models.jobs, key_values.key_values, quota.models.balances)
UPGRADE = (
    "import sys; from core import schema; from core.db import Database, make_engine\n"
    "database = Database(make_engine(sys.argv[1]))\n"
    "with database.transaction() as connection: schema.upgrade(connection)"
)


@pytest.fixture
def empty_url(postgres_url: str) -> str:
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS empty WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE empty"))
    administrator.dispose()
    return postgres_url.rsplit("/", 1)[0] + "/empty"


def test_the_migrated_database_is_what_the_models_describe(shared_database: Database) -> None:
    with shared_database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_every_check_of_the_models_is_in_the_database(shared_database: Database) -> None:
    """Autogenerate does not compare CHECK constraints."""
    described = {
        constraint.name
        for table in metadata.tables.values()
        for constraint in table.constraints
        if type(constraint).__name__ == "CheckConstraint"
    }
    with shared_database.autocommit() as connection:
        there = connection.execute(
            text("SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace")
        ).scalars()
        assert set(there) == {str(name) for name in described}


def test_two_processes_at_once_upgrade_an_empty_database_once(empty_url: str) -> None:
    database = Database(make_engine(empty_url))
    with database.engine.connect() as connection:
        assert schema.pending(connection)[0] == "0001"
    upgrade = [sys.executable, "-c", UPGRADE, empty_url]
    running = [subprocess.Popen(upgrade, cwd=root(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    with database.transaction() as connection:
        assert schema.pending(connection) == []
        schema.upgrade(connection)  # again: nothing to do
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1
    database.dispose()


def test_a_schema_of_a_newer_version_lets_this_one_go_on_and_is_not_touched(empty_url: str) -> None:
    """While processes are replaced one after the other, those that are left stay ready."""
    database = Database(make_engine(empty_url))
    with database.transaction() as connection:
        schema.upgrade(connection)
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert _migrations(database) is None
    with database.transaction() as connection, pytest.raises(schema.SchemaIsNewerError, match="9999"):
        schema.upgrade(connection)
    database.dispose()


def test_a_migration_waits_for_those_who_work_and_ends_none_of_them(empty_url: str) -> None:
    """A submit that has a row of jobs and goes on to orders is not the victim of a deadlock."""
    database = Database(make_engine(empty_url))
    config = schema._config()
    with database.transaction() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")
    with database.transaction() as submit:
        submit.execute(text("LOCK TABLE jobs IN ROW EXCLUSIVE MODE"))
        migration = subprocess.Popen(
            [sys.executable, "-c", UPGRADE, empty_url], cwd=root(), stderr=subprocess.PIPE, text=True
        )
        _until_blocked(database)
        submit.execute(text("LOCK TABLE orders, upstream_calls, accounts IN ROW EXCLUSIVE MODE"))
    _, said = migration.communicate(timeout=60)
    assert migration.returncode == 0, said
    database.dispose()


def _until_blocked(database: Database) -> None:
    """Return once a statement of another connection waits for a lock; the test's own time limit ends it."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.autocommit() as connection:
        while not connection.execute(text(waiting)).scalar_one():
            pass
