"""One account floods the service over HTTP; two others meanwhile order one image after another.

A quiet account's life must not depend on another's backlog: it is compared with itself alone, before the
flood. And no queue may hold more messages than there are live jobs, or messages are sent again and again.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench import life, seed
from bench.load import Load, LoadPlan, request
from bench.rounds import percentile
from bench.stand import Stand, customers, stand
from bench.table import Bound, Row

ALONE = 15
SAMPLE_EVERY_S = 0.25
POLL_EVERY_S = 0.1
QUIET_WITHIN_S = 300.0
ELSEWHERE = "flux-2-pro"  # a model of another provider, asynchronous as well
BODY = {"prompt": "a red kite over the sea", "size": "256x256"}
# With two active accounts each has half of the machine, and an order waits for what is already in progress.
DURING = Bound("ratio", at_most=3)
NO_LONGER = Bound("ratio", at_most=1)
# Canaries, events and Flower's requests are not messages about jobs.
NOT_OURS = ("canary.", "celeryev", "pidbox")


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    key: str


@dataclass
class Quiet:
    """An account that orders one image, waits until it is there, and orders the next."""

    service: Stand
    key: str
    model: str
    ids: list[str] = field(default_factory=list)

    def order_one(self) -> None:
        self.ids.append(self._call("POST", "/api/images/generate", {**BODY, "model": self.model})["id"])
        until = time.monotonic() + QUIET_WITHIN_S
        while (status := self._call("GET", f"/api/images/tasks/{self.ids[-1]}")["status"]) in ("queued", "running"):
            if time.monotonic() > until:
                raise TimeoutError(f"{self.ids[-1]} did not end within {QUIET_WITHIN_S:.0f} s")
            time.sleep(POLL_EVERY_S)
        if status != "succeeded":
            raise RuntimeError(f"{self.ids[-1]} is {status}")

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.service.port}{path}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
            return dict(json.load(answer))


@dataclass(frozen=True, slots=True)
class Life:
    """Seconds from acceptance to the end, and its parts, each from the one before."""

    whole_s: float
    queued_s: float
    called_s: float
    found_s: float
    kept_s: float


LIVES = """
SELECT CAST(extract(epoch FROM j.finished_at - j.created_at) AS float8) AS whole_s,
    CAST(extract(epoch FROM j.started_at - j.created_at) AS float8) AS queued_s,
    CAST(extract(epoch FROM c.answered_at - j.started_at) AS float8) AS called_s,
    CAST(extract(epoch FROM e.at - c.answered_at) AS float8) AS found_s,
    CAST(extract(epoch FROM j.finished_at - e.at) AS float8) AS kept_s
FROM jobs AS j
JOIN upstream_calls AS c ON c.job_id = j.id AND c.try = 1
JOIN job_events AS e ON e.job_id = j.id AND e.type = 'collecting'
WHERE j.id = ANY(:ids)
ORDER BY j.id
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """The longest queue, and how many jobs were live at that moment."""

    queue: str
    messages: int
    live: int


def measure(folder: Path, *, jobs: int) -> list[Row]:
    with stand(folder / "flood", sandbox={"SANDBOX_LATENCY_S": "0"}) as service, Load() as load:
        made = customers(service.database, 3)
        flooding, *_ = made
        keys = list(made.values())
        life.warm(service, load)
        quiet = [Quiet(service, keys[1], seed.MODEL), Quiet(service, keys[2], ELSEWHERE)]
        for each in quiet:
            each.order_one()
            each.ids.clear()
        with _side_by_side(*(partial(_orders, each, ALONE) for each in quiet)):
            pass
        alone = [lives(service, each.ids) for each in quiet]
        for each in quiet:
            each.ids.clear()
        flood_s, samples = _flood(service, load, Account(flooding, keys[0]), jobs, quiet)
        during = [lives(service, each.ids) for each in quiet]
    worst = worst_queue(samples)
    name = f"next to a flood of {jobs:,}"
    return [
        _row(f"another account's life {name}, p95", during[0], alone[0]),
        _row(f"the same at another provider, p95 ({ELSEWHERE})", during[1], alone[1]),
        Row(
            f"the longest queue {name}",
            "messages",
            worst.messages,
            worst.live,
            "live jobs then",
            NO_LONGER,
            {"queue": worst.queue, "longest": max(samples, key=lambda sample: sample.messages).messages},
        ),
        Row("the flood itself", "jobs/s", jobs / flood_s),
    ]


def _row(what: str, during: list[Life], alone: list[Life]) -> Row:
    then, before = p95(during), p95(alone)
    more = {"beside": then, "alone": before, "lives": [each.whole_s for each in during]}
    return Row(what, "s", then["whole_s"], before["whole_s"], "alone", DURING, more)


def p95(lived: list[Life]) -> dict[str, float]:
    """Of the whole life and of each of its parts."""
    return {part.name: percentile([getattr(each, part.name) for each in lived], 0.95) for part in fields(Life)}


def lives(service: Stand, ids: list[str]) -> list[Life]:
    """By the database's clock."""
    with service.database.autocommit() as connection:
        rows = connection.execute(text(LIVES), {"ids": ids})
        return [Life(row.whole_s, row.queued_s, row.called_s, row.found_s, row.kept_s) for row in rows]


def worst_queue(samples: list[Sample]) -> Sample:
    """The sample in which messages exceeded live jobs most, or came closest to it."""
    return max(samples, key=lambda sample: sample.messages / max(1, sample.live))


def _orders(quiet: Quiet, count: int) -> None:
    for _ in range(count):
        quiet.order_one()


def _flood(service: Stand, load: Load, flooding: Account, jobs: int, quiet: list[Quiet]) -> tuple[float, list[Sample]]:
    """Seconds from the flood's first submit to its last end, and what the queues held meanwhile."""
    began, over = time.monotonic(), threading.Event()
    samples: list[Sample] = []

    def go_on(each: Quiet) -> None:
        while not over.is_set():
            each.order_one()

    def watch() -> None:
        while not over.wait(SAMPLE_EVERY_S):
            samples.append(_sample(service))

    with _side_by_side(watch, *(partial(go_on, each) for each in quiet)):
        try:
            order = request("POST", "/api/images/generate", key=flooding.key, body={**BODY, "model": seed.MODEL})
            load.send(LoadPlan(service.port, [order], count=jobs), expected=202)
            _await_flood(service, flooding.id, jobs)
            flood_s = time.monotonic() - began
        finally:
            over.set()
    return flood_s, samples


def _sample(service: Stand) -> Sample:
    """Jobs are counted after the queues: what ends in between makes the result worse, never better."""
    lengths = {
        str(name): int(service.redis.llen(name))
        for name in service.redis.scan_iter(count=1000, _type="list")
        if not any(part in str(name) for part in NOT_OURS)
    }
    queue = max(lengths, key=lambda name: lengths[name], default="")
    with service.database.autocommit() as connection:
        live = connection.execute(
            text("SELECT count(*) FROM jobs WHERE status IN ('queued', 'running', 'waiting')")
        ).scalar_one()
    return Sample(queue, lengths.get(queue, 0), live)


def _await_flood(service: Stand, account_id: str, jobs: int) -> None:
    until = time.monotonic() + life.WITHIN_S + jobs / 10
    while time.monotonic() < until:
        with service.database.autocommit() as connection:
            ended = connection.execute(
                text("SELECT count(*) FROM jobs WHERE account_id = :id AND finished_at IS NOT NULL"), {"id": account_id}
            ).scalar_one()
        if ended >= jobs:
            return
        time.sleep(0.5)
    raise TimeoutError(f"of a flood of {jobs} jobs {ended} have ended")


@contextmanager
def _side_by_side(*works: Callable[[], None]) -> Iterator[None]:
    """Threads that run next to the block; an exception in one is raised when all have ended."""
    faults: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as fault:  # noqa: BLE001 - raised below
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(one,), daemon=True) for one in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    if faults:
        raise faults[0]
