"""How good the estimated wait is: jobs in a burst, the estimate each was given when accepted, and its real wait."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import local
from typing import Any

import requests
from sqlalchemy import text

from bench import life, seed
from bench.rounds import percentile
from bench.stand import Stand, stand
from bench.table import Bound, Row

HONEST = Bound("ours", at_least=80.0)
CLIENTS = 32
# Before the first burst the service has seen no more than a few jobs, one by one.
CALM_JOBS, CALM_EVERY_S = 20, 0.2
# The web process asks the database again after five seconds.
BETWEEN_S = 6.0
# Permits of the limited provider, and how long it takes for an image.
PERMITS, LATENCY_S = 20, 0.5
_A_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate a job was given and its real wait, in seconds. ``p90_s`` None: there was no estimate."""

    p50_s: float | None
    p90_s: float | None
    waited_s: float


def measure(folder: Path, *, jobs: int, bursts: int = 2) -> list[Row]:
    rows: list[Row] = []
    for name, limits in (("", {}), (f" at {PERMITS} permits", {"CHATGPT2API_MAX_ACTIVE": str(PERMITS)})):
        latency_s = LATENCY_S if limits else 0.0
        with stand(
            folder / f"estimates{len(rows)}", sandbox={"SANDBOX_LATENCY_S": str(latency_s), **limits}
        ) as service:
            for _ in range(CALM_JOBS):
                burst(service, 1)
                time.sleep(CALM_EVERY_S)
            told: list[Estimate] = []
            for _ in range(bursts):
                life.await_end(service, life.now(service) - _A_MINUTE)
                time.sleep(BETWEEN_S)
                told += burst(service, jobs)
        rows.append(_row(f"told waits that held, {jobs} jobs at once{name}", told))
    return rows


def burst(service: Stand, jobs: int) -> list[Estimate]:
    """Order so many jobs at once and wait until all have ended."""
    began = life.now(service)
    own = local()

    def order(_: int) -> Mapping[str, Any]:
        session = own.__dict__.setdefault("session", requests.Session())
        answer = session.post(
            f"http://127.0.0.1:{service.port}/api/images/generate",
            json={"prompt": "a red kite over the sea", "model": seed.MODEL, "size": "256x256"},
            headers={"Authorization": f"Bearer {service.admin_key}"},
            timeout=60,
        )
        answer.raise_for_status()
        return answer.json()  # type: ignore[no-any-return]

    with ThreadPoolExecutor(min(CLIENTS, jobs)) as clients:
        tasks = list(clients.map(order, range(jobs)))
    life.await_end(service, began)
    waited = _waited(service, began)
    return [estimate_of(task, waited[task["id"]]) for task in tasks]


def estimate_of(task: Mapping[str, Any], waited_s: float) -> Estimate:
    estimate = task["wait_estimate_s"] or {}
    return Estimate(estimate.get("p50"), estimate.get("p90"), waited_s)


def held(told: Sequence[Estimate], which: str) -> float:
    """Percent of the jobs with an estimate that waited no longer than it said."""
    bounds = [(getattr(one, which), one.waited_s) for one in told if getattr(one, which) is not None]
    return 100 * sum(waited <= bound for bound, waited in bounds) / len(bounds) if bounds else 0.0


def _row(what: str, told: Sequence[Estimate]) -> Row:
    known = [one for one in told if one.p90_s is not None]
    more: dict[str, Any] = {"told_percent": 100 * len(known) / len(told), "within_p50_percent": held(told, "p50_s")}
    if known:
        for name, share in (("median", 0.5), ("p90", 0.9)):
            more[f"waited_{name}_s"] = percentile([one.waited_s for one in known], share)
            more[f"told_p90_{name}_s"] = percentile([one.p90_s for one in known if one.p90_s is not None], share)
            more[f"told_p50_{name}_s"] = percentile([one.p50_s for one in known if one.p50_s is not None], share)
    return Row(what, "% within p90", held(told, "p90_s"), bound=HONEST, more=more)


def _waited(service: Stand, began: datetime) -> dict[str, float]:
    with service.database.autocommit() as connection:
        rows = connection.execute(
            text(
                "SELECT id, CAST(extract(epoch FROM started_at - created_at) AS float) AS waited_s FROM jobs"
                " WHERE created_at >= :began"
            ),
            {"began": began},
        ).all()
    return {row.id: row.waited_s for row in rows}
