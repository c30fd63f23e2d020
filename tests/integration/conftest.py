"""The job engine's parts as fixtures; see ``job_engine`` for what tests do with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_engine import Engine, Recorder, image_bytes, make_context
from sqlalchemy import create_engine, text
from submissions import make_submission

from accounts.keys import Caller
from core.db import Database, make_engine
from jobs.execution.context import WorkerContext
from jobs.submission.service import SubmissionService
from providers.catalog import catalog
from providers.catalog.catalog import Catalog
from providers.configured import configured_names
from sandbox.testing import Sandbox
from storage.local import LocalStore
from storage.media import Media

# Every table a test may write to; rows that refer to a job are deleted with it.
EMPTIED = (
    "abuse_events",
    "abuse_overrides",
    "abuse_tallies",
    "admin_actions",
    "screening_refusals",
    "spending_memos",
    "image_buckets",
    "webhook_messages",
    "webhook_endpoints",
    "webhook_account_secrets",
    "dispatch_turns",
    "job_events",
    "jobs",
    "uploads",
    "batches",
    "files",
    "idempotency_keys",
    "sdk_attempts",
    "transfers",
    "balances",
    "own_keys",
    "api_keys",
    "accounts",
    "permits",
    "submit_tokens",
    "credentials",
    "providers",
    "doomed_blobs",
    "workers",
    "marks",
    "usage_sums",
    "usage_steps",
)

# Sent as one, for a round trip each takes most of the time. Only the owner can disable the trigger; the tests of the
# ledger test that it guards.
_EMPTY = "; ".join(
    (
        "ALTER TABLE transfers DISABLE TRIGGER transfers_are_final",
        *(f"DELETE FROM {table}" for table in EMPTIED),
        "ALTER TABLE transfers ENABLE TRIGGER transfers_are_final",
    )
)


@pytest.fixture(scope="session")
def shared_database(postgres_url: str) -> Iterator[Database]:
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text("CREATE DATABASE job_engine TEMPLATE template_darkroom"))
    administrator.dispose()
    database = Database(make_engine(postgres_url.rsplit("/", 1)[0] + "/job_engine", pool_size=32))
    yield database
    database.dispose()


@pytest.fixture
def database(shared_database: Database) -> Database:
    """One database per test process, emptied before each test: fifty times quicker than a new one."""
    with shared_database.transaction() as connection:
        connection.exec_driver_sql(_EMPTY)
    return shared_database


@pytest.fixture(scope="session")
def models() -> Catalog:
    return catalog.load()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="session")
def media(store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Media]:
    media = Media(store, tmp_path_factory.mktemp("staging"), decoders=1)
    yield media
    media.close()


@pytest.fixture
def upstreams(sandbox: Sandbox) -> dict[str, str]:
    """The environment that points two adapters at the sandbox."""
    sandbox.settings(latency_s=0.0, prepared=True)
    return {
        "CHATGPT2API_BASE_URL": sandbox.chatgpt2api_url,
        "CHATGPT2API_API_KEY": "test-key",
        "OPENAI_BASE_URL": sandbox.openai_url,
        "OPENAI_API_KEY": "test-key",
    }


@pytest.fixture
def sent() -> Recorder:
    return Recorder()


@pytest.fixture
def context(  # noqa: PLR0917 - fixtures come by name
    database: Database,
    models: Catalog,
    media: Media,
    store: LocalStore,
    upstreams: dict[str, str],
    sent: Recorder,
) -> WorkerContext:
    """A worker context with the real adapters. Its owner has a heartbeat."""
    context = make_context(
        database=database, models=models, media=media, store=store, environ=upstreams, sent=sent, owner="wkr_test"
    )
    with database.transaction() as connection:
        for name in context.registry.configured():
            for provider in context.registry.of(name):
                connection.execute(
                    text("INSERT INTO credentials (id, provider) VALUES (:id, :name)"),
                    {"id": provider.credential_id, "name": name},
                )
    return context


@pytest.fixture
def submission(
    database: Database, media: Media, store: LocalStore, models: Catalog, upstreams: dict[str, str]
) -> SubmissionService:
    return make_submission(database, media, store, models, configured=configured_names(upstreams))


@pytest.fixture
def engine(context: WorkerContext, submission: SubmissionService, sent: Recorder) -> Engine:
    return Engine(context, submission, sent)


@pytest.fixture
def account(engine: Engine) -> Caller:
    """A funded account."""
    return engine.account()


@pytest.fixture
def png() -> bytes:
    return image_bytes()
