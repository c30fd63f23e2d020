"""Deleting images: the row first, the bytes second.

An image's row becomes a tombstone in the same transaction that lists its blob for deletion (the table
``doomed_blobs``); the blob leaves the list when its bytes are deleted. Wherever a process is killed, the list holds
what is still to do. (Storing an image goes the other way round, blob first: a kill in between leaves a blob without
a row, which ``jobs/maintenance/orphans.py`` finds.)

Rows of jobs, their events and the ledger are never deleted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial

import structlog
from sqlalchemy import Connection, text

from core.db import Database
from core.ids import is_id
from jobs.errors import JobNotFoundError, NotEndedError
from storage.base import StorageUnavailableError
from storage.media import Media

log = structlog.get_logger(__name__)

# Blobs deleted in parallel: a bucket answers after tens of milliseconds.
PARALLEL_DELETES = 16
RETRY_AFTER_S = 600.0
# The store counts as unreachable when so many blobs in a row could not be deleted.
UNREACHABLE_AFTER = 3


class Reason(StrEnum):
    """Why images were deleted, as the timeline says it."""

    EXPIRED = "expired"
    REQUESTED = "requested"
    LOST = "lost"


# ---------------------------------------------------------------- rows

# Arrays instead of joins: whatever the planner knows about the tables, it looks up primary keys.
_DELETE_IMAGES = text("""
WITH ended AS MATERIALIZED (
    SELECT id FROM jobs WHERE id = ANY(:ids) AND finished_at IS NOT NULL ORDER BY id FOR UPDATE SKIP LOCKED
), deleted AS (
    UPDATE images SET deleted_at = clock_timestamp()
    WHERE job_id = ANY(ARRAY(SELECT id FROM ended)) AND deleted_at IS NULL
      AND (CAST(:keys AS text[]) IS NULL OR key = ANY(CAST(:keys AS text[])))
    RETURNING job_id, key
), listed AS (
    INSERT INTO doomed_blobs (key) SELECT key FROM deleted ON CONFLICT (key) DO NOTHING
), answers AS (
    -- What the upstream said of an image may hold its prompt and a link to it.
    DELETE FROM call_answers WHERE CAST(:keys AS text[]) IS NULL AND call_id = ANY(ARRAY(
        SELECT c.id FROM upstream_calls AS c WHERE c.job_id = ANY(ARRAY(SELECT id FROM ended))
    ))
), new_version AS (
    UPDATE jobs SET version = version + 1 WHERE id = ANY(ARRAY(SELECT job_id FROM deleted))
), timeline AS (
    INSERT INTO job_events (job_id, type, data)
    SELECT job_id, 'pictures_deleted', jsonb_build_object('reason', CAST(:reason AS text), 'pictures', count(*))
    FROM deleted GROUP BY job_id
)
SELECT key FROM deleted
""")
_DELETE_INPUTS = text("""
WITH ended AS MATERIALIZED (
    SELECT id FROM jobs WHERE id = ANY(:ids) AND finished_at IS NOT NULL ORDER BY id FOR UPDATE SKIP LOCKED
), deleted AS (
    UPDATE inputs SET deleted_at = clock_timestamp()
    WHERE job_id = ANY(ARRAY(SELECT id FROM ended)) AND deleted_at IS NULL
    RETURNING key
), listed AS (
    INSERT INTO doomed_blobs (key) SELECT key FROM deleted ON CONFLICT (key) DO NOTHING
)
SELECT key FROM deleted
""")


def delete_images(
    connection: Connection, job_ids: Sequence[str], *, reason: Reason, keys: Sequence[str] | None = None
) -> list[str]:
    """Turn the image rows of ended jobs into tombstones and list their blobs for deletion.

    Live jobs are left alone; ended ones that another transaction has locked are left for the next round.
    ``keys`` narrows it to some of the images. Returns the keys of the blobs that are now to be deleted.
    """
    rows = connection.execute(
        _DELETE_IMAGES,
        {"ids": list(job_ids), "reason": str(reason), "keys": None if keys is None else list(keys)},
    )
    return [row.key for row in rows]


def delete_inputs(connection: Connection, job_ids: Sequence[str]) -> list[str]:
    """The same for the reference images of ended jobs."""
    return [row.key for row in connection.execute(_DELETE_INPUTS, {"ids": list(job_ids)})]


def delete_task(connection: Connection, account_id: str, job_id: str) -> list[str]:
    """A caller deletes a task: every image it made and every reference image it came with. Idempotent.

    Returns the keys of the blobs that are now to be deleted. Raises JobNotFoundError, NotEndedError.
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


# ---------------------------------------------------------------- the list of blobs to delete


@dataclass(frozen=True, slots=True)
class DueBlobs:
    """Blobs to delete now; ``last_at`` is where the next page begins."""

    keys: Sequence[str]
    last_at: datetime | None


_DUE_BLOBS = text("""
SELECT key, due_at FROM doomed_blobs
WHERE due_at >= CAST(:after_at AS timestamptz) AND due_at <= statement_timestamp()
ORDER BY due_at LIMIT :page
""")


def due_blobs(connection: Connection, *, after: datetime | None = None, size: int) -> DueBlobs:
    """At most ``size`` blobs whose bytes are to be deleted now, oldest first."""
    rows = connection.execute(_DUE_BLOBS, {"after_at": after or "-infinity", "page": size}).all()
    return DueBlobs([row.key for row in rows], rows[-1].due_at if rows else None)


def list_for_deletion(connection: Connection, keys: Sequence[str]) -> None:
    """List blobs that have no row for deletion."""
    connection.execute(_LIST, {"keys": list(keys)})


_LIST = text("""
INSERT INTO doomed_blobs (key) SELECT unnest(CAST(:keys AS text[]))
ON CONFLICT (key) DO UPDATE SET due_at = clock_timestamp()
""")


# ---------------------------------------------------------------- bytes


def delete_blobs(database: Database, media: Media, keys: Sequence[str]) -> int:
    """Delete the bytes of listed blobs and take those off the list; how many were deleted.

    What the store does not delete stays on the list for later. So does the rest once the store seems to be
    unreachable, because every further try could take half a minute.
    """
    deleted: list[str] = []
    failed: list[str] = []
    left = list(keys)
    while left:
        # One at a time until the store has answered, then in parallel.
        count = 4 * PARALLEL_DELETES if deleted else 1
        page, left = left[:count], left[count:]
        done = _deleted(media, page)
        deleted += done
        failed += [key for key in page if key not in done]
        if not done and len(failed) >= UNREACHABLE_AFTER:
            break
    with database.transaction() as connection:
        connection.execute(_OFF_THE_LIST, {"keys": deleted})
        connection.execute(_POSTPONE, {"keys": failed, "s": RETRY_AFTER_S})
    return len(deleted)


_OFF_THE_LIST = text("DELETE FROM doomed_blobs WHERE key = ANY(:keys)")
_POSTPONE = text("""
UPDATE doomed_blobs SET due_at = clock_timestamp() + make_interval(secs => :s) WHERE key = ANY(:keys)
""")


def _deleted(media: Media, keys: Sequence[str]) -> list[str]:
    """Delete these blobs in parallel (greenlets in a worker); those that were deleted."""
    if len(keys) == 1:
        return [key for key in keys if _delete(media, key)]
    with ThreadPoolExecutor(min(PARALLEL_DELETES, len(keys))) as pool:
        return [key for key, done in zip(keys, pool.map(partial(_delete, media), keys), strict=True) if done]


def _delete(media: Media, key: str) -> bool:
    try:
        media.delete(key)
    except StorageUnavailableError as error:
        log.warning("blob_not_deleted", key=key, error=str(error))
        return False
    time.sleep(0)  # a disk is slow, and other greenlets share this thread
    return True
