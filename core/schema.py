"""The schema's history: bring the database up to date, and say what is missing.

The revisions are in the package ``migrations``, which is found by its name and never imported from here: its
environment imports every table, and nothing that serves requests should.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, make_url, text

from core.errors import ServiceError

# Alembic is imported where it is used: it takes a tenth of a second, and most processes never ask it.
if TYPE_CHECKING:
    from alembic.config import Config

# Several processes may start at the same time; one migrates, the others wait for it.
_LOCK = 7_216_050_001


class SchemaIsNewerError(ServiceError):
    """A newer version has migrated the database; ``detail`` is one sentence."""

    code = "schema_newer"


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest revision, inside the caller's transaction. Raises SchemaIsNewerError."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL lock_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if (found := current(connection)) is not None and not knows(found):
        raise SchemaIsNewerError(
            f"the database has the schema {found}, made by a newer version: start that one, or restore a backup of this"
        )
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def pending(connection: Connection) -> list[str]:
    """Revisions the database has not seen, oldest first; none where a newer version has migrated it."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config())
    every = [revision.revision for revision in script.walk_revisions()]
    heads = MigrationContext.configure(connection).get_current_heads()
    if not set(heads) <= set(every):
        return []  # processes of this version go on until they are replaced
    done = {r.revision for head in heads for r in script.iterate_revisions(head, "base")}
    return [revision for revision in reversed(every) if revision not in done]


def grant_to_app(connection: Connection, app_url: str) -> None:
    """Let the role of ``app_url`` read and write the tables that this connection's role owns, and no more.

    Nothing happens where the two are one. On PostgreSQL 17 and newer it may run ANALYZE, too; on older ones only
    autovacuum does. Must run in a transaction.
    """
    role = make_url(app_url).username
    if role is None or role == connection.execute(text("SELECT current_user")).scalar_one():
        return
    name = connection.dialect.identifier_preparer.quote_identifier(role)
    rights = "SELECT, INSERT, UPDATE, DELETE"
    if (connection.dialect.server_version_info or ()) >= (17,):
        rights += ", MAINTAIN"
    for statement in (
        f"GRANT USAGE ON SCHEMA public TO {name}",
        f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO {name}",
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {name}",
        # The schema's history is read, to know what is pending, and never written.
        f"REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {name}",
    ):
        connection.exec_driver_sql(statement)


def current(connection: Connection) -> str | None:
    """The newest revision that the database has; None for an empty database."""
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def knows(revision: str) -> bool:
    """Whether this version of the code has the revision; if not, a newer one has made it."""
    from alembic.script import ScriptDirectory

    return any(revision == known.revision for known in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    spec = find_spec("migrations")
    if spec is None or spec.origin is None:
        raise LookupError("the package `migrations` is not installed next to the others")
    config.set_main_option("script_location", str(Path(spec.origin).parent))
    return config
