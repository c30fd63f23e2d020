"""Query plans on a database with a long history, and how many pages they read. Nothing is timed.

One account has 200,000 ended jobs and a few of every other kind. The tables are freshly filled: analysed, as
autovacuum does within a minute, but never vacuumed. Every plan is the generic one, as for a prepared statement.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text

from core.db import Database, make_engine
from core.ids import new_id
from jobs.maintenance import deletion, fleet, retention, sweep
from jobs.reads import events, tasks
from jobs.reads.tasks import Filters
from jobs.submission import estimates, result_cache, sdk_attempts

HISTORY = 200_000
RARE = 3
PAGES_AT_MOST = 400  # the table alone has more than 5,000
ACCOUNT, QUIET = new_id("acct"), new_id("acct")
FIFTY = [f"job_{2000 + number:026d}" for number in range(50)]
SCANNED_WHOLE = (
    r'"Seq Scan",[^{}]*"Relation Name": "(jobs|orders|images|job_events|idempotency_keys|sdk_attempts|doomed_blobs)"'
)
RARE_STATUSES = ("queued", "running", "waiting", "failed", "cancelled")


@pytest.fixture(scope="module")
def grown(postgres_url: str) -> Iterator[Database]:
    """A separate database, because deleting so many rows takes longer than creating it."""
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE grown TEMPLATE template_darkroom"))
    database = Database(make_engine(postgres_url.rsplit("/", 1)[0] + "/grown", pool_size=2))
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for account in (ACCOUNT, QUIET):
            connection.execute(text("INSERT INTO accounts (id, name) VALUES (:id, :id)"), {"id": account})
        _seed(connection, "succeeded", HISTORY, first=0)
        _seed(connection, "succeeded", RARE, first=-900, account=QUIET)
        # Older than all others, so that a search from the newest on finds them last.
        for number, status in enumerate(RARE_STATUSES):
            _seed(connection, status, RARE, first=-100 * (number + 1))
        connection.execute(
            text(
                # Half of them are equal.
                "INSERT INTO orders (job_id, request, metadata, order_sha256) SELECT id, '{}',"
                " jsonb_build_object('nth', right(id, 1)),"
                " CASE WHEN right(id, 1) < '5' THEN '\\x01' ELSE decode(md5(id), 'hex') END FROM jobs"
            )
        )
        connection.execute(
            text("INSERT INTO job_events (job_id, type) SELECT id, type FROM jobs, unnest(ARRAY['queued', 'started',"
                 " 'succeeded']) AS type ORDER BY jobs.id")
        )  # fmt: skip
        connection.execute(
            text(
                "INSERT INTO idempotency_keys (account_id, key, fingerprint, job_id, created_at) SELECT account_id, id,"
                " '', id, created_at FROM jobs"
            )
        )
        # Half of them are of one caller who sends the same order all the time.
        connection.execute(
            text(
                "INSERT INTO sdk_attempts (job_id, account_id, fingerprint, retry_count, created_at, answered)"
                " SELECT id, account_id, CASE WHEN right(id, 1) < '5' THEN '\\x01' ELSE decode(md5(id), 'hex') END, 0,"
                " created_at, right(id, 2) <> '01' FROM jobs"
            )
        )
        connection.execute(text("INSERT INTO credentials (id, provider) VALUES ('cred', 'p')"))
        connection.execute(
            text(
                "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id,"
                " base_url, dedupe_key, outcome, give_up_at) SELECT 'call_' || min(id), min(id), 0, 1, 1, 'p', 'm',"
                " 'cred', '', '', 'kept', clock_timestamp() FROM jobs"
            )
        )
        connection.execute(
            text(
                "INSERT INTO images (job_id, index, call_id, key, mime, size_bytes, sha256, created_at) SELECT j.id, 0,"
                " c.id, j.id, 'image/png', 1, '', j.created_at FROM jobs AS j, upstream_calls AS c"
                " WHERE j.finished_at IS NOT NULL"
            )
        )
        connection.execute(text("INSERT INTO doomed_blobs (key) SELECT id FROM jobs"))
        connection.execute(text("ANALYZE"))
    yield database
    database.dispose()
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE grown WITH (FORCE)"))
    server.dispose()


def _seed(connection: Connection, status: str, count: int, *, first: int, account: str = ACCOUNT) -> None:
    ended = status in ("succeeded", "failed", "cancelled")
    connection.execute(
        text(
            "INSERT INTO jobs (id, account_id, operation, model, provider, n, status, owner, money, unit_price, quoted,"
            " captured, released, failure_code, keep_s, created_at, started_at, finished_at)"
            " SELECT 'job_' || lpad((1000 + :first + i)::text, 26, '0'), :account, 'generate', 'm', 'p', 1,"
            " CAST(:status AS text), CASE WHEN :status = 'running' THEN 'wkr' END,"
            " CASE WHEN :ended THEN 'settled' WHEN :status = 'queued' THEN 'queued' ELSE 'held' END, 0, 0,"
            " CASE WHEN :ended THEN 0 END, CASE WHEN :ended THEN 0 END, CASE WHEN :status = 'failed' THEN 'x' END,"
            " CASE WHEN i % 100 = 0 THEN 60 END, at, CASE WHEN :status <> 'queued' THEN at END,"
            " CASE WHEN :ended THEN at END FROM (SELECT i, clock_timestamp() - make_interval(secs => :count - i) AS at"
            " FROM generate_series(0, :count - 1) AS i) AS s"
        ),
        {"account": account, "status": status, "count": count, "first": first, "ended": ended},
    )


def pages_read(connection: Connection, statement: str, values: Mapping[str, Any]) -> tuple[int, str]:
    """Return how many pages the generic plan of ``statement`` reads with ``values``, and the plan."""
    names = list(dict.fromkeys(re.findall(r"(?<!:):([a-z_]\w*)", statement)))
    numbered = re.sub(r"(?<!:):([a-z_]\w*)", lambda found: f"${names.index(found[1]) + 1}", statement)
    literals = ", ".join(_literal(values[name]) for name in names)
    connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
    connection.exec_driver_sql(f"PREPARE asked AS {numbered}")
    try:
        [plan] = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE asked({literals})"
        ).scalar_one()
    finally:
        connection.exec_driver_sql("DEALLOCATE asked")
    root = plan["Plan"]
    return root["Shared Hit Blocks"] + root["Shared Read Blocks"], json.dumps(plan, indent=1)


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "ARRAY[" + ", ".join(_literal(each) for each in value) + "]"
    return str(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"


# ---------------------------------------------------------------- lists of tasks


def list_pages(grown: Database, account_id: str, status: str | None, *, cursor: str | None = None) -> tuple[int, str]:
    values = {"account_ids": [account_id], "cursor": cursor, "limit": 20}
    values |= dict.fromkeys(("operation", "model", "created_after", "created_before", "metadata"))
    with grown.autocommit() as connection:
        return pages_read(connection, tasks._LISTS[status].text, values)


@pytest.mark.parametrize("status", [None, "queued", "running", "succeeded", "failed", "cancelled"])
def test_a_list_reads_a_few_pages_however_rare_its_status_is(grown: Database, status: str | None) -> None:
    pages, plan = list_pages(grown, ACCOUNT, status)
    assert pages < PAGES_AT_MOST, plan
    assert not re.search(SCANNED_WHOLE, plan), plan
    with grown.autocommit() as connection:
        found = tasks.list_tasks(connection, ACCOUNT, Filters(status=status))
    many = status in (None, "succeeded")
    assert len(found) == (20 if many else 2 * RARE if status == "running" else RARE)
    assert {task.status for task in found} == {status or "succeeded"}
    assert [task.id for task in found] == sorted((task.id for task in found), reverse=True)


@pytest.mark.parametrize("status", [None, "succeeded", "failed"])
def test_a_list_of_a_quiet_account_does_not_read_a_busy_accounts_jobs(grown: Database, status: str | None) -> None:
    pages, plan = list_pages(grown, QUIET, status)
    assert pages < PAGES_AT_MOST, plan
    with grown.autocommit() as connection:
        assert len(tasks.list_tasks(connection, QUIET, Filters(status=status))) == (0 if status == "failed" else RARE)


@pytest.mark.parametrize(
    ("account", "job_id"),
    [(ACCOUNT, FIFTY[0]), (QUIET, "job_" + "0" * 26), (QUIET, FIFTY[0])],
    ids=["of a busy account", "before all others", "of a quiet account"],
)
def test_the_page_before_a_job_is_found_without_reading_others(grown: Database, account: str, job_id: str) -> None:
    with grown.autocommit() as connection:
        values = {"account_ids": [account], "job_id": job_id, "limit": 100}
        pages, plan = pages_read(connection, tasks._NEWEST_BEFORE.text, values)
    assert pages < PAGES_AT_MOST, plan
    assert not re.search(SCANNED_WHOLE, plan), plan


def test_the_sweep_finds_what_is_to_be_cancelled_by_its_own_index(grown: Database) -> None:
    with grown.autocommit() as connection:
        pages, plan = pages_read(connection, sweep.CANCEL_AFTER.sql, {"page": 500})
    assert "jobs_cancel_after" in plan
    assert pages < 10, plan


@pytest.mark.parametrize("status", [None, "succeeded"])
def test_a_page_far_back_does_not_read_the_earlier_pages(grown: Database, status: str | None) -> None:
    pages, plan = list_pages(grown, ACCOUNT, status, cursor=f"job_{2000:026d}")
    assert pages < PAGES_AT_MOST, plan


def test_the_look_for_an_equal_order_reads_a_few_pages_however_many_there_are(grown: Database) -> None:
    values = {"order_digest": "\\x01", "account_id": ACCOUNT, "provider": "p", "model": "m", "max_age_s": 1e9}
    with grown.autocommit() as connection:
        pages, plan = pages_read(connection, result_cache.FIND.sql, {**values, "looked_at": result_cache.LOOKED_AT})
    assert "orders_equal" in plan
    assert pages < PAGES_AT_MOST, plan


# ---------------------------------------------------------------- retention


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (retention._SHORT_LIVES.text, {"after_at": "-infinity", "page": 50}),
        (retention._OLD_REPEATS["idempotency_keys"].text, {"after_at": "-infinity", "page": 50}),
        (retention._OLD_REPEATS["sdk_attempts"].text, {"after_at": "-infinity", "page": 50}),
        (deletion._DUE_BLOBS.text, {"after_at": "-infinity", "page": 50}),
        (retention.OLD_IMAGES, {"keep_s": 3600.0, "after_at": "-infinity", "after_id": "", "page": 50}),
        (deletion._DELETE_IMAGES.text, {"ids": FIFTY, "reason": "expired", "keys": None}),
        (deletion._DELETE_INPUTS.text, {"ids": FIFTY}),
    ],
    ids=[
        "short lives",
        "idempotency keys",
        "attempts",
        "listed blobs",
        "old images",
        "images deleted",
        "inputs deleted",
    ],
)
def test_a_page_of_a_backlog_reads_no_more_than_the_page(
    grown: Database, statement: str, values: Mapping[str, Any]
) -> None:
    with grown.engine.connect() as connection:
        pages, plan = pages_read(connection, statement, values)
        connection.rollback()
    assert pages < 50 * 40, plan  # each changed row costs a few pages per index
    assert not re.search(SCANNED_WHOLE, plan), plan


def test_the_gauges_of_the_fleet_read_live_jobs_alone(grown: Database) -> None:
    values = {"dead_s": 10.0, "audit": "audit_result", "catalog": "catalog_drift"}
    with grown.autocommit() as connection:
        pages, plan = pages_read(connection, fleet.FLEET.text, values)
    assert pages < PAGES_AT_MOST, plan
    assert not re.search(r'"Seq Scan",[^{}]*"Relation Name": "jobs"', plan), plan


# ---------------------------------------------------------------- streams of events


def test_what_a_stream_reads_of_one_job_is_a_few_pages(grown: Database) -> None:
    values = {"account_ids": [ACCOUNT], "ids": [f"job_{1000:026d}"], "afters": [1]}
    with grown.autocommit() as connection:
        pages, plan = pages_read(connection, events._LIVES.text, values)
    assert pages < PAGES_AT_MOST, plan
    assert not re.search(SCANNED_WHOLE, plan), plan


def test_what_the_feed_reads_grows_with_what_has_happened_alone(grown: Database) -> None:
    with grown.autocommit() as connection:
        newest = events.newest(connection)
        values = {"account_ids": [ACCOUNT, QUIET], "after": newest - 50, "last": newest}
        pages, plan = pages_read(connection, events._OF_ACCOUNTS.text, values)
        assert pages < 50 * 10, plan
        assert not re.search(SCANNED_WHOLE, plan), plan
        found = events.of_accounts(connection, [ACCOUNT, QUIET], after=newest - 50, last=newest)
        assert len(found) == 50
        values = {"account_ids": [ACCOUNT, QUIET], "most": 2000, "since": None, "overlap": "5 s"}
        pages, plan = pages_read(connection, events._PROGRESS.text, values)
        assert pages < PAGES_AT_MOST, plan
        assert not re.search(SCANNED_WHOLE, plan), plan


# ---------------------------------------------------------------- repeats


def test_a_retry_finds_its_attempt_by_the_index(grown: Database) -> None:
    values = {"account_id": ACCOUNT, "fingerprint": "\\x02", "retry_count": 1, "window_s": 900}
    with grown.engine.connect() as connection:
        pages, plan = pages_read(connection, sdk_attempts._JOIN.text, values)
        connection.rollback()
    assert pages < 50, plan
    assert "sdk_attempts_open" in plan


# ---------------------------------------------------------------- estimates


def test_the_wait_is_estimated_from_a_few_pages(grown: Database) -> None:
    values = {"provider": "p", "model": "m", "sample": 200, "events": 2000, "dead_s": 10.0}
    with grown.autocommit() as connection:
        pages, plan = pages_read(connection, estimates._MEASURE.text, values)
    # 2,000 events and their jobs, each found by its key.
    assert pages < 8000, plan
    assert not re.search(SCANNED_WHOLE, plan), plan
