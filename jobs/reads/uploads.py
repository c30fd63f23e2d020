"""Reading uploads for their owners, always within one account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, text

from core.ids import is_id
from jobs.errors import UploadGoneError, UploadNotFoundError

# By which route it came: a file or a URL on our own, or a route of another service's.
Source = Literal["file", "url", "openai", "replicate", "fal"]


@dataclass(frozen=True, slots=True)
class Upload:
    """An image that a caller keeps here. ``sent_bytes`` and ``sent_sha256`` are those of the file that came, the other
    facts those of the image as kept."""

    id: str
    account_id: str
    key: str
    mime: str
    width_px: int
    height_px: int
    size_bytes: int
    sha256: str
    sent_bytes: int
    sent_sha256: str
    file_name: str
    source: Source
    purpose: str | None
    metadata: Mapping[str, Any]
    created_at: datetime
    expires_at: datetime | None  # None: never
    last_used_at: datetime | None


COLUMNS = (
    "u.id, u.account_id, u.key, u.mime, u.width_px, u.height_px, u.size_bytes, u.sha256, u.sent_bytes, u.sent_sha256,"
    " u.file_name, u.source, u.purpose, u.metadata, u.created_at, u.expires_at, u.last_used_at"
)

# By its own id, or by one that a link to upload to was made for.
_FIND = text(f"""
SELECT {COLUMNS}, coalesce(u.expires_at <= statement_timestamp(), false) AS expired
FROM uploads AS u
WHERE u.account_id = :account_id AND u.id IN (:id, (SELECT n.upload_id FROM upload_names AS n WHERE n.id = :id))
""")

_LIST = text(f"""
SELECT {COLUMNS} FROM uploads AS u
WHERE u.account_id = :account_id AND u.id < coalesce(CAST(:before_id AS text), 'v')
    AND (u.expires_at IS NULL OR u.expires_at > statement_timestamp())
ORDER BY u.account_id DESC, u.id DESC LIMIT :limit
""")

_USED = text("UPDATE uploads SET last_used_at = statement_timestamp() WHERE id = :id")


def upload_of(row: Any) -> Upload:
    """An upload from a row with :data:`COLUMNS`."""
    return Upload(**{name: row._mapping[name] for name in Upload.__slots__})


def find_upload(connection: Connection, account_id: str, upload_id: str) -> Upload:
    """Return an upload of an account. Raises UploadNotFoundError: unknown, deleted or another account's;
    UploadGoneError: expired."""
    row = None
    if is_id(upload_id, "upl"):
        row = connection.execute(_FIND, {"account_id": account_id, "id": upload_id}).one_or_none()
    if row is None:
        raise UploadNotFoundError
    if row.expired:
        raise UploadGoneError
    return upload_of(row)


def use_upload(connection: Connection, account_id: str, upload_id: str) -> Upload:
    """The same for an order, and note the use."""
    found = find_upload(connection, account_id, upload_id)
    connection.execute(_USED, {"id": found.id})
    return found


def list_uploads(connection: Connection, account_id: str, *, before_id: str | None, limit: int) -> list[Upload]:
    """Return at most ``limit`` uploads that have not expired, newest first, after ``before_id``."""
    rows = connection.execute(_LIST, {"account_id": account_id, "before_id": before_id, "limit": limit})
    return [upload_of(row) for row in rows]
