"""What a life costs the servers, counted: statements, commits, messages.

Statements are counted at the driver in the web and the worker, commits and messages by the servers.
What the clocks do anyway (heartbeat, tick, sweep) is counted over an idle spell and taken off.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import text

from bench import counted, life
from bench.load import Load
from bench.stand import Stand, stand
from bench.table import Bound, Row
from core.embedded.processes import Program

IDLE_S, SETTLE_S = 5.0, 0.5
STATEMENTS, COMMITS, MESSAGES = Bound("ours", at_most=16), Bound("ours", at_most=6), Bound("ours", at_most=3)


def counting(programs: Sequence[Program]) -> list[Program]:
    """The same programs, web and worker by their counted twins."""
    swapped = {"workers": "bench.counted", "app.wsgi:app": "bench.counted_web:app"}
    return [replace(program, argv=[swapped.get(word, word) for word in program.argv]) for program in programs]


@dataclass(frozen=True)
class Meter:
    """All three counters at one moment."""

    at_s: float
    statements: int
    commits: int
    messages: int

    @classmethod
    def read(cls, service: Stand) -> Meter:
        with service.database.autocommit() as connection:
            commits = connection.execute(
                text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
            ).scalar_one()
        commands = service.redis.info("commandstats")
        messages = int(commands.get("cmdstat_lpush", {}).get("calls", 0))
        return cls(time.monotonic(), statements(service).total(), commits, messages)


def statements(service: Stand) -> Counter[str]:
    seen: dict[str, str] = service.redis.hgetall(counted.KEY)  # type: ignore[assignment]
    return Counter({statement: int(times) for statement, times in seen.items()})


def per_life(idle: tuple[Meter, Meter], busy: tuple[Meter, Meter], jobs: int) -> dict[str, float]:
    """Each count per job, with what the same time costs without any job taken off."""
    return {
        name: max(0.0, _grew(busy, name) - _grew(idle, name) / _grew(idle, "at_s") * _grew(busy, "at_s")) / jobs
        for name in ("statements", "commits", "messages")
    }


def _grew(span: tuple[Meter, Meter], name: str) -> float:
    return float(getattr(span[1], name) - getattr(span[0], name))


def measure(folder: Path, *, jobs: int) -> list[Row]:
    with (
        stand(folder / "cost", sandbox={"SANDBOX_LATENCY_S": "0"}, change=counting) as service,
        Load() as load,
    ):
        life.lives(service, load, 5, "256x256")
        time.sleep(SETTLE_S)  # counts are told a few times a second
        marks = [Meter.read(service)]
        time.sleep(IDLE_S)
        marks.append(Meter.read(service))
        before = statements(service)
        life.lives(service, load, jobs, "256x256")
        time.sleep(SETTLE_S)
        marks.append(Meter.read(service))
        top = (statements(service) - before).most_common(40)
    costs = per_life((marks[0], marks[1]), (marks[1], marks[2]), jobs)
    return [
        Row("statements of a life", "", costs["statements"], bound=STATEMENTS, more={"top": top}),
        Row("commits of a life", "", costs["commits"], bound=COMMITS),
        Row("messages of a life", "", costs["messages"], bound=MESSAGES),
    ]
