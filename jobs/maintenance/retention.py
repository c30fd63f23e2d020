"""How long bytes are kept: what expires, what a caller deletes, and blobs nobody owns.

Row first, bytes second: an image's row becomes a tombstone in the very transaction that puts its blob
on the list ``doomed_blobs``; the blob leaves the list when its bytes are gone. Whatever is killed in
between, the list says what is still to do. (Keeping goes the other way round, blob first: what is
killed in between leaves a blob without a row, and the search for orphans finds it.)

Rows of jobs, their events and the ledger are never deleted. A blob belongs to the job in its key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial

import structlog
from sqlalchemy import Connection, text

from core.db import Database
from core.ids import is_id
from jobs.dispatch import heartbeats
from jobs.errors import JobNotFoundError, NotEndedError
from jobs.maintenance.backlogs import Backlog, Done, drain
from storage.base import StorageUnavailableError, Store
from storage.media import Media
from storage.variants import source_of

log = structlog.get_logger(__name__)

# One round of the whole fleet, and how long it may work. What is left over is done in the next. The turn is another
# worker's after 54 s: the work, one more page of every backlog and the pauses fit in between.
EVERY_S = 60.0
WORK_S = 40.0
PAGE = 500
KEYS_PAGE = 2_000
FOLDERS_AT_MOST = 5_000
# Blobs deleted side by side: a bucket answers after tens of milliseconds.
DELETED_AT_ONCE = 16
# Longer than an idempotency key is honoured.
KEYS_KEPT_HOURS = 25
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
    """Why images were deleted, as the timeline says it."""

    EXPIRED = "expired"
    REQUESTED = "requested"
    LOST = "lost"


# ---------------------------------------------------------------- tombstones

# Arrays and not joins: whatever the planner knows of the tables, it looks by primary key.
_DELETE_IMAGES = text("""
WITH ended AS MATERIALIZED (
    SELECT id FROM jobs WHERE id = ANY(:ids) AND finished_at IS NOT NULL ORDER BY id FOR UPDATE SKIP LOCKED
), gone AS (
    UPDATE images SET deleted_at = clock_timestamp()
    WHERE job_id = ANY(ARRAY(SELECT id FROM ended)) AND deleted_at IS NULL
      AND (CAST(:keys AS text[]) IS NULL OR key = ANY(CAST(:keys AS text[])))
    RETURNING job_id, key
), doomed AS (
    INSERT INTO doomed_blobs (key) SELECT key FROM gone ON CONFLICT (key) DO NOTHING
), seen AS (
    UPDATE jobs SET version = version + 1 WHERE id = ANY(ARRAY(SELECT job_id FROM gone))
), told AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT job_id, 'pictures_deleted', jsonb_build_object('reason', CAST(:reason AS text), 'pictures', count(*))
    FROM gone GROUP BY job_id
)
SELECT key FROM gone
""")
_DELETE_INPUTS = text("""
WITH ended AS MATERIALIZED (
    SELECT id FROM jobs WHERE id = ANY(:ids) AND finished_at IS NOT NULL ORDER BY id FOR UPDATE SKIP LOCKED
), gone AS (
    UPDATE inputs SET deleted_at = clock_timestamp()
    WHERE job_id = ANY(ARRAY(SELECT id FROM ended)) AND deleted_at IS NULL
    RETURNING key
), doomed AS (
    INSERT INTO doomed_blobs (key) SELECT key FROM gone ON CONFLICT (key) DO NOTHING
)
SELECT key FROM gone
""")


def delete_images(
    connection: Connection, job_ids: Sequence[str], *, reason: Reason, keys: Sequence[str] | None = None
) -> list[str]:
    """Make the images of ended jobs tombstones; the keys whose bytes are to go. Live jobs are left alone.

    ``keys`` narrows it to some of the images. Jobs that somebody else holds are left for another round.
    """
    rows = connection.execute(
        _DELETE_IMAGES,
        {"ids": list(job_ids), "reason": str(reason), "keys": None if keys is None else list(keys)},
    )
    return [row.key for row in rows]


def delete_inputs(connection: Connection, job_ids: Sequence[str]) -> list[str]:
    """The same for the reference images that ended jobs came with."""
    return [row.key for row in connection.execute(_DELETE_INPUTS, {"ids": list(job_ids)})]


def delete_task(connection: Connection, account_id: str, job_id: str) -> list[str]:
    """The caller's wish: every image of a job gone, those it came with too. Idempotent.

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
    return delete_images(connection, [job_id], reason=Reason.REQUESTED) + delete_inputs(connection, [job_id])


# ---------------------------------------------------------------- what is old


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of what is older than the policy: the jobs to act on, and where the next page begins."""

    expired: Sequence[str]
    last_at: datetime | None  # None: nothing lies behind
    last_id: str = ""


# statement_timestamp and not clock_timestamp: only a stable bound can steer an index scan. A question per row and not
# a join: it stays a look by primary key however many jobs there are.
OLD_IMAGES = """
WITH page AS MATERIALIZED (
    SELECT created_at, job_id FROM images
    WHERE deleted_at IS NULL AND created_at < statement_timestamp() - make_interval(secs => :keep_s)
      AND (created_at, job_id) > (CAST(:after_at AS timestamptz), :after_id)
    ORDER BY created_at, job_id LIMIT :page
)
SELECT created_at, job_id, coalesce((
    SELECT j.finished_at < statement_timestamp() - make_interval(secs => :keep_s)
    FROM jobs AS j WHERE j.id = page.job_id), false) AS expired
FROM page ORDER BY created_at, job_id
"""
OLD_INPUTS = """
WITH page AS MATERIALIZED (
    SELECT created_at, job_id FROM inputs
    WHERE deleted_at IS NULL AND created_at < statement_timestamp() - make_interval(secs => :keep_s)
      AND (created_at, job_id) > (CAST(:after_at AS timestamptz), :after_id)
    ORDER BY created_at, job_id LIMIT :page
)
SELECT created_at, job_id, coalesce((
    SELECT j.finished_at < statement_timestamp() - make_interval(secs => :keep_s)
    FROM jobs AS j WHERE j.id = page.job_id), false) AS expired
FROM page ORDER BY created_at, job_id
"""


def old_page(
    connection: Connection, query: str, *, keep_s: float, after: Page | None = None, size: int | None = None
) -> Page:
    """One page of ``OLD_IMAGES`` or ``OLD_INPUTS``; live jobs in it are passed by, not waited for."""
    size = size or PAGE
    rows = connection.execute(
        text(query),
        {
            "keep_s": keep_s,
            "after_at": after.last_at if after else "-infinity",
            "after_id": after.last_id if after else "",
            "page": size,
        },
    ).all()
    expired = list(dict.fromkeys(row.job_id for row in rows if row.expired))
    if len(rows) < size:
        return Page(expired, None)
    return Page(expired, rows[-1].created_at, rows[-1].job_id)


# Literally ``keep_s IS NOT NULL``: that is the index. The cursor passes over what this round has just emptied.
_SHORT_LIVES = text("""
WITH due AS MATERIALIZED (
    SELECT id, finished_at FROM jobs
    WHERE keep_s IS NOT NULL AND finished_at >= CAST(:after_at AS timestamptz)
      AND finished_at <= statement_timestamp() AND finished_at <= statement_timestamp() - make_interval(secs => keep_s)
    ORDER BY finished_at LIMIT :page FOR UPDATE SKIP LOCKED
), ended AS (
    UPDATE jobs SET keep_s = NULL WHERE id = ANY(ARRAY(SELECT id FROM due))
)
SELECT array_agg(id) AS ids, max(finished_at) AS last_at FROM due
""")


def end_short_lives(
    connection: Connection, *, after: datetime | None = None, size: int | None = None
) -> tuple[int, datetime | None]:
    """Delete what jobs ordered with a short life (``store: false``) made and came with.

    How many jobs, and when the last of them ended: the next page begins there. ``keep_s`` goes with the
    images: the index on it stays as small as what is still to do.
    """
    due = connection.execute(_SHORT_LIVES, {"after_at": after or "-infinity", "page": size or PAGE}).one()
    ids = due.ids or []
    if ids:
        delete_images(connection, ids, reason=Reason.EXPIRED)
        delete_inputs(connection, ids)
    return len(ids), due.last_at


# By place in the table: a key locked by a submit that takes it over is passed by, and one that was not cannot move.
_OLD_KEYS = text("""
WITH old AS MATERIALIZED (
    SELECT ctid, created_at FROM idempotency_keys
    WHERE created_at >= CAST(:after_at AS timestamptz)
      AND created_at < statement_timestamp() - make_interval(hours => :hours)
    ORDER BY created_at LIMIT :page FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(SELECT ctid FROM old))
)
SELECT count(*) AS keys, max(created_at) AS last_at FROM old
""")


def drop_old_keys(
    connection: Connection, *, after: datetime | None = None, size: int | None = None
) -> tuple[int, datetime | None]:
    """Delete idempotency keys that are honoured no longer: how many, and where the next page begins."""
    old = connection.execute(
        _OLD_KEYS, {"after_at": after or "-infinity", "hours": KEYS_KEPT_HOURS, "page": size or KEYS_PAGE}
    ).one()
    return old.keys, old.last_at


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


_DOOMED = text("""
SELECT key, due_at FROM doomed_blobs
WHERE due_at >= CAST(:after_at AS timestamptz) AND due_at <= statement_timestamp()
  AND doomed_at <= statement_timestamp() - make_interval(secs => :since_s)
ORDER BY due_at LIMIT :page
""")


@dataclass(frozen=True, slots=True)
class Doomed:
    """Blobs whose bytes are to go; ``last_at`` is where the next page begins."""

    keys: Sequence[str]
    last_at: datetime | None


def doomed(
    connection: Connection, *, since_s: float = 0.0, after: datetime | None = None, size: int | None = None
) -> Doomed:
    """Blobs whose bytes are to go now, oldest first; those only that have been waiting for ``since_s``."""
    rows = connection.execute(
        _DOOMED, {"since_s": since_s, "after_at": after or "-infinity", "page": size or PAGE}
    ).all()
    return Doomed([row.key for row in rows], rows[-1].due_at if rows else None)


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
    left = list(keys)
    while left:
        # One by one until the store has shown that it is there, then side by side.
        count = 4 * DELETED_AT_ONCE if gone else 1
        some, left = left[:count], left[count:]
        went = _deleted(media, some)
        gone += went
        kept += [key for key in some if key not in went]
        if not went and len(kept) >= AWAY_AFTER:
            break
    with database.transaction() as connection:
        connection.execute(_STRUCK, {"keys": gone})
        connection.execute(_PUT_OFF, {"keys": kept, "s": AFTER_TROUBLE_S})
    return len(gone)


_STRUCK = text("DELETE FROM doomed_blobs WHERE key = ANY(:keys)")
_PUT_OFF = text("""
UPDATE doomed_blobs SET due_at = clock_timestamp() + make_interval(secs => :s) WHERE key = ANY(:keys)
""")


def _deleted(media: Media, keys: Sequence[str]) -> list[str]:
    """Delete these blobs side by side (greenlets in a worker); those that are gone."""
    if len(keys) == 1:
        return [key for key in keys if _delete(media, key)]
    with ThreadPoolExecutor(min(DELETED_AT_ONCE, len(keys))) as pool:
        return [key for key, gone in zip(keys, pool.map(partial(_delete, media), keys), strict=True) if gone]


def _delete(media: Media, key: str) -> bool:
    try:
        media.delete(key)
    except StorageUnavailableError as error:
        log.warning("blob_not_deleted", key=key, error=str(error))
        return False
    time.sleep(0)  # a disk is slow, and others share this thread
    return True


_POLICIES = ("short_lives", "images", "inputs")


def _expire_images(connection: Connection, job_ids: Sequence[str]) -> list[str]:
    return delete_images(connection, job_ids, reason=Reason.EXPIRED)


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
        backlogs = [*self.expiries(), self._orphans()]
        drain([*backlogs, self._bytes(backlogs)], seconds=WORK_S)
        if jobs := sum(backlog.done for backlog in backlogs if backlog.name in _POLICIES):
            log.info("pictures_expired", jobs=jobs)
        with self.database.autocommit() as connection:
            heartbeats.delete_silent(connection)
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

    def expire(self, *, seconds: float = WORK_S) -> int:
        """Make tombstones of what the policy keeps no longer; how many jobs lost something."""
        backlogs = self.expiries()
        drain(backlogs, seconds=seconds)
        return sum(backlog.done for backlog in backlogs if backlog.name in _POLICIES)

    def remove(self, *, seconds: float = WORK_S) -> int:
        """Delete the bytes behind tombstones; how many blobs went."""
        backlog = self._bytes()
        drain([backlog], seconds=seconds)
        return backlog.done

    def expiries(self) -> list[Backlog]:
        """What is expired row by row: short lives, old images, old inputs, idempotency keys."""
        backlogs = [self._short_lives()]
        if self.keep_pictures_days:
            backlogs.append(self._old("images", OLD_IMAGES, self.keep_pictures_days, _expire_images))
        if self.keep_inputs_days:
            backlogs.append(self._old("inputs", OLD_INPUTS, self.keep_inputs_days, delete_inputs))
        return [*backlogs, self._keys()]

    def _short_lives(self) -> Backlog:
        after: datetime | None = None

        def page(size: int) -> Done:
            nonlocal after
            with self.database.transaction() as connection:
                jobs, after = end_short_lives(connection, after=after, size=size)
            return Done(jobs, jobs == size)

        return Backlog("short_lives", page, PAGE)

    def _old(
        self, name: str, query: str, keep_days: float, delete: Callable[[Connection, Sequence[str]], list[str]]
    ) -> Backlog:
        after: Page | None = None

        def page(size: int) -> Done:
            nonlocal after
            with self.database.autocommit() as connection:
                found = old_page(connection, query, keep_s=keep_days * _DAY_S, after=after, size=size)
            if found.expired:
                with self.database.transaction() as connection:
                    delete(connection, found.expired)
            after = found
            return Done(len(found.expired), found.last_at is not None)

        return Backlog(name, page, PAGE)

    def _keys(self) -> Backlog:
        after: datetime | None = None

        def page(size: int) -> Done:
            nonlocal after
            with self.database.autocommit() as connection:
                keys, after = drop_old_keys(connection, after=after, size=size)
            return Done(keys, keys == size)

        return Backlog("idempotency_keys", page, KEYS_PAGE)

    def _bytes(self, sources: Sequence[Backlog] = ()) -> Backlog:
        """``sources`` put blobs on the list meanwhile: it is not empty before they are over."""
        after: datetime | None = None

        def page(size: int) -> Done:
            nonlocal after
            with self.database.autocommit() as connection:
                found = doomed(connection, after=after, size=size)
            went = remove_doomed(self.database, self.media, found.keys) if found.keys else 0
            after = found.last_at or after
            if found.keys and not went:  # the store is away
                return Done(0, more=False)
            return Done(went, len(found.keys) == size or not all(source.over for source in sources))

        return Backlog("bytes", page, PAGE)

    def _orphans(self) -> Backlog:
        return Backlog("orphans", lambda _: Done(self.collect_orphans(), more=False), 1)

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
