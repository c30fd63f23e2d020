"""Uploads: images that a caller keeps here once and orders with by their id.

The same bytes are the same upload within an account: sent again, they renew its expiry. An account keeps a limited
number of uploads and of bytes. The blob is written first and the row second, as for every image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from core.db import Database
from core.errors import DatabaseAwayError
from core.ids import new_id
from jobs.errors import TooManyUploadsError, UploadLinkUsedError
from jobs.reads.uploads import COLUMNS, Source, Upload, upload_of
from jobs.submission.references import References
from storage.base import StoredImage

DAY_S = 86_400
MAX_NAME_CHARS = 255


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What comes with the bytes. ``link_id``: the id that the link was made for by which they came; it becomes another
    id of the upload. ``expires_in_s``: the caller's own wish, heard where it is sooner than ours."""

    source: Source
    file_name: str = ""
    purpose: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_in_s: int | None = None
    link_id: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """An upload; ``known``: the account had these bytes before."""

    upload: Upload
    known: bool


@dataclass(frozen=True, slots=True)
class Uploads:
    """``keep_days``: how long an upload is kept that is not renewed, 0 for ever. ``max_count``, ``max_bytes``: of an
    account."""

    database: Database
    references: References
    keep_days: float
    max_count: int
    max_bytes: int

    @property
    def keep_s(self) -> int | None:
        return int(self.keep_days * DAY_S) or None

    def keep(self, account_id: str, data: bytes, new: NewUpload) -> Kept:
        """Verify and keep an image, or renew the upload of the same bytes.

        Raises MediaError, MediaBusyError, StorageUnavailableError, TooManyUploadsError, UploadLinkUsedError,
        DatabaseAwayError. Nothing is kept when it raises.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        with self.database.transaction() as connection:
            known = self._renew(connection, account_id, sha256, new)
            if known is None:
                self._check_room(connection, account_id, len(data))
        if known is not None:
            if self.references.store.exists(known.key):
                return Kept(known, known=True)
            with self.database.autocommit() as connection:  # its bytes are lost; these are as good
                connection.execute(_DELETE, {"id": known.id})
        upload_id = new_id("upl")
        stored = self.references.keep_upload(account_id, data, prefix=f"uploads/{upload_id}")
        try:
            kept = self._insert(account_id, upload_id, stored, new, sent=(len(data), sha256))
        except BaseException:
            # If the COMMIT happened although its answer was lost, there is a row. While that is unknown, both stay.
            with suppress(DatabaseAwayError):
                self._give_up(upload_id, stored)
            raise
        if kept.known:  # the same bytes came twice at the same time
            self.references.store.delete(stored.key)
        return kept

    def _give_up(self, upload_id: str, stored: StoredImage) -> None:
        with self.database.autocommit() as connection:
            connection.execute(_DELETE, {"id": upload_id})
        self.references.store.delete(stored.key)

    def _insert(
        self, account_id: str, upload_id: str, stored: StoredImage, new: NewUpload, *, sent: tuple[int, str]
    ) -> Kept:
        with self.database.transaction() as connection:
            self._check_room(connection, account_id, stored.size_bytes)
            known = self._renew(connection, account_id, sent[1], new)
            if known is not None:
                return Kept(known, known=True)
            row = connection.execute(
                _INSERT,
                {
                    "id": upload_id,
                    "account_id": account_id,
                    "key": stored.key,
                    "mime": stored.mime,
                    "width_px": stored.width_px,
                    "height_px": stored.height_px,
                    "size_bytes": stored.size_bytes,
                    "sha256": stored.sha256,
                    "sent_bytes": sent[0],
                    "sent_sha256": sent[1],
                    "file_name": new.file_name[:MAX_NAME_CHARS],
                    "source": new.source,
                    "purpose": new.purpose,
                    "metadata": json.dumps(dict(new.metadata)),
                    "keep_s": self._life_s(new),
                },
            ).one()
            _name(connection, new, upload_id)
        return Kept(upload_of(row), known=False)

    def _renew(self, connection: Connection, account_id: str, sha256: str, new: NewUpload) -> Upload | None:
        """The upload of the same bytes, its expiry no sooner than that of a new one; None where there is none."""
        row = connection.execute(
            _RENEW, {"account_id": account_id, "sha256": sha256, "keep_s": self._life_s(new)}
        ).one_or_none()
        if row is None:
            return None
        _name(connection, new, row.id)
        return upload_of(row)

    def _check_room(self, connection: Connection, account_id: str, more_bytes: int) -> None:
        check_room(connection, account_id, more_bytes, max_count=self.max_count, max_bytes=self.max_bytes)

    def _life_s(self, new: NewUpload) -> int | None:
        asked = [each for each in (new.expires_in_s, self.keep_s) if each is not None]
        return min(asked) if asked else None


def check_room(
    connection: Connection, account_id: str, more_bytes: int, *, max_count: int, max_bytes: int, counted: str = ""
) -> None:
    """Raises TooManyUploadsError where an account keeps too much: images and files of lines are counted together, those
    of one account one after the other. ``counted``: the id of what is to be kept, where its row is there already."""
    connection.execute(_LOCK, {"account_id": account_id})
    has = connection.execute(_COUNT, {"account_id": account_id, "counted": counted}).one()
    if has.number >= max_count:
        raise TooManyUploadsError(
            f"this account keeps {has.number} uploads, at most {max_count}; delete some, or let them expire"
        )
    if has.bytes + more_bytes > max_bytes:
        raise TooManyUploadsError(
            f"this account keeps {has.bytes} bytes of uploads and may keep {max_bytes}; delete some"
        )


def _name(connection: Connection, new: NewUpload, upload_id: str) -> None:
    """Give the upload the id that its link was made for, once: only the same bytes may come again, from a client that
    has not heard the answer. Raises UploadLinkUsedError."""
    if new.link_id is None:
        return
    named = connection.execute(_NAME, {"id": new.link_id, "upload_id": upload_id}).one_or_none()
    if named is None:
        raise UploadLinkUsedError("this link has been used; ask for another one")


_DELETE = text("DELETE FROM uploads WHERE id = :id")

_LOCK = text("SELECT 1 FROM accounts WHERE id = :account_id FOR NO KEY UPDATE")

_COUNT = text("""
SELECT count(*) AS number, CAST(coalesce(sum(size_bytes), 0) AS bigint) AS bytes FROM (
    SELECT size_bytes FROM uploads
    WHERE account_id = :account_id AND (expires_at IS NULL OR expires_at > statement_timestamp())
    UNION ALL
    SELECT size_bytes FROM files
    WHERE account_id = :account_id AND kind = 'input' AND id <> :counted
        AND (expires_at IS NULL OR expires_at > statement_timestamp())
) AS kept
""")

_RENEW = text(f"""
UPDATE uploads AS u
SET expires_at = CASE
    WHEN u.expires_at IS NOT NULL AND CAST(:keep_s AS float) IS NOT NULL
    THEN greatest(u.expires_at, clock_timestamp() + make_interval(secs => CAST(:keep_s AS float)))
END
WHERE u.account_id = :account_id AND u.sent_sha256 = :sha256
RETURNING {COLUMNS}
""")

_INSERT = text(f"""
INSERT INTO uploads AS u (id, account_id, key, mime, width_px, height_px, size_bytes, sha256, sent_bytes, sent_sha256,
    file_name, source, purpose, metadata, expires_at)
VALUES (:id, :account_id, :key, :mime, :width_px, :height_px, :size_bytes, :sha256, :sent_bytes, :sent_sha256,
    :file_name, :source, :purpose, CAST(:metadata AS jsonb),
    clock_timestamp() + make_interval(secs => CAST(:keep_s AS float)))
RETURNING {COLUMNS}
""")

_NAME = text("""
INSERT INTO upload_names (id, upload_id) VALUES (:id, :upload_id)
ON CONFLICT (id) DO UPDATE SET upload_id = excluded.upload_id WHERE upload_names.upload_id = excluded.upload_id
RETURNING id
""")
