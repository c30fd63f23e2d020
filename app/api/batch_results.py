"""What a batch made, written while it is sent: a page of lines is in memory, whatever the batch has."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator

from flask import Response

from app.http.held import BrokenOff
from app.http.responses import IN_PIECES
from app.image_bytes import CHUNK_BYTES, EXTENSIONS
from app.services import Services
from app.shapes.batch_json import error_of
from app.shapes.render import Renderer
from core.errors import UnavailableError
from core.wire import json_text
from jobs.reads import batches, tasks
from jobs.reads.batches import Batch, Line
from jobs.reads.tasks import Image, Task
from storage.base import BlobNotFoundError, StorageUnavailableError

PAGE = 100
# The directory at the end of a ZIP is in memory until then.
ZIP_LINES = 5_000
MAX_NAME_CHARS = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def as_lines(parts: Services, batch: Batch, shown: Renderer, first: int) -> Response:
    """Every line as JSON, one a line."""

    def pieces() -> Iterator[bytes]:
        for page in pages(parts, batch, first):
            yield b"".join(_result(batch, line, task, shown) for line, task in page)

    return _sent(pieces(), "application/jsonl", f"{batch.id}.jsonl")


def as_zip(parts: Services, batch: Batch, first: int) -> Response:
    """The images of at most ``ZIP_LINES`` lines, each as it is kept."""
    return _sent(_zipped(parts, batch, first), "application/zip", f"{batch.id}-{first}.zip")


def pages(parts: Services, batch: Batch, first: int) -> Iterator[list[tuple[Line, Task | None]]]:
    """The lines with their tasks, a page at a time. Raises BrokenOff once the database is away."""
    while True:
        try:
            lines = parts.connections.autocommit(batches.lines_page, batch.id, first=first, limit=PAGE)
            wanted = [(batch.account_id, line.job_id) for line in lines if line.job_id]
            found = parts.connections.autocommit(tasks.find_tasks, wanted)
        except UnavailableError:
            raise BrokenOff from None
        if not lines:
            return
        yield [(line, found.get((batch.account_id, line.job_id)) if line.job_id else None) for line in lines]
        first = lines[-1].line + 1


def _result(batch: Batch, line: Line, task: Task | None, shown: Renderer) -> bytes:
    """app.shapes.schemas.batches.BatchResult."""
    result = {
        "line": line.line,
        "custom_id": line.custom_id or None,
        "task": None if task is None else shown.task(task),
        "error": error_of(batch, line),
    }
    return json_text(result).encode() + b"\n"


class _Outlet:
    """What a ZIP is written to: it cannot be sought in, and what was written is taken away at once."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def taken(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data


def _zipped(parts: Services, batch: Batch, first: int) -> Iterator[bytes]:
    outlet = _Outlet()
    with zipfile.ZipFile(outlet, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for page in pages(parts, batch, first):
            for line, task in page:
                if line.line >= first + ZIP_LINES:
                    break
                for image in task.images if task else ():
                    yield from _entry(parts, archive, outlet, _name(line, image), image)
            else:
                continue
            break
    yield outlet.taken()


def _entry(parts: Services, archive: zipfile.ZipFile, outlet: _Outlet, name: str, image: Image) -> Iterator[bytes]:
    """One image; one that was deleted is left out. Raises BrokenOff where it cannot be read to its end."""
    if image.deleted_at is not None:
        return
    try:
        file = parts.store.open(image.key)
    except BlobNotFoundError:
        return
    except StorageUnavailableError:
        raise BrokenOff from None
    with file, archive.open(zipfile.ZipInfo(name), "w", force_zip64=image.size_bytes > 2**31) as entry:
        while True:
            try:
                chunk = file.read(CHUNK_BYTES)
            except (StorageUnavailableError, OSError):
                raise BrokenOff from None
            if not chunk:
                break
            entry.write(chunk)
            yield outlet.taken()


def _name(line: Line, image: Image) -> str:
    """Of our own numbers, and of the caller's name what is safe in a file's name."""
    own = _UNSAFE.sub("_", line.custom_id)[:MAX_NAME_CHARS].strip("_")
    middle = f"-{own}" if own else ""
    return f"{line.line:06d}{middle}-{image.index}.{EXTENSIONS.get(image.mime, 'bin')}"


def _sent(pieces: Iterator[bytes], media_type: str, name: str) -> Response:
    response = Response(pieces, content_type=media_type)
    response.headers.update(IN_PIECES)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
