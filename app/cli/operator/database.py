"""The database for admin commands, and ``darkroom db``.

Admin commands use the database itself, without a key. Its address is DATABASE_URL, or that of the server which
``darkroom up`` runs here, from a file that only its owner can read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.here import settings
from app.cli.output import CommandError, Exit, Output, output_options

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from core.db import Database


@contextmanager
def open_database(*, owner: bool = False) -> Iterator[Database]:
    """The service's database; ``owner``: by the role that owns the tables.

    Raises CommandError when none is known, away, not usable, or not of this schema.
    """
    url = database_url(owner=owner)
    # After the address: without one there is nothing to load it for.
    from core import first_contact

    try:
        first_contact.check(url)
    except first_contact.DatabaseRefusesError as error:
        raise CommandError(Exit.AWAY, error.code, error.detail) from error
    with connected(url, pool_size=1) as database:
        yield database


@contextmanager
def connected(url: str, *, pool_size: int) -> Iterator[Database]:
    """The database at an address, for reports and long statements. Raises CommandError for what it refuses."""
    from core.db import Database, make_engine

    # Nothing here is worth preparing, and there may be a pooler in between.
    engine = make_engine(url, pool_size=pool_size, application_name="darkroom-cli", prepare=False, reports=True)
    database = Database(engine)
    try:
        with named_faults():
            yield database
    finally:
        database.dispose()


def database_url(*, owner: bool = False) -> str:
    """DATABASE_URL (for ``owner`` DARKROOM_MIGRATE_DATABASE_URL), or what ``darkroom up`` left in ``run/urls.json``.

    Raises as :func:`open_database`.
    """
    from pydantic import SecretStr

    from core.settings import SettingsError

    here = settings()
    if here.database_url_set is None and not (owner and here.migrate_database_url_set):
        found = running_url(here.var / "run" / "urls.json")
        here = here.model_copy(update={"database_url_set": SecretStr(found)})
    try:
        return here.migrate_database_url if owner else here.database_url
    except SettingsError as error:
        raise CommandError(Exit.USAGE, "bad_settings", str(error)) from error


def running_url(path: Path) -> str:
    """The database address in the file that ``darkroom up`` keeps while it runs."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["database_url"]
    except FileNotFoundError:
        raise nothing_runs(f"DATABASE_URL is not set and nothing runs in {path.parent.parent}") from None
    except OSError as error:
        raise nothing_runs(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise nothing_runs(f"{path} is damaged") from None
    if not isinstance(found, str):
        raise nothing_runs(f"{path} is damaged")
    return found


def nothing_runs(detail: str) -> CommandError:
    hint = (
        "Start `darkroom up` (with the same DARKROOM_VAR), or set DATABASE_URL; accounts, keys and grants may also go"
        " through a server: --server (DARKROOM_SERVER) and an administrator's key."
    )
    return CommandError(Exit.AWAY, "no_database", detail, hint=hint)


@contextmanager
def named_faults() -> Iterator[None]:
    """Errors of the database as one line without the statement; "away" with PostgreSQL's own reason."""
    import psycopg
    from sqlalchemy.exc import DBAPIError

    from core.errors import DatabaseAwayError

    # The driver's own connection raises its errors itself; SQLAlchemy wraps them.
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise _outdated_schema() from error
    except DatabaseAwayError as error:
        raise CommandError(Exit.AWAY, error.code, f"{error.detail}{_reason(error.__cause__)}") from error
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            raise _outdated_schema() from error
        raise CommandError(Exit.FAILED, "database_fault", f"the database refused{_reason(error)}") from error


def _outdated_schema() -> CommandError:
    hint = "`darkroom db upgrade` brings the schema up to date."
    return CommandError(Exit.FAILED, "schema_outdated", "the database lacks our tables", hint=hint)


def _reason(error: BaseException | None) -> str:
    from core.logging import redact

    orig = getattr(error, "orig", None)
    lines = str(orig).strip().splitlines() if orig else []
    return f": {redact(lines[0])}" if lines else ""


def database_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """An admin command: it receives the connection of a transaction that is committed when it returns.

    What it returns prints its result, and is called after the commit.
    """

    @output_options
    @functools.wraps(command)
    def wrapped(output: Output, **kwargs: Any) -> None:
        with open_database() as database, database.transaction() as connection:
            show = command(connection, **kwargs)
        show(output)

    return wrapped


Show = Callable[[Output], None]


@click.group()
def db() -> None:
    """The database schema."""


@db.command("upgrade")
@output_options
def upgrade(output: Output) -> None:
    """Bring the schema up to date, as the role of DARKROOM_MIGRATE_DATABASE_URL where one is given."""
    from core import schema

    with open_database(owner=True) as database, database.transaction() as connection:
        before = [str(step) for step in schema.pending(connection)]
        schema.upgrade(connection)
        if (app_url := settings().database_url_set) is not None:
            schema.grant_to_app(connection, app_url.get_secret_value())
    output.document({"applied": before})
    output.line(f"applied {', '.join(before)}" if before else "up to date already")


@db.command("status")
@database_command
def status(connection: Connection) -> Show:
    """Name the migrations that wait; exit 1 when there are any."""
    from core import schema

    waiting = [str(step) for step in schema.pending(connection)]

    def show(output: Output) -> None:
        output.document({"pending": waiting})
        output.line(f"pending: {', '.join(waiting)}" if waiting else "up to date")
        if waiting:
            raise CommandError(
                Exit.FAILED,
                "schema_outdated",
                f"{len(waiting)} to apply",
                hint="`darkroom db upgrade` applies them.",
                printed=output.as_json,
            )

    return show
