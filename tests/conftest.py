"""Real parts for the tests: one PostgreSQL, one Redis and one sandbox for the whole run.

Every test that asks for ``database`` gets an empty, migrated one of its own, cloned from a template.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from core import schema
from core.db import Database, make_engine
from core.embedded.postgres import EmbeddedPostgres
from core.embedded.redis import EmbeddedRedis
from sandbox.testing import Sandbox, running_sandbox
from tests.logs import log_to_stderr
from tests.parallel import (  # noqa: F401 - hooks
    pytest_collection_modifyitems,
    pytest_runtestloop,
    pytest_sessionstart,
    pytest_xdist_make_scheduler,
)
from tests.quick_routes import pytest_configure  # noqa: F401 - a hook
from tests.s3_server import running_s3

_numbers = itertools.count(1)
log_to_stderr()


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose database ``template_darkroom`` is migrated and never written to."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False) as server:
        url = server.url.replace("postgresql://", "postgresql+psycopg://")
        # The tests make databases, which the role of the service may not, and drop them while autovacuum is in them.
        superuser_url = server.superuser_url.replace("postgresql://", "postgresql+psycopg://")
        _administer(superuser_url, "ALTER ROLE darkroom CREATEDB")
        _administer(superuser_url, "GRANT pg_signal_backend TO darkroom")
        _administer(url, "CREATE DATABASE template_darkroom")
        database = Database(make_engine(_named(url, "template_darkroom")))
        with database.transaction() as connection:
            schema.upgrade(connection)
        database.dispose()
        yield url


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _administer(postgres_url, f"CREATE DATABASE {name} TEMPLATE template_darkroom")
    yield _named(postgres_url, name)
    _administer(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(make_engine(database_url, pool_size=10))
    yield database
    database.dispose()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    with running_sandbox(latency_s=0.0) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Sandbox:
    """The sandbox with its memory wiped."""
    sandbox_process.reset()
    sandbox_process.clear_faults()
    return sandbox_process


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """The endpoint of a real S3 server. Every test makes a bucket of its own."""
    with running_s3() as url:
        yield url


@pytest.fixture
def var(tmp_path: Path) -> Path:
    return tmp_path / "var"


def _named(url: str, name: str) -> str:
    return url.rsplit("/", 1)[0] + f"/{name}"


def _administer(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
