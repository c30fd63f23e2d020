"""The web process: submit against the floor (bench/floor.py), status against a constant, small and grown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from bench import seed
from bench.load import Load, LoadPlan, request
from bench.names import FLOOR_QUEUE
from bench.rounds import Round, median, take_turns
from bench.stand import Stand, customers, floor_program, make_floor_table, stand
from bench.table import Bound, Row
from core.ids import as_uuid

ACCOUNTS = 64
WINDOW = 20_000  # which no round fills, so that every submit sends its message though no one claims
WARM_S = 0.3
ORDER = {"prompt": "a red kite over the sea", "model": seed.MODEL, "size": "256x256"}
SUBMIT, STATUS = Bound("ratio", at_least=0.65), Bound("ratio", at_least=0.55)
FAL_STATUS = Bound("ratio", at_least=0.55)


@dataclass(frozen=True)
class Edge:
    """One web process of ours and one of the floor's, without workers: nothing else needs the machine."""

    stand: Stand
    load: Load
    keys: dict[str, str]
    rounds: int
    seconds: float

    def both(self, *, first: int, settled: bool = True) -> dict[str, dict[str, list[Round]]]:
        """Status of finished, waiting and queued jobs in turn, then submit; jobs are numbered from ``first``.

        ``settled``: the planner knows the tables, as in a service that has run for a while.
        """
        accounts, ids = list(self.keys), []
        with self.stand.database.transaction() as connection:
            for number, status in enumerate(("succeeded", "waiting", "queued")):
                ids += seed.jobs(connection, accounts, status, 100, first=first + 100 * number)
        if settled:
            with self.stand.database.autocommit() as connection:
                connection.execute(text("SET statement_timeout = 0"))
                seed.settle_in(connection)
        # A poll of fal's queue is 202 while a job lives: the first hundred have ended.
        return {"status": self.status(ids), "fal": self.fal_status(ids[100:]), "submit": self.submit()}

    def submit(self) -> dict[str, list[Round]]:
        ours = [request("POST", "/api/images/generate", key=key, body=ORDER) for key in self.keys.values()]
        bare = [request("POST", "/floor/orders", body=ORDER)]
        return take_turns(
            {
                "ours": lambda: self._submitted("web", self.stand.port, ours, seed.PROVIDER),
                "floor": lambda: self._submitted("floor", self.stand.floor_port, bare, FLOOR_QUEUE),
            },
            self.rounds,
        )

    def status(self, ids: Sequence[str]) -> dict[str, list[Round]]:
        return self._reads({job_id: f"/api/images/tasks/{job_id}" for job_id in ids}, 200)

    def fal_status(self, ids: Sequence[str]) -> dict[str, list[Round]]:
        """As fal's clients poll, ten times a second each."""
        return self._reads({job_id: f"/fal/queue/fal-ai/flux/requests/{as_uuid(job_id)}/status" for job_id in ids}, 202)

    def _reads(self, paths: Mapping[str, str], expected: int) -> dict[str, list[Round]]:
        accounts = list(self.keys)
        ours = [request("GET", path, key=self.keys[seed.owner(accounts, job_id)]) for job_id, path in paths.items()]
        bare = [request("GET", "/floor/constant")]
        return take_turns(
            {
                "ours": lambda: self._round("web", self.stand.port, ours, expected)[0],
                "floor": lambda: self._round("floor", self.stand.floor_port, bare, 200)[0],
            },
            self.rounds,
        )

    def _round(self, name: str, port: int, requests: Sequence[str], expected: int) -> tuple[Round, int]:
        """One round after a warm-up, and how many requests both made."""
        warm = self.load.send(LoadPlan(port, requests, seconds=WARM_S), expected=expected)
        before = self.stand.cpu_s(name)
        result = self.load.send(LoadPlan(port, requests, seconds=self.seconds), expected=expected)
        used_s = self.stand.cpu_s(name) - before
        return Round(result.count / used_s, result.rate, result.p50_ms, result.p95_ms), warm.count + result.count

    def _submitted(self, name: str, port: int, requests: Sequence[str], queue: str) -> Round:
        done, count = self._round(name, port, requests, 202)
        # The floor's Celery and ours share the server, not the queue.
        sent = int(self.stand.redis.llen(queue))
        if sent != count:
            raise NotComparableError(f"{count} submits sent {sent} messages to the queue {queue}")
        self._take_back(queue)
        return done

    def _take_back(self, queue: str) -> None:
        """Empty the queue and the windows for the next round; the rows stay."""
        self.stand.redis.delete(queue)
        with self.stand.database.transaction() as connection:
            connection.execute(text("UPDATE jobs SET published_at = NULL WHERE published_at IS NOT NULL"))


class NotComparableError(Exception):
    """A round did less work than the one it is compared with."""


@contextmanager
def beside_floor(var: Path, *, rounds: int, seconds: float) -> Iterator[Edge]:
    with (
        stand(
            var, sandbox={}, workers=False, publish_window=WINDOW, companions=floor_program, prepare=make_floor_table
        ) as service,
        Load() as load,
    ):
        yield Edge(service, load, customers(service.database, ACCOUNTS), rounds, seconds)


def measure(folder: Path, *, rounds: int, seconds: float) -> list[Row]:
    with beside_floor(folder / "edge", rounds=rounds, seconds=seconds) as edge:
        done = edge.both(first=0)
    return [
        *_rows("submit", done["submit"], SUBMIT),
        *_rows("status read", done["status"], STATUS),
        *_rows("fal status read", done["fal"], FAL_STATUS),
    ]


def _rows(what: str, turns: dict[str, list[Round]], bound: Bound) -> list[Row]:
    ours, bare = turns["ours"], turns["floor"]
    more = {f"{name}_{figure}": median(turns[name], figure) for name in turns for figure in ("p50_ms", "p95_ms")}
    return [
        Row(
            f"{what}, per web core",
            "/s of CPU",
            median(ours, "per_core"),
            median(bare, "per_core"),
            "bare floor",
            bound,
            {**more, "rounds": [[a.per_core, b.per_core] for a, b in zip(ours, bare, strict=True)]},
        ),
        Row(f"{what}, by the clock", "/s", median(ours, "rate"), median(bare, "rate"), "bare floor"),
    ]
