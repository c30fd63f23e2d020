"""A worker that starts while the database is away waits for it, and still stops on SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from crash_stage import Stage, build_stage, until

from chaos.proxy import Mode, Proxy

WAITS = "start_waits_for_database"


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    address = urlsplit(database_url)
    proxy = Proxy(address.hostname or "", address.port or 0)
    yield proxy
    proxy.close()


@pytest.fixture
def stage(database_url: str, redis_url: str, var: Path) -> Iterator[Stage]:
    upstreams = {"CHATGPT2API_BASE_URL": "http://127.0.0.1:9/c2a", "CHATGPT2API_API_KEY": "test-key"}
    stage = build_stage(
        database_url=database_url, redis_url=redis_url, var=var, upstreams=upstreams, publish=lambda _nudges: True
    )
    yield stage
    stage.database.dispose()


def through(stage: Stage, proxy: Proxy) -> str:
    url = urlsplit(stage.environ["DATABASE_URL"])
    return url._replace(netloc=url.netloc.replace(f":{url.port}", f":{proxy.port}")).geturl()


def has_logged(stage: Stage, word: str) -> bool:
    return word in (Path(stage.environ["DARKROOM_VAR"]) / "workers.log").read_text()


def test_a_worker_waits_for_the_database(stage: Stage, proxy: Proxy) -> None:
    proxy.spoil(Mode.CUT)
    with stage.process("workers", DATABASE_URL=through(stage, proxy)) as worker:
        until(lambda: has_logged(stage, WAITS), 40, worker.poll)
        assert stage.rows("SELECT * FROM workers") == []
        proxy.heal()
        until(lambda: stage.rows("SELECT * FROM workers"), 20, worker.poll)
        assert worker.poll() is None


def test_sigterm_ends_a_worker_that_waits_for_the_database(stage: Stage, proxy: Proxy) -> None:
    proxy.spoil(Mode.CUT)
    with stage.process("workers", DATABASE_URL=through(stage, proxy)) as worker:
        until(lambda: has_logged(stage, WAITS), 40, worker.poll)
        worker.send_signal(signal.SIGTERM)
        worker.wait(15)


def test_a_worker_with_a_faulty_catalogue_does_not_start(stage: Stage) -> None:
    file = Path(stage.environ["DARKROOM_VAR"]) / "catalog.local.yaml"
    file.write_text("{models: {gpt-image-2: {markup: 0}, nobody: {}}}")
    with stage.process("workers") as worker:
        assert worker.wait(40) == 1
    assert has_logged(stage, "gpt-image-2: markup") and has_logged(stage, "nobody: no packaged model")
