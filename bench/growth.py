"""How submit, status and whole lives perform on a grown database that has not been vacuumed.

Each figure is taken relative to its floor (the bare web, the empty chains), small and grown: a machine
that slows down meanwhile slows both down.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import text

from bench import chain, edge, life, seed
from bench.load import Load
from bench.rounds import Round, median
from bench.stand import Stand, chain_program, customers, stand
from bench.table import Bound, Row
from core.db import Database
from jobs.maintenance import growth

GROWN = Bound("ratio", at_least=1 / 1.2)
FIRST = 1_000  # below are the few jobs whose status is read
LIFE_ROUNDS = 3


def measure(folder: Path, *, finished: int, queued: int, jobs: int, rounds: int, seconds: float) -> list[Row]:
    name = f"with {finished:,} finished and {queued:,} queued"
    return [
        *_edge(folder, name, finished, queued, rounds=rounds, seconds=seconds),
        _lives(folder, name, finished, queued, jobs),
    ]


def grow(database: Database, accounts: Sequence[str], finished: int, queued: int) -> None:
    """The rows, and the ANALYZE that any worker's sweep makes of grown tables within seconds. No VACUUM.

    Run by hand here, because the edge is measured without workers.
    """
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        seed.jobs(connection, accounts, "succeeded", finished, first=FIRST)
        seed.jobs(connection, accounts, "queued", queued, first=FIRST + finished)
    with database.autocommit() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        growth.analyse_grown(connection)


def _edge(folder: Path, name: str, finished: int, queued: int, *, rounds: int, seconds: float) -> list[Row]:
    with edge.beside_floor(folder / "growth-edge", rounds=rounds, seconds=seconds) as measured:
        small = measured.both(first=0)
        grow(measured.stand.database, list(measured.keys), finished, queued)
        big = measured.both(first=FIRST + finished + queued, settled=False)
    return [
        Row(f"{what} {name}", "of floor", of_floor(big[what]), of_floor(small[what]), "when empty", GROWN)
        for what in ("submit", "status")
    ]


def of_floor(turns: dict[str, list[Round]]) -> float:
    """By the clock, because growth affects the database, not the web."""
    return median(turns["ours"], "rate") / median(turns["floor"], "rate")


def _lives(folder: Path, name: str, finished: int, queued: int, jobs: int) -> Row:
    with (
        stand(folder / "growth-life", sandbox={"SANDBOX_LATENCY_S": "0"}, companions=chain_program) as service,
        Load() as load,
    ):
        life.warm(service, load)
        small = _of_chains(service, load, jobs)
        grow(service.database, list(customers(service.database, edge.ACCOUNTS)), finished, queued)
        with service.database.transaction() as connection:  # they must wait, and not run next to those measured
            connection.execute(text("UPDATE jobs SET due_at = due_at + interval '1 day' WHERE status = 'queued'"))
        big = _of_chains(service, load, jobs)
    more = {"small": small, "big": big}
    return Row(
        f"whole lives {name}",
        "of chains",
        statistics.median(big),
        statistics.median(small),
        "when empty",
        GROWN,
        more,
    )


def _of_chains(service: Stand, load: Load, jobs: int) -> list[float]:
    broker, client = service.running.settings.broker_url, service.redis
    return [life.lives(service, load, jobs, "256x256") / chain.run(broker, client, jobs) for _ in range(LIFE_ROUNDS)]
