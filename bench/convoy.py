"""Orders of one account claimed at the same time next to busy greenlets: today's claim against the one before.

``python -m bench.convoy FOLDER`` measures, in its own process, because greenlets need patched modules; it
prints one JSON object.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import gevent
import structlog
from gevent.pool import Pool
from sqlalchemy import text

from accounts.accounts import create_account
from app.cli.service.programs import sandbox_environ
from bench import old_claim, seed
from bench.rounds import percentile
from bench.table import Bound, Row
from core import schema
from core.db import Database, make_engine
from core.embedded.postgres import EmbeddedPostgres
from core.errors import DatabaseAwayError, DatabaseBusyError
from core.ids import new_id
from jobs import lifecycle
from jobs.dispatch import heartbeats
from jobs.dispatch.limits import CredentialLimits, announce
from jobs.execution import claim
from jobs.execution.context import WorkerContext
from jobs.lifecycle import NewJob
from providers import registry
from providers.catalog.live import LiveCatalog
from quota import ledger
from storage.local import LocalStore
from storage.media import Media

CLAIMS, BUSY = 300, 30
SPIN_S = 0.001  # how long a busy greenlet keeps the processor before it lets others run
OLD_WITHIN_S = 12.0  # long enough for its rate
POOL_SIZE, WINDOW = 20, 32
PRICE, CREDITS = 1_000, 10**12
TIMEOUTS = Bound("ours", at_most=0)
RATE = Bound("ours", at_least=60, binding=False)
FASTER = Bound("ratio", at_least=10)


@dataclass(frozen=True)
class Convoy:
    """``timeouts``: claims that waited for a row or a connection and did not get it."""

    claims: int
    seconds: float
    timeouts: int
    p50_s: float
    p95_s: float

    @property
    def rate(self) -> float:
        return self.claims / self.seconds


def measure(folder: Path, *, claims: int = CLAIMS, busy: int = BUSY) -> list[Row]:
    command = [sys.executable, "-m", "bench.convoy", str(folder / "convoy"), str(claims), str(busy)]
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    ours, old = Convoy(**result["ours"]), Convoy(**result["old"])
    what = f"{claims} orders of one account claimed at once, {busy} busy greenlets"
    return [
        Row(what, "/s", ours.rate, old.rate, "three turns", FASTER, {"rounds": result}),
        Row("the same, by this machine's clock", "/s", ours.rate, bound=RATE),
        Row("the same, time-outs", "", ours.timeouts, old.timeouts, "three turns", TIMEOUTS),
        Row("the same, p95 of a claim", "s", ours.p95_s, old.p95_s, "three turns"),
    ]


# ------------------------------------------------------------------ in its own process


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.convoy", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("claims", type=int)
    parser.add_argument("busy", type=int)
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with EmbeddedPostgres(options.folder / "postgres") as server:
        database = Database(make_engine(server.url.replace("postgresql", "postgresql+psycopg", 1), pool_size=POOL_SIZE))
        try:
            result = compare(database, options.folder, options.claims, options.busy)
        finally:
            database.dispose()
    print(json.dumps({name: asdict(convoy) for name, convoy in result.items()}))


def compare(database: Database, folder: Path, claims: int, busy: int) -> dict[str, Convoy]:
    """Ours is measured before and after the old one, so that a machine that slows down affects both."""
    with database.transaction() as connection:
        schema.upgrade(connection)
    context = worker_context(database, folder)
    [provider] = context.registry.of(seed.PROVIDER)
    with database.transaction() as connection:
        heartbeats.beat(connection, context.owner)
        account_id = create_account(connection, "bench").id
        ledger.grant(connection, account_id, CREDITS)
        announce(connection, provider.credential_id, seed.PROVIDER, CredentialLimits())
        old_claim.prepare(connection, account_id, provider.credential_id, CREDITS)
    run(lambda job_id: ours(context, job_id), submit(database, account_id, POOL_SIZE), 0, within_s=OLD_WITHIN_S)
    first = run(lambda job_id: ours(context, job_id), submit(database, account_id, claims), busy)
    old = run(
        lambda job_id: before(database, job_id, provider.credential_id),
        submit(database, account_id, claims),
        busy,
        within_s=OLD_WITHIN_S,
    )
    drop_queued(database)
    second = run(lambda job_id: ours(context, job_id), submit(database, account_id, claims), busy)
    return {"ours": slower(first, second), "old": old}


def slower(one: Convoy, other: Convoy) -> Convoy:
    return min(one, other, key=lambda convoy: convoy.rate)


def worker_context(database: Database, folder: Path) -> WorkerContext:
    """What ``runner`` claims with: the sandbox's providers, and no listener for nudges."""
    store = LocalStore(folder / "blobs")
    return WorkerContext(
        owner=new_id("wkr"),
        database=database,
        catalogs=LiveCatalog(folder / "catalog.local.yaml"),
        registry=registry.load(sandbox_environ(9)),
        media=Media(store, folder / "staging"),
        store=store,
        publish=lambda _: True,
        max_attempts=4,
        cancel_charge="full",
        publish_window=WINDOW,
    )


def submit(database: Database, account_id: str, count: int) -> list[str]:
    jobs = [_new_job(account_id) for _ in range(count)]
    with database.hot() as hot:
        for job in jobs:
            lifecycle.submit(hot, job, window=WINDOW)
    return [job.id for job in jobs]


def _new_job(account_id: str) -> NewJob:
    return NewJob(
        id=new_id("job"),
        account_id=account_id,
        weight=1,
        operation="generate",
        model=seed.MODEL,
        provider=seed.PROVIDER,
        n=1,
        low_priority=False,
        start_within_s=3600,
        unit_price_microcredits=PRICE,
        quoted_microcredits=PRICE,
        request={"prompt": "a red kite over the sea", "n": 1, "size": {}, "params": {}, "normalised": {}},
        warnings=(),
        metadata={},
        inputs=(),
    )


def drop_queued(database: Database) -> None:
    """Remove what the old claim has not taken, which must not be published to ours."""
    with database.transaction() as connection:
        connection.execute(text("UPDATE jobs SET due_at = 'infinity' WHERE status = 'queued'"))


def ours(context: WorkerContext, job_id: str) -> bool:
    """Whether the claim went through; a time-out puts the job off."""
    try:
        if claim.claim(context, job_id) is not None:
            return True
    except DatabaseAwayError:
        return False
    with context.database.autocommit() as connection:
        connection.execute(text("UPDATE jobs SET due_at = clock_timestamp() WHERE id = :id"), {"id": job_id})
    return False


def before(database: Database, job_id: str, credential_id: str) -> bool:
    try:
        old_claim.claim(database, job_id, credential_id)
    except (DatabaseBusyError, DatabaseAwayError):
        return False
    return True


def run(claim: Callable[[str], bool], job_ids: Sequence[str], busy: int, *, within_s: float = float("inf")) -> Convoy:
    """Claim all at the same time, each until it succeeds; nothing is started after ``within_s``."""
    took: list[float] = []
    timeouts = 0
    began = time.monotonic()

    def one(job_id: str) -> None:
        nonlocal timeouts
        while time.monotonic() - began < within_s:
            if claim(job_id):
                took.append(time.monotonic() - began)
                return
            timeouts += 1

    with _busy(busy):
        Pool(len(job_ids)).map(one, job_ids)
    return Convoy(len(took), max(took), timeouts, percentile(took, 0.5), percentile(took, 0.95))


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Greenlets that compute, as a worker's other jobs do."""

    def spin() -> None:
        while True:
            until = time.perf_counter() + SPIN_S
            while time.perf_counter() < until:
                pass
            gevent.sleep(0)

    spinning = [gevent.spawn(spin) for _ in range(count)]
    try:
        yield
    finally:
        gevent.killall(spinning)


if __name__ == "__main__":
    main()
