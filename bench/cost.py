"""What a life costs the servers by their own counts: statements and commits by PostgreSQL's log, messages by Redis.
Jobs one by one, and many at the same time, which takes another path through the worker.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import life, sql_log
from bench.load import Load
from bench.sql_log import LoggingPostgres
from bench.stand import Stand, stand
from bench.table import Bound, Row

IDLE_S, SETTLE_S = 5.0, 0.5
ALONE = 12
# What runs for jobs. The clocks of the worker (heartbeat, tick, sweep) have connections of their own.
APPLICATIONS = ("darkroom-web", "worker")
STATEMENTS, COMMITS, MESSAGES = Bound("ours", at_most=5), Bound("ours", at_most=5), Bound("ours", at_most=2)


@dataclass(frozen=True)
class Cost:
    """What was counted during ``seconds``."""

    seconds: float
    statements: float
    commits: float
    messages: float


@dataclass(frozen=True)
class Meter:
    """Both counters of a running service."""

    service: Stand
    log: Path

    def over(self, spell: Callable[[], object]) -> tuple[Cost, Counter[str]]:
        """Run ``spell()``. Returns what it cost, and its statements."""
        start, sent, began = self.log.stat().st_size, self._messages(), time.monotonic()
        spell()
        asked = [each for each in sql_log.read(self.log, start) if each.application in APPLICATIONS]
        bill = sql_log.bill(asked)
        cost = Cost(time.monotonic() - began, bill.statements.total(), bill.commits, self._messages() - sent)
        return cost, bill.statements

    def _messages(self) -> int:
        return int(self.service.redis.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0))


def per_life(idle: Cost, busy: Cost, jobs: int) -> dict[str, float]:
    """Each count per job, less what the same time costs without any job."""
    return {
        name: max(0.0, getattr(busy, name) - getattr(idle, name) / idle.seconds * busy.seconds) / jobs
        for name in ("statements", "commits", "messages")
    }


def typical(lives: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each count: what one life costs, without what happens every few seconds."""
    return {name: statistics.median(each[name] for each in lives) for name in lives[0]}


def measure(folder: Path, *, jobs: int) -> list[Row]:
    with (
        LoggingPostgres(folder / "cost-postgres") as postgres,
        stand(folder / "cost", sandbox={"SANDBOX_LATENCY_S": "0"}, database_url=postgres.url) as service,
        Load() as load,
    ):
        meter = Meter(service, postgres.folder / "log")

        def spell(count: int) -> None:
            life.lives(service, load, count, "256x256")
            time.sleep(SETTLE_S)  # wake-ups, and the last job's next

        life.lives(service, load, 5, "256x256")
        time.sleep(SETTLE_S)
        idle, _ = meter.over(lambda: time.sleep(IDLE_S))
        alone, counted = [], Counter[str]()
        for _ in range(ALONE):
            cost, said = meter.over(lambda: spell(1))
            alone.append(per_life(idle, cost, 1))
            counted += said
        burst, said = meter.over(lambda: spell(jobs))
    return [
        *_rows("a life alone", typical(alone), counted),
        *_rows(f"a life among {jobs} at once", per_life(idle, burst, jobs), said),
    ]


def _rows(whose: str, costs: dict[str, float], statements: Counter[str]) -> list[Row]:
    return [
        Row(
            f"statements of {whose}",
            "",
            costs["statements"],
            bound=STATEMENTS,
            more={"top": statements.most_common(40)},
        ),
        Row(f"commits of {whose}", "", costs["commits"], bound=COMMITS),
        Row(f"messages of {whose}", "", costs["messages"], bound=MESSAGES),
    ]
