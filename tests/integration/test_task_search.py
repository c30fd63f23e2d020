"""Finding a job of any account by what is known of it: what is found, and how many pages are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, create_engine, text

from core.db import Database, make_engine
from core.ids import id_before, new_id
from jobs.errors import JobNotFoundError
from jobs.reads import search
from jobs.reads.search import Search, bounds, find_jobs

HISTORY = 100_000
PAGES_AT_MOST = 400  # the tables have thousands
RARE = "job_" + 25 * "0" + "7"  # older than all others
RARE_DIGEST = hashlib.sha256("ein roter Fuchs ✓".encode()).hexdigest()
ACCOUNT, QUIET = new_id("acct"), new_id("acct")


@pytest.fixture(scope="module")
def grown(postgres_url: str) -> Iterator[Database]:
    """100,000 succeeded jobs of one account, and one old failed job of another with everything rare."""
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE searched TEMPLATE template_darkroom"))
    database = Database(make_engine(postgres_url.rsplit("/", 1)[0] + "/searched", pool_size=2))
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for account, name in ((ACCOUNT, "busy"), (QUIET, "quiet")):
            connection.execute(
                text("INSERT INTO accounts (id, name) VALUES (:id, :name)"), {"id": account, "name": name}
            )
        jobs = """
            INSERT INTO jobs (id, account_id, operation, model, provider, n, status, money, unit_price, quoted,
                captured, released, failure_code, created_at, finished_at)
            SELECT :id || CASE WHEN CAST(:many AS boolean) THEN lpad(i::text, 16, '0') ELSE '' END, :account,
                'generate', 'm', :provider, 1, :status, 'settled', 0, 0, 0, 0, :code, at, at
            FROM (SELECT i, clock_timestamp() - make_interval(secs => CAST(:count AS int) - i) AS at
                FROM generate_series(1, CAST(:count AS int)) AS i) AS s
        """
        begin = id_before("job", datetime.now().astimezone())[:14]
        many = {
            "id": begin,
            "many": True,
            "account": ACCOUNT,
            "provider": "openai",
            "status": "succeeded",
            "code": None,
        }
        connection.execute(text(jobs), {**many, "count": HISTORY})
        rare = {"id": RARE, "many": False, "account": QUIET, "provider": "xai", "status": "failed", "code": "odd"}
        connection.execute(text(jobs), {**rare, "count": 1})
        connection.execute(
            text(
                "INSERT INTO orders (job_id, request, request_id) SELECT id, jsonb_build_object('prompt', CASE WHEN"
                " id = :rare THEN 'ein roter Fuchs ✓' ELSE 'a fox ' || id END, 'n', 1, 'size', '{}'::jsonb, 'params',"
                " '{}'::jsonb, 'normalised', '{}'::jsonb), CASE WHEN id = :rare THEN 'req-rare' ELSE 'req-' || id END"
                " FROM jobs"
            ),
            {"rare": RARE},
        )
        connection.execute(
            text(
                "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id, base_url,"
                " dedupe_key, outcome, give_up_at, upstream_id) SELECT 'call_' || id, id, 0, 1, 1, provider, 'm',"
                " provider || '/default', '', id, 'kept', clock_timestamp(), 'up-' || id FROM jobs"
            )
        )
        # Without an id of its caller's, like the orders of older releases.
        connection.execute(text("UPDATE orders SET request_id = '' WHERE job_id = (SELECT max(id) FROM jobs)"))
        connection.execute(text("ANALYZE"))
    yield database
    database.dispose()
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE searched WITH (FORCE)"))
    server.dispose()


def pages_of(connection: Connection, asked: Search) -> tuple[int, str]:
    values = {name: getattr(asked, name) for name in Search.__slots__ if name != "account"}
    values |= {"account_id": QUIET if asked.account else None, **bounds(asked)}
    search._plan_with_values(connection)
    statement = text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {search.SEARCH.text}")
    [plan] = connection.execute(statement, values).scalar_one()
    root = plan["Plan"]
    return root["Shared Hit Blocks"] + root["Shared Read Blocks"], json.dumps(plan, indent=1)


BY = {
    "account": Search(account="quiet"),
    "account id": Search(account=QUIET),
    "failed": Search(status="failed"),
    "code": Search(code="odd"),
    "provider": Search(provider="xai"),
    "request id": Search(request_id="req-rare"),
    "upstream id": Search(upstream_id=f"up-{RARE}"),
    "prompt": Search(prompt_sha256=RARE_DIGEST),
    "all of it": Search(account="quiet", status="failed", code="odd", provider="xai", request_id="req-rare"),
}


@pytest.mark.parametrize("asked", BY.values(), ids=BY)
def test_the_one_rare_job_is_found_by_a_few_pages(grown: Database, asked: Search) -> None:
    with grown.transaction() as connection:
        [found] = find_jobs(connection, asked)
        pages, plan = pages_of(connection, asked)
    assert (found.task.id, found.account_name, found.request_id) == (RARE, "quiet", "req-rare")
    assert (found.prompt_sha256, found.prompt_chars) == (RARE_DIGEST, 17)
    assert [(call.upstream_id, call.credential) for call in found.calls] == [(f"up-{RARE}", "xai/default")]
    assert pages < PAGES_AT_MOST, plan


@pytest.mark.parametrize("status", [None, "queued", "running", "succeeded", "cancelled"])
def test_a_page_of_all_accounts_reads_a_few_pages(grown: Database, status: str | None) -> None:
    with grown.transaction() as connection:
        found = find_jobs(connection, Search(status=status))
        pages, plan = pages_of(connection, Search(status=status))
    assert len(found) == (20 if status in (None, "succeeded") else 0)
    assert pages < PAGES_AT_MOST, plan


def test_what_waits_for_its_upstream_is_running_for_people(grown: Database) -> None:
    with grown.transaction() as connection:
        change = connection.begin_nested()
        connection.execute(
            text("UPDATE jobs SET status = 'waiting', money = 'held', finished_at = NULL, captured = NULL,"
                 " released = NULL, failure_code = NULL WHERE id = :id"), {"id": RARE}
        )  # fmt: skip
        found = [(each.task.id, each.task.status) for each in find_jobs(connection, Search(status="running"))]
        change.rollback()
    assert found == [(RARE, "running")]


def test_pages_follow_each_other(grown: Database) -> None:
    with grown.transaction() as connection:
        first = [each.task.id for each in find_jobs(connection, Search(limit=3))]
        next_ = [each.task.id for each in find_jobs(connection, Search(limit=3, cursor=first[1]))]
        pages, plan = pages_of(connection, Search(cursor=first[2]))
    assert next_[0] == first[2] and first == sorted(first, reverse=True)
    assert pages < PAGES_AT_MOST, plan


def test_a_range_of_times_is_exact_and_read_by_ids(grown: Database) -> None:
    with grown.transaction() as connection:
        newest = find_jobs(connection, Search(limit=1))[0].task.created_at
        after = find_jobs(connection, Search(created_after=newest - timedelta(seconds=4.5), limit=100))
        between = Search(created_after=newest - timedelta(seconds=9.5), created_before=newest - timedelta(seconds=4.5))
        found = find_jobs(connection, between)
        pages, plan = pages_of(connection, Search(created_after=newest + timedelta(days=1)))
        assert find_jobs(connection, Search(created_before=newest - timedelta(days=30))) == []
    assert (len(after), len(found)) == (5, 5)
    assert pages < PAGES_AT_MOST, plan


@pytest.mark.parametrize(
    "asked",
    [Search(account="no one's"), Search(code="other"), Search(request_id=""), Search(model="a\x00b"),
     Search(account="quiet", provider="openai"), Search(account="quiet", operation="edit"),
     Search(account="quiet", model="other")],
)  # fmt: skip
def test_what_does_not_hold_finds_nothing(grown: Database, asked: Search) -> None:
    with grown.transaction() as connection:
        assert find_jobs(connection, asked) == []


def test_a_job_of_any_account_is_read_by_its_id(grown: Database) -> None:
    with grown.transaction() as connection:
        assert search.find_job(connection, RARE).account_name == "quiet"
        for unknown in ("job_1", new_id("job")):
            with pytest.raises(JobNotFoundError):
                search.find_job(connection, unknown)
