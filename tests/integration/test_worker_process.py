"""Real workers (``python -m workers``) on real servers: started, killed and disconnected.

All tests here share one database and one Redis; each test starts a worker if none is running.
"""

from __future__ import annotations

import base64
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job_engine import SYNC_MODEL, Engine, root
from sqlalchemy import text
from worker_fleet import Fleet, ended, running_fleet, statuses, tally, web_side

from accounts.keys import Caller
from core.redis import make_client
from jobs import states
from providers.catalog.catalog import Catalog
from sandbox.testing import Sandbox
from storage.media import Media

GONE_WITHIN_S = 10


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet"), postgres_url, "fleet") as fleet:
        yield fleet


@pytest.fixture
def environ(fleet: Fleet, upstreams: dict[str, str]) -> dict[str, str]:
    return fleet.environ(upstreams)


@pytest.fixture
def engine(
    fleet: Fleet, models: Catalog, media: Media, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    monkeypatch.setenv("REDIS_URL", fleet.redis.url)
    with web_side(fleet, models, media, environ) as engine:
        yield engine


@pytest.fixture
def account(engine: Engine) -> Caller:
    return engine.account()


def test_a_worker_runs_what_is_submitted(
    fleet: Fleet, engine: Engine, account: Caller, environ: dict[str, str], sandbox: Sandbox
) -> None:
    fleet.ensure_worker(environ)
    ids = [engine.order(account, f"number {n}", n=1 + n % 2).task.id for n in range(10)]
    ids.append(engine.order(account, model=SYNC_MODEL, size="1024x640").task.id)
    refused = engine.order(account, "no [sandbox:refuse]").task.id
    fleet.eventually(lambda: ended(engine, [*ids, refused]))
    assert statuses(engine, ids) == {"succeeded": 11}
    assert engine.job(refused).failure_code == "content_refused"
    assert (tally(sandbox)["accepted"], tally(sandbox)["repeated_submits"]) == (15, {})
    engine.assert_books_balance()


def test_work_goes_on_without_redis_and_later_jobs_run_without_a_restart(
    fleet: Fleet, engine: Engine, account: Caller, environ: dict[str, str], sandbox: Sandbox
) -> None:
    worker = fleet.ensure_worker(environ)
    sandbox.settings(latency_s=1.5)
    waiting = engine.order(account, "in progress").task.id
    paid = engine.order(account, "paid [sandbox:latency=1.5]", model=SYNC_MODEL, size="1024x640").task.id
    fleet.eventually(lambda: engine.job(waiting).status == "waiting" and engine.job(paid).status == "running")
    fleet.redis.stop()
    try:
        fleet.eventually(lambda: ended(engine, [waiting, paid]))
        assert statuses(engine, [waiting, paid]) == {"succeeded": 2}
        meanwhile = engine.order(account, "meanwhile").task.id
        assert engine.job(meanwhile).status == "queued"
    finally:
        fleet.redis.start()
    later = engine.order(account, "later").task.id
    fleet.eventually(lambda: ended(engine, [meanwhile, later]), within_s=40)
    assert statuses(engine, [meanwhile, later]) == {"succeeded": 2}
    assert worker.poll() is None
    assert tally(sandbox)["repeated_submits"] == {}
    engine.assert_books_balance()


def test_jobs_of_a_killed_worker_are_taken_over_and_bought_once(
    fleet: Fleet, engine: Engine, account: Caller, environ: dict[str, str], sandbox: Sandbox
) -> None:
    fleet.ensure_worker(environ)
    sandbox.settings(latency_s=1.0)
    ids = [engine.order(account, f"number {n}").task.id for n in range(30)]
    fleet.eventually(lambda: statuses(engine, ids).get("waiting", 0) + statuses(engine, ids).get("succeeded", 0) >= 5)
    fleet.stop()
    assert not ended(engine, ids)
    fleet.ensure_worker(environ)
    fleet.eventually(lambda: ended(engine, ids), within_s=45)
    assert statuses(engine, ids) == {"succeeded": 30}
    assert tally(sandbox)["accepted"] == 30
    assert engine.one("SELECT count(*) FROM upstream_calls WHERE job_id = ANY(:ids)", ids=ids) == 30
    engine.assert_books_balance()


def envelope(body: object, **headers: object) -> dict[str, Any]:
    """Return a message as kombu puts it on a queue in Redis, with the changes of a test."""
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "jobs.run", "id": "job_poison", "argsrepr": "()", **headers},
        "properties": {
            "correlation_id": "job_poison",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "chatgpt2api"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": secrets.token_hex(16),
        },
    }


def changed(message: dict[str, Any], **parts: object) -> dict[str, Any]:
    return {**message, **parts}


EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
FINE = [["job_poison"], {}, EMBEDDED]
# The last of these is what kombu returns to the queue at exit and then crashes on at every start.
POISON: dict[str, object] = {
    "no json": "{not json",
    "no text": b"\xff\xfe\x00",
    "a number": "5",
    "null": "null",
    "a list": "[]",
    "nested": "[" * 100_000,
    "no envelope": '{"a": 1}',
    "bad base64": changed(envelope(FINE), body="A"),
    "another encoding": changed(envelope(FINE), properties={**envelope(FINE)["properties"], "body_encoding": "rot13"}),
    "no tag": changed(envelope(FINE), properties={}),
    "headers in a list": changed(envelope(FINE), headers=["jobs.run"]),
    "no headers": changed(envelope(FINE), headers=None),
    "another content": changed(envelope(FINE), **{"content-type": "application/x-python-serialize"}),
    "badly compressed": envelope(FINE, compression="application/x-bz2"),
    "unknown task": envelope(FINE, task="jobs.unknown"),
    "a task in a list": envelope(FINE, task=["jobs.run"]),
    "unknown task without id": envelope([], task="jobs.unknown", id=None),
    "no id": envelope(FINE, id=None),
    "bad time limit": envelope(FINE, timelimit=[5]),
    "bad stamps": envelope(FINE, stamped_headers=5),
    "bad eta": envelope(FINE, eta="tomorrow"),
    "two arguments": envelope([["job_poison", "job_poison"], {}, EMBEDDED]),
    "no keywords": envelope([["job_poison"], None, EMBEDDED]),
    "a chain": envelope([["job_poison"], {}, {**EMBEDDED, "chain": 5}]),
    "body null": envelope(None),
    "body a=1": envelope({"a": 1}),
}


def test_poison_messages_are_counted_and_dropped_and_the_worker_goes_on(
    fleet: Fleet, engine: Engine, account: Caller, environ: dict[str, str]
) -> None:
    worker = fleet.ensure_worker(environ)
    client = make_client(fleet.redis.url)
    job_id = engine.order(account, "before").task.id
    fleet.eventually(lambda: ended(engine, [job_id]))
    held = client.hlen("unacked")  # from workers that earlier tests have killed
    for count, poison in enumerate(POISON.values(), 1):
        client.lpush("chatgpt2api", json.dumps(poison) if isinstance(poison, dict) else poison)  # type: ignore[arg-type]
        fleet.eventually(lambda: rejected(fleet) == count)  # noqa: B023
    client.publish("/0.celery.pidbox", '{"a": 1}')
    fleet.eventually(lambda: rejected(fleet) == len(POISON) + 1)
    job_id = engine.order(account, "after").task.id
    fleet.eventually(lambda: ended(engine, [job_id]))
    assert engine.job(job_id).status == "succeeded"
    assert worker.poll() is None

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(GONE_WITHIN_S) == 0
    # Nothing was returned to the queue or left unacknowledged.
    assert (client.llen("chatgpt2api"), client.hlen("unacked")) == (0, held)
    again = fleet.ensure_worker(environ)
    job_id = engine.order(account, "after a restart").task.id
    fleet.eventually(lambda: ended(engine, [job_id]))
    assert engine.job(job_id).status == "succeeded"
    assert again.poll() is None
    assert rejected(fleet) == len(POISON) + 1


def rejected(fleet: Fleet) -> int:
    return fleet.log.read_text().count("message_rejected")


def test_sigterm_ends_a_worker_in_time_even_during_a_hanging_call(
    fleet: Fleet, engine: Engine, account: Caller, environ: dict[str, str], sandbox: Sandbox
) -> None:
    worker = fleet.ensure_worker(environ)
    hanging = engine.order(account, "hang [sandbox:hang]", model=SYNC_MODEL, size="1024x640").task.id
    waiting = engine.order(account, "slow [sandbox:latency=20]").task.id
    fleet.eventually(lambda: engine.job(waiting).status == "waiting" and tally(sandbox, "openai")["in_flight"] == 1)
    told_at = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    worker.wait(GONE_WITHIN_S)
    assert time.monotonic() - told_at < GONE_WITHIN_S
    assert engine.one("SELECT count(*) FROM workers") == 0  # it signed off
    sandbox.advance_clock(30)
    fleet.ensure_worker(environ)
    fleet.eventually(lambda: ended(engine, [waiting]))
    fleet.eventually(lambda: engine.job(hanging).status == "waiting")
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp() WHERE job_id = :id", id=hanging)
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id", id=hanging)
    fleet.eventually(lambda: ended(engine, [hanging]))
    assert (engine.job(waiting).status, engine.job(hanging).failure_code) == ("succeeded", "upstream_uncertain")
    assert tally(sandbox, "openai")["submits"] == 1
    engine.assert_books_balance()


CHECKS_SOON = """
from gevent import monkey
monkey.patch_all()
import runpy
from jobs.maintenance import catalog_check
catalog_check.LOOK_EVERY_S = 0.2
runpy.run_module("workers", run_name="__main__", alter_sys=True)
"""


def test_a_worker_compares_the_catalogue_without_being_asked(
    fleet: Fleet, engine: Engine, environ: dict[str, str]
) -> None:
    fleet.stop()
    worker = fleet.start("-c", CHECKS_SOON, environ=environ, log=fleet.log)
    try:
        checked = "SELECT count(*) FROM marks WHERE name IN ('catalog_check', 'catalog_drift')"
        fleet.eventually(lambda: engine.one(checked) == 2)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(GONE_WITHIN_S)


def test_sigterm_ends_an_idle_worker_at_once(fleet: Fleet, engine: Engine, environ: dict[str, str]) -> None:
    worker = fleet.ensure_worker(environ)
    fleet.eventually(lambda: engine.one("SELECT count(*) FROM workers") == 1)
    fleet.eventually(lambda: b"ready" in fleet.log.read_bytes()[-3000:])
    worker.send_signal(signal.SIGTERM)
    worker.wait(GONE_WITHIN_S)
    assert engine.one("SELECT count(*) FROM workers") == 0


def test_no_backlog_of_work_stops_the_heartbeat(
    fleet: Fleet, engine: Engine, account: Caller, environ: dict[str, str]
) -> None:
    """Every connection of the worker's pool waits for a lock; the worker still counts as alive."""
    fleet.stop()
    worker = fleet.ensure_worker({**environ, "DARKROOM_DB_POOL_SIZE": "2"})
    fleet.eventually(lambda: oldest_beat_s(engine) is not None)
    ids = [engine.order(account, f"number {n}", publish=False).task.id for n in range(10)]
    with engine.database.transaction() as blocker:
        blocker.execute(text("SELECT 1 FROM jobs WHERE id = ANY(:ids) FOR UPDATE"), {"ids": ids})
        engine.context.publish([states.run("chatgpt2api", job_id) for job_id in ids])
        fleet.eventually(lambda: waiting_for_locks(engine) >= 4)  # the pool's two, and two of its overflow
        worst_s = 0.0
        until = time.monotonic() + 14
        while time.monotonic() < until:
            worst_s = max(worst_s, oldest_beat_s(engine) or 0.0)
            time.sleep(0.1)
    assert worst_s < SILENT_AT_MOST_S
    assert worker.poll() is None
    fleet.eventually(lambda: ended(engine, ids), within_s=60)
    fleet.stop()


SILENT_AT_MOST_S = 8.0  # a worker counts as dead after ten


def oldest_beat_s(engine: Engine) -> float | None:
    age = engine.one("SELECT extract(epoch FROM clock_timestamp() - min(heartbeat_at)) FROM workers")
    return None if age is None else float(age)


def waiting_for_locks(engine: Engine) -> int:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return int(engine.one(statement))


def test_heartbeats_continue_until_signing_off(
    fleet: Fleet, engine: Engine, account: Caller, environ: dict[str, str], sandbox: Sandbox
) -> None:
    fleet.stop()
    engine.sql("DELETE FROM workers")
    worker = fleet.ensure_worker({**environ, "DARKROOM_DRAIN_S": "40"})
    paid = engine.order(account, "paid [sandbox:latency=16]", model=SYNC_MODEL, size="1024x640").task.id
    fleet.eventually(lambda: sandbox.counts().get("openai", {}).get("in_flight") == 1)
    worker.send_signal(signal.SIGTERM)
    worst_s = 0.0
    while worker.poll() is None:
        worst_s = max(worst_s, oldest_beat_s(engine) or 0.0)
        time.sleep(0.1)
    assert worst_s < SILENT_AT_MOST_S
    assert engine.job(paid).status == "succeeded"  # by this worker: its answer was recorded
    assert engine.one("SELECT count(*) FROM workers") == 0
    engine.assert_books_balance()


# A worker that also measures its gevent hub: how late a greenlet is that should run every 20 ms.
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
TRIES = 3  # a loaded machine also stalls a hub, so one outage without a stall is enough


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
        fleet.eventually(lambda: engine.one(alive, pid=watched.pid) == 1)
        stalls = []
        while len(stalls) < TRIES and not (stalls and min(stalls) < STALL_AT_MOST_S):
            stalls.append(_stall_through_an_outage(fleet, hub))
        assert min(stalls) < STALL_AT_MOST_S, stalls
        assert watched.poll() is None
    finally:
        watched.kill()
        watched.wait()


def _stall_through_an_outage(fleet: Fleet, hub: Path) -> float:
    """Return the longest stall in seconds while Redis is stopped for some seconds."""
    fleet.redis.stop()
    try:
        hub.with_suffix(".again").touch()
        fleet.eventually(lambda: not hub.with_suffix(".again").exists())
        fleet.eventually(lambda: int(hub.read_text().split()[0]) >= OUTAGE_TICKS)
        return float(hub.read_text().split()[1])
    finally:
        fleet.redis.start()
