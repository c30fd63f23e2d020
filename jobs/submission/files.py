"""Keeping a file of lines: it goes from the request into the database a chunk at a time, never in memory whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from sqlalchemy import Connection, text

from core.db import Database
from core.ids import new_id
from jobs.errors import FileInUseError, LinesFileError, UploadNotFoundError
from jobs.reads.files import COLUMNS, LinesFile, file_of
from jobs.submission.uploads import MAX_NAME_CHARS, check_room

CHUNK_BYTES = 256 * 1024
READ_BYTES = 64 * 1024
MAX_LINES = 100_000
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines: ``lines`` of them are not blank."""

    first_line: int
    lines: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Files:
    """Keeps files of lines.

    ``max_bytes``: of one file. ``max_line_bytes``: of one line of it. ``keep_days``: how long it is kept, 0 for ever.
    ``max_count``, ``max_kept_bytes``: what an account may keep here, its uploads included.
    """

    database: Database
    max_bytes: int
    max_line_bytes: int
    keep_days: float
    max_count: int
    max_kept_bytes: int

    def keep(
        self,
        account_id: str,
        stream: IO[bytes],
        *,
        name: str = "",
        expires_in_s: int | None = None,
        max_lines: int = MAX_LINES,
    ) -> LinesFile:
        """Keep what a stream has to its end. Raises LinesFileError for what is no file of lines, or too much of one;
        TooManyUploadsError, DatabaseAwayError. Nothing is kept when it raises."""
        asked = [each for each in (expires_in_s, int(self.keep_days * DAY_S) or None) if each is not None]
        digest = hashlib.sha256()
        size, lines, file_id = 0, 0, new_id("file")
        with self.database.transaction() as connection:
            values = {
                "id": file_id,
                "account_id": account_id,
                "file_name": name[:MAX_NAME_CHARS] or f"{file_id}.jsonl",
                "keep_s": min(asked) if asked else None,
            }
            connection.execute(_INSERT, values)
            for chunk in self._chunks(stream, max_lines):
                digest.update(chunk.data)
                size, lines = size + len(chunk.data), lines + chunk.lines
                connection.execute(
                    _CHUNK,
                    {"id": file_id, "first_line": chunk.first_line, "lines": chunk.lines, "data": chunk.data},
                )
            if not lines:
                raise LinesFileError("required", "there are no lines")
            check_room(
                connection, account_id, size, max_count=self.max_count, max_bytes=self.max_kept_bytes, counted=file_id
            )
            row = connection.execute(
                _FILLED, {"id": file_id, "size_bytes": size, "lines": lines, "sha256": digest.hexdigest()}
            ).one()
        return file_of(row)

    def _chunks(self, stream: IO[bytes], max_lines: int) -> Iterator[Chunk]:
        """The stream in chunks that end where a line ends."""
        held, seen, first = b"", 0, 0
        while True:
            piece = stream.read(READ_BYTES)
            seen += len(piece)
            if seen > self.max_bytes:
                raise LinesFileError("too_long", f"the file is larger than {self.max_bytes} bytes")
            held += piece
            if piece and len(held) < CHUNK_BYTES:
                continue
            end = held.rfind(b"\n") + 1 if piece else len(held)
            if end:
                data, held = held[:end], held[end:]
                lines = sum(1 for line in data.split(b"\n") if line.strip())
                self._check_lines(data, first, lines, max_lines)
                if lines:
                    yield Chunk(first, lines, data)
                first += lines
            if len(held) > self.max_line_bytes:
                raise self._too_long(first + 1)
            if not piece:
                return

    def _check_lines(self, data: bytes, first: int, lines: int, max_lines: int) -> None:
        if first + lines > max_lines:
            raise LinesFileError("too_many", f"there are more than {max_lines} lines")
        if len(data) > self.max_line_bytes and max(map(len, data.split(b"\n"))) > self.max_line_bytes:
            raise self._too_long(first + 1)

    def _too_long(self, line: int) -> LinesFileError:
        return LinesFileError(
            "line_too_long", f"line {line} or one soon after is longer than {self.max_line_bytes} bytes"
        )


def delete_file(connection: Connection, account_id: str, file_id: str) -> None:
    """Delete a file of an account. Raises UploadNotFoundError; FileInUseError while a batch is ordered by it."""
    row = connection.execute(_DELETE, {"account_id": account_id, "id": file_id}).one()
    if row.deleted:
        return
    if row.used:
        raise FileInUseError("a batch that goes on is ordered by this file; cancel it first")
    raise UploadNotFoundError("there is no such file of yours")


_INSERT = text("""
INSERT INTO files (id, account_id, kind, file_name, size_bytes, sha256, lines, expires_at)
VALUES (:id, :account_id, 'input', :file_name, 0, '', 0,
    clock_timestamp() + make_interval(secs => CAST(:keep_s AS float)))
""")

_CHUNK = text("INSERT INTO file_chunks (file_id, first_line, lines, data) VALUES (:id, :first_line, :lines, :data)")

_FILLED = text(f"""
UPDATE files AS f SET size_bytes = :size_bytes, lines = :lines, sha256 = :sha256 WHERE f.id = :id RETURNING {COLUMNS}
""")

# A file that a live batch reads is left, and so is its row locked: a batch takes it by the same lock.
_DELETE = text("""
WITH found AS (
    SELECT id FROM files WHERE account_id = :account_id AND id = :id FOR UPDATE
), used AS (
    SELECT 1 FROM batches WHERE input_file_id = :id AND ended_at IS NULL LIMIT 1
), deleted AS (
    DELETE FROM files WHERE id IN (SELECT id FROM found) AND NOT EXISTS (SELECT 1 FROM used) RETURNING id
)
SELECT (SELECT count(*) FROM deleted) AS deleted,
    EXISTS (SELECT 1 FROM found) AND EXISTS (SELECT 1 FROM used) AS used
""")
