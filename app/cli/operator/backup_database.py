"""The database that a backup reads or a restore writes: one of the operator's, or our own server.

Both connect as the role that owns the tables. Our own server is started for the length of the command where nothing
runs; ``darkroom up`` cannot start meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.cli.operator.database import connected, nothing_runs, running_url
from app.cli.output import CommandError, Exit
from core.db import Database
from core.embedded import ports
from core.embedded.faults import EmbeddedError
from core.embedded.folders import FolderLock, make_folder
from core.embedded.postgres import EmbeddedPostgres
from core.settings import Settings, SettingsError


@contextmanager
def database_url(settings: Settings, *, alone: bool) -> Iterator[str]:
    """The address for PostgreSQL's programs and ours. ``alone``: only while nothing of ours runs under DARKROOM_VAR.

    Raises CommandError: the service runs and ``alone`` is asked for, or the server cannot be started.
    """
    lock = FolderLock(make_folder(settings.var.absolute() / "run") / "lock")
    try:
        lock.acquire()
    except EmbeddedError as error:
        if alone:
            raise service_runs(str(error)) from error
        yield _owner_url(settings) or running_url(settings.var / "run" / "urls.json")
        return
    try:
        if (url := _owner_url(settings)) is not None:
            yield url
        else:
            if not alone and not (settings.var / "postgres" / "data").is_dir():
                raise nothing_runs(f"DATABASE_URL is not set, and {settings.var} has no database")
            with _own_server(settings) as url:
                yield url
    finally:
        lock.release()


def service_runs(detail: str) -> CommandError:
    hint = "Stop it first: web and workers must not use a database that is being replaced."
    return CommandError(Exit.USAGE, "service_runs", detail, hint=hint)


def _owner_url(settings: Settings) -> str | None:
    if settings.database_url_set is None and settings.migrate_database_url_set is None:
        return None
    try:
        return settings.migrate_database_url
    except SettingsError as error:
        raise CommandError(Exit.USAGE, "bad_settings", str(error)) from error


@contextmanager
def _own_server(settings: Settings) -> Iterator[str]:
    port = settings.postgres_port if ports.why_not(settings.postgres_port) is None else None
    server = EmbeddedPostgres(settings.var / "postgres", port, user=settings.postgres_user)
    try:
        url = server.start()
    except EmbeddedError as error:
        raise CommandError(Exit.AWAY, "no_database", str(error)) from error
    try:
        yield url
    finally:
        server.stop()


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Our own way into the same database. Raises CommandError for what the database refuses."""
    address = "postgresql+psycopg://" + url.removeprefix("postgresql+psycopg://").removeprefix("postgresql://")
    with connected(address, pool_size=2) as database:
        yield database
