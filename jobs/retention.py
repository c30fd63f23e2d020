"""How long bytes are kept: what expires, what a caller deletes, and blobs nobody owns.

Row first, bytes second: a picture's row becomes a tombstone in the very transaction that puts its blob
on the list ``doomed_blobs``; the blob leaves the list when its bytes are gone. Whatever is killed in
between, the list says what is still to do. (Keeping goes the other way round, blob first: what is
killed in between leaves a blob without a row, and the search for orphans finds it.)

Rows of jobs, their events and the ledger are never deleted. A blob belongs to the job in its key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import structlog
from sqlalchemy import Connection, text

from core.db import Database
from core.ids import is_id
from jobs.errors import JobNotFoundError, NotEndedError
from storage.base import StorageUnavailableError, Store
from storage.media import Media
from storage.variants import source_of

log = structlog.get_logger(__name__)

# One round of the whole fleet. What is left over is done in the next.
EVERY_S = 60.0
PAGE = 500
EXPIRE_PAGES = 4
REMOVE_AT_MOST = 5_000
FOLDERS_AT_MOST = 5_000
AFTER_TROUBLE_S = 600.0
AWAY_AFTER = 3

# A blob is written before its row; an hour later its writer has long been given up.
ORPHAN_AGE_S = 3600.0
SEARCH_EVERY_S = 6 * 3600.0
ORPHAN_ROOTS = ("inputs", "jobs", "variants/inputs", "variants/jobs")
# More folders than this without a job, and most of those looked at: the database is the wrong one.
STRANGERS_AT_MOST = 20

_DAY_S = 86_400.0


class Reason(StrEnum):
    """Why pictures were deleted, as the timeline says it."""

    EXPIRED = "expired"
    REQUESTED = "requested"
    LOST = "lost"


# ---------------------------------------------------------------- tombstones


def delete_pictures(
    connection: Connection, job_ids: Sequence[str], *, reason: Reason, keys: Sequence[str] | None = None
) -> list[str]:
    """Make the pictures of ended jobs tombstones; the keys whose bytes are to go. Live jobs are left alone.

    ``keys`` narrows it to some of the pictures. Jobs that somebody else holds are left for another round.
    """
    rows = connection.execute(
        text(
            "WITH j AS (SELECT id FROM jobs WHERE id = ANY(:ids) AND finished_at IS NOT NULL ORDER BY id"
            " FOR UPDATE SKIP LOCKED),"
            " gone AS (UPDATE images SET deleted_at = clock_timestamp() FROM j WHERE images.job_id = j.id"
            " AND images.deleted_at IS NULL AND (CAST(:keys AS text[]) IS NULL OR images.key = ANY(:keys))"
            " RETURNING images.job_id, images.key),"
            " doomed AS (INSERT INTO doomed_blobs (key) SELECT key FROM gone ON CONFLICT (key) DO NOTHING),"
            " seen AS (UPDATE jobs SET version = version + 1 WHERE id IN (SELECT job_id FROM gone)),"
            " told AS (INSERT INTO job_events (job_id, type, data) SELECT job_id, 'pictures_deleted',"
            " jsonb_build_object('reason', CAST(:reason AS text), 'pictures', count(*)) FROM gone GROUP BY job_id)"
            " SELECT key FROM gone"
        ),
        {"ids": list(job_ids), "reason": str(reason), "keys": None if keys is None else list(keys)},
    )
    return [row.key for row in rows]


def delete_inputs(connection: Connection, job_ids: Sequence[str]) -> list[str]:
    """The same for the reference pictures that ended jobs came with."""
    rows = connection.execute(
        text(
            "WITH j AS (SELECT id FROM jobs WHERE id = ANY(:ids) AND finished_at IS NOT NULL ORDER BY id"
            " FOR UPDATE SKIP LOCKED),"
            " gone AS (UPDATE inputs SET deleted_at = clock_timestamp() FROM j WHERE inputs.job_id = j.id"
            " AND inputs.deleted_at IS NULL RETURNING inputs.key),"
            " doomed AS (INSERT INTO doomed_blobs (key) SELECT key FROM gone ON CONFLICT (key) DO NOTHING)"
            " SELECT key FROM gone"
        ),
        {"ids": list(job_ids)},
    )
    return [row.key for row in rows]


def delete_task(connection: Connection, account_id: str, job_id: str) -> list[str]:
    """The caller's wish: every picture of a job gone, those it came with too. Idempotent.

    Returns the keys whose bytes are to go. Raises JobNotFoundError, NotEndedError.
    """
    row = None
    if is_id(job_id, "job"):
        row = connection.execute(
            text("SELECT finished_at FROM jobs WHERE id = :id AND account_id = :account_id FOR UPDATE"),
            {"id": job_id, "account_id": account_id},
        ).one_or_none()
    if row is None:
        raise JobNotFoundError("no such task")
    if row.finished_at is None:
        raise NotEndedError("the task is still going on; cancel it first")
    return delete_pictures(connection, [job_id], reason=Reason.REQUESTED) + delete_inputs(connection, [job_id])


# ---------------------------------------------------------------- what is old


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of what is older than the policy: the jobs to act on, and where the next page begins."""

    expired: Sequence[str]
    last_at: datetime | None  # None: nothing lies behind
    last_id: str = ""


def _old(table: str) -> str:
    # statement_timestamp and not clock_timestamp: only a stable bound can steer an index scan.
    keep = "statement_timestamp() - make_interval(secs => :keep_s)"
    return (
        f"WITH page AS MATERIALIZED (SELECT created_at, job_id FROM {table} WHERE deleted_at IS NULL"
        f" AND created_at < {keep} AND (created_at, job_id) > (CAST(:after_at AS timestamptz), :after_id)"
        " ORDER BY created_at, job_id LIMIT :page)"
        # A question per row and not a join: it stays a look by primary key however many jobs there are.
        " SELECT created_at, job_id, coalesce((SELECT j.finished_at < " + keep + " FROM jobs AS j"
        " WHERE j.id = page.job_id), false) AS expired FROM page ORDER BY created_at, job_id"
    )


OLD_IMAGES, OLD_INPUTS = _old("images"), _old("inputs")


def old_page(connection: Connection, query: str, *, keep_s: float, after: Page | None = None) -> Page:
    """One page of ``OLD_IMAGES`` or ``OLD_INPUTS``; live jobs in it are passed by, not waited for."""
    rows = connection.execute(
        text(query),
        {
            "keep_s": keep_s,
            "after_at": after.last_at if after else "-infinity",
            "after_id": after.last_id if after else "",
            "page": PAGE,
        },
    ).all()
    expired = list(dict.fromkeys(row.job_id for row in rows if row.expired))
    if len(rows) < PAGE:
        return Page(expired, None)
    return Page(expired, rows[-1].created_at, rows[-1].job_id)


# ---------------------------------------------------------------- blobs nobody owns


@dataclass(frozen=True, slots=True)
class Search:
    """What a look into some folders found. ``suspicious``: so much belongs to no job that we must be wrong."""

    orphans: Sequence[str]
    suspicious: bool


def find_orphans(database: Database, store: Store, root: str, names: Sequence[str]) -> Search:
    """Blobs in ``root/<name>/`` without a row, older than an hour, of jobs that can get no more rows."""
    ids = [name for name in names if is_id(name, "job")]  # anything else is not ours to judge
    keys = list(store.iter_folders(root, ids, older_than_s=ORPHAN_AGE_S))
    with database.autocommit() as connection:
        strangers = _jobless(connection, ids)
        orphans = _unowned(connection, keys)
    return Search(orphans, strangers > STRANGERS_AT_MOST and strangers > len(ids) / 2)


def _jobless(connection: Connection, ids: Sequence[str]) -> int:
    """How many of these jobs do not exist."""
    found = connection.execute(
        text(
            "SELECT count(*) FROM unnest(CAST(:ids AS text[])) AS n(id)"
            " WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = n.id)"
        ),
        {"ids": list(ids)},
    ).scalar_one()
    return int(found)


def _unowned(connection: Connection, keys: Sequence[str]) -> list[str]:
    sources = [source_of(key) for key in keys]
    rows = connection.execute(
        text(
            "SELECT b.key FROM unnest(CAST(:keys AS text[]), CAST(:sources AS text[]), CAST(:ids AS text[]))"
            " AS b(key, source, job_id)"
            # A live job may still get the row: only of an ended one, or of none, is it sure.
            " WHERE NOT EXISTS (SELECT 1 FROM jobs AS j WHERE j.id = b.job_id AND (j.finished_at IS NULL"
            " OR j.finished_at > statement_timestamp() - make_interval(secs => :age_s)))"
            " AND NOT EXISTS (SELECT 1 FROM images AS i WHERE i.job_id = b.job_id AND i.key = b.source"
            " AND i.deleted_at IS NULL)"
            " AND NOT EXISTS (SELECT 1 FROM inputs AS i WHERE i.job_id = b.job_id AND i.key = b.source"
            " AND i.deleted_at IS NULL)"
        ),
        {
            "keys": list(keys),
            "sources": sources,
            "ids": [source.split("/")[1] for source in sources],
            "age_s": ORPHAN_AGE_S,
        },
    )
    return [row.key for row in rows]


def search_everything(database: Database, store: Store) -> Iterator[Search]:
    """Every folder of the store, slice by slice; for somebody who waits (``darkroom doctor``)."""
    for root in ORPHAN_ROOTS:
        after = ""
        while names := store.folders(root, after=after, limit=FOLDERS_AT_MOST):
            yield find_orphans(database, store, root, names)
            after = names[-1]


# ---------------------------------------------------------------- the round


def doomed(connection: Connection, *, since_s: float = 0.0) -> list[str]:
    """Blobs whose bytes are to go now, oldest first; those only that have been waiting for ``since_s``."""
    rows = connection.execute(
        text(
            "SELECT key FROM doomed_blobs WHERE due_at <= statement_timestamp()"
            " AND doomed_at <= statement_timestamp() - make_interval(secs => :since_s) ORDER BY due_at LIMIT :page"
        ),
        {"since_s": since_s, "page": PAGE},
    )
    return [row.key for row in rows]


def doom(connection: Connection, keys: Sequence[str]) -> None:
    """Put blobs that no row speaks of on the list."""
    connection.execute(
        text(
            "INSERT INTO doomed_blobs (key) SELECT unnest(CAST(:keys AS text[])) ON CONFLICT (key)"
            " DO UPDATE SET due_at = clock_timestamp()"
        ),
        {"keys": list(keys)},
    )


def remove_doomed(database: Database, media: Media, keys: Sequence[str]) -> int:
    """Delete the bytes of doomed blobs and strike them off the list; how many went.

    What the store would not delete stays on the list for later; the rest, too, once the store seems to be
    away, for every further try could take half a minute.
    """
    gone: list[str] = []
    kept: list[str] = []
    for key in keys:
        try:
            media.delete(key)
            gone.append(key)
        except StorageUnavailableError as error:
            log.warning("blob_not_deleted", key=key, error=str(error))
            kept.append(key)
            if len(kept) >= AWAY_AFTER and not gone:
                break
        time.sleep(0)
    with database.transaction() as connection:
        connection.execute(text("DELETE FROM doomed_blobs WHERE key = ANY(:keys)"), {"keys": gone})
        connection.execute(
            text(
                "UPDATE doomed_blobs SET due_at = clock_timestamp() + make_interval(secs => :s) WHERE key = ANY(:keys)"
            ),
            {"keys": kept, "s": AFTER_TROUBLE_S},
        )
    return len(gone)


def end_short_lives(connection: Connection) -> int:
    """Delete what jobs ordered with a short life (``store: false``) made and came with; how many jobs.

    ``keep_s`` goes with the pictures: the index on it stays as small as what is still to do.
    """
    rows = connection.execute(
        text(
            "UPDATE jobs SET keep_s = NULL WHERE id = ANY(SELECT id FROM jobs WHERE keep_s IS NOT NULL"
            " AND finished_at <= statement_timestamp() - make_interval(secs => keep_s)"
            " ORDER BY finished_at LIMIT :page FOR UPDATE SKIP LOCKED) RETURNING id"
        ),
        {"page": PAGE},
    ).all()
    ids = [row.id for row in rows]
    delete_pictures(connection, ids, reason=Reason.EXPIRED)
    delete_inputs(connection, ids)
    return len(ids)


@dataclass(frozen=True)
class Keeper:
    """Does one round of retention a minute for the whole fleet, on whichever worker takes the turn.

    Every part may be killed at any point and is safe to run twice at once; the turn only saves work,
    and unlike a lock it is held by no connection. ``keep_..._days`` 0: for ever.
    """

    owner: str
    database: Database
    media: Media
    store: Store
    keep_pictures_days: float
    keep_inputs_days: float

    def keep(self) -> bool:
        """One round; False when it is not due, or another worker has taken it."""
        if not self._take_turn():
            return False
        self.expire()
        self.collect_orphans()
        self.remove()
        self.media.sweep()
        return True

    def _take_turn(self) -> bool:
        with self.database.autocommit() as connection:
            taken = connection.execute(
                text(
                    "INSERT INTO marks (name, value) VALUES ('retention', :owner) ON CONFLICT (name) DO UPDATE"
                    " SET value = :owner, at = clock_timestamp()"
                    # A little early, so that a worker's own timer does not miss every other turn.
                    " WHERE marks.at < clock_timestamp() - make_interval(secs => :every_s * 0.9) RETURNING 1"
                ),
                {"owner": self.owner, "every_s": EVERY_S},
            ).one_or_none()
        return taken is not None

    def expire(self) -> int:
        """Make tombstones of what the policy keeps no longer; how many jobs lost something."""
        with self.database.transaction() as connection:
            jobs = end_short_lives(connection)
        if self.keep_pictures_days:
            for page in self._pages(OLD_IMAGES, self.keep_pictures_days * _DAY_S):
                with self.database.transaction() as connection:
                    delete_pictures(connection, page.expired, reason=Reason.EXPIRED)
                jobs += len(page.expired)
        if self.keep_inputs_days:
            for page in self._pages(OLD_INPUTS, self.keep_inputs_days * _DAY_S):
                with self.database.transaction() as connection:
                    delete_inputs(connection, page.expired)
                jobs += len(page.expired)
        if jobs:
            log.info("pictures_expired", jobs=jobs)
        return jobs

    def _pages(self, query: str, keep_s: float) -> Iterator[Page]:
        after: Page | None = None
        for _ in range(EXPIRE_PAGES):
            with self.database.autocommit() as connection:
                after = old_page(connection, query, keep_s=keep_s, after=after)
            if after.expired:
                yield after
            if after.last_at is None:
                return

    def remove(self) -> int:
        """Delete the bytes behind tombstones; how many blobs went."""
        removed = 0
        while removed < REMOVE_AT_MOST:
            with self.database.autocommit() as connection:
                keys = doomed(connection)
            if not keys:
                break
            went = remove_doomed(self.database, self.media, keys)
            removed += went
            if not went:  # the store is away
                break
        return removed

    def collect_orphans(self) -> int:
        """Look into the next folders of the store for blobs nobody owns, and doom those; how many."""
        place = self._place()
        if place is None:
            return 0
        root, after = place
        names = self.store.folders(root, after=after, limit=FOLDERS_AT_MOST)
        search = find_orphans(self.database, self.store, root, names)
        if search.suspicious:
            log.error("orphans_suspicious", root=root, folders=len(names), orphans=len(search.orphans))
        elif search.orphans:
            log.info("orphans_found", root=root, orphans=len(search.orphans))
            with self.database.transaction() as connection:
                doom(connection, search.orphans)
        self._remember(root, names)
        return 0 if search.suspicious else len(search.orphans)

    def _place(self) -> tuple[str, str] | None:
        """Where the search goes on: root and the last folder seen. None while it rests."""
        with self.database.autocommit() as connection:
            row = connection.execute(
                text(
                    "SELECT value, at < clock_timestamp() - make_interval(secs => :rest_s) AS rested"
                    " FROM marks WHERE name = 'orphans'"
                ),
                {"rest_s": SEARCH_EVERY_S},
            ).one_or_none()
        if row is not None and not row.value:
            return (ORPHAN_ROOTS[0], "") if row.rested else None
        root, _, after = row.value.partition(" ") if row else ("", "", "")
        return (root, after) if root in ORPHAN_ROOTS else (ORPHAN_ROOTS[0], "")

    def _remember(self, root: str, names: Sequence[str]) -> None:
        """Written after the work: a kill before it means looking at the same folders again."""
        if len(names) == FOLDERS_AT_MOST:
            value = f"{root} {names[-1]}"
        else:
            later = ORPHAN_ROOTS[ORPHAN_ROOTS.index(root) + 1 :]
            value = f"{later[0]} " if later else ""
        with self.database.autocommit() as connection:
            connection.execute(
                text(
                    "INSERT INTO marks (name, value) VALUES ('orphans', :value) ON CONFLICT (name)"
                    " DO UPDATE SET value = :value, at = clock_timestamp()"
                ),
                {"value": value},
            )
