"""Reading files of lines for their owners, always within one account."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, text

from core.db import Database
from core.ids import is_id
from jobs.errors import UploadGoneError, UploadNotFoundError

# What batches are ordered by; their results; their refusals and failures.
Kind = Literal["input", "output", "errors"]


@dataclass(frozen=True, slots=True)
class LinesFile:
    """A file of lines. ``batch_id``: of an output, whose results it is."""

    id: str
    account_id: str
    kind: Kind
    batch_id: str | None
    file_name: str
    size_bytes: int
    sha256: str
    lines: int
    created_at: datetime
    expires_at: datetime | None  # None: never


COLUMNS = (
    "f.id, f.account_id, f.kind, f.batch_id, f.file_name, f.size_bytes, f.sha256, f.lines, f.created_at, f.expires_at"
)

_FIND = text(f"""
SELECT {COLUMNS}, coalesce(f.expires_at <= statement_timestamp(), false) AS expired
FROM files AS f WHERE f.account_id = :account_id AND f.id = :id
""")

# 'g' sorts after every id.
_LIST = text(f"""
SELECT {COLUMNS} FROM files AS f
WHERE f.account_id = :account_id AND f.id < coalesce(CAST(:before_id AS text), 'g')
    AND (f.expires_at IS NULL OR f.expires_at > statement_timestamp())
    AND (CAST(:kinds AS text[]) IS NULL OR f.kind = ANY(CAST(:kinds AS text[])))
ORDER BY f.account_id DESC, f.id DESC LIMIT :limit
""")

_CHUNK = text("""
SELECT first_line, lines, data FROM file_chunks
WHERE file_id = :id AND first_line <= :line ORDER BY first_line DESC LIMIT 1
""")


def file_of(row: Any) -> LinesFile:
    """A file from a row with :data:`COLUMNS`."""
    return LinesFile(**{name: row._mapping[name] for name in LinesFile.__slots__})


def find_file(connection: Connection, account_id: str, file_id: str) -> LinesFile:
    """Return a file of an account. Raises UploadNotFoundError: unknown, deleted or another account's;
    UploadGoneError: expired."""
    row = None
    if is_id(file_id, "file"):
        row = connection.execute(_FIND, {"account_id": account_id, "id": file_id}).one_or_none()
    if row is None:
        raise UploadNotFoundError("there is no such file of yours")
    if row.expired:
        raise UploadGoneError("the file has expired; upload it again")
    return file_of(row)


def list_files(
    connection: Connection, account_id: str, *, before_id: str | None, limit: int, kinds: list[str] | None = None
) -> list[LinesFile]:
    """Return at most ``limit`` files that have not expired, newest first, after ``before_id``."""
    rows = connection.execute(_LIST, {"account_id": account_id, "before_id": before_id, "limit": limit, "kinds": kinds})
    return [file_of(row) for row in rows]


def lines_from(database: Database, file_id: str, line: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file from number ``line`` on, with their numbers; one chunk is in memory at a time.

    Raises DatabaseAwayError.
    """
    while True:
        with database.autocommit() as connection:
            row = connection.execute(_CHUNK, {"id": file_id, "line": line}).one_or_none()
        if row is None or row.first_line + row.lines <= line:
            return
        filled = (each for each in bytes(row.data).split(b"\n") if each.strip())
        for number, raw in enumerate(filled, start=row.first_line):
            if number >= line:
                yield number, raw
        line = row.first_line + row.lines


def chunks_of(database: Database, file_id: str) -> Iterator[bytes]:
    """Yield the bytes of an input file as it came, a chunk at a time. Raises DatabaseAwayError."""
    line = 0
    while True:
        with database.autocommit() as connection:
            row = connection.execute(_CHUNK, {"id": file_id, "line": line}).one_or_none()
        if row is None or row.first_line + row.lines <= line:
            return
        yield bytes(row.data)
        line = row.first_line + row.lines
