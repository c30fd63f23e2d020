"""Deleting uploads, at their owner's request and when they expire: row and listing of the blob in one statement.

Orders hold copies of the uploads that they came with, so no job needs an upload once it is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from core.ids import is_id
from jobs.errors import UploadNotFoundError

_DELETE = text("""
WITH deleted AS (
    DELETE FROM uploads
    WHERE account_id = :account_id
        AND id IN (:id, (SELECT n.upload_id FROM upload_names AS n WHERE n.id = :id))
    RETURNING key
), listed AS (
    INSERT INTO doomed_blobs (key) SELECT key FROM deleted ON CONFLICT (key) DO NOTHING
)
SELECT key FROM deleted
""")

# A renewal locks the row for a moment and makes it stay: the condition is asked again under the lock.
_DELETE_EXPIRED = text("""
WITH old AS MATERIALIZED (
    SELECT id FROM uploads WHERE expires_at <= statement_timestamp() ORDER BY expires_at LIMIT :page
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM uploads WHERE id = ANY(ARRAY(SELECT id FROM old)) RETURNING key
), listed AS (
    INSERT INTO doomed_blobs (key) SELECT key FROM deleted ON CONFLICT (key) DO NOTHING
)
SELECT count(*) FROM deleted
""")

# A batch that goes on keeps its file.
_DELETE_EXPIRED_FILES = text("""
WITH old AS MATERIALIZED (
    SELECT id FROM files AS f WHERE expires_at <= statement_timestamp()
        AND NOT EXISTS (SELECT 1 FROM batches AS b WHERE b.input_file_id = f.id AND b.ended_at IS NULL)
    ORDER BY expires_at LIMIT :page FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM files WHERE id = ANY(ARRAY(SELECT id FROM old)) RETURNING id
)
SELECT count(*) FROM deleted
""")


def delete_upload(connection: Connection, account_id: str, upload_id: str) -> Sequence[str]:
    """Delete an upload of an account; the keys of blobs that are now to be deleted. Raises UploadNotFoundError."""
    keys: Sequence[str] = []
    if is_id(upload_id, "upl"):
        keys = connection.execute(_DELETE, {"account_id": account_id, "id": upload_id}).scalars().all()
    if not keys:
        raise UploadNotFoundError
    return keys


def delete_expired_uploads(connection: Connection, size: int) -> int:
    """Delete at most ``size`` expired uploads, longest expired first; how many were deleted."""
    return int(connection.execute(_DELETE_EXPIRED, {"page": size}).scalar_one())


def delete_expired_files(connection: Connection, size: int) -> int:
    """Delete at most ``size`` expired files of lines, longest expired first; how many were deleted."""
    return int(connection.execute(_DELETE_EXPIRED_FILES, {"page": size}).scalar_one())
