"""Deleting the images of a task, or an upload, at its owner's request."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from core.db import Database
from core.errors import DatabaseAwayError
from jobs.maintenance import deletion, uploads
from storage.media import Media


def delete_images(database: Database, media: Media, account_id: str, job_id: str) -> None:
    """Delete every image of an ended task, those it came with too; nothing changes the second time.

    The rows are committed first. Bytes that cannot be deleted now are deleted by a later round of retention.
    Raises JobNotFoundError, NotEndedError, DatabaseAwayError.
    """
    with database.transaction() as connection:
        keys = deletion.delete_task(connection, account_id, job_id)
    _delete_now(database, media, keys)


def delete_upload(database: Database, media: Media, account_id: str, upload_id: str) -> None:
    """Delete an upload, as above. Raises UploadNotFoundError, DatabaseAwayError."""
    with database.transaction() as connection:
        keys = uploads.delete_upload(connection, account_id, upload_id)
    _delete_now(database, media, keys)


def _delete_now(database: Database, media: Media, keys: Sequence[str]) -> None:
    if keys:
        with suppress(DatabaseAwayError):
            deletion.delete_blobs(database, media, keys)
