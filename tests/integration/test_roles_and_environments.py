"""The service's role may do little, and each of its processes knows little."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import text

from app.cli import here
from app.cli.service import bootstrap
from app.cli.service.stack import run_stack
from core import schema
from core.db import Database, make_engine
from core.embedded.postgres import EmbeddedPostgres
from core.settings import Settings
from jobs.maintenance import audit, growth


def test_our_role_makes_neither_databases_nor_roles_and_an_old_one_loses_the_right(tmp_path: Path) -> None:
    rights = "rolcreatedb, rolcreaterole, rolsuper, rolreplication, rolbypassrls"
    asked = f"SELECT {rights} FROM pg_roles WHERE rolname = current_user"
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
        with psycopg.connect(server.url) as connection:
            assert connection.execute(asked).fetchone() == (False,) * 5
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("CREATE ROLE another")
        with psycopg.connect(server.superuser_url, autocommit=True) as superuser:
            superuser.execute("ALTER ROLE darkroom CREATEDB")
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server, psycopg.connect(server.url) as connection:
        assert connection.execute(asked).fetchone() == (False,) * 5


@pytest.fixture
def two_roles(tmp_path: Path) -> Iterator[Settings]:
    """Settings whose role owns nothing, and the role that owns the database."""
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
        with psycopg.connect(server.superuser_url, autocommit=True) as superuser:
            superuser.execute("CREATE ROLE app LOGIN PASSWORD 'app-secret'")
            superuser.execute(sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        app_url = f"postgresql://app:app-secret@127.0.0.1:{server.port}/darkroom"
        yield Settings(
            _env_file=None,
            var=tmp_path / "var",
            database_url_set=SecretStr(app_url),
            migrate_database_url_set=SecretStr(server.url),
            redis_url_set=SecretStr("redis://127.0.0.1:1/0"),
        )


def test_migrations_run_as_the_owner_and_the_service_reads_and_writes_rows(two_roles: Settings) -> None:
    bootstrap.prepare(two_roles)  # migrates, and makes the admin's account, credits and key as the service's own role
    database = Database(make_engine(two_roles.database_url))
    try:
        with database.transaction() as connection:
            assert connection.execute(text("SELECT current_user")).scalar_one() == "app"
            assert schema.pending(connection) == []
            owners = connection.execute(text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"))
            assert owners.scalars().all() == ["darkroom"]
        with database.transaction() as connection:
            assert audit.check(connection) == []
        with database.autocommit() as connection:
            growth.analyse_grown(connection)
        for forbidden in ("CREATE TABLE mine (id int)", "DROP TABLE jobs", "ALTER TABLE transfers DISABLE TRIGGER ALL",
                          "UPDATE alembic_version SET version_num = '0001'", "TRUNCATE jobs"):  # fmt: skip
            with (
                pytest.raises(Exception, match=r"permission denied|must be owner"),
                database.transaction() as connection,
            ):
                connection.execute(text(forbidden))
    finally:
        database.dispose()
    bootstrap.prepare(two_roles)  # again: nothing to do
    assert here.running_sandbox_port(two_roles.var) == two_roles.sandbox_port


def test_no_process_of_up_is_given_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"):  # another test of this process may have set one
        monkeypatch.delenv(name, raising=False)
    given = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "SECRET_OF_THE_SHELL": "shell-secret",
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "REPLICATE_WEBHOOK_SECRET": "whsec-secret",
        "SANDBOX_LATENCY_S": "0",
    }
    settings = Settings(_env_file=None, var=tmp_path / "var", drain_s=1)
    with run_stack(settings, environ=given) as running:
        pids = running.processes()
        environs = {name: Path(f"/proc/{pid}/environ").read_bytes().decode() for name, pid in pids.items()}
        database, broker = running.settings.database_url, running.settings.redis_url
        password = database.split(":")[2].partition("@")[0]
        assert {"sandbox", "web", "worker", "flower", "postgres", "redis"} <= set(environs)
        knows = {name for name, environ in environs.items() if password in environ}
        assert knows == {"web", "worker"}
        assert {name for name, environ in environs.items() if broker in environ} == {"web", "worker", "flower"}
        assert {name for name, environ in environs.items() if "FLOWER_BASIC_AUTH" in environ} == {"flower"}
        assert {name for name, environ in environs.items() if "OPENAI_API_KEY" in environ} == {"web", "worker"}
        for name in ("sandbox", "flower", "postgres", "redis"):
            assert not {"aws-secret", "whsec-secret"} & {word for word in given.values() if word in environs[name]}
        assert "shell-secret" not in environs["sandbox"] and "SANDBOX_LATENCY_S=0" in environs["sandbox"]


def test_the_owners_address_is_given_to_no_process(two_roles: Settings) -> None:
    from app.cli.service import child_environ, programs

    environ = programs.service_environ(two_roles, {})
    assert child_environ.MIGRATE in environ
    for program in programs.service_programs(two_roles, environ, flower_password="hush", sandbox=True):
        assert child_environ.MIGRATE not in program.environ
        assert ("DATABASE_URL" in program.environ) == (program.name in ("web", "worker"))
