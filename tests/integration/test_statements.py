"""Every hot statement in PostgreSQL: it is valid, uses its index at any size, and survives a migration."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from job_engine import root
from sqlalchemy import create_engine, text

from core.db import Statement

# A table of a million rows is never read from end to end for one job, one page or one tick.
LARGE = {
    "jobs",
    "upstream_calls",
    "orders",
    "images",
    "inputs",
    "job_events",
    "transfers",
    "balances",
    "webhook_messages",
}
ROWS = 50_000
# Reports that an operator runs now and then over the whole history; they read whole tables.
REPORTS = {"jobs.reads.margins.MARGINS"}
# What a budget of the installation costs its orders: all balances are read, and nothing is added to what others pay.
OF_ALL_BALANCES = {"jobs.submission.budget.SPENT"}
# These must be among the statements found, or the search for statements is broken.
HOTTEST = (
    "jobs.lifecycle.submit.SUBMIT",
    "jobs.lifecycle.start.START",
    "jobs.lifecycle.park.PARK",
    "jobs.lifecycle.end.END",
    "jobs.dispatch.due.TAKE_DUE",
    "jobs.dispatch.due.PROVIDERS_DUE",
    "jobs.dispatch.publishing.FILL",
    "jobs.dispatch.publishing.FILL_TURNS",
    "jobs.dispatch.publishing.PAIRS",
    "jobs.dispatch.publishing.UNPUBLISH_LOST",
    "jobs.maintenance.sweep.EXPIRED",
    "jobs.maintenance.sweep.ABANDONED",
    "jobs.maintenance.sweep.LAPSED",
    "jobs.execution.recovery.RIVAL",
    "jobs.execution.recovery.CLAIMED",
)
PACKAGES = ("app", "accounts", "core", "jobs", "quota", "storage", "webhooks", "workers")


def statements() -> dict[str, Statement]:
    """Return every Statement of the code, by module and name."""
    found: dict[str, Statement] = {}
    for package in PACKAGES:
        for file in sorted((root() / package).rglob("*.py")):
            if re.search(r"= Statement\(", file.read_text()):
                name = _module(file)
                module = importlib.import_module(name)
                found |= {f"{name}.{key}": value for key, value in vars(module).items() if isinstance(value, Statement)}
    return found


def _module(file: Path) -> str:
    return ".".join(file.relative_to(root()).with_suffix("").parts).removesuffix(".__init__")


STATEMENTS = statements()


def prepared(statement: Statement) -> tuple[str, int]:
    """Return the statement in the form of PREPARE, and its number of parameters."""
    names = sorted(statement.parameters)
    sql = re.sub(r"--[^\n]*", "", statement.sql)
    for number, name in enumerate(names, 1):
        sql = re.sub(rf"(?<![:\w]):{name}\b", f"${number}", sql)
    return sql, len(names)


@pytest.fixture(scope="module")
def large(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A database as after a year of service, with many ended jobs and a few live ones.

    Half of the providers answer with the image itself, so their calls have no upstream id.
    """
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text("CREATE DATABASE statements TEMPLATE template_darkroom"))
    administrator.dispose()
    url = postgres_url.rsplit("/", 1)[0].replace("+psycopg", "") + "/statements"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILLING.encode())
        connection.execute(b"VACUUM ANALYZE")
        yield connection


FILLING = f"""
INSERT INTO accounts (id, name) SELECT 'acct_' || i, 'a' || i FROM generate_series(0, 499) AS i;
INSERT INTO balances (account_id, spendable) SELECT id, 1000 FROM accounts;
INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted, captured, released,
    owner, started_at, finished_at, start_deadline_at, deadline_at, published_at)
SELECT 'job_' || lpad(i::text, 8, '0'), 'acct_' || i % 500, 'generate', 'm' || i % 20, 'p' || i % 10, 1, s.status,
    CASE s.status WHEN 'succeeded' THEN 'settled' WHEN 'queued' THEN 'queued' ELSE 'held' END, 10, 10,
    CASE s.status WHEN 'succeeded' THEN 10 END, CASE s.status WHEN 'succeeded' THEN 0 END,
    CASE s.status WHEN 'running' THEN 'wkr_' || i % 5 END, now(), CASE s.status WHEN 'succeeded' THEN now() END,
    now() + interval '1 hour', now() + interval '1 hour', CASE WHEN i % 2 = 0 THEN now() END
FROM generate_series(1, {ROWS}) AS i CROSS JOIN LATERAL (
    SELECT CASE i % 50 WHEN 0 THEN 'queued' WHEN 1 THEN 'waiting' WHEN 2 THEN 'running' ELSE 'succeeded' END AS status
) AS s;
INSERT INTO orders (job_id, request) SELECT id, '{{"prompt": "x"}}' FROM jobs;
INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url, dedupe_key,
    outcome, give_up_at, upstream_id)
SELECT 'call_' || id, id, 0, 1, 1, provider, model, provider || '/default', '', 'dr-' || id,
    CASE WHEN status = 'succeeded' THEN 'kept' WHEN status = 'waiting' THEN 'accepted' END, now(),
    CASE WHEN status IN ('succeeded', 'waiting') AND provider > 'p4' THEN 'up-' || id END
FROM jobs;
INSERT INTO images (job_id, index, call_id, key, mime, size_bytes, sha256)
SELECT job_id, 0, id, 'k', 'image/png', 1, '' FROM upstream_calls WHERE outcome = 'kept';
INSERT INTO inputs (job_id, role, position, key, mime, width_px, height_px, size_bytes, sha256)
SELECT id, 'image', 0, 'k', 'image/png', 1, 1, 1, '' FROM jobs;
INSERT INTO job_events (job_id, type) SELECT id, 'queued' FROM jobs;
INSERT INTO transfers (account_id, job_id, kind, source, target, amount)
SELECT account_id, id, 'hold', 'acct:available', 'acct:held', 10 FROM jobs WHERE status <> 'queued';
INSERT INTO webhook_endpoints (id, account_id, url, events, secret)
SELECT 'whe_' || id, id, 'https://x.test/', '["image.task.succeeded"]', 's' FROM accounts;
INSERT INTO webhook_messages (account_id, job_id, event, endpoint_id, target, form, state, ended_at, due_at)
SELECT account_id, id, 'image.task.succeeded', 'whe_' || account_id, 'whe_' || account_id, 'standard',
    CASE WHEN status = 'queued' THEN 'pending' ELSE 'delivered' END, CASE WHEN status <> 'queued' THEN now() END,
    now() + interval '1 hour' * random()
FROM jobs;
INSERT INTO workers (boot_id, host, pid) SELECT 'wkr_' || i, 'h', i FROM generate_series(0, 4) AS i;
INSERT INTO credentials (id, provider) SELECT 'p' || i || '/default', 'p' || i FROM generate_series(0, 9) AS i;
"""


@pytest.fixture
def transaction(large: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that is rolled back after the test."""
    with large.transaction(force_rollback=True):
        yield large
    large.execute(b"DEALLOCATE ALL")


def test_the_search_finds_the_hottest_statements() -> None:
    assert set(HOTTEST) <= set(STATEMENTS)
    assert len(STATEMENTS) > 30


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_can_be_prepared_from_its_text(transaction: psycopg.Connection[Any], name: str) -> None:
    """PostgreSQL can prepare it, and knows the type of every parameter from the text alone."""
    sql, count = prepared(STATEMENTS[name])
    transaction.execute(f"PREPARE this AS {sql}".encode())
    known = transaction.execute(b"SELECT cardinality(parameter_types) FROM pg_prepared_statements").fetchone()
    assert known == (count,)


@pytest.mark.parametrize("name", [name for name in STATEMENTS if name not in REPORTS | OF_ALL_BALANCES])
def test_a_statement_finds_its_rows_by_an_index(transaction: psycopg.Connection[Any], name: str) -> None:
    """With the generic plan, for which a partial index is used only if the statement names the state."""
    plan = generic_plan(transaction, STATEMENTS[name])
    read_whole = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    assert not LARGE & set(read_whole), json.dumps(plan, indent=1)


@pytest.mark.parametrize(
    ("name", "indexes"),
    [
        ("jobs.lifecycle.start.START", {"jobs_published_turns", "jobs_unpublished"}),
        ("jobs.dispatch.due.TAKE_DUE", {"jobs_waiting_due", "jobs_waiting_turns"}),
        ("jobs.dispatch.due.PROVIDERS_DUE", {"jobs_waiting_due"}),
        ("jobs.dispatch.publishing.FILL", {"jobs_published_turns", "jobs_unpublished"}),
        ("jobs.dispatch.publishing.FILL_TURNS", {"jobs_unpublished"}),
        ("jobs.dispatch.publishing.PAIRS", {"jobs_published_turns", "jobs_unpublished"}),
        ("jobs.lifecycle.submit.SUBMIT", {"jobs_published_turns", "jobs_queue_order"}),
        ("jobs.dispatch.publishing.UNPUBLISH_LOST", {"jobs_republish"}),
        ("jobs.maintenance.sweep.EXPIRED", {"jobs_deadline"}),
        ("jobs.maintenance.sweep.ABANDONED", {"jobs_deadline"}),
        ("jobs.maintenance.sweep.LAPSED", {"jobs_running"}),
        ("jobs.submission.load.IN_FLIGHT_ACCOUNT", {"jobs_account_queued", "jobs_account_running"}),
        ("jobs.submission.load.IN_FLIGHT_KEY", {"jobs_account_queued", "jobs_account_running"}),
        (
            *("jobs.submission.load.IN_FLIGHT_INSTALLATION",),
            *({"jobs_queue_order", "jobs_running", "jobs_waiting_due"},),
        ),
        ("jobs.execution.recovery.CLAIMED", {"upstream_calls_upstream_id"}),
        ("jobs.execution.recovery.RIVAL", {"upstream_calls_without_id"}),
    ],
)
def test_a_partial_index_is_used_by_its_statements(
    transaction: psycopg.Connection[Any], name: str, indexes: set[str]
) -> None:
    plan = generic_plan(transaction, STATEMENTS[name])
    assert indexes <= {node.get("Index Name") for node in nodes(plan)}, json.dumps(plan, indent=1)


@pytest.mark.parametrize(
    "name", ["jobs.lifecycle.submit.SUBMIT", "jobs.lifecycle.start.START", "jobs.dispatch.publishing.FILL"]
)
def test_published_jobs_are_counted_by_their_provider(transaction: psycopg.Connection[Any], name: str) -> None:
    """And not by reading the published ones of every provider."""
    plan = generic_plan(transaction, STATEMENTS[name])
    assert "jobs_republish" not in {node.get("Index Name") for node in nodes(plan)}, json.dumps(plan, indent=1)


def test_a_column_added_under_a_running_process_breaks_no_statement(transaction: psycopg.Connection[Any]) -> None:
    """An old worker has its statements prepared when the migration of the next release adds a column."""
    for number, statement in enumerate(STATEMENTS.values()):
        sql, _ = prepared(statement)
        transaction.execute(f"PREPARE s{number} AS {sql}".encode())
    run_all(transaction)
    tables = transaction.execute(
        b"SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    ).fetchall()
    for (table,) in tables:
        transaction.execute(f"ALTER TABLE {table} ADD COLUMN of_the_next_release text DEFAULT 'new'".encode())
    run_all(transaction)


def run_all(connection: psycopg.Connection[Any]) -> None:
    """Run all prepared statements; with unknown parameters they find and change nothing."""
    for number, (name, statement) in enumerate(STATEMENTS.items()):
        nulls = ", ".join(["NULL"] * len(statement.parameters))
        try:
            connection.execute(f"EXECUTE s{number}{f'({nulls})' if nulls else ''}".encode())
        except psycopg.Error as error:
            raise AssertionError(f"{name}: {error}") from error


def generic_plan(connection: psycopg.Connection[Any], statement: Statement) -> Any:
    sql, count = prepared(statement)
    connection.execute(b"SET LOCAL plan_cache_mode = force_generic_plan")
    connection.execute(f"PREPARE this AS {sql}".encode())
    nulls = f"({', '.join(['NULL'] * count)})" if count else ""
    [[plan]] = connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE this{nulls}".encode()).fetchall()
    return plan


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a plan, at any depth."""
    if isinstance(plan, list):
        for each in plan:
            yield from nodes(each)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            yield plan
        for each in plan.values():
            yield from nodes(each)
