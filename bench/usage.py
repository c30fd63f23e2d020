"""Usage of a month: read from the sums of closed days and hours, against the same sum over the ledger itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import text

from bench.table import Bound, Row
from core import schema
from core.db import Database, make_engine
from core.embedded.postgres import EmbeddedPostgres
from jobs.maintenance import audit
from jobs.maintenance.usage_rollup import UsageRollup
from jobs.reads.usage import Usage, usage

DAYS = 30
ACCOUNTS, KEYS, MODELS = 20, 3, 12
TIMES = 5
OF_LIVE = Bound("ratio", at_most=0.1)
WITHIN_A_SECOND = Bound("ours", at_most=1000.0)

# Evenly over the days, up to now: 7 of 10 are sold, the others fail or are cancelled.
_SEED = f"""
SET session_replication_role = replica;
INSERT INTO accounts (id, name) SELECT 'acct_' || i, 'a' || i FROM generate_series(0, {ACCOUNTS - 1}) AS i;
CREATE TEMPORARY TABLE seeded AS
SELECT 'job_' || lpad(i::text, 26, '0') AS id, 'call_' || lpad(i::text, 26, '0') AS call_id,
    'acct_' || i % {ACCOUNTS} AS account_id, 'key_' || i % {ACCOUNTS} || '_' || i / 7 % {KEYS} AS key_id,
    'm' || i / 3 % {MODELS} AS model, 'p' || i / 3 % {MODELS} % 4 AS provider,
    CASE WHEN i % 10 < 7 THEN 'succeeded' WHEN i % 10 < 9 THEN 'failed' ELSE 'cancelled' END AS status,
    now() - interval '{DAYS} days' * (1 - i / {{jobs}}::float) AS at
FROM generate_series(1, {{jobs}}) AS i;
INSERT INTO jobs (id, account_id, key_id, operation, model, provider, n, status, money, unit_price, quoted, captured,
    released, failure_code, created_at, started_at, finished_at)
SELECT id, account_id, key_id, 'generate', model, provider, 1, status, 'settled', 100, 100,
    CASE status WHEN 'succeeded' THEN 100 ELSE 0 END, CASE status WHEN 'succeeded' THEN 0 ELSE 100 END,
    CASE status WHEN 'failed' THEN 'x' END, at - interval '20 seconds', at - interval '15 seconds', at
FROM seeded;
INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url, dedupe_key,
    outcome, intended_at, closed_at, give_up_at, pictures_kept, expected_cost, reported_cost)
SELECT call_id, id, 0, 1, 1, provider, model, 'c', '', id, CASE status WHEN 'succeeded' THEN 'kept' ELSE 'failed' END,
    at - interval '15 seconds', at, at, 1, 40, CASE WHEN status = 'succeeded' AND provider < 'p2' THEN 41 END
FROM seeded;
INSERT INTO images (job_id, index, call_id, key, mime, size_bytes, sha256, created_at)
SELECT id, 0, call_id, 'k', 'image/png', 1, '', at FROM seeded WHERE status = 'succeeded';
INSERT INTO transfers (account_id, job_id, kind, source, target, amount, created_at)
SELECT account_id, id, 'hold', 'acct:available', 'acct:held', 100, at - interval '15 seconds' FROM seeded
UNION ALL
SELECT account_id, id, CASE status WHEN 'succeeded' THEN 'capture' ELSE 'release' END, 'acct:held',
    CASE status WHEN 'succeeded' THEN 'house:revenue' ELSE 'acct:available' END, 100, at FROM seeded;
"""


def measure(folder: Path, *, jobs: int) -> list[Row]:
    """``jobs`` over a month, in a database of their own; nothing else is running."""
    with EmbeddedPostgres(folder / "usage", durable=False) as server:
        database = Database(make_engine(server.url.replace("postgresql://", "postgresql+psycopg://"), pool_size=3))
        try:
            with database.transaction() as connection:
                schema.upgrade(connection)
            _fill(server, jobs)
            return _rows(database, jobs)
        finally:
            database.dispose()


def _fill(server: EmbeddedPostgres, jobs: int) -> None:
    url = server.superuser_url.rpartition("/")[0] + "/" + server.url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SEED.replace("{jobs}", str(jobs)).encode())
        connection.execute(b"VACUUM ANALYZE")


def _rows(database: Database, jobs: int) -> list[Row]:
    with database.autocommit() as connection:
        until: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    asked: dict[str, Any] = {"from_at": until - timedelta(days=DAYS + 1), "to_at": until, "costs": True}
    every = partial(usage, **asked, by=("day", "model"), account_id=None)
    own = partial(usage, **asked, by=("day", "key"), account_id="acct_1")
    live_ms, live = _timed(database, every, times=1)
    live_own_ms, _ = _timed(database, own, times=1)
    rolled_s, hours = _roll_up(database)
    rolled_ms, rolled = _timed(database, every)
    own_ms, _ = _timed(database, own)
    if rolled != live:
        raise AssertionError("the sums of closed days are not those of the ledger")
    with database.transaction() as connection:
        if found := [each for each in audit.check(connection) if each.invariant.startswith("usage")]:
            raise AssertionError(f"the audit found {found[0]}")
    more = {"rolled_up_s": rolled_s, "hours": hours, "groups": len(live)}
    name = f"of a month with {jobs:,} jobs"
    return [
        Row(f"usage by day and model {name}", "ms", rolled_ms, live_ms, "from the ledger", OF_LIVE, more),
        Row(f"the same against the clock, {name}", "ms", rolled_ms, bound=WITHIN_A_SECOND),
        Row(f"usage of one account by day and key {name}", "ms", own_ms, live_own_ms, "from the ledger"),
    ]


def _timed(
    database: Database, read: Callable[..., list[Usage]], *, times: int = TIMES
) -> tuple[float, Sequence[Usage]]:
    """The fastest of several readings in ms, and what it read. On a connection as the web process has it, but for its
    time-out."""
    taken = []
    for _ in range(times):
        with database.transaction() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            began = time.perf_counter()
            found = read(connection)
            taken.append((time.perf_counter() - began) * 1000)
    return min(taken), found


def _roll_up(database: Database) -> tuple[float, int]:
    """Everything that is closed, as the sweep does it: how long that took, and how many hours it was."""
    rollup, began, hours = UsageRollup(database), time.perf_counter(), 0
    while done := rollup.work(seconds=60):
        hours += done
    return time.perf_counter() - began, hours
