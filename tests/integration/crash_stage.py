"""A stage for crashes: a database, a Redis and files of its own, and real workers that die at a failpoint.

Workers that die one after the other share a stage. What one leaves behind is frozen, by putting its clocks
forward, so that the next one meets only its own job; at the end all of it is due again, and one worker without a
failpoint recovers it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import text
from submissions import make_submission
from worker_forks import Forks

from accounts.accounts import create_account
from accounts.keys import Caller, create_key
from core.db import Database, make_engine
from core.failpoints import VARIABLE
from core.redis import make_client
from jobs.maintenance import audit
from jobs.reads import funds
from jobs.reads.funds import Funds
from jobs.states import Nudge
from jobs.submission.order import JobWebhook, Order
from jobs.submission.service import SubmissionService
from providers.catalog import catalog
from quota import ledger
from storage.local import LocalStore
from storage.media import Media
from webhooks.receivers import policy

ROOT = Path(__file__).resolve().parents[2]
GRANTED = 100_000_000
DIES_WITHIN_S = 40.0
FROZEN_S = 3600


@dataclass
class Stage:
    """One series of crashes. ``environ`` is what its processes are given."""

    database: Database
    environ: Mapping[str, str]
    redis_url: str
    publish: Callable[[list[Nudge]], bool]
    forks: Forks | None = None  # for worker_dies_at
    submission: SubmissionService = field(init=False)
    customer: Caller = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.store = LocalStore(Path(self.environ["DARKROOM_VAR"]) / "blobs")
        self.submission = make_submission(
            self.database,
            Media(self.store, Path(self.environ["DARKROOM_VAR"]) / "staging", decoders=1),
            self.store,
            catalog.load(),
            receivers=policy(["127.0.0.1"]),
        )
        with self.database.transaction() as connection:
            account = create_account(connection, "crash")
            ledger.grant(connection, account.id, GRANTED)
            self.token = create_key(connection, account.id, name="crash", scopes=("jobs:write", "jobs:read")).token
        self.customer = Caller(account.id)

    # -- the database

    def sql(self, statement: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(text(statement), values)

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self.database.autocommit() as connection:
            return list(connection.execute(text(statement), values).all())

    def row(self, statement: str, **values: Any) -> Any:
        [row] = self.rows(statement, **values)
        return row

    # -- jobs

    def order(
        self, prompt: str, model: str, *, publish: bool = True, webhook: JobWebhook | None = None, **more: Any
    ) -> str:
        fields = {
            **more,
            "prompt": prompt,
            "model": model,
            "size": "256x256" if model.startswith("chatgpt2api") else "1024x1024",
        }
        submitted = self.submission.submit(self.customer, Order("generate", fields, webhook=webhook))
        if publish:
            assert self.publish(list(submitted.nudges))
        else:
            self.sql("UPDATE jobs SET published_at = NULL WHERE id = :id", id=submitted.task.id)
        return submitted.task.id

    def balance(self) -> Funds:
        with self.database.autocommit() as connection:
            return funds.funds(connection, self.customer.account_id)

    def audit(self) -> list[audit.Finding]:
        with self.database.transaction() as connection:
            return audit.check(connection)

    # -- time

    def freeze(self) -> None:
        """Keep what a crash left: its worker counts as alive, its jobs are not due."""
        self.sql(
            "UPDATE workers SET pid = :pid, heartbeat_at = clock_timestamp() + make_interval(secs => :s)",
            pid=os.getpid(),
            s=FROZEN_S,
        )
        self._shift(FROZEN_S)
        make_client(self.redis_url).flushdb()

    def thaw(self) -> None:
        self.sql("DELETE FROM workers")
        self._shift(-2 * FROZEN_S)

    def _shift(self, seconds: int) -> None:
        self.sql(
            "UPDATE jobs SET due_at = due_at + make_interval(secs => :s) WHERE status IN ('queued', 'waiting')",
            s=seconds,
        )

    def hurry(self) -> None:
        """Let the waits end that allow for slow upstreams and messages; nothing here is slow."""
        self.sql(
            "UPDATE upstream_calls SET missing_since = missing_since - interval '6 seconds',"
            " give_up_at = CASE WHEN provider = 'openai' AND outcome = 'uncertain' THEN clock_timestamp()"
            " ELSE give_up_at END WHERE outcome = 'uncertain'"
        )
        self.sql("UPDATE jobs SET due_at = clock_timestamp() WHERE status IN ('queued', 'waiting')")
        self.sql("UPDATE jobs SET published_at = published_at - interval '20 seconds' WHERE status = 'queued'")

    # -- processes

    @contextmanager
    def process(self, *module: str, failpoint: str = "", **changed: str) -> Iterator[subprocess.Popen[bytes]]:
        log = Path(self.environ["DARKROOM_VAR"]) / f"{module[0]}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                env={**self.environ, VARIABLE: failpoint, **changed},
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def worker_dies_at(self, failpoint: str, **changed: str) -> int:
        """Run a worker with a failpoint and return its exit code; raises AssertionError if it does not end."""
        log = Path(self.environ["DARKROOM_VAR"]) / "workers.log"
        assert self.forks is not None
        try:
            return self.forks.run({**self.environ, VARIABLE: failpoint, **changed}, log, DIES_WITHIN_S)
        except TimeoutError:
            raise AssertionError(f"no worker died at {failpoint}: {self.rows('SELECT * FROM jobs')}") from None


def until(question: Callable[[], Any], within_s: float, what: Callable[[], object]) -> Any:
    """Ask until the answer is there; a deadline, not a sleep, ends the waiting."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"waited {within_s:.0f} s: {what()}")


def build_stage(
    *,
    database_url: str,
    redis_url: str,
    var: Path,
    upstreams: Mapping[str, str],
    publish: Callable[[list[Nudge]], bool],
    forks: Forks | None = None,
) -> Stage:
    var.mkdir(mode=0o700)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DARKROOM_", "CELERY_"))}
    environ = {
        **inherited,
        **upstreams,
        "DATABASE_URL": database_url.replace("postgresql+psycopg://", "postgresql://"),
        "REDIS_URL": redis_url,
        "DARKROOM_VAR": str(var),
        "DARKROOM_DECODERS": "1",
        "DARKROOM_WORKER_POOL": "50",
        "DARKROOM_TASK_EVENTS": "false",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    return Stage(Database(make_engine(database_url, pool_size=4)), environ, redis_url, publish, forks)
