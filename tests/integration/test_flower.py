"""Flower shows jobs: a real worker, a real Flower, and what its HTTP API says while jobs end in every way."""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from job_engine import SYNC_MODEL, Engine
from nginx_file import nginx_of_the_docs
from worker_fleet import Fleet, ended, running_fleet, web_side

from accounts.keys import Caller
from app.cli.service.programs import FLOWER_USER, service_programs
from core.embedded.ports import free_ports
from core.redis import make_client
from core.settings import Settings
from jobs import lifecycle
from providers.catalog.catalog import Catalog
from sandbox.testing import Sandbox
from storage.media import Media

PASSWORD = "only here"
WORKER = "flowered"


@dataclass
class Flower:
    port: int
    below: str = ""
    login: str = base64.b64encode(f"{FLOWER_USER}:{PASSWORD}".encode()).decode()

    def ask(self, path: str, method: str = "GET") -> str:
        """Return what a path below ours answers. Raises HTTPError where that is no 2xx."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{self.below}{path}",
            method=method,
            headers={"Authorization": f"Basic {self.login}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return str(answer.read().decode(errors="replace"))  # an icon is no text

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return what Flower's page shows, by Celery's id."""
        return dict(json.loads(self.ask("/api/tasks?limit=1000")))

    def state(self, job_id: str) -> str | None:
        task = self.tasks().get(job_id)
        return None if task is None else str(task["state"])

    def events(self, kind: str) -> dict[str, float]:
        """Return how many events of a kind each worker has sent."""
        counted = re.findall(rf'flower_events_total{{(.*type="{kind}".*)}} (\S+)', self.ask("/metrics"))
        return {re.search(r'worker="([^"]*)"', labels)[1]: float(count) for labels, count in counted}  # type: ignore[index]

    def is_up(self) -> bool:
        try:
            return "flower_worker_online{" in self.ask("/metrics")  # it has received events of a worker
        except OSError:
            return False


@contextmanager
def running_flower(
    fleet: Fleet, environ: dict[str, str], *, task_events: bool = True, prefix: str = ""
) -> Iterator[Flower]:
    """Start Flower with the arguments that ``darkroom up`` uses."""
    [port] = free_ports(1)
    settings = Settings(flower_port_set=port, task_events=task_events)
    programs = service_programs(settings, {}, flower_password=PASSWORD, sandbox=False)
    [program] = [each for each in programs if each.name == "flower"]
    own = {"FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{PASSWORD}", "DARKROOM_FLOWER_PREFIX": prefix}
    process = fleet.start(*program.argv[1:], environ={**environ, **own}, log=fleet.var / "flower.log")
    try:
        yield Flower(port, f"/{prefix}" if prefix else "")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("flowered"), postgres_url, "flowered") as fleet:
        yield fleet


@pytest.fixture
def environ(fleet: Fleet, upstreams: dict[str, str]) -> dict[str, str]:
    return {**fleet.environ(upstreams), "DARKROOM_WORKER_NAME": WORKER}


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


@pytest.fixture
def flower(fleet: Fleet, environ: dict[str, str], engine: Engine) -> Iterator[Flower]:
    with running_flower(fleet, environ) as flower:
        fleet.ensure_worker(environ)
        fleet.eventually(flower.is_up, within_s=60)
        yield flower


def sync(engine: Engine, account: Caller, prompt: str) -> str:
    return engine.order(account, prompt, model=SYNC_MODEL, size="1024x640").task.id


def cancel(engine: Engine, customer: Caller, job_id: str) -> None:
    """Cancel a job as the web process does."""
    with engine.database.transaction() as connection:
        answer = lifecycle.cancel(connection, customer.account_id, job_id)
    engine.context.publish(answer.signals)


def test_flower_shows_every_end_of_a_job(
    fleet: Fleet, engine: Engine, account: Caller, flower: Flower, sandbox: Sandbox
) -> None:
    before = engine.balance(account)
    polled = [engine.order(account, f"number {n}").task.id for n in range(5)]
    answered = sync(engine, account, "at once")
    refused = [engine.order(account, "no [sandbox:refuse]").task.id, sync(engine, account, "no [sandbox:refuse]")]
    failed_later = engine.order(account, "later [sandbox:fail=policy]").task.id
    again = engine.order(account, "again [sandbox:429 retry_after=4 times=1]").task.id
    drawing = engine.order(account, "long [sandbox:latency=1000]").task.id
    waiting_again = engine.order(account, "never well [sandbox:fail=500]").task.id

    fleet.eventually(lambda: flower.state(again) == "RETRY")
    assert flower.tasks()[again]["exception"] == "upstream_rate_limited"
    fleet.eventually(lambda: put_off(engine, waiting_again))
    fleet.eventually(lambda: flower.state(waiting_again) == "RETRY")
    fleet.eventually(lambda: engine.job(drawing).status == "waiting")
    assert flower.state(drawing) == "STARTED"
    cancel(engine, account, drawing)
    give_up(engine, drawing)
    cancel(engine, account, waiting_again)  # queued: the web ends it, in the name of its worker

    succeeded, failed = [*polled, answered, again], [*refused, failed_later]
    cancelled = [drawing, waiting_again]
    everything = [*succeeded, *failed, *cancelled]
    fleet.eventually(lambda: ended(engine, everything), within_s=60)
    wanted = {
        **dict.fromkeys(succeeded, "SUCCESS"),
        **dict.fromkeys(failed, "FAILURE"),
        **dict.fromkeys(cancelled, "REVOKED"),
    }
    fleet.eventually(lambda: {job_id: task["state"] for job_id, task in flower.tasks().items()} == wanted)
    shown = flower.tasks()
    for job_id, task in shown.items():
        assert task["name"] == "jobs.run"
        assert job_id in task["args"]
        assert task["worker"].startswith(f"{WORKER}@")
        assert task["started"]
    for job_id in failed:
        assert shown[job_id]["exception"] == engine.job(job_id).failure_code
    assert all(shown[job_id]["runtime"] > 0 for job_id in succeeded)
    assert shown[again]["runtime"] > 0
    for kind, jobs in (("task-succeeded", succeeded), ("task-failed", failed), ("task-revoked", cancelled)):
        counts = flower.events(kind)
        assert sum(counts.values()) == len(jobs), (kind, counts)
        assert all(name.startswith(f"{WORKER}@") for name in counts)

    for job_id in failed:  # the failure hook returned the credits
        assert engine.job(job_id).captured == 0
        assert engine.transfers(job_id).get("capture") is None
    paid = sum(engine.job(job_id).captured for job_id in everything)
    assert engine.balance(account).available == before.available - paid
    assert engine.balance(account).held == 0
    engine.assert_books_balance()


def put_off(engine: Engine, job_id: str) -> bool:
    """Put the retry of a job off for long; return whether it is in the queue."""
    return bool(
        engine.one(
            "WITH later AS (UPDATE jobs SET due_at = clock_timestamp() + interval '1 hour'"
            " WHERE id = :id AND status = 'queued' AND attempt > 0 RETURNING id) SELECT count(*) FROM later",
            id=job_id,
        )
    )


def give_up(engine: Engine, job_id: str) -> None:
    """Let a call be past its deadline, because chatgpt2api cannot stop it."""
    engine.sql("UPDATE upstream_calls SET give_up_at = clock_timestamp() WHERE job_id = :id", id=job_id)
    engine.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id", id=job_id)


@pytest.fixture
def prefixed(fleet: Fleet, environ: dict[str, str], engine: Engine) -> Iterator[Flower]:
    """A Flower that has a path of a proxy's for itself."""
    with running_flower(fleet, environ, prefix="flower") as flower:
        fleet.ensure_worker(environ)
        fleet.eventually(flower.is_up, within_s=60)
        yield flower


def test_below_a_path_of_nginx_pages_links_and_buttons_work_and_a_revoke_stops_no_job(
    fleet: Fleet, engine: Engine, account: Caller, prefixed: Flower, tmp_path: Path
) -> None:
    assert status(replace(prefixed, below=""), "/") == 404  # the path is Flower's own, not only the proxy's
    [away] = free_ports(1)
    with nginx_of_the_docs(tmp_path / "nginx", web_port=away, flower_port=prefixed.port) as port:
        flower = replace(prefixed, port=port)
        linked = set()
        for page in ("/", "/workers", "/tasks", "/broker"):
            linked |= set(re.findall(r"""(?:href|src|action)=["']([^"'#?]+)""", flower.ask(page)))
        here = {link for link in linked if not link.startswith(("http:", "https:", "//"))}
        assert len(here) > 8
        assert {link for link in here if not link.startswith("/flower")} == set()
        for link in here:
            assert status(replace(flower, below=""), link) == 200, link
        assert status(replace(flower, login="wrong"), "/") == 401
        # Flower asks for no password there, so the proxy keeps it in.
        assert status(flower, "/metrics") == 404
        assert status(replace(prefixed, login="wrong"), "/metrics") == 200
        revoke_stops_no_job(fleet, engine, account, flower)


def status(flower: Flower, path: str) -> int:
    try:
        flower.ask(path)
    except HTTPError as error:
        return error.code
    return 200


def revoke_stops_no_job(fleet: Fleet, engine: Engine, account: Caller, flower: Flower) -> None:
    """Celery would discard every later message of the job's id; the job goes on and ends."""
    again = engine.order(account, "again [sandbox:429 retry_after=5 times=1]").task.id
    drawing = sync(engine, account, "slowly [sandbox:latency=4]")
    fleet.eventually(lambda: flower.state(again) == "RETRY" and flower.state(drawing) == "STARTED")
    for job_id in (again, drawing):
        flower.ask(f"/api/task/revoke/{job_id}?terminate=false", "POST")
    flower.ask(f"/api/task/revoke/{drawing}?terminate=true", "POST")  # and its other button
    fleet.eventually(lambda: ended(engine, [again, drawing]), within_s=60)
    assert [engine.job(job_id).status for job_id in (again, drawing)] == ["succeeded", "succeeded"]
    fleet.eventually(lambda: flower.state(again) == flower.state(drawing) == "SUCCESS")
    assert engine.one("SELECT count(*) FROM upstream_calls WHERE job_id = :id", id=drawing) == 1


def test_with_task_events_off_nothing_is_sent_to_flower(
    fleet: Fleet, engine: Engine, account: Caller, environ: dict[str, str]
) -> None:
    """By default Flower enables task events in every worker."""
    fleet.stop()
    off = {**environ, "DARKROOM_TASK_EVENTS": "false"}
    client = make_client(fleet.redis.url, timeout_s=5)
    topics = client.pubsub()
    topics.psubscribe("/*celeryev/*")
    with running_flower(fleet, off, task_events=False) as flower:
        fleet.ensure_worker(off)
        fleet.eventually(flower.is_up, within_s=60)
        for _ in range(2):  # before and after Flower's first request to enable events
            jobs = [engine.order(account, "quiet").task.id, sync(engine, account, "no [sandbox:refuse]")]
            fleet.eventually(lambda: ended(engine, jobs))  # noqa: B023
            assert "task." not in "".join(until_heartbeats(topics, 4))
        assert flower.tasks() == {}
    fleet.stop()


def until_heartbeats(topics: Any, count: int) -> list[str]:
    """Return the kinds of all events until ``count`` heartbeats have come."""
    kinds: list[str] = []
    until = time.monotonic() + 30
    while sum("heartbeat" in kind for kind in kinds) < count:
        assert time.monotonic() < until, kinds
        message = topics.get_message(timeout=1)
        kinds += [str(message["channel"])] if message and message["type"] == "pmessage" else []
    return kinds


def test_a_message_after_its_job_was_cancelled_leaves_no_started_row(
    fleet: Fleet, environ: dict[str, str], engine: Engine, account: Caller
) -> None:
    """No worker had the job when it was cancelled, so its end was not reported; then its message starts."""
    with running_flower(fleet, environ) as flower:
        job_id = engine.order(account, "cancelled before any worker had it").task.id
        cancel(engine, account, job_id)
        fleet.ensure_worker(environ)
        fleet.eventually(flower.is_up, within_s=60)
        other = engine.order(account, "read after it").task.id
        fleet.eventually(lambda: flower.state(other) == "SUCCESS", within_s=60)
        fleet.eventually(lambda: flower.state(job_id) in (None, "REVOKED"), within_s=10)
