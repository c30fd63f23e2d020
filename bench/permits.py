"""One account floods a provider whose permits are few; another orders one image every few seconds.

The other's wait for its start is compared with its share of the permits: while it waits, one that comes free may go to
one job of each other account, so next to one flood it is the second. How quickly permits come free is measured in the
same run; the same account alone, before the flood, says what of its wait is not the flood's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench import life, seed
from bench.load import Load, LoadPlan, request
from bench.rounds import percentile
from bench.stand import Stand, customers, stand
from bench.table import Bound, Row
from workers.ticker import TICK_EVERY_S

PERMITS, CALL_S = 4, 2.0
ORDERS, EVERY_S = 12, 3.0
# A call's end is found by a look, a second apart, and its permit is given out by the next tick.
FOUND_S = 1.0 + 2 * TICK_EVERY_S
BODY = {"prompt": "a red kite over the sea", "model": seed.MODEL, "size": "256x256"}

WAITS = """
SELECT CAST(extract(epoch FROM coalesce(started_at, clock_timestamp()) - created_at) AS float8) AS seconds
FROM jobs WHERE account_id = :id AND created_at >= :since ORDER BY id
"""
FLOODED = """
SELECT count(*) FILTER (WHERE started_at IS NOT NULL) AS started, count(*) FILTER (WHERE status = 'queued') AS queued
FROM jobs WHERE account_id = :id
"""


def share_s(*, permits_per_s: float, others: int) -> float:
    """Return how long an order waits for its share at the most: a job of each other account goes first, and that a
    call has ended must be found."""
    return (1 + others) / permits_per_s + FOUND_S


def measure(folder: Path, *, jobs: int) -> list[Row]:
    limited = {
        "SANDBOX_LATENCY_S": str(CALL_S),
        "SANDBOX_LATENCY_JITTER": "0.3",
        "CHATGPT2API_MAX_ACTIVE": str(PERMITS),
    }
    with stand(folder / "permits", sandbox=limited) as service, Load() as load:
        (flooding, flood_key), (quiet, quiet_key) = customers(service.database, 2).items()
        alone = _orders(service, load, quiet, quiet_key)
        plan = LoadPlan(service.port, [request("POST", "/api/images/generate", key=flood_key, body=BODY)], count=jobs)
        load.send(plan, expected=202)
        began, before = time.monotonic(), _flooded(service, flooding).started
        during = _orders(service, load, quiet, quiet_key)
        after, seconds = _flooded(service, flooding), time.monotonic() - began
    if not after.queued:
        raise RuntimeError("the flood was over before the other account's orders were")
    name = f"next to {jobs:,} of another account at {PERMITS} permits"
    flood_per_s = (after.started - before) / seconds
    bound_s = share_s(permits_per_s=flood_per_s + ORDERS / seconds, others=1)
    return [
        Row(
            f"wait of one order for its start {name}, p95",
            "s",
            percentile(during, 0.95),
            percentile(alone, 0.95),
            "s alone",
            Bound("ours", at_most=round(percentile(alone, 0.95) + bound_s, 2)),
            {"share_s": bound_s, "waits": during, "alone": alone},
        ),
        Row("... the same, p50", "s", percentile(during, 0.5), percentile(alone, 0.5), "s alone"),
        Row(
            "the flood meanwhile",
            "jobs/s",
            flood_per_s,
            ORDERS / seconds,
            "jobs/s of the other",
        ),
    ]


def _orders(service: Stand, load: Load, account_id: str, key: str) -> Sequence[float]:
    """Order one image every few seconds; return the seconds that each waited for its start."""
    since = life.now(service)
    plan = LoadPlan(service.port, [request("POST", "/api/images/generate", key=key, body=BODY)], count=1, connections=1)
    for _ in range(ORDERS):
        load.send(plan, expected=202)
        time.sleep(EVERY_S)
    with service.database.autocommit() as connection:
        return [row.seconds for row in connection.execute(text(WAITS), {"id": account_id, "since": since})]


def _flooded(service: Stand, account_id: str) -> Any:
    with service.database.autocommit() as connection:
        return connection.execute(text(FLOODED), {"id": account_id}).one()
