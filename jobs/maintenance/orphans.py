"""Orphans: blobs in the store that no row owns, left by writers that were killed.

A blob belongs to the job or the upload in its key. The search goes through the folders of the store a slice at a time,
on whichever worker does the round of retention; its position is kept in the key-value table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, text

from core import key_values
from core.db import Database
from core.ids import is_id
from jobs.maintenance import deletion
from storage.base import Store
from storage.variants import source_of

log = structlog.get_logger(__name__)

# A blob is written before its row; an hour later its writer has given up or was given up.
MIN_AGE_S = 3600.0
FOLDERS_PER_SLICE = 5_000
# After the last folder the search starts over so much later.
SEARCH_EVERY_S = 6 * 3600.0
ROOTS = ("inputs", "jobs", "uploads", "variants/inputs", "variants/jobs", "variants/uploads")
# More folders than this without a job, and most of the slice: the database is the wrong one.
UNKNOWN_JOBS_MAX = 20

_POSITION = "orphans"


@dataclass(frozen=True, slots=True)
class Search:
    """What a look into some folders found. ``suspicious``: so much belongs to no job that it must be an error."""

    orphans: Sequence[str]
    suspicious: bool


def find_orphans(database: Database, store: Store, root: str, names: Sequence[str]) -> Search:
    """Blobs in ``root/<name>/`` without a row, older than an hour, of jobs that can get no more rows, and of uploads.

    Raises DatabaseAwayError, StorageUnavailableError.
    """
    of_uploads = root.endswith("uploads")
    ids = [name for name in names if is_id(name, "upl" if of_uploads else "job")]  # other folders are not ours
    keys = list(store.iter_folders(root, ids, older_than_s=MIN_AGE_S))
    with database.autocommit() as connection:
        if of_uploads:
            orphans = _without_upload(connection, keys)
            unknown = len({source_of(key).split("/")[1] for key in orphans})
            return Search(orphans, unknown > UNKNOWN_JOBS_MAX and unknown > len(ids) / 2)
        unknown = _count_unknown(connection, ids)
        orphans = _without_row(connection, keys)
    return Search(orphans, unknown > UNKNOWN_JOBS_MAX and unknown > len(ids) / 2)


def _count_unknown(connection: Connection, ids: Sequence[str]) -> int:
    """How many of these jobs do not exist."""
    return int(connection.execute(_UNKNOWN, {"ids": list(ids)}).scalar_one())


_UNKNOWN = text("""
SELECT count(*) FROM unnest(CAST(:ids AS text[])) AS n(id)
WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = n.id)
""")


def _without_row(connection: Connection, keys: Sequence[str]) -> list[str]:
    sources = [source_of(key) for key in keys]
    rows = connection.execute(
        _WITHOUT_ROW,
        {
            "keys": list(keys),
            "sources": sources,
            "ids": [source.split("/")[1] for source in sources],
            "age_s": MIN_AGE_S,
        },
    )
    return [row.key for row in rows]


_WITHOUT_ROW = text("""
SELECT b.key
FROM unnest(CAST(:keys AS text[]), CAST(:sources AS text[]), CAST(:ids AS text[])) AS b(key, source, job_id)
-- A live job may still get the row: it is certain only of an ended job, or where there is none.
WHERE NOT EXISTS (SELECT 1 FROM jobs AS j WHERE j.id = b.job_id AND (j.finished_at IS NULL
    OR j.finished_at > statement_timestamp() - make_interval(secs => :age_s)))
AND NOT EXISTS (SELECT 1 FROM images AS i WHERE i.job_id = b.job_id AND i.key = b.source AND i.deleted_at IS NULL)
AND NOT EXISTS (SELECT 1 FROM inputs AS i WHERE i.job_id = b.job_id AND i.key = b.source AND i.deleted_at IS NULL)
""")


def _without_upload(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Those of no upload, and not listed for deletion. An upload's row follows its blob within seconds, and never gets
    another one."""
    sources = [source_of(key) for key in keys]
    return list(connection.execute(_WITHOUT_UPLOAD, {"keys": list(keys), "sources": sources}).scalars())


_WITHOUT_UPLOAD = text("""
SELECT b.key
FROM unnest(CAST(:keys AS text[]), CAST(:sources AS text[])) AS b(key, source)
WHERE NOT EXISTS (SELECT 1 FROM uploads AS u WHERE u.id = split_part(b.source, '/', 2) AND u.key = b.source)
-- Expired uploads have no row either, and their blobs are listed.
AND NOT EXISTS (SELECT 1 FROM doomed_blobs AS d WHERE d.key = b.source)
""")


def search_all(database: Database, store: Store) -> Iterator[Search]:
    """Every folder of the store, slice by slice; for a person who waits (``darkroom doctor``).

    Raises DatabaseAwayError, StorageUnavailableError.
    """
    for root in ROOTS:
        after = ""
        while names := store.folders(root, after=after, limit=FOLDERS_PER_SLICE):
            yield find_orphans(database, store, root, names)
            after = names[-1]


def list_next_slice(database: Database, store: Store) -> int:
    """Search the next slice of folders and list its orphans for deletion; how many.

    0 as well while the search rests, and for a suspicious slice, of which nothing is deleted.
    Raises DatabaseAwayError, StorageUnavailableError.
    """
    position = _read_position(database)
    if position is None:
        return 0
    root, after = position
    names = store.folders(root, after=after, limit=FOLDERS_PER_SLICE)
    search = find_orphans(database, store, root, names)
    if search.suspicious:
        log.error("orphans_suspicious", root=root, folders=len(names), orphans=len(search.orphans))
    elif search.orphans:
        log.info("orphans_found", root=root, orphans=len(search.orphans))
        with database.transaction() as connection:
            deletion.list_for_deletion(connection, search.orphans)
    _write_position(database, root, names)
    return 0 if search.suspicious else len(search.orphans)


def _read_position(database: Database) -> tuple[str, str] | None:
    """Where the search goes on: the root, and the last folder searched. None while it rests."""
    with database.autocommit() as connection:
        found = key_values.find(connection, _POSITION)
    if found is not None and not found.value:
        return (ROOTS[0], "") if found.age_s > SEARCH_EVERY_S else None
    root, _, after = found.value.partition(" ") if found else ("", "", "")
    return (root, after) if root in ROOTS else (ROOTS[0], "")


def _write_position(database: Database, root: str, names: Sequence[str]) -> None:
    """Written after the work: after a kill the same folders are searched again."""
    if len(names) == FOLDERS_PER_SLICE:
        value = f"{root} {names[-1]}"
    else:
        later = ROOTS[ROOTS.index(root) + 1 :]
        value = f"{later[0]} " if later else ""
    with database.autocommit() as connection:
        key_values.put(connection, _POSITION, value)
