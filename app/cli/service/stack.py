"""The whole service on this machine: our own servers where none are configured, and every process.

``darkroom up`` runs one in the foreground; ``run_stack`` runs one for as long as a ``with`` block lasts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TextIO

from pydantic import SecretStr

from app.cli.service import programs as services
from app.cli.service.programs import LOOPBACK
from app.cli.service.readiness import api_url, flower_path, no_flower, no_worker, not_ready
from app.cli.service.service_ports import check_ports, with_free_ports
from core.embedded import folders
from core.embedded.faults import EmbeddedError
from core.embedded.lines import writer
from core.embedded.postgres import EmbeddedPostgres
from core.embedded.processes import Program
from core.embedded.redis import EmbeddedRedis
from core.embedded.runfile import RunFile
from core.embedded.supervisor import Output, Supervisor
from core.settings import Settings, with_dotenv

READY_TIMEOUT_S = 120.0
_POLL_S = 0.1
# After so many early deaths in a row before the service was ready, a restart does not help.
_FAILURES_MAX = 3


class StoppedError(Exception):
    """A stop was requested while the service was still starting."""


class Prepared(Protocol):
    """What preparing (migrations, admin account and key) leaves behind."""

    @property
    def admin_key_path(self) -> Path: ...


@dataclass(frozen=True)
class Plan:
    """The parts of a stack that its tests replace.

    ``prepare`` gets settings with both URLs. ``not_ready`` says what is missing, or None.
    ``programs`` makes the list of what runs next to the servers; ``wants_sandbox`` reads the environment.
    """

    prepare: Callable[[Settings], Prepared]
    not_ready: Callable[[Settings], str | None]
    programs: Callable[..., Sequence[Program]]
    wants_sandbox: Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True)
class Running:
    """A stack that is ready. ``processes()`` gives names and process ids; no URL here holds a password."""

    url: str
    flower_url: str
    sandbox_url: str | None
    admin_key_path: Path
    flower_password_path: Path
    settings: Settings = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    processes: Callable[[], dict[str, int]] = field(repr=False)


def default_plan() -> Plan:
    """The service as it is."""
    from app.cli.service.bootstrap import prepare

    return Plan(
        prepare, lambda settings: not_ready(settings) or no_worker(settings), services.service_programs, wants_sandbox
    )


def wants_sandbox(environ: Mapping[str, str]) -> bool:
    """Whether no provider is configured: the sandbox is used then, so that the service can be tried."""
    from providers.configured import configured_names

    return not configured_names(environ)


class Stack:
    """Starts everything, reports when it is ready, stops everything. For one use only."""

    def __init__(self, settings: Settings, plan: Plan, output: Output, environ: Mapping[str, str]) -> None:
        self._settings = settings.model_copy(update={"var": settings.var.absolute()})
        self._plan = plan
        self._output = output
        self._environ = environ
        self._supervisor: Supervisor | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._redis: EmbeddedRedis | None = None
        self._lock: folders.FolderLock | None = None

    def start(self, stop_asked: Callable[[], bool] = lambda: False) -> Running:
        """Bring everything up and wait until it is ready; call :meth:`stop` afterwards in any case.

        Raises EmbeddedError with one line for the operator, StoppedError once ``stop_asked()`` is true.
        """
        sandbox = self._plan.wants_sandbox(self._environ)
        self._lock_folder()
        check_ports(self._settings, sandbox=sandbox)
        settings = self._with_servers()
        if stop_asked():
            raise StoppedError
        prepared = self._plan.prepare(settings)
        environ = services.service_environ(settings, self._environ)
        password_path = settings.var / "flower.password"
        password = folders.secret_in(password_path)
        programs = self._plan.programs(settings, environ, flower_password=password, sandbox=sandbox)
        flower = [program for program in programs if program.name == services.FLOWER]
        self._start([program for program in programs if program not in flower])
        self._await_ready(lambda: self._plan.not_ready(settings), stop_asked)
        if flower:
            # It looks for workers once, when it starts; started after them, it lists all of them.
            self._start(flower)
            self._await_ready(lambda: no_flower(settings.flower_port), stop_asked)
        return Running(
            url=api_url(settings),
            flower_url=f"http://{LOOPBACK}:{settings.flower_port}{flower_path(settings)}",
            sandbox_url=f"http://{LOOPBACK}:{settings.sandbox_port}" if sandbox else None,
            admin_key_path=prepared.admin_key_path,
            flower_password_path=password_path,
            settings=settings,
            environ=environ,
            processes=self._supervised().pids,
        )

    def stop(self) -> None:
        """Stop what was started, in stages; returns when everything has ended."""
        if self._supervisor is not None:
            self._supervisor.stop()
        for held in (self._redis, self._postgres, self._lock):
            if held is not None:
                held.release()

    def hurry(self) -> None:
        """Make a stop in progress harsher. May be called in a signal handler."""
        if self._supervisor is not None:
            self._supervisor.hurry()

    def working(self) -> bool:
        return self._supervised().working()

    def _supervised(self) -> Supervisor:
        if self._supervisor is None:
            raise EmbeddedError("the stack has not been started")
        return self._supervisor

    def _start(self, programs: Sequence[Program]) -> None:
        for program in programs:
            self._supervised().start(program)

    def _lock_folder(self) -> None:
        """Lock ``var`` and end the processes that a killed run left behind."""
        run = folders.make_folder(self._settings.var / "run")
        lock = folders.FolderLock(run / "lock")
        lock.acquire()
        self._lock = lock
        run_file = RunFile(run / "processes.json")
        for name in run_file.end_leftovers():
            self._output("up", f"ended {name}, left over from a run that was killed")
        self._supervisor = Supervisor(self._output, run_file)

    def _with_servers(self) -> Settings:
        """Start the servers that are not configured; settings with the URLs of both."""
        urls = {}
        if self._settings.database_url_set is None:
            urls["database_url_set"] = SecretStr(self._start_postgres())
        if self._settings.redis_url_set is None:
            urls["redis_url_set"] = SecretStr(self._start_redis())
        return self._settings.model_copy(update=urls)

    def _start_postgres(self) -> str:
        settings = self._settings
        server = EmbeddedPostgres(settings.var / "postgres", settings.postgres_port, user=settings.postgres_user)
        self._postgres = server
        server.prepare()
        self._supervised().start(replace(server.program(), stage=services.POSTGRES))
        server.await_ready(alive=lambda: self._may_recover("postgres"))
        return server.url

    def _start_redis(self) -> str:
        server = EmbeddedRedis(self._settings.var / "redis", self._settings.redis_port)
        self._redis = server
        server.prepare()
        self._supervised().start(replace(server.program(), stage=services.REDIS))
        server.await_ready(alive=lambda: self._may_recover("redis"))
        return server.url

    def _may_recover(self, name: str) -> bool:
        supervisor = self._supervised()
        return supervisor.working() and supervisor.failures().get(name, 0) < _FAILURES_MAX

    def _await_ready(self, not_ready: Callable[[], str | None], stop_asked: Callable[[], bool]) -> None:
        until = time.monotonic() + READY_TIMEOUT_S
        missing: str | None = "nothing has answered yet"
        while missing is not None:
            if stop_asked():
                raise StoppedError
            for name in self._supervised().failures():
                if not self._may_recover(name):
                    raise EmbeddedError(f"{name} does not stay up; its own lines above say why")
            if time.monotonic() > until:
                raise EmbeddedError(f"not ready after {READY_TIMEOUT_S:.0f} s: {missing}")
            time.sleep(_POLL_S)
            missing = not_ready()


@contextmanager
def run_stack(
    settings: Settings,
    *,
    environ: Mapping[str, str] | None = None,
    plan: Plan | None = None,
    output: Output | None = None,
) -> Iterator[Running]:
    """Run the whole service under ``settings.var`` on ports that are free now, as long as the block lasts.

    ``environ`` (default: ours, over ``.env``) is what the processes inherit. What they write goes to
    ``<var>/run/log`` unless ``output`` takes it. Raises EmbeddedError if it does not become ready.
    """
    moved = with_free_ports(settings)
    given = with_dotenv(os.environ) if environ is None else environ
    folders.make_folder(settings.var.absolute() / "run")
    with _private_log(settings.var / "run" / "log") as log:
        stack = Stack(moved, plan or default_plan(), output or writer(log, settings.log_format), given)
        try:
            yield stack.start()
        finally:
            stack.stop()


def _private_log(path: Path) -> TextIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")
