"""Whole lives through every process, and how long we take once the upstream has reported that it is done."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import text

from bench import chain, seed
from bench.load import Load, LoadPlan, request
from bench.rounds import percentile
from bench.stand import Stand, chain_program, stand
from bench.table import Bound, Row

LIVES = Bound("ours", at_least=80, binding=False)
CALM_P50, CALM_P95 = Bound("ours", at_most=0.3), Bound("ours", at_most=1.0)
WITHIN_S = 300.0  # on a machine that does other things as well
CALM_JOBS, CALM_EVERY_S, CALM_LATENCY_S = 30, 0.3, 0.5
WARM_JOBS = 60
# The processes that work for a job: the worker with its decoders, PostgreSQL with its sessions.
PROCESSES = ("worker", "web", "flower", "postgres", "redis", "sandbox")

HOT_SHARE = """
SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relname = 'jobs'
"""


def measure(folder: Path, *, jobs: int, rounds: int = 3) -> list[Row]:
    """Two services take turns, one without task events; the chains run next to the first."""
    instant = {"SANDBOX_LATENCY_S": "0"}
    with (
        stand(folder / "life", sandbox=instant, companions=chain_program) as service,
        stand(folder / "life-quiet", sandbox=instant, task_events=False) as quiet,
        Load() as load,
    ):
        warm(service, load)
        warm(quiet, load)
        chain.run(service.running.settings.broker_url, service.redis, 30)
        small, links, large, eventless = [], [], [], []
        used_s = dict.fromkeys(PROCESSES, 0.0)
        for _ in range(rounds):
            links.append(chain.run(service.running.settings.broker_url, service.redis, jobs))
            before = _cpu_s(service)
            small.append(lives(service, load, jobs, "256x256"))
            used_s = {name: used_s[name] + now_s - before[name] for name, now_s in _cpu_s(service).items()}
            eventless.append(lives(quiet, load, jobs, "256x256"))
            large.append(lives(service, load, jobs, "1024x1024"))
        hot = _one(service, HOT_SHARE)
        delays, waits = calm(service, load)
    return [
        _lives_row("256x256", small, links, LIVES),
        _lives_row("1024x1024", large, links, None),
        Row(
            "whole lives without task events",
            "jobs/s",
            statistics.median(eventless),
            statistics.median(small),
            "with events",
            more={"rounds": eventless},
        ),
        *_cpu_rows(used_s, jobs * rounds),
        Row("updates of table jobs that touch no index", "of all", hot.hot / max(1, hot.updates)),
        Row("own delay once the upstream says done, p50", "s", percentile(delays, 0.5), bound=CALM_P50),
        Row("own delay once the upstream says done, p95", "s", percentile(delays, 0.95), bound=CALM_P95),
        Row("the same from the moment it is done, p50", "s", percentile(waits, 0.5)),
    ]


def warm(service: Stand, load: Load) -> None:
    """Open connections, prepare statements, start decoders and import before anything is timed."""
    lives(service, load, WARM_JOBS, "256x256")


def _cpu_s(service: Stand) -> dict[str, float]:
    return {name: service.cpu_s(name) for name in PROCESSES}


def _cpu_rows(used_s: Mapping[str, float], jobs: int) -> list[Row]:
    each_ms = {name: seconds / jobs * 1000 for name, seconds in used_s.items()}
    return [
        Row("processor time of a life, all processes", "ms", sum(each_ms.values())),
        *(Row(f"... {name}", "ms", each_ms[name]) for name in PROCESSES),
    ]


def _lives_row(size: str, ours: Sequence[float], links: Sequence[float], bound: Bound | None) -> Row:
    return Row(
        f"whole lives, {size}",
        "jobs/s",
        statistics.median(ours),
        statistics.median(links),
        "empty chains of 3",
        bound,
        {"rounds": list(ours)},
    )


def lives(service: Stand, load: Load, jobs: int, size: str) -> float:
    """Submit so many jobs at once and wait until all have succeeded; jobs per second of the database's clock."""
    body = {"prompt": "a red kite over the sea", "model": seed.MODEL, "size": size}
    began = now(service)
    load.send(
        LoadPlan(service.port, [request("POST", "/api/images/generate", key=service.admin_key, body=body)], count=jobs),
        expected=202,
    )
    await_end(service, began)
    took = _one(
        service,
        "SELECT count(*) FILTER (WHERE status = 'succeeded') AS good,"
        " extract(epoch FROM max(finished_at) - min(created_at)) AS seconds FROM jobs WHERE created_at >= :began",
        began=began,
    )
    if took.good != jobs:
        raise RuntimeError(f"of {jobs} jobs {took.good} succeeded")
    return float(jobs / took.seconds)


def calm(service: Stand, load: Load) -> tuple[list[float], list[float]]:
    """Jobs one by one; seconds from the first poll that must have found each done, and from when it was done.

    Both clocks are this machine's. A task of the sandbox is done ``latency_s`` after its submit; the
    polls and submits are read from its log of requests.
    """
    sandbox = service.running.sandbox_url
    requests.post(f"{sandbox}/control/reset", timeout=10).raise_for_status()
    paced = {"latency_s": CALM_LATENCY_S, "latency_jitter": 0}
    requests.put(f"{sandbox}/control/settings", json=paced, timeout=10).raise_for_status()
    body = {"prompt": "a red kite over the sea", "model": seed.MODEL, "size": "256x256"}
    order = request("POST", "/api/images/generate", key=service.admin_key, body=body)
    began = now(service)
    for _ in range(CALM_JOBS):
        load.send(LoadPlan(service.port, [order], count=1, connections=1), expected=202)
        time.sleep(CALM_EVERY_S)
    await_end(service, began)
    log = requests.get(f"{sandbox}/control/requests", params={"limit": "20000"}, timeout=10).json()
    with service.database.autocommit() as connection:
        ended = connection.execute(
            text(
                "SELECT c.dedupe_key AS key, extract(epoch FROM j.finished_at)::float8 AS at FROM jobs AS j"
                " JOIN upstream_calls AS c ON c.job_id = j.id WHERE j.created_at >= :began"
            ),
            {"began": began},
        ).all()
    return delays({row.key: row.at for row in ended}, log, latency_s=CALM_LATENCY_S)


def delays(
    ended_at: Mapping[str, float], log: Sequence[Mapping[str, Any]], *, latency_s: float
) -> tuple[list[float], list[float]]:
    """From the sandbox's log of requests; jobs whose decisive poll is not in it are left out of the first list."""
    since_told, since_done = [], []
    for key, at in ended_at.items():
        submitted = next((entry for entry in log if (entry.get("fields") or {}).get("client_task_id") == key), None)
        if submitted is None:
            continue
        done_at = submitted["at"] + latency_s
        since_done.append(at - done_at)
        looks = [e["at"] for e in log if key in str((e.get("query") or {}).get("ids", "")) and e["at"] >= done_at]
        if looks:
            since_told.append(at - min(looks))
    return since_told, since_done


def now(service: Stand) -> datetime:
    return _one(service, "SELECT clock_timestamp() AS at").at  # type: ignore[no-any-return]


def await_end(service: Stand, began: datetime) -> None:
    """Wait until every job since ``began`` has ended."""
    until = time.monotonic() + WITHIN_S
    while _one(
        service, "SELECT count(*) AS live FROM jobs WHERE created_at >= :began AND finished_at IS NULL", began=began
    ).live:
        if time.monotonic() > until:
            raise TimeoutError(f"jobs did not end within {WITHIN_S:.0f} s")
        time.sleep(0.2)


def _one(service: Stand, statement: str, **values: object) -> Any:
    with service.database.autocommit() as connection:
        return connection.execute(text(statement), values).one()
