"""Our own PostgreSQL: the real server from the pip wheel, on localhost, under ``DARKROOM_VAR``.

We run the wheel's ``initdb`` and ``postgres`` ourselves. Its own ``get_server``, as root, makes an operating-system
user and opens the mode of every parent folder, so the package is never imported.

    <folder>/data                the cluster; its owner is the user the server runs as
    <folder>/password            of role ``darkroom``, which owns database ``darkroom``
    <folder>/superuser.password  of role ``postgres``, used only by this file
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from core.embedded import folders, processes
from core.embedded.faults import EmbeddedError
from core.embedded.ports import free_ports
from core.embedded.postgres_wheel import Installation, installation_for
from core.embedded.processes import Program
from core.embedded.users import User, unprivileged_user

ROLE = "darkroom"
SUPERUSER = "postgres"
DATABASE = "darkroom"

_READY_S = 60.0
_PID_FILE = "postmaster.pid"

# SIGINT: end every session, write a checkpoint, leave. SIGQUIT: leave now, recover at the next start.
STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "minimal",  # This server never has a replica: less to write.
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "",
    "log_checkpoints": "off",
    # Statements and the details of their errors quote rows, and rows contain people's prompts.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
# Commits still reach the kernel: killing the server loses nothing, only a crash of the machine does.
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One server in one folder. Alone: ``start()``, ``url``, ``stop()``. Supervised: see ``program()``.

    ``durable=False``, for tests: a crash of the machine may lose data.
    """

    def __init__(self, folder: Path, port: int | None = None, *, user: str | None = None, durable: bool = True) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.port = port or free_ports(1)[0]
        self.durable = durable
        self._wanted_user = user
        self._lock = folders.FolderLock(self.folder / "lock")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``postgresql://darkroom:...@127.0.0.1:port/darkroom``; known once ``prepare`` has run."""
        return f"postgresql://{ROLE}:{self._secret('password')}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def superuser_url(self) -> str:
        """The same server by the role that made it, for what the service itself may not do."""
        return f"postgresql://{SUPERUSER}:{self._secret('superuser.password')}@127.0.0.1:{self.port}/postgres"

    def start(self) -> str:
        """Run the server as a child process, wait until it answers, return its URL.

        It dies with the calling thread. Its log is ``<folder>/log``. Raises EmbeddedError.
        """
        self.prepare()
        log = self.folder / "log"
        with log.open("ab") as output:
            self._process = processes.spawn(self.program(), output)
        try:
            self.await_ready(alive=lambda: self._process is not None and self._process.poll() is None)
        except EmbeddedError as error:
            self.stop()
            raise EmbeddedError(f"{error}; the end of {log}:\n{_tail(log)}") from error
        return self.url

    def stop(self) -> None:
        if self._process is not None:
            processes.stop(self._process, STOP_STEPS)
            self._process = None
        self.release()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def prepare(self) -> None:
        """Lock the folder, remove what a killed attempt left, make the cluster if there is none.

        Raises EmbeddedError.
        """
        folders.make_folder(self.folder, owner=self._user())
        self._lock.acquire()
        for unfinished in self.folder.glob("unfinished.*"):
            shutil.rmtree(unfinished)
        if not self.data.exists():
            self._initialise()

    def release(self) -> None:
        """Unlock the folder, after a supervised server has ended."""
        self._lock.release()

    def program(self) -> Program:
        """How a supervisor runs the server; ``prepare`` comes before, ``await_ready`` after the start."""
        home = installation_for(self.data)
        settings = {**_SETTINGS, **(_DURABLE if self.durable else _NOT_DURABLE), "port": str(self.port)}
        argv = [str(home.bin / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return Program(
            name="postgres",
            argv=argv,
            environ=_environ(),
            user=self._user(),
            reach=(home.bin, home.prefix / "share", self.data),
            stop_steps=STOP_STEPS,
            death_signal=signal.SIGINT,
            before_start=self._end_leftovers,
        )

    def await_ready(self, alive: Callable[[], bool], timeout_s: float = _READY_S) -> None:
        """Wait until our role can use our database; makes both the first time. Raises EmbeddedError."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if not alive():
                raise EmbeddedError("PostgreSQL did not stay up")
            if self._usable():
                return
            time.sleep(0.05)
        raise EmbeddedError(f"PostgreSQL did not answer on port {self.port} within {timeout_s:.0f} s")

    def _usable(self) -> bool:
        try:
            self._make_database()
            with psycopg.connect(self.url, connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    def _make_database(self) -> None:
        with psycopg.connect(self.superuser_url, connect_timeout=5, autocommit=True) as connection:
            if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE):
                connection.execute(self._role_statement(connection))
            elif _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s AND rolcreatedb", ROLE):
                # A cluster of a release before, whose role could make databases.
                connection.execute(sql.SQL("ALTER ROLE {} NOCREATEDB").format(sql.Identifier(ROLE)))
            if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
                name, owner = sql.Identifier(DATABASE), sql.Identifier(ROLE)
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, owner))

    def _role_statement(self, connection: psycopg.Connection) -> sql.Composed:
        """Not a superuser, to which a revoked right would not apply."""
        password = connection.pgconn.encrypt_password(
            self._secret("password").encode(), ROLE.encode(), b"scram-sha-256"
        )
        statement = sql.SQL("CREATE ROLE {} LOGIN NOCREATEDB NOCREATEROLE PASSWORD {}")
        return statement.format(sql.Identifier(ROLE), sql.Literal(password.decode()))

    def _initialise(self) -> None:
        """Make the cluster under another name and rename it, so that ``data`` is complete or absent."""
        user = self._user()
        self._secret("password")
        self._secret("superuser.password")
        draft = self.folder / f"unfinished.{os.getpid()}"
        folders.make_folder(draft, owner=user)
        self._run_initdb(installation_for(self.data), draft, user)
        draft.rename(self.data)

    def _run_initdb(self, home: Installation, draft: Path, user: User | None) -> None:
        password_file = self.folder / "superuser.password"
        argv = [str(home.bin / "initdb"), "-D", str(draft), "-U", SUPERUSER, f"--pwfile={password_file}"]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions", "--locale=C"]
        if home.major >= 17:
            argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.durable:
            argv += ["--no-sync"]
        program = Program(
            name="initdb",
            argv=argv,
            environ=_environ(),
            user=user,
            reach=(home.bin, home.prefix / "share", draft),
            death_signal=signal.SIGKILL,
        )
        process = processes.spawn(program, subprocess.PIPE)
        said, _ = process.communicate()
        if process.returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise EmbeddedError(f"{_last_line(said)} (or set DATABASE_URL to a server of your own)")

    def _end_leftovers(self) -> None:
        """End what a killed server left behind: while one backend lives, no new server may start here.

        Safe because we hold the folder's lock: a process that still works in ``data`` has lost its parent.
        Raises EmbeddedError when one of them cannot be ended.
        """
        processes.end_others(processes.running_in(self.data, "postgres"), STOP_STEPS)
        if processes.running_in(self.data, "postgres"):
            raise EmbeddedError(f"a PostgreSQL server is still running in {self.data} and cannot be ended")
        self._remove_stale_pid_file()

    def _remove_stale_pid_file(self) -> None:
        """Remove ``postmaster.pid`` when the number in it now belongs to a process that is no server of this folder.

        PostgreSQL itself checks only whether a process of that number lives, and would refuse to start. The caller
        holds the folder's lock and has checked that no server works in ``data``. Where the process cannot be
        identified the file stays, and PostgreSQL decides.
        """
        path = self.data / _PID_FILE
        try:
            first_line, _, _ = path.read_text(errors="replace").partition("\n")
        except FileNotFoundError:
            return
        if first_line.strip().isdigit() and processes.works_elsewhere(int(first_line), self.data, "postgres"):
            path.unlink()

    def _user(self) -> User | None:
        """The user the server runs as: the owner of existing data, else the configured unprivileged user."""
        user = unprivileged_user(self._wanted_user)
        if not self.data.exists():
            return user
        found = self.data.stat()
        if user is None and found.st_uid != os.geteuid():
            raise EmbeddedError(f"{self.data} belongs to user id {found.st_uid}, not to us: set DARKROOM_VAR")
        if user is None or found.st_uid in (0, user.uid):
            return user
        return User(str(found.st_uid), found.st_uid, found.st_gid)

    def _secret(self, name: str) -> str:
        owner = self._user()
        return folders.secret_in(self.folder / name, owner=owner)


def _exists(connection: psycopg.Connection, question: LiteralString, name: str) -> bool:
    return connection.execute(question, (name,)).fetchone() is not None


def _environ() -> dict[str, str]:
    """Nothing of our own environment: PG* variables would mislead the server, and it needs none of our secrets."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _tail(log: Path, lines: int = 10) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
