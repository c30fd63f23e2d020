"""The whole service on this machine: our own servers where none are configured, and every process.

``darkroom up`` runs one in the foreground; ``run_stack`` runs one for as long as a ``with`` block lasts.
"""

from __future__ import annotations

import http.client
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
from core.db import Database, make_engine
from core.embedded import folders, ports
from core.embedded.faults import EmbeddedError
from core.embedded.lines import Prefixed
from core.embedded.postgres import EmbeddedPostgres
from core.embedded.processes import Program
from core.embedded.redis import EmbeddedRedis
from core.embedded.runfile import RunFile
from core.embedded.supervisor import Output, Supervisor
from core.errors import DatabaseAwayError
from core.settings import Settings, with_dotenv
from jobs.dispatch import heartbeats

READY_TIMEOUT_S = 120.0
_POLL_S = 0.1
# Died young this often before the service was ready: a restart does not mend it.
_HOPELESS_FAILURES = 3


class StoppedError(Exception):
    """Somebody asked for the stop while we were still starting."""


class Prepared(Protocol):
    """What preparing (migrations, admin account and key) leaves behind."""

    @property
    def admin_key_path(self) -> Path: ...


@dataclass(frozen=True)
class Plan:
    """What a stack does that its tests replace.

    ``prepare`` gets settings with both URLs. ``not_ready`` says what is missing, or None.
    ``programs`` makes the list of what runs beside the servers; ``wants_sandbox`` reads the environment.
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
    """No provider is configured: let the sandbox stand in, so that the service can be tried."""
    from providers.configured import configured_names

    return not configured_names(environ)


def not_ready(settings: Settings) -> str | None:
    """Ask ``/readyz``; what is missing, or None."""
    connection = http.client.HTTPConnection(_reachable(settings.host), settings.port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        if answer.status != 200:
            return f"/readyz says {answer.status}: {answer.read(2000).decode('utf-8', 'replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"web does not answer: {error}"
    finally:
        connection.close()
    return None


def no_worker(settings: Settings) -> str | None:
    """Look for a worker's fresh heartbeat; what is missing, or None."""
    database = Database(
        make_engine(settings.database_url, pool_size=1, application_name="up", prepare=settings.db_prepare)
    )
    try:
        with database.autocommit() as connection:
            return None if heartbeats.any_alive(connection) else "no worker has a heartbeat"
    except DatabaseAwayError as error:
        return str(error)
    finally:
        database.dispose()


class Stack:
    """Starts everything, tells when it is ready, stops everything. One use only."""

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
        self._take_house()
        _check_ports(self._settings, sandbox=sandbox)
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
            # It asks for workers once, when it starts: after them it lists them from the beginning.
            self._start(flower)
            self._await_ready(lambda: _no_answer(settings.flower_port), stop_asked)
        return Running(
            url=f"http://{_in_url(_reachable(settings.host))}:{settings.port}",
            flower_url=f"http://{LOOPBACK}:{settings.flower_port}",
            sandbox_url=f"http://{LOOPBACK}:{settings.sandbox_port}" if sandbox else None,
            admin_key_path=prepared.admin_key_path,
            flower_password_path=password_path,
            settings=settings,
            environ=environ,
            processes=self._supervised().pids,
        )

    def stop(self) -> None:
        """Stop what was started, in stages; returns when all of it is gone."""
        if self._supervisor is not None:
            self._supervisor.stop()
        for held in (self._redis, self._postgres, self._lock):
            if held is not None:
                held.release()

    def hurry(self) -> None:
        """Make a stop under way harsher. May be called in a signal handler."""
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

    def _take_house(self) -> None:
        """Make ``var`` ours alone and end what a killed predecessor left in it."""
        run = folders.make_folder(self._settings.var / "run")
        lock = folders.FolderLock(run / "lock")
        lock.acquire()
        self._lock = lock
        run_file = RunFile(run / "processes.json")
        for name in run_file.end_leftovers():
            self._output("up", f"ended {name}, left over from a run that was killed")
        self._supervisor = Supervisor(self._output, run_file)

    def _with_servers(self) -> Settings:
        """Start the servers nobody has configured; settings that name both."""
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
        server.await_ready(alive=lambda: self._has_hope("postgres"))
        return server.url

    def _start_redis(self) -> str:
        server = EmbeddedRedis(self._settings.var / "redis", self._settings.redis_port)
        self._redis = server
        server.prepare()
        self._supervised().start(replace(server.program(), stage=services.REDIS))
        server.await_ready(alive=lambda: self._has_hope("redis"))
        return server.url

    def _has_hope(self, name: str) -> bool:
        supervisor = self._supervised()
        return supervisor.working() and supervisor.failures().get(name, 0) < _HOPELESS_FAILURES

    def _await_ready(self, not_ready: Callable[[], str | None], stop_asked: Callable[[], bool]) -> None:
        until = time.monotonic() + READY_TIMEOUT_S
        missing: str | None = "nothing has answered yet"
        while missing is not None:
            if stop_asked():
                raise StoppedError
            for name in self._supervised().failures():
                if not self._has_hope(name):
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
        stack = Stack(moved, plan or default_plan(), output or Prefixed(log), given)
        try:
            yield stack.start()
        finally:
            stack.stop()


def _private_log(path: Path) -> TextIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")


def _no_answer(flower_port: int) -> str | None:
    return None if ports.answers(flower_port) else "Flower does not answer"


def with_free_ports(settings: Settings) -> Settings:
    names = ("port", "flower_port_set", "sandbox_port_set", "postgres_port_set", "redis_port_set")
    return settings.model_copy(update=dict(zip(names, ports.free_ports(len(names)), strict=True)))


def _check_ports(settings: Settings, *, sandbox: bool) -> None:
    """Raises EmbeddedError naming the variable that moves the first port we cannot have."""
    wanted = [
        ("DARKROOM_PORT", settings.host, settings.port, True),
        ("DARKROOM_FLOWER_PORT", LOOPBACK, settings.flower_port, True),
        ("DARKROOM_SANDBOX_PORT", LOOPBACK, settings.sandbox_port, sandbox),
        ("DARKROOM_POSTGRES_PORT", LOOPBACK, settings.postgres_port, settings.database_url_set is None),
        ("DARKROOM_REDIS_PORT", LOOPBACK, settings.redis_port, settings.redis_url_set is None),
    ]
    seen: dict[int, str] = {}
    for variable, host, port, needed in wanted:
        if not needed:
            continue
        reason = f"{seen[port]} is the same" if port in seen else ports.why_not(port, host)
        if reason is not None:
            raise EmbeddedError(f"cannot listen on {host} port {port} ({reason}): set {variable} to another")
        seen[port] = variable


def _reachable(host: str) -> str:
    """Where a server bound to ``host`` is found from this machine."""
    return {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}.get(host, host)  # noqa: S104


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
