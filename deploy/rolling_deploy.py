"""Rehearse an upgrade without stopping: an old release under load, a migration, then the new one process by process.

    .venv/bin/python deploy/rolling_deploy.py                   # from a commit before the newest migration to this one
    .venv/bin/python deploy/rolling_deploy.py --old v0.1.0      # from another commit, branch or tag
    .venv/bin/python deploy/rolling_deploy.py --old . --kill-one  # this release to itself; one worker dies by -9

The old release is taken out of git into a folder of its own. PostgreSQL and Redis are started for the rehearsal; where
DATABASE_URL, REDIS_URL or CELERY_BROKER_URL is set, that server is used, and its database must be empty and of no other
use. Other variables (DARKROOM_STORAGE, DARKROOM_DB_PREPARE, ...) reach every process. The upstream is the sandbox: no
provider is called and nothing is paid for.

Order of the steps, which is that of docs/operating.md ("Without stopping"): migrate; replace the workers one by one;
replace the web processes one by one, each taken out of the rotation first. Clients post with an Idempotency-Key and try
again where a host is away. At the end everything that was accepted must have ended, once and paid for once, by the
service's answers, by the sandbox's counts and by the audit. Exit 0: it did; 1: something was lost; 2: it could not run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from chaos.load import ENDED, Customer, Load  # noqa: E402 - found by the line above
from chaos.orders import MixedOrder, stream  # noqa: E402
from chaos.target import Target, session, until  # noqa: E402
from chaos.verdict import Violation, judge  # noqa: E402
from core.db import Database, make_engine  # noqa: E402
from core.embedded import ports  # noqa: E402
from core.embedded.postgres import EmbeddedPostgres  # noqa: E402
from core.embedded.processes import Program, spawn, stop  # noqa: E402
from core.embedded.redis import EmbeddedRedis  # noqa: E402
from sandbox.emulators import environ as sandbox_environ  # noqa: E402

GRANTED_CREDITS = 100_000
READY_S, DRAIN_S, LEAVE_S = 60.0, 180.0, 30.0
OURS = ("DARKROOM_", "DATABASE_", "REDIS_", "CELERY_", "AWS_", "SANDBOX_")
SYSTEM = ("PATH", "LANG", "LC_ALL", "TMPDIR", "HOME", "TZ")


class CannotRunError(Exception):
    """The rehearsal could not begin or go on; the message says why."""


@dataclass(frozen=True)
class Release:
    """Code to run. ``folder`` is the root of its packages."""

    name: str
    folder: Path


@dataclass(eq=False)
class Process:
    """A process of the rehearsal. ``boot`` counts the starts under this name."""

    name: str
    release: Release
    running: subprocess.Popen[bytes] = field(repr=False)


class Hosts:
    """The addresses of the web processes that are in the rotation, in turns, as a load balancer gives them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in: list[str] = []
        self._last = ""
        self._turn = itertools.count()

    def take_in(self, url: str) -> None:
        with self._lock:
            self._in.append(url)
            self._last = url

    def take_out(self, url: str) -> None:
        with self._lock:
            self._in.remove(url)

    def next(self) -> str:
        with self._lock:
            # With none in, clients meet one that is away, and try again.
            return self._in[next(self._turn) % len(self._in)] if self._in else self._last


@dataclass(frozen=True)
class Rotation(Target):
    """A target whose address is another host at each request."""

    hosts: Hosts = field(default_factory=Hosts)

    def __getattribute__(self, name: str) -> object:
        if name == "url":
            return object.__getattribute__(self, "hosts").next()
        return object.__getattribute__(self, name)


class Fleet:
    """Starts and ends the processes of both releases."""

    def __init__(self, folder: Path, environ: Mapping[str, str], *, one_var: bool) -> None:
        """``one_var``: all processes share a folder, as they must where images are in one."""
        self._folder, self._environ, self._one_var = folder, environ, one_var
        self.hosts = Hosts()
        self.running: dict[str, Process] = {}

    def web(self, release: Release, number: int, port: int) -> None:
        """Start a web process, wait until it is ready, and take it into the rotation."""
        name, url = f"web{number}", f"http://127.0.0.1:{port}"
        module = ("gunicorn", "-c", "python:app.gunicorn_conf", "app.wsgi:app")
        self._start(name, release, module, {"DARKROOM_PORT": str(port)})
        if not until(lambda: _status(f"{url}/readyz") == 200, READY_S, 0.2):
            raise CannotRunError(f"{name} of {release.name} is not ready: see {self._folder / name}.log")
        self.hosts.take_in(url)

    def end_web(self, number: int, port: int, *, settle_s: float = 0.5) -> None:
        """Take a web process out of the rotation, then end it as a supervisor does."""
        self.hosts.take_out(f"http://127.0.0.1:{port}")
        time.sleep(settle_s)
        self.end(f"web{number}")

    def worker(self, release: Release, number: int, database: Database) -> None:
        """Start a worker and wait until it has announced itself."""
        before = _workers(database)
        self._start(f"worker{number}", release, ("workers",), {"DARKROOM_WORKER_NAME": f"worker{number}"})
        if not until(lambda: bool(_workers(database) - before), READY_S, 0.2):
            raise CannotRunError(f"worker{number} of {release.name} does not start: see {self._folder}")

    def sandbox(self, release: Release, port: int) -> None:
        self._start("sandbox", release, ("sandbox", "--port", str(port)), {})
        if not until(lambda: ports.answers(port), READY_S, 0.1):
            raise CannotRunError("the sandbox does not start")

    def end(self, name: str, with_signal: signal.Signals = signal.SIGTERM) -> float:
        """End a process. Returns the seconds that it took to leave."""
        began = time.monotonic()
        stop(self.running.pop(name).running, ((with_signal, LEAVE_S),))
        return time.monotonic() - began

    def end_all(self) -> None:
        for name in sorted(self.running, reverse=True):
            self.end(name)

    def command(self, release: Release, *arguments: str) -> str:
        """Run ``darkroom`` of a release. Returns what it prints; raises CannotRunError where it fails."""
        call = "import sys; sys.argv[0] = 'darkroom'; from app.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-P", "-c", call, *arguments],
            env=self._environ_of(release, "command"),
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            told = (done.stderr or done.stdout).strip()
            raise CannotRunError(f"darkroom {' '.join(arguments)} of {release.name}: {told}")
        return done.stdout

    def _start(self, name: str, release: Release, module: Sequence[str], extra: Mapping[str, str]) -> None:
        argv = [sys.executable, "-P", "-m", *module]
        program = Program(name=name, argv=argv, environ={**self._environ_of(release, name), **extra}, cwd=self._folder)
        with (self._folder / f"{name}.log").open("ab") as log:
            self.running[name] = Process(name, release, spawn(program, log))

    def _environ_of(self, release: Release, name: str) -> dict[str, str]:
        var = self._folder / ("var" if self._one_var else f"var-{name}")
        # The release's own packages come first: the environment's may be those of another clone.
        return {**self._environ, "PYTHONPATH": str(release.folder), "DARKROOM_VAR": str(var)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse and print. Returns the exit status."""
    options = _parser().parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="darkroom-rolling-")) if options.keep is None else options.keep
    folder.mkdir(parents=True, exist_ok=True)
    try:
        violations = _rehearse(options, folder)
    except CannotRunError as error:
        print(f"cannot run: {error}", file=sys.stderr)  # noqa: T201
        print(f"logs: {folder}", file=sys.stderr)  # noqa: T201
        return 2
    if options.keep is None and not violations:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _say(f"logs: {folder}")
    return 1 if violations else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", metavar="REF", help="the release to begin with (. is the working copy itself)")
    parser.add_argument("--webs", type=int, default=2, help="web processes (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="workers (default: 2)")
    parser.add_argument("--per-s", type=float, default=5.0, help="orders a second (default: 5)")
    parser.add_argument("--calm-s", type=float, default=6.0, help="seconds of load before and after (default: 6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, help="the first of the ports to use (default: free ones)")
    parser.add_argument("--kill-one", action="store_true", help="end the first old worker by SIGKILL")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep data and logs in this folder")
    return parser


def _rehearse(options: argparse.Namespace, folder: Path) -> list[Violation]:
    new = Release("new", ROOT)
    with ExitStack() as stack:
        old = _old_release(options.old, folder / "old")
        sandbox_port, *web_ports = _ports(options.port, 1 + options.webs)
        environ = _environ(stack, folder, sandbox_port)
        fleet = Fleet(folder, environ, one_var=environ.get("DARKROOM_STORAGE", "local") == "local")
        stack.callback(fleet.end_all)
        fleet.sandbox(new, sandbox_port)
        fleet.command(old, "db", "upgrade")
        customer = _customer(fleet, old)
        database = _database(environ)
        stack.callback(database.dispose)
        for number, port in enumerate(web_ports, 1):
            fleet.web(old, number, port)
        for number in range(1, options.workers + 1):
            fleet.worker(old, number, database)
        target = Rotation(
            var=folder / "var",
            url="",
            sandbox_url=f"http://127.0.0.1:{sandbox_port}",
            database=database,
            redis_url=environ["REDIS_URL"],
            hosts=fleet.hosts,
        )
        canary = f"rolling-{options.seed}-{int(time.time())}"
        load = Load(target, [customer], _orders(options.seed, canary), per_s=options.per_s)
        stack.callback(load.give_up)
        stack.callback(load.stop)
        load.start()
        _say(f"{old.name} serves, {options.per_s:g} orders a second")
        time.sleep(options.calm_s)
        _roll(fleet, (old, new), options, target, web_ports)
        time.sleep(options.calm_s)
        load.stop()
        rested = until(lambda: load.undecided() == 0 and _at_rest(target, load), DRAIN_S)
        load.give_up()
        _say("at rest; judging" if rested else f"not at rest after {DRAIN_S:g} s; judging all the same")
        judged = judge(target, load, [customer], canary=canary)
        _told(fleet, new, load, judged.tasks, judged.violations)
        return judged.violations


def _roll(
    fleet: Fleet, releases: tuple[Release, Release], options: argparse.Namespace, target: Target, ports_: Sequence[int]
) -> None:
    """The upgrade itself."""
    old, new = releases
    began = time.monotonic()
    fleet.command(new, "db", "upgrade")
    _say(f"migrated in {time.monotonic() - began:.1f} s, {old.name} still serves")
    for number in range(1, options.workers + 1):
        fatal = options.kill_one and number == 1
        left_s = fleet.end(f"worker{number}", signal.SIGKILL if fatal else signal.SIGTERM)
        fleet.worker(new, number, target.database)
        _say(f"worker{number} is new; the old one {'was killed' if fatal else f'left in {left_s:.1f} s'}")
    for number, port in enumerate(ports_, 1):
        fleet.end_web(number, port)
        fleet.web(new, number, port)
        _say(f"web{number} is new")


def _told(
    fleet: Fleet,
    new: Release,
    load: Load,
    tasks: Mapping[str, Mapping[str, object]],
    violations: list[Violation],
) -> None:
    """Print the result; what the audit of the new release finds is added to ``violations``."""
    try:
        audit = fleet.command(new, "audit").strip()
    except CannotRunError as error:
        violations.append(Violation("drift", "audit", str(error)))
        audit = "it found something"
    accepted, refused = len(load.accepted()), sum(1 for one in load.placed if one.refused is not None)
    ended = Counter(str(task["status"]) for task in tasks.values())
    _say(f"ordered {len(load.placed)}, accepted {accepted}, refused {refused}, ended {dict(ended)}")
    _say(f"audit: {audit}")
    for violation in violations:
        _say(f"BROKEN {violation.promise}: {violation.subject}: {violation.detail}")
    if not accepted:
        violations.append(Violation("lost", "load", "no order was accepted"))
    _say("nothing was lost" if not violations else f"{len(violations)} promises broken")


def _orders(seed: int, canary: str) -> Iterator[MixedOrder]:
    """Orders that every release of this interface takes, without callbacks and streams."""
    for order in stream(seed, customers=1, canary=canary, gentle=True):
        yield replace(order, way="native", hooked=False, followed=False, given_up_after_s=None, uploaded=False)


def _old_release(ref: str | None, folder: Path) -> Release:
    """The release to begin with, taken out of git. Raises CannotRunError."""
    if ref == ".":
        return Release("the same release", ROOT)
    commits = [_git("rev-parse", "--short", f"{ref}^{{commit}}")] if ref else _before_the_newest_migrations()
    for commit in commits:
        shutil.rmtree(folder, ignore_errors=True)
        packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True)
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        if _loads(folder):
            return Release(f"release {commit}", folder)
        _say(f"{commit} does not load with the packages of this environment")
    raise CannotRunError("no old release can be started: name one by --old")


def _before_the_newest_migrations() -> Iterator[str]:
    """Commits of the main line, the latest first, whose migrations are the present ones without the newest."""
    present = {path.name for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py")}
    for commit in _git("log", "--first-parent", "--format=%h", "--", "migrations/versions").split():
        files = _git("ls-tree", "--name-only", f"{commit}^", "migrations/versions/").split()
        if {Path(each).name for each in files if Path(each).name[0].isdigit()} < present:
            yield _git("rev-parse", "--short", f"{commit}^")


def _loads(folder: Path) -> bool:
    environ = {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}
    asked = [sys.executable, "-P", "-c", "import app.factory, workers.enqueue, jobs.lifecycle"]
    return subprocess.run(asked, env=environ, cwd=folder, capture_output=True, check=False).returncode == 0


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRunError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _environ(stack: ExitStack, folder: Path, sandbox_port: int) -> dict[str, str]:
    """The environment of every process: ours alone, with servers and the sandbox in it."""
    given = {name: value for name, value in os.environ.items() if name.startswith(OURS) or name in SYSTEM}
    if "DATABASE_URL" not in given:
        given["DATABASE_URL"] = stack.enter_context(EmbeddedPostgres(folder / "postgres")).url
    if "REDIS_URL" not in given:
        given["REDIS_URL"] = stack.enter_context(EmbeddedRedis(folder / "redis")).url
    limits = {f"DARKROOM_RATE_LIMIT_{each}": "100000/minute" for each in ("ACCOUNT", "SUBMIT")}
    return {
        "SANDBOX_PREPARED": "1",
        "SANDBOX_LATENCY_S": "0.5",
        "DARKROOM_DECODERS": "1",
        **limits,
        **given,
        **sandbox_environ(f"http://127.0.0.1:{sandbox_port}"),
        "PYTHONUNBUFFERED": "1",
    }


def _customer(fleet: Fleet, release: Release) -> Customer:
    account = json.loads(fleet.command(release, "account", "create", "rolling", "--json"))["id"]
    fleet.command(release, "grant", account, str(GRANTED_CREDITS))
    token = json.loads(fleet.command(release, "key", "create", account, "--json"))["token"]
    return Customer(account, token, GRANTED_CREDITS * 1_000_000)


def _database(environ: Mapping[str, str]) -> Database:
    prepare = environ.get("DARKROOM_DB_PREPARE", "true") == "true"
    url = "postgresql+psycopg://" + environ["DATABASE_URL"].partition("://")[2]
    return Database(make_engine(url, pool_size=2, application_name="rolling", prepare=prepare))


def _workers(database: Database) -> set[str]:
    with database.autocommit() as connection:
        return {row.boot_id for row in connection.exec_driver_sql("SELECT boot_id FROM workers")}


def _at_rest(target: Target, load: Load) -> bool:
    with target.database.autocommit() as connection:
        live = connection.exec_driver_sql("SELECT count(*) FROM jobs WHERE finished_at IS NULL").scalar_one()
    return not live and all(one.first_end is None or one.first_end[0] in ENDED for one in load.accepted())


def _status(url: str) -> int | None:
    with suppress(OSError):
        return session().get(url, timeout=3).status_code
    return None


def _ports(first: int | None, count: int) -> list[int]:
    return ports.free_ports(count) if first is None else list(range(first, first + count))


_BEGAN = time.monotonic()
_say: Callable[[str], None] = lambda line: print(f"{time.monotonic() - _BEGAN:6.1f} s  {line}", flush=True)  # noqa: T201, E731


if __name__ == "__main__":
    sys.exit(main())
