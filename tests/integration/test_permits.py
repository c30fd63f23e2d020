"""Permits and submit tokens on a real PostgreSQL, taken by many threads at once."""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from job_engine import Engine
from sqlalchemy import Connection, Row, text

from accounts.keys import Caller
from core.db import Database
from core.ids import new_id
from jobs.dispatch import permits, refill
from jobs.dispatch.limits import CredentialLimits, announce, reconcile, recover
from jobs.dispatch.permits import Taken
from jobs.maintenance import audit
from workers.wiring import LIMIT_MAX

PROVIDER = "chatgpt2api"
KEY = "chatgpt2api/one"
OTHER_KEY = "chatgpt2api/two"


@dataclass
class Rows:
    """A provider's credentials without a worker, and helpers that take their permits."""

    database: Database
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def limit(self, key: str = KEY, **limits: int) -> None:
        with self.database.transaction() as connection:
            announce(connection, key, PROVIDER, CredentialLimits(**limits))

    def sql(self, statement: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(statement), values)

    def rows(self, statement: str, **values: Any) -> Sequence[Row[Any]]:
        with self.database.autocommit() as connection:
            return connection.execute(text(statement), values).all()

    def one(self, statement: str, **values: Any) -> Any:
        [[value]] = self.rows(statement, **values)
        return value

    def take(self, calls: int = 1, *, known: Sequence[str] = (KEY,), attempt: int = 0) -> Taken | None:
        return self.take_for([f"call_{next(self.numbers)}" for _ in range(calls)], known=known, attempt=attempt)

    def take_for(self, ids: Sequence[str], *, known: Sequence[str] = (KEY,), attempt: int = 0) -> Taken | None:
        with self.database.autocommit() as connection:
            return permits.take(connection, PROVIDER, known=known, call_ids=ids, attempt=attempt)

    def release(self, *ids: str) -> None:
        with self.database.autocommit() as connection:
            permits.release(connection, ids)

    def holders(self, key: str = KEY) -> list[str]:
        return [
            row.call_id
            for row in self.rows("SELECT call_id FROM permits WHERE credential_id = :k AND call_id IS NOT NULL", k=key)
        ]

    def findings(self) -> list[str]:
        with self.database.transaction() as connection:
            return [finding.invariant for finding in audit.check(connection)]


@pytest.fixture
def rows(database: Database) -> Rows:
    rows = Rows(database)
    rows.limit()
    return rows


# ------------------------------------------------------------------ many at once


def test_many_threads_never_hold_too_many_permits_and_release_all(rows: Rows) -> None:
    rows.limit(max_active=7)
    holding, most, guard = set[str](), [0], threading.Lock()

    def work(number: int) -> int:
        sizes, held, taken = random.Random(number), deque[list[str]](), 0
        for round_ in range(40):
            wanted = [f"call_{number}_{round_}_{part}" for part in range(sizes.choice((1, 1, 3)))]
            got = rows.take_for(wanted)
            mine = wanted[: got.calls] if got else []
            with guard:
                holding.update(mine)
                most[0] = max(most[0], len(holding))
            taken += len(mine)
            held.append(mine)
            while len(held) > (0 if round_ == 39 else 1):  # the last permit is held while the next is taken
                over = held.popleft()
                with guard:
                    holding.difference_update(over)
                rows.release(*over)
        return taken

    with ThreadPoolExecutor(16) as pool:
        taken = sum(pool.map(work, range(16)))
    assert taken > 100
    assert most[0] == 7
    assert rows.holders() == []
    assert rows.take(7) == Taken(KEY, 7, True)


def test_a_rate_limit_of_more_than_one_page_of_tokens_is_never_exceeded(rows: Rows) -> None:
    rows.limit(max_per_minute=1200)
    began = rows.one("SELECT clock_timestamp()")

    def work(_: int) -> int:
        taken = 0
        while got := rows.take(3):
            taken += got.calls
        return taken

    with ThreadPoolExecutor(12) as pool:
        taken = sum(pool.map(work, range(12)))
    while got := rows.take():  # tokens that were skipped while others took rows
        taken += got.calls
    assert taken == 1200
    assert rows.one("SELECT min(free_at) - CAST(:t AS timestamptz) FROM submit_tokens", t=began).total_seconds() >= 62
    rows.sql("UPDATE submit_tokens SET free_at = clock_timestamp()")
    assert rows.take(1200) == Taken(KEY, 1200, True)


def test_free_permits_are_found_although_other_rows_are_locked(rows: Rows) -> None:
    rows.limit(max_active=6, max_per_minute=6)
    with rows.database.transaction() as other:
        other.execute(text("SELECT 1 FROM permits WHERE number <= 5 FOR UPDATE"))
        other.execute(text("SELECT 1 FROM submit_tokens WHERE number <= 5 FOR UPDATE"))
        began = time.monotonic()
        assert rows.take_for(["call_a", "call_b"]) == Taken(KEY, 1, True)
        assert rows.take() is None
        assert time.monotonic() - began < 2
    assert rows.one("SELECT number FROM permits WHERE call_id = 'call_a'") == 6
    assert rows.one("SELECT number FROM submit_tokens WHERE free_at > clock_timestamp()") == 6
    assert rows.take(9) == Taken(KEY, 5, True)


def test_a_permit_released_during_the_search_is_found(rows: Rows) -> None:
    """The second try sees permits that were released after the first began."""
    rows.limit(max_active=1)
    rows.take_for(["call_a"])
    tries = itertools.count()

    class Meanwhile:
        """A connection that releases a permit after the first try."""

        def __init__(self, connection: Connection) -> None:
            self.connection = connection

        def execute(self, *arguments: Any) -> Any:
            done = self.connection.execute(*arguments)
            if next(tries) == 0:
                rows.release("call_a")
            return done

    with rows.database.autocommit() as connection:
        meanwhile: Any = Meanwhile(connection)
        taken = permits.take(meanwhile, PROVIDER, known=[KEY], call_ids=["call_b"], attempt=0)
    assert (taken, rows.holders()) == (Taken(KEY, 1, True), ["call_b"])


# ------------------------------------------------------------------ what one take gets


@pytest.mark.parametrize(
    ("limits", "wanted", "got"),
    [
        ({"max_active": 3}, 5, 3),
        ({"max_per_minute": 2}, 5, 2),
        ({"max_active": 3, "max_per_minute": 2}, 5, 2),
        ({"max_active": 2, "max_per_minute": 3}, 5, 2),
        ({"max_active": 9, "max_per_minute": 9}, 5, 5),
        ({}, 5, 5),
    ],
)
def test_as_many_calls_as_have_both_a_permit_and_a_token(
    rows: Rows, limits: dict[str, int], wanted: int, got: int
) -> None:
    rows.limit(**limits)
    ids = [f"call_{number}" for number in range(wanted)]
    assert rows.take_for(ids) == Taken(KEY, got, bool(limits))
    assert sorted(rows.holders()) == (ids[:got] if "max_active" in limits else [])
    used = rows.one("SELECT count(*) FROM submit_tokens WHERE free_at > clock_timestamp() + interval '61 s'")
    assert used == (got if "max_per_minute" in limits else 0)


def test_the_credential_with_the_most_room_is_used(rows: Rows) -> None:
    rows.limit(max_active=3)
    rows.limit(OTHER_KEY, max_active=9, max_per_minute=4)
    both = (KEY, OTHER_KEY)
    assert [rows.take(known=both) for _ in range(1)] == [Taken(OTHER_KEY, 1, True)]
    for _ in range(6):
        assert rows.take(known=both)
    assert rows.take(known=both) is None
    assert (len(rows.holders()), len(rows.holders(OTHER_KEY))) == (3, 4)
    rows.limit()  # a credential without a limit has the most room
    assert rows.take(2, known=both) == Taken(KEY, 2, False)


@pytest.mark.parametrize(
    "trouble", ["paused_at = clock_timestamp()", "not_before = clock_timestamp() + interval '9 s'"]
)
def test_paused_credentials_are_not_used(rows: Rows, trouble: str) -> None:
    rows.limit(max_active=9)
    rows.limit(OTHER_KEY, max_active=1)
    rows.sql(f"UPDATE credentials SET {trouble} WHERE id = :id", id=KEY)
    assert rows.take(known=(KEY, OTHER_KEY)) == Taken(OTHER_KEY, 1, True)
    assert rows.take(known=(KEY, OTHER_KEY)) is None
    with rows.database.autocommit() as connection:
        assert not permits.take_submit(connection, KEY)


def test_only_credentials_known_to_the_worker_are_used(rows: Rows) -> None:
    rows.limit(OTHER_KEY)
    assert rows.take(known=(KEY,)) == Taken(KEY, 1, False)
    assert rows.take(known=()) is None


@pytest.mark.parametrize(
    ("trouble", "allowed"),
    [
        ("paused_at = NULL", True),
        ("paused_at = clock_timestamp()", False),
        ("trips = 1, open_until = clock_timestamp() + interval '9 s'", False),
    ],
)
def test_a_resend_needs_a_provider_that_takes_calls(rows: Rows, trouble: str, allowed: bool) -> None:
    rows.limit(max_per_minute=5)
    rows.sql(f"UPDATE providers SET {trouble}")
    with rows.database.autocommit() as connection:
        assert permits.take_submit(connection, KEY) is allowed
    assert rows.one("SELECT count(*) FROM submit_tokens WHERE free_at > clock_timestamp()") == int(allowed)


def test_without_limits_nothing_is_written_from_claim_to_end(engine: Engine, account: Caller) -> None:
    """The credential and the provider are locked, so any update or lock of them would wait."""
    look = "SELECT string_agg(CAST(xmin AS text), ',' ORDER BY id) FROM credentials"
    before = engine.one(look)
    with engine.database.transaction() as other:
        other.execute(text("SELECT 1 FROM credentials FOR NO KEY UPDATE"))
        other.execute(text("SELECT 1 FROM providers FOR UPDATE"))
        job_id = engine.order(account).task.id
        engine.run(job_id)
        engine.poll()
        assert engine.job(job_id).status == "succeeded"
    assert engine.one(look) == before


# ------------------------------------------------------------------ changing limits


def open_calls(engine: Engine, account: Caller, count: int) -> list[str]:
    """Return jobs with an accepted call."""
    ids = [engine.order(account, f"one {number} [sandbox:never]").task.id for number in range(count)]
    for job_id in ids:
        engine.run(job_id)
    return [engine.calls(job_id)[0].id for job_id in ids]


def end(engine: Engine, call_id: str) -> None:
    with engine.database.autocommit() as connection:
        connection.execute(text("UPDATE upstream_calls SET outcome = 'lost' WHERE id = :id"), {"id": call_id})
        permits.release(connection, [call_id])


def key_of(engine: Engine) -> str:
    [provider] = engine.context.registry.of(PROVIDER)
    return provider.credential_id


def take(engine: Engine) -> list[str]:
    """Take every free permit, each for a recorded call, and return the calls' ids."""
    taken = []
    while True:
        call_id = new_id("call")
        with engine.database.transaction() as connection:
            if not permits.take(connection, PROVIDER, known=[key_of(engine)], call_ids=[call_id], attempt=0):
                return taken
            connection.execute(
                text(
                    "INSERT INTO upstream_calls (id, job_id, slot, try, pictures, provider, model, credential_id,"
                    " base_url, dedupe_key, give_up_at) SELECT :id, id, 0, 1 + (SELECT count(*) FROM upstream_calls),"
                    " 1, provider, model, :key, '', :id, clock_timestamp() FROM jobs LIMIT 1"
                ),
                {"id": call_id, "key": key_of(engine)},
            )
        taken.append(call_id)


def findings(engine: Engine) -> list[str]:
    with engine.database.transaction() as connection:
        return [each.detail for each in audit.check(connection) if each.invariant == "permits_are_open_calls"]


@pytest.mark.parametrize("before", [None, 10])
def test_with_a_limit_below_the_open_calls_no_call_is_added(
    engine: Engine, account: Caller, before: int | None
) -> None:
    """After a new or lower limit the open calls keep or get permits, and no call is added until there is room."""
    engine.limit(PROVIDER, **({"max_active": before} if before else {}))
    calls = open_calls(engine, account, 8)
    engine.limit(PROVIDER, max_active=5)
    assert findings(engine) == []
    assert engine.one("SELECT count(*) FROM permits") == 8
    for call_id in calls[:3]:
        assert take(engine) == []
        end(engine, call_id)
    assert take(engine) == []
    for ended, call_id in enumerate(calls[3:], 1):
        end(engine, call_id)
        assert len(take(engine)) == 1, ended
        assert engine.one("SELECT count(call_id) FROM permits") == 5
    engine.limit(PROVIDER, max_active=5)
    assert engine.one("SELECT max(number) FROM permits") == 5
    assert findings(engine) == []


def test_many_threads_do_not_exceed_a_lowered_limit(rows: Rows) -> None:
    for round_ in range(10):
        rows.sql("DELETE FROM permits")
        rows.limit(max_active=10)
        rows.take_for([f"call_old_{round_}_{number}" for number in range(10)])
        rows.release(*(f"call_old_{round_}_{number}" for number in range(7)))
        rows.sql("UPDATE credentials SET max_active = 5")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: rows.take(), range(8)))
        assert 3 <= len(rows.holders()) <= 5
        while rows.take():
            pass
        assert len(rows.holders()) == 5


def test_a_raised_limit_makes_room_and_a_removed_one_leaves_no_rows(engine: Engine, account: Caller) -> None:
    engine.limit(PROVIDER, max_active=2, max_per_minute=9)
    calls = open_calls(engine, account, 2)
    assert take(engine) == []
    engine.limit(PROVIDER, max_active=4, max_per_minute=20)
    assert len(take(engine)) == 2
    assert engine.one("SELECT count(*) FROM submit_tokens") == 20
    engine.limit(PROVIDER)
    assert engine.rows("SELECT 1 FROM permits UNION ALL SELECT 1 FROM submit_tokens") == []
    end(engine, calls[0])
    assert findings(engine) == []


def test_submits_of_the_last_minute_count_against_a_lowered_limit(rows: Rows) -> None:
    rows.limit(max_per_minute=10)
    rows.take(4)
    rows.limit(max_per_minute=5)
    assert rows.take(5) == Taken(KEY, 1, True)
    rows.limit(max_per_minute=3)
    assert rows.take() is None
    rows.limit(max_per_minute=4)
    assert rows.take(2) == Taken(KEY, 1, True)
    assert rows.one("SELECT count(*) FROM submit_tokens") == 4


def test_the_largest_limit_is_announced_and_taken_from_quickly(rows: Rows) -> None:
    began = time.monotonic()
    rows.limit(max_active=LIMIT_MAX, max_per_minute=LIMIT_MAX)
    assert time.monotonic() - began < 10  # seconds, the statement time-out
    assert rows.one("SELECT count(*) FROM permits") == LIMIT_MAX == rows.one("SELECT count(*) FROM submit_tokens")
    rows.limit(max_active=LIMIT_MAX, max_per_minute=LIMIT_MAX)
    began = time.monotonic()
    for _ in range(20):
        assert rows.take()
    assert time.monotonic() - began < 2


def test_workers_that_start_together_agree(rows: Rows) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: rows.limit(max_active=20 + number % 2, max_per_minute=30), range(16)))
    last = rows.one("SELECT max_active FROM credentials WHERE id = :id", id=KEY)
    assert rows.one("SELECT count(*) FROM permits") == last == rows.one("SELECT max(number) FROM permits")
    assert rows.one("SELECT count(*) FROM submit_tokens") == 30


def test_concurrent_repairs_give_each_call_one_permit(engine: Engine, account: Caller) -> None:
    calls = open_calls(engine, account, 6)
    engine.sql("UPDATE credentials SET max_active = 4 WHERE id = :id", id=key_of(engine))
    together = threading.Barrier(8)

    def repair(_: int) -> None:
        with engine.database.transaction() as connection:
            together.wait()
            reconcile(connection, key_of(engine))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(repair, range(8)))
    assert sorted(row.call_id for row in engine.rows("SELECT call_id FROM permits")) == sorted(calls)
    assert findings(engine) == []


# ------------------------------------------------------------------ recovery of permits


def test_the_sweep_releases_permits_left_by_a_worker_of_another_release(engine: Engine, account: Caller) -> None:
    engine.limit(PROVIDER, max_active=2)
    over, _open = open_calls(engine, account, 2)
    engine.sql("UPDATE upstream_calls SET outcome = 'lost' WHERE id = :id", id=over)
    with engine.database.autocommit() as connection:
        refill.refill(connection, window=32, most=10)
        assert engine.one("SELECT count(call_id) FROM permits") == 1
        engine.sql("UPDATE permits SET call_id = :id, taken_at = clock_timestamp() WHERE call_id IS NULL", id=over)
        assert recover(connection) == 0  # once a minute is enough
        engine.sql("UPDATE marks SET at = at - interval '61 s' WHERE name = 'permits_recovered'")
        assert recover(connection) == 1
    assert findings(engine) == []


# ------------------------------------------------------------------ plans


def test_the_generic_plan_uses_the_indexes(rows: Rows) -> None:
    """Statistics from an idle credential must not make a claim at a busy one read all taken permits."""
    rows.limit(max_active=3000, max_per_minute=3000)
    rows.limit(OTHER_KEY, max_active=3000)
    rows.sql("ANALYZE permits, submit_tokens, credentials")
    rows.take(2990)
    names = ["provider", "known", "wanted", "call_ids", "attempt"]
    statement = permits.TAKE
    for number, name in enumerate(names, 1):
        statement = re.sub(rf"(?<!:):{name}\b", f"${number}", statement)
    with rows.database.transaction() as connection:
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        connection.exec_driver_sql(f"PREPARE take AS {statement}")
        plan = "\n".join(
            connection.exec_driver_sql(
                f"EXPLAIN EXECUTE take ('{PROVIDER}', ARRAY['{KEY}'], 1, ARRAY['call_x'], 0)"
            ).scalars()
        )
        connection.exec_driver_sql("DEALLOCATE take")
    assert not re.findall(r"Seq Scan on (?:permits|submit_tokens)\b", plan), plan
    permit = plan[plan.index("CTE permit") : plan.index("CTE token")]
    assert "using permits_free" in permit[permit.index("LockRows") :], permit
