"""Deleting the images of a task at its owner's request."""

from __future__ import annotations

from contextlib import suppress

from core.db import Database
from core.errors import DatabaseAwayError
from jobs.maintenance import deletion
from storage.media import Media


def delete_images(database: Database, media: Media, account_id: str, job_id: str) -> None:
    """Delete every image of an ended task, those it came with too; nothing changes the second time.

    The rows are committed first. Bytes that cannot be deleted now are deleted by a later round of retention.
    Raises JobNotFoundError, NotEndedError, DatabaseAwayError.
    """
    with database.transaction() as connection:
        keys = deletion.delete_task(connection, account_id, job_id)
    if keys:
        with suppress(DatabaseAwayError):
            deletion.delete_blobs(database, media, keys)
