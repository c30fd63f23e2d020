"""A worker as it is really started, killed and cut off: ``python -m workers`` on real servers.

One database and one Redis for all tests here; each test starts a worker if none is left over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from job_engine import ASYNC_PRICE, SYNC_MODEL, Engine, make_bench, root
from sqlalchemy import create_engine, text

from core.db import Database, make_engine
from core.embedded.redis import EmbeddedRedis
from core.redis import make_client
from jobs.desk import Customer, Desk
from providers.catalog import Catalog
from sandbox.testing import Sandbox
from storage.local import LocalStore
from storage.media import Media
from workers.enqueue import Publisher

GONE_WITHIN_S = 10


class Fleet:
    """The servers, and the one worker process that may run on them."""

    def __init__(self, var: Path, database_url: str, redis: EmbeddedRedis) -> None:
        self.var, self.database_url, self.redis = var, database_url, redis
        self.log = var / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def ensure_worker(self, environ: dict[str, str]) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            with self.log.open("ab") as output:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "workers"], cwd=root(), env=environ, stdout=output, stderr=output
                )
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Fleet]:
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text("CREATE DATABASE fleet TEMPLATE template_darkroom"))
    var = tmp_path_factory.mktemp("fleet")
    redis = EmbeddedRedis(var / "redis")
    redis.start()
    fleet = Fleet(var, postgres_url.rsplit("/", 1)[0] + "/fleet", redis)
    yield fleet
    fleet.stop()
    redis.stop()
    with administrator.connect() as connection:
        connection.execute(text("DROP DATABASE fleet WITH (FORCE)"))
    administrator.dispose()


@pytest.fixture
def environ(fleet: Fleet, upstreams: dict[str, str]) -> dict[str, str]:
    """Of the worker, and of the test where it stands for the web process."""
    return {
        **os.environ,
        **upstreams,
        "DATABASE_URL": fleet.database_url,
        "REDIS_URL": fleet.redis.url,
        "DARKROOM_VAR": str(fleet.var),
        "DARKROOM_DECODERS": "1",
        "DARKROOM_WORKER_POOL": "60",
        "OPENAI_MAX_ACTIVE": "50",
    }


@pytest.fixture
def engine(
    fleet: Fleet,
    models: Catalog,
    media: Media,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Engine]:
    """The web's side of the fleet: it submits, publishes for real, and looks."""
    monkeypatch.setenv("REDIS_URL", fleet.redis.url)
    database = Database(make_engine(fleet.database_url))
    store = LocalStore(fleet.var / "blobs")
    publisher = Publisher(fleet.redis.url, fleet.redis.url)
    desk = Desk(
        database,
        media,
        store,
        models,
        configured=["chatgpt2api", "openai"],
        markup=Decimal(1),
        minimum_unit_price=ASYNC_PRICE,
        default_model=None,
        default_deadline_s=3600,
        publish_window=32,
    )
    bench = make_bench(
        database=database,
        models=models,
        media=media,
        store=store,
        environ=environ,
        sent=publisher.publish,
        owner="wkr_web",
    )
    with database.autocommit() as connection:  # it runs nothing: nobody shall think it does
        connection.execute(text("DELETE FROM workers WHERE boot_id = 'wkr_web'"))
    yield Engine(bench, desk, publisher.publish)  # type: ignore[arg-type]
    database.dispose()


@pytest.fixture
def account(engine: Engine) -> Customer:
    return engine.account()


def eventually(fleet: Fleet, holds: Callable[[], object], within_s: float = 30) -> None:
    """Wait until it holds; what the worker said is the message when it never does."""
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, fleet.log.read_text()[-6000:]
        time.sleep(0.05)


def ended(engine: Engine, job_ids: list[str]) -> bool:
    live = "SELECT count(*) FROM jobs WHERE id = ANY(:ids) AND finished_at IS NULL"
    return engine.one(live, ids=job_ids) == 0


def statuses(engine: Engine, job_ids: list[str]) -> dict[str, int]:
    rows = engine.rows("SELECT status, count(*) FROM jobs WHERE id = ANY(:ids) GROUP BY 1", ids=job_ids)
    return {row.status: row.count for row in rows}


def tally(sandbox: Sandbox, provider: str = "chatgpt2api") -> dict[str, Any]:
    return dict(sandbox.counts()[provider])


def test_a_worker_runs_what_is_submitted(
    fleet: Fleet, engine: Engine, account: Customer, environ: dict[str, str], sandbox: Sandbox
) -> None:
    fleet.ensure_worker(environ)
    ids = [engine.order(account, f"number {n}", n=1 + n % 2).task.id for n in range(10)]
    ids.append(engine.order(account, model=SYNC_MODEL, size="1024x640").task.id)
    refused = engine.order(account, "no [sandbox:refuse]").task.id
    eventually(fleet, lambda: ended(engine, [*ids, refused]))
    assert statuses(engine, ids) == {"succeeded": 11}
    assert engine.job(refused).failure_code == "content_refused"
    assert (tally(sandbox)["accepted"], tally(sandbox)["repeated_submits"]) == (15, {})
    engine.assert_books_balance()


def test_work_goes_on_without_redis_and_later_jobs_run_without_a_restart(
    fleet: Fleet, engine: Engine, account: Customer, environ: dict[str, str], sandbox: Sandbox
) -> None:
    worker = fleet.ensure_worker(environ)
    sandbox.settings(latency_s=1.5)
    waiting = engine.order(account, "in progress").task.id
    paid = engine.order(account, "paid [sandbox:latency=1.5]", model=SYNC_MODEL, size="1024x640").task.id
    eventually(fleet, lambda: engine.job(waiting).status == "waiting" and engine.job(paid).status == "running")
    fleet.redis.stop()
    try:
        eventually(fleet, lambda: ended(engine, [waiting, paid]))
        assert statuses(engine, [waiting, paid]) == {"succeeded": 2}
        meanwhile = engine.order(account, "meanwhile").task.id
        assert engine.job(meanwhile).status == "queued"
    finally:
        fleet.redis.start()
    later = engine.order(account, "later").task.id
    eventually(fleet, lambda: ended(engine, [meanwhile, later]), within_s=40)
    assert statuses(engine, [meanwhile, later]) == {"succeeded": 2}
    assert worker.poll() is None
    assert tally(sandbox)["repeated_submits"] == {}
    engine.assert_books_balance()


def test_what_a_killed_worker_left_is_taken_up_and_bought_once(
    fleet: Fleet, engine: Engine, account: Customer, environ: dict[str, str], sandbox: Sandbox
) -> None:
    fleet.ensure_worker(environ)
    sandbox.settings(latency_s=1.0)
    ids = [engine.order(account, f"number {n}").task.id for n in range(30)]
    eventually(fleet, lambda: statuses(engine, ids).get("waiting", 0) + statuses(engine, ids).get("succeeded", 0) >= 5)
    fleet.stop()
    assert not ended(engine, ids)
    fleet.ensure_worker(environ)
    eventually(fleet, lambda: ended(engine, ids), within_s=45)
    assert statuses(engine, ids) == {"succeeded": 30}
    assert tally(sandbox)["accepted"] == 30
    assert engine.one("SELECT count(*) FROM upstream_calls WHERE job_id = ANY(:ids)", ids=ids) == 30
    engine.assert_books_balance()


def test_a_malformed_message_stops_nothing_for_longer_than_a_restart(
    fleet: Fleet, engine: Engine, account: Customer, environ: dict[str, str]
) -> None:
    fleet.ensure_worker(environ)
    first = engine.order(account, "before").task.id
    eventually(fleet, lambda: ended(engine, [first]))
    client = make_client(fleet.redis.url)
    client.lpush("chatgpt2api", "{not json")
    eventually(fleet, lambda: client.llen("chatgpt2api") == 0)
    job_id = engine.order(account, "after").task.id

    def supervised() -> bool:
        fleet.ensure_worker(environ)  # what the supervisor does
        return ended(engine, [job_id])

    eventually(fleet, supervised)
    assert engine.job(job_id).status == "succeeded"


def test_a_worker_told_to_stop_is_gone_in_time_even_from_a_call_that_hangs(
    fleet: Fleet, engine: Engine, account: Customer, environ: dict[str, str], sandbox: Sandbox
) -> None:
    worker = fleet.ensure_worker(environ)
    hanging = engine.order(account, "hang [sandbox:hang]", model=SYNC_MODEL, size="1024x640").task.id
    waiting = engine.order(account, "slow [sandbox:latency=20]").task.id
    eventually(fleet, lambda: engine.job(waiting).status == "waiting" and tally(sandbox, "openai")["in_flight"] == 1)
    told_at = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    worker.wait(GONE_WITHIN_S)
    assert time.monotonic() - told_at < GONE_WITHIN_S
    assert engine.one("SELECT count(*) FROM workers") == 0  # it said goodbye
    sandbox.advance_clock(30)
    fleet.ensure_worker(environ)
    eventually(fleet, lambda: ended(engine, [waiting]))
    eventually(fleet, lambda: engine.job(hanging).status == "waiting")
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp() WHERE job_id = :id", id=hanging)
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id", id=hanging)
    eventually(fleet, lambda: ended(engine, [hanging]))
    assert (engine.job(waiting).status, engine.job(hanging).failure_code) == ("succeeded", "upstream_uncertain")
    assert tally(sandbox, "openai")["submits"] == 1
    engine.assert_books_balance()


def test_an_idle_worker_told_to_stop_goes_at_once(fleet: Fleet, engine: Engine, environ: dict[str, str]) -> None:
    worker = fleet.ensure_worker(environ)
    eventually(fleet, lambda: engine.one("SELECT count(*) FROM workers") == 1)
    eventually(fleet, lambda: b"ready" in fleet.log.read_bytes()[-3000:])
    worker.send_signal(signal.SIGTERM)
    worker.wait(GONE_WITHIN_S)
    assert engine.one("SELECT count(*) FROM workers") == 0


# A worker that also measures its own hub: how late a greenlet that wants to run every 20 ms is.
WATCHED = """
from gevent import monkey; monkey.patch_all()
import os, pathlib, threading, time

def watch(path=pathlib.Path(os.environ["HUB_LOG"])):
    last, ticks, worst = time.monotonic(), 0, 0.0
    while True:
        time.sleep(0.02)
        now = time.monotonic()
        ticks, worst, last = ticks + 1, max(worst, now - last - 0.02), now
        if path.with_suffix(".again").exists():
            path.with_suffix(".again").unlink(); ticks, worst = 0, 0.0
        draft = path.with_suffix(".draft"); draft.write_text(f"{ticks} {worst}"); draft.replace(path)

threading.Thread(target=watch, daemon=True).start()
from workers.__main__ import main; main()
"""
STALL_AT_MOST_S = 0.5
OUTAGE_TICKS = 250  # of 20 ms: five seconds and more
TRIES = 3  # a loaded machine stalls a hub, too: one calm outage proves it


def test_the_hub_of_a_worker_never_stalls_while_redis_is_away(
    fleet: Fleet, engine: Engine, environ: dict[str, str]
) -> None:
    hub = fleet.var / "hub"
    with fleet.log.open("ab") as output:
        watched = subprocess.Popen(
            [sys.executable, "-c", WATCHED],
            cwd=root(),
            env={**environ, "HUB_LOG": str(hub)},
            stdout=output,
            stderr=output,
        )
    try:
        alive = "SELECT count(*) FROM workers WHERE pid = :pid"
        eventually(fleet, lambda: engine.one(alive, pid=watched.pid) == 1)
        stalls = []
        while len(stalls) < TRIES and not (stalls and min(stalls) < STALL_AT_MOST_S):
            stalls.append(_stall_through_an_outage(fleet, hub))
        assert min(stalls) < STALL_AT_MOST_S, stalls
        assert watched.poll() is None
    finally:
        watched.kill()
        watched.wait()


def _stall_through_an_outage(fleet: Fleet, hub: Path) -> float:
    """Seconds of the longest stall while Redis is gone for some seconds."""
    fleet.redis.stop()
    try:
        hub.with_suffix(".again").touch()
        eventually(fleet, lambda: not hub.with_suffix(".again").exists())
        eventually(fleet, lambda: int(hub.read_text().split()[0]) >= OUTAGE_TICKS)
        return float(hub.read_text().split()[1])
    finally:
        fleet.redis.start()
