"""Retention: what expires, and the round that deletes it.

Images and reference images expire some days after their job ended, those of jobs ordered with a short life after
seconds, uploads and files of lines when they say so, idempotency keys after a day, attempts of SDKs after an hour, the
log of callbacks, events of rules on abuse and refusals of screens after some days, and the trail of administrators when
the operator says so.
``jobs/maintenance/deletion.py`` and ``jobs/maintenance/uploads.py`` delete rows and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, TextClause, text

from accounts import trail
from core import key_values
from core.db import Database
from jobs.abuse import events as abuse_events
from jobs.abuse import tallies
from jobs.dispatch import heartbeats
from jobs.maintenance import deletion, orphans
from jobs.maintenance.backlogs import Backlog, Done, drain
from jobs.maintenance.deletion import Reason
from jobs.maintenance.uploads import delete_expired_files, delete_expired_uploads
from jobs.screening import refusals
from storage.base import Store
from storage.media import Media
from webhooks import messages

log = structlog.get_logger(__name__)

# One round of the whole fleet, and how long it may work; what is left is done in the next round. The turn passes to
# another worker after 54 s: the work, one more page of every backlog and the pauses fit into that time.
EVERY_S = 60.0
WORK_S = 40.0
# A little early, so that a worker's own timer does not miss every other turn.
TURN_EVERY_S = 0.9 * EVERY_S
PAGE = 500
KEYS_PAGE = 2_000
FILES_PAGE = 10  # each may have hundreds of rows
# Longer than an idempotency key is honoured, and than a retry finds its first attempt.
KEYS_KEPT_HOURS = 25
ATTEMPTS_KEPT_HOURS = 1

_DAY_S = 86_400.0


# ---------------------------------------------------------------- old images and reference images


@dataclass(frozen=True, slots=True)
class Page:
    """A page of what is older than the policy: the jobs to act on, and where the next page begins."""

    expired: Sequence[str]
    last_at: datetime | None  # None: this is the last page
    last_id: str = ""


# statement_timestamp instead of clock_timestamp: only a stable bound can steer an index scan. A subquery for each row
# instead of a join: it stays a lookup by primary key however many jobs there are.
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


def old_page(connection: Connection, query: str, *, keep_s: float, after: Page | None, size: int) -> Page:
    """One page of ``OLD_IMAGES`` or ``OLD_INPUTS``; live jobs in it are skipped, not waited for."""
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


# ---------------------------------------------------------------- short lives

# ``keep_s IS NOT NULL`` word for word: that is the index's condition. The cursor skips what this round has just
# emptied.
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


def delete_short_lived(connection: Connection, *, after: datetime | None, size: int) -> tuple[int, datetime | None]:
    """Delete the images and reference images of jobs that were ordered with a short life (``store: false``).

    Returns how many jobs, and when the last of them ended: the next page begins there. ``keep_s`` is cleared with
    the images, so the index on it stays as small as what is still to do.
    """
    due = connection.execute(_SHORT_LIVES, {"after_at": after or "-infinity", "page": size}).one()
    ids = due.ids or []
    if ids:
        deletion.delete_images(connection, ids, reason=Reason.EXPIRED)
        deletion.delete_inputs(connection, ids)
    return len(ids), due.last_at


# ---------------------------------------------------------------- repeats of submits


def _old_rows(table: str, hours: int) -> TextClause:
    """By place in the table: a row that a submit has locked to take it over is skipped, and an unlocked one cannot
    move."""
    return text(f"""
WITH old AS MATERIALIZED (
    SELECT ctid, created_at FROM {table}
    WHERE created_at >= CAST(:after_at AS timestamptz)
      AND created_at < statement_timestamp() - make_interval(hours => {hours})
    ORDER BY created_at LIMIT :page FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM old))
)
SELECT count(*) AS rows, max(created_at) AS last_at FROM old
""")


# By the backlog's name, which is the table's.
_OLD_REPEATS = {
    "idempotency_keys": _old_rows("idempotency_keys", KEYS_KEPT_HOURS),
    "sdk_attempts": _old_rows("sdk_attempts", ATTEMPTS_KEPT_HOURS),
}


def delete_old_repeats(
    connection: Connection, table: str, *, after: datetime | None, size: int
) -> tuple[int, datetime | None]:
    """Delete idempotency keys, or attempts of SDKs, that no repeat finds any more: how many, and where the next page
    begins."""
    old = connection.execute(_OLD_REPEATS[table], {"after_at": after or "-infinity", "page": size}).one()
    return old.rows, old.last_at


# ---------------------------------------------------------------- upstreams' own answers

_OLD_ANSWERS = text("""
WITH old AS MATERIALIZED (
    SELECT call_id FROM call_answers WHERE answered_at < statement_timestamp() - make_interval(secs => :keep_s)
    ORDER BY answered_at LIMIT :page FOR UPDATE SKIP LOCKED
)
DELETE FROM call_answers WHERE call_id = ANY(ARRAY(SELECT call_id FROM old)) RETURNING 1
""")


def delete_old_answers(connection: Connection, *, keep_s: float, size: int) -> int:
    """Delete the upstreams' own answers that are older than that; how many."""
    return len(connection.execute(_OLD_ANSWERS, {"keep_s": keep_s, "page": size}).all())


# ---------------------------------------------------------------- the round

# Backlogs whose rows are jobs that lost images.
OF_JOBS = ("short_lives", "images", "inputs")


def _delete_expired_images(connection: Connection, job_ids: Sequence[str]) -> list[str]:
    return deletion.delete_images(connection, job_ids, reason=Reason.EXPIRED)


def _delete_expired_inputs(connection: Connection, job_ids: Sequence[str]) -> list[str]:
    return deletion.delete_inputs(connection, job_ids)


@dataclass(frozen=True)
class Retention:
    """Runs one round a minute for the whole fleet, on the worker that takes the turn.

    Every part may be killed at any point and is safe to run twice at the same time; the turn only saves work, and
    unlike a lock it needs no connection. ``keep_..._days`` 0: forever. Raises DatabaseAwayError where a method asks
    the database outside a backlog, and StorageUnavailableError.
    """

    owner: str
    database: Database
    media: Media
    store: Store
    keep_images_days: float
    keep_inputs_days: float
    keep_deliveries_days: float = 0.0
    keep_admin_actions_days: float = 0.0
    keep_abuse_events_days: float = 0.0
    keep_refusals_days: float = 0.0

    def delete_expired(self) -> bool:
        """One round; False when it is not due, or another worker has taken it."""
        with self.database.autocommit() as connection:
            if not key_values.take_turn(connection, "retention", every_s=TURN_EVERY_S, value=self.owner):
                return False
        backlogs = [*self.expiry_backlogs(), self._orphan_backlog()]
        drain([*backlogs, self._blob_backlog(backlogs)], seconds=WORK_S)
        if jobs := sum(backlog.done for backlog in backlogs if backlog.name in OF_JOBS):
            log.info("pictures_expired", jobs=jobs)
        with self.database.autocommit() as connection:
            heartbeats.delete_silent(connection)
        self.media.sweep()
        return True

    def delete_listed_blobs(self, *, seconds: float = WORK_S) -> int:
        """Delete the bytes behind tombstones; how many blobs were deleted."""
        backlog = self._blob_backlog()
        drain([backlog], seconds=seconds)
        return backlog.done

    def expiry_backlogs(self) -> list[Backlog]:
        """What expires row by row: short lives, old images, answers and reference images, uploads, files of lines,
        log entries, idempotency keys, attempts."""
        backlogs = [self._short_life_backlog()]
        if self.keep_images_days:
            backlogs.append(self._old_backlog("images", OLD_IMAGES, self.keep_images_days, _delete_expired_images))
            backlogs.append(self._answer_backlog(self.keep_images_days * _DAY_S))
        if self.keep_inputs_days:
            backlogs.append(self._old_backlog("inputs", OLD_INPUTS, self.keep_inputs_days, _delete_expired_inputs))
        if self.keep_deliveries_days:
            backlogs.append(self._delivery_backlog())
        if self.keep_admin_actions_days:
            backlogs.append(self._trail_backlog(self.keep_admin_actions_days * _DAY_S))
        if self.keep_abuse_events_days:
            backlogs.append(self._abuse_backlog(self.keep_abuse_events_days * _DAY_S))
        if self.keep_refusals_days:
            backlogs.append(self._refusal_backlog(self.keep_refusals_days * _DAY_S))
        backlogs += [self._upload_backlog(), self._file_backlog(), self._tally_backlog()]
        return [*backlogs, *map(self._repeat_backlog, _OLD_REPEATS)]

    def _short_life_backlog(self) -> Backlog:
        after: datetime | None = None

        def page(size: int) -> Done:
            nonlocal after
            with self.database.transaction() as connection:
                jobs, after = delete_short_lived(connection, after=after, size=size)
            return Done(jobs, jobs == size)

        return Backlog("short_lives", page, PAGE)

    def _old_backlog(
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

    def _delivery_backlog(self) -> Backlog:
        after: datetime | None = None

        def page(size: int) -> Done:
            nonlocal after
            keep_s = self.keep_deliveries_days * _DAY_S
            with self.database.autocommit() as connection:
                entries, after = messages.delete_old(connection, keep_s=keep_s, after=after, size=size)
            return Done(entries, entries == size)

        return Backlog("deliveries", page, KEYS_PAGE)

    def _upload_backlog(self) -> Backlog:
        def page(size: int) -> Done:
            with self.database.transaction() as connection:
                deleted = delete_expired_uploads(connection, size)
            return Done(deleted, deleted == size)

        return Backlog("uploads", page, PAGE)

    def _file_backlog(self) -> Backlog:
        def page(size: int) -> Done:
            with self.database.transaction() as connection:
                deleted = delete_expired_files(connection, size)
            return Done(deleted, deleted == size)

        return Backlog("files", page, FILES_PAGE)

    def _repeat_backlog(self, table: str) -> Backlog:
        after: datetime | None = None

        def page(size: int) -> Done:
            nonlocal after
            with self.database.autocommit() as connection:
                rows, after = delete_old_repeats(connection, table, after=after, size=size)
            return Done(rows, rows == size)

        return Backlog(table, page, KEYS_PAGE)

    def _answer_backlog(self, keep_s: float) -> Backlog:
        def page(size: int) -> Done:
            with self.database.transaction() as connection:
                answers = delete_old_answers(connection, keep_s=keep_s, size=size)
            return Done(answers, answers == size)

        return Backlog("answers", page, PAGE)

    def _trail_backlog(self, keep_s: float) -> Backlog:
        def page(size: int) -> Done:
            with self.database.autocommit() as connection:
                entries = trail.delete_old(connection, keep_s=keep_s, size=size)
            return Done(entries, entries == size)

        return Backlog("admin_actions", page, KEYS_PAGE)

    def _abuse_backlog(self, keep_s: float) -> Backlog:
        def page(size: int) -> Done:
            with self.database.autocommit() as connection:
                events = abuse_events.delete_old(connection, keep_s=keep_s, size=size)
            return Done(events, events == size)

        return Backlog("abuse_events", page, KEYS_PAGE)

    def _tally_backlog(self) -> Backlog:
        def page(size: int) -> Done:
            with self.database.autocommit() as connection:
                rows = tallies.delete_old(connection, size=size)
            return Done(rows, rows == size)

        return Backlog("abuse_tallies", page, KEYS_PAGE)

    def _refusal_backlog(self, keep_s: float) -> Backlog:
        def page(size: int) -> Done:
            with self.database.autocommit() as connection:
                rows = refusals.delete_old(connection, keep_s=keep_s, size=size)
            return Done(rows, rows == size)

        return Backlog("screening_refusals", page, KEYS_PAGE)

    def _blob_backlog(self, sources: Sequence[Backlog] = ()) -> Backlog:
        """``sources`` add to the list meanwhile: it is not empty before they have ended."""
        after: datetime | None = None

        def page(size: int) -> Done:
            nonlocal after
            with self.database.autocommit() as connection:
                due = deletion.due_blobs(connection, after=after, size=size)
            deleted = deletion.delete_blobs(self.database, self.media, due.keys) if due.keys else 0
            after = due.last_at or after
            if due.keys and not deleted:  # the store is unreachable
                return Done(0, more=False)
            return Done(deleted, len(due.keys) == size or not all(source.over for source in sources))

        return Backlog("bytes", page, PAGE)

    def _orphan_backlog(self) -> Backlog:
        return Backlog("orphans", lambda _: Done(orphans.list_next_slice(self.database, self.store), more=False), 1)
