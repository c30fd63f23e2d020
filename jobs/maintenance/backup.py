"""What a backup must know of the database, and what a restored database needs before work goes on.

Every function runs in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from core import schema
from jobs.dispatch import heartbeats
from jobs.maintenance.sweep import EPOCH


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that a row says is kept; ``sha256`` of its bytes, in hex."""

    key: str
    sha256: str


_BLOBS = text("""
SELECT key, sha256 FROM images WHERE deleted_at IS NULL
UNION ALL
SELECT key, sha256 FROM inputs WHERE deleted_at IS NULL
""")


_BLOBS_OF_UPLOADS = text("SELECT key, sha256 FROM uploads")
_KNOWS_UPLOADS = text("SELECT to_regclass('uploads') IS NOT NULL")


def kept_blobs(connection: Connection) -> Iterator[Blob]:
    """Every blob that should be in the store, as of this transaction. A schema before uploads has none of those."""
    queries = [_BLOBS, *([_BLOBS_OF_UPLOADS] if connection.execute(_KNOWS_UPLOADS).scalar_one() else [])]
    for query in queries:
        with connection.execution_options(yield_per=5000).execute(query) as rows:
            for row in rows:
                yield Blob(row.key, row.sha256)


@dataclass(frozen=True, slots=True)
class Facts:
    """A database in figures. ``live``: jobs that have not ended; ``open_calls``: those the upstream may work on."""

    at: datetime
    schema: str | None
    server_major: int
    accounts: int
    jobs: int
    live: int
    open_calls: int
    transfers: int

    def counts(self) -> Mapping[str, int]:
        names = ("accounts", "jobs", "live", "open_calls", "transfers")
        return {name: getattr(self, name) for name in names}


_FACTS = text("""
SELECT clock_timestamp() AS at,
    CAST(current_setting('server_version_num') AS int) / 10000 AS server_major,
    (SELECT count(*) FROM accounts) AS accounts,
    (SELECT count(*) FROM jobs) AS jobs,
    (SELECT count(*) FROM jobs WHERE finished_at IS NULL) AS live,
    (SELECT count(*) FROM upstream_calls WHERE outcome IS NULL OR outcome IN ('accepted', 'uncertain')) AS open_calls,
    (SELECT count(*) FROM transfers) AS transfers
""")


def facts(connection: Connection) -> Facts:
    """The figures, as of this transaction."""
    row = connection.execute(_FACTS).mappings().one()
    return Facts(schema=schema.current(connection), **row)


def after_restore(connection: Connection) -> None:
    """Make a restored database safe to go on with.

    No worker of the time of the dump lives, so its running jobs are taken over at once. The broker counts as a new
    one: messages from before the dump may be gone, and every queued job is published again.
    """
    connection.execute(text("DELETE FROM workers"))
    connection.execute(text("DELETE FROM marks WHERE name = :name"), {"name": EPOCH})


_OTHERS = text("""
SELECT DISTINCT application_name FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND application_name IN ('darkroom-web', 'worker', 'clock', 'watchdog')
ORDER BY application_name
""")


def users(connection: Connection) -> list[str]:
    """Which processes of ours use this database, by the names of their connections; empty when nothing runs.

    The connections of another role are not seen without ``pg_read_all_stats``, the heartbeat of a worker always is.
    """
    found = list(connection.execute(_OTHERS).scalars())
    return found or (["worker"] if heartbeats.any_alive(connection) else [])


_TABLES = text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")


def is_empty(connection: Connection) -> bool:
    """Whether the database has no tables."""
    return bool(connection.execute(_TABLES).scalar_one() == 0)


# What belongs to an extension goes with the extension, which stays.
_DROPS = text("""
SELECT format('DROP TABLE IF EXISTS %s CASCADE', c.oid::regclass) AS statement
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    AND NOT EXISTS (SELECT 1 FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT format('DROP FUNCTION IF EXISTS %s CASCADE', p.oid::regprocedure)
FROM pg_proc AS p
WHERE p.pronamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT 1 FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
""")


def drop_everything(connection: Connection) -> None:
    """Drop every table and function of the database. Extensions and grants on the schema stay."""
    for statement in list(connection.execute(_DROPS).scalars()):
        connection.exec_driver_sql(statement)
