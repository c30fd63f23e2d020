"""Real servers, a real worker process, and the web side that submits to it, for several test files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from job_engine import Engine, make_context, root
from sqlalchemy import create_engine, text
from submissions import make_submission

from core.db import Database, make_engine
from core.embedded.redis import EmbeddedRedis
from providers.catalog.catalog import Catalog
from sandbox.testing import Sandbox
from storage.local import LocalStore
from storage.media import Media
from workers.enqueue import Publisher


class Fleet:
    """The servers, and the one worker process that may run on them."""

    def __init__(self, var: Path, database_url: str, redis: EmbeddedRedis) -> None:
        self.var, self.database_url, self.redis = var, database_url, redis
        self.log = var / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None

    def environ(self, upstreams: Mapping[str, str]) -> dict[str, str]:
        """Environment of the worker, and of the test where it acts as the web process."""
        return {
            **os.environ,
            **upstreams,
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis.url,
            "DARKROOM_VAR": str(self.var),
            "DARKROOM_DECODERS": "1",
            "DARKROOM_WORKER_POOL": "60",
            "OPENAI_MAX_ACTIVE": "50",
        }

    def ensure_worker(self, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.process = self.start("-m", "workers", environ=environ, log=self.log)
        return self.process

    def start(self, *arguments: str, environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=root(), env=dict(environ), stdout=output, stderr=output
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def eventually(self, holds: Callable[[], object], within_s: float = 30) -> None:
        """Wait until ``holds()`` is true. Raises AssertionError with the end of the worker's log after ``within_s``."""
        until = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < until, self.log.read_text()[-6000:]
            time.sleep(0.05)


@contextmanager
def running_fleet(var: Path, postgres_url: str, name: str) -> Iterator[Fleet]:
    """Servers with an empty database called ``name``; the worker starts when a test asks for it."""
    administrator = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template_darkroom"))
    redis = EmbeddedRedis(var / "redis")
    redis.start()
    fleet = Fleet(var, postgres_url.rsplit("/", 1)[0] + f"/{name}", redis)
    try:
        yield fleet
    finally:
        fleet.stop()
        redis.stop()
        with administrator.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        administrator.dispose()


@contextmanager
def web_side(fleet: Fleet, models: Catalog, media: Media, environ: Mapping[str, str]) -> Iterator[Engine]:
    """The web process's part: it submits, publishes to the real broker, and reads."""
    database = Database(make_engine(fleet.database_url))
    store = LocalStore(fleet.var / "blobs")
    publisher = Publisher(fleet.redis.url, fleet.redis.url)
    submission = make_submission(database, media, store, models)
    context = make_context(
        database=database,
        models=models,
        media=media,
        store=store,
        environ=environ,
        sent=publisher.publish,
        owner="wkr_web",
    )
    with database.autocommit() as connection:  # it is no worker: nothing may count it as one
        connection.execute(text("DELETE FROM workers WHERE boot_id = 'wkr_web'"))
    yield Engine(context, submission, publisher.publish)  # type: ignore[arg-type]
    database.dispose()


def ended(engine: Engine, job_ids: list[str]) -> bool:
    live = "SELECT count(*) FROM jobs WHERE id = ANY(:ids) AND finished_at IS NULL"
    return engine.one(live, ids=job_ids) == 0


def statuses(engine: Engine, job_ids: list[str]) -> dict[str, int]:
    rows = engine.rows("SELECT status, count(*) FROM jobs WHERE id = ANY(:ids) GROUP BY 1", ids=job_ids)
    return {row.status: row.count for row in rows}


def tally(sandbox: Sandbox, provider: str = "chatgpt2api") -> dict[str, Any]:
    return dict(sandbox.counts()[provider])
