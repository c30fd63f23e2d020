"""The service on a test stand: run as it is, with or without its workers, next to what it is compared with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import redis
from sqlalchemy import text

from accounts import accounts, keys
from app.cli.service import programs as services
from app.cli.service.stack import Running, default_plan, run_stack
from bench.names import FLOOR_TABLE
from core.db import Database, make_engine
from core.embedded import ports
from core.embedded.processes import Program
from core.redis import make_client
from core.settings import Settings
from quota import ledger

ENDLESS = 10**15  # micro-credits
NO_LIMIT = "100000000/minute"
_OURS = ("DARKROOM_", "DATABASE_", "REDIS_", "CELERY_", "SANDBOX_", "OPENAI_", "CHATGPT2API_")


@dataclass(frozen=True)
class Stand:
    """A running service and our own connections to its servers. ``floor_port`` is set where a floor runs next to it."""

    running: Running
    database: Database
    redis: redis.Redis
    floor_port: int

    @property
    def port(self) -> int:
        return self.running.settings.port

    @property
    def admin_key(self) -> str:
        return self.running.admin_key_path.read_text().strip()

    def rss_mb(self, name: str) -> float:
        """Resident memory of a program's main process."""
        return _rss_mb(self.running.processes()[name])

    def largest_rss_mb(self, name: str) -> float:
        """That of the largest process among it and its children, such as the one that serves under gunicorn's."""
        return max(_rss_mb(pid) for pid in _family(self.running.processes()[name]))

    def cpu_s(self, name: str) -> float:
        """Processor time that a program and its children have used so far."""
        return sum(_cpu_s(pid) for pid in _family(self.running.processes()[name]))


@contextmanager
def stand(
    var: Path,
    *,
    sandbox: Mapping[str, str],
    workers: bool = True,
    task_events: bool = True,
    publish_window: int = 32,
    database_url: str | None = None,
    companions: Callable[[Mapping[str, str]], Sequence[Program]] = lambda _: (),
    prepare: Callable[[Settings], None] = lambda _: None,
) -> Iterator[Stand]:
    """Run a fresh service under ``var``. ``companions`` names programs to run with it; ``prepare`` sees the
    servers first. ``database_url`` is a server of the caller's; else the service starts its own.

    Limits and credits do not interfere, and prepared images keep the sandbox's share small.
    """
    settings = Settings(
        _env_file=None,
        DARKROOM_VAR=var,
        DARKROOM_RATE_LIMIT_ACCOUNT=NO_LIMIT,
        DARKROOM_RATE_LIMIT_SUBMIT=NO_LIMIT,
        DARKROOM_ADMIN_CREDITS=ENDLESS // 10**6,
        DARKROOM_LOG_LEVEL="WARNING",
        DARKROOM_TASK_EVENTS=task_events,
        DARKROOM_PUBLISH_WINDOW=publish_window,
        DATABASE_URL=database_url,
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    environ |= {"SANDBOX_PREPARED": "1", "SANDBOX_REQUESTS_KEPT": "20000", **sandbox}
    [floor_port] = ports.free_ports(1)
    ours = default_plan()

    def programs(chosen: Settings, env: Mapping[str, str], *, flower_password: str, sandbox: bool) -> list[Program]:
        every = ours.programs(chosen, env, flower_password=flower_password, sandbox=sandbox)
        kept = [program for program in every if workers or not program.name.startswith(("worker", "flower"))]
        return [*kept, *companions({**env, "DARKROOM_FLOOR_PORT": str(floor_port)})]

    def prepared(chosen: Settings) -> object:
        prepare(chosen)
        return ours.prepare(chosen)

    plan = replace(
        ours,
        programs=programs,
        prepare=prepared,  # type: ignore[arg-type]
        not_ready=ours.not_ready if workers else lambda chosen: _web_missing(chosen.port, floor_port),
    )
    with run_stack(settings, environ=environ, plan=plan) as running:
        database = Database(make_engine(running.settings.database_url, pool_size=2, application_name="bench"))
        try:
            yield Stand(running, database, make_client(running.settings.redis_url), floor_port)
        finally:
            database.dispose()


def floor_program(environ: Mapping[str, str]) -> list[Program]:
    """The bare floor under our own web's gunicorn settings."""
    env = {**environ, "DARKROOM_PORT": environ["DARKROOM_FLOOR_PORT"]}
    return [_program("floor", env, "gunicorn", "-c", "python:app.gunicorn_conf", "bench.floor:app")]


def chain_program(environ: Mapping[str, str]) -> list[Program]:
    return [_program("chain", environ, "bench.chain")]


def _program(name: str, environ: Mapping[str, str], *module: str) -> Program:
    return Program(name=name, argv=[sys.executable, "-m", *module], environ=environ, stage=services.SERVICE)


def make_floor_table(settings: Settings) -> None:
    database = Database(make_engine(settings.database_url, pool_size=1, application_name="bench"))
    with database.transaction() as connection:
        connection.execute(text(FLOOR_TABLE))
    database.dispose()


def customers(database: Database, count: int) -> dict[str, str]:
    """Accounts with practically endless credits: account id to key."""
    made = {}
    with database.transaction() as connection:
        for number in range(count):
            account = accounts.create_account(connection, f"bench{number}")
            ledger.grant(connection, account.id, ENDLESS)
            made[account.id] = keys.create_key(connection, account.id).token
    return made


def _web_missing(*wanted: int) -> str | None:
    return next((f"port {port} does not answer" for port in wanted if not ports.answers(port)), None)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # User and system time, its own and that of children that have ended.
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
