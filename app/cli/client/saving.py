"""Images between the server and the local disk: which name, whether it may be written, and how.

A file appears under its name only when it is complete and verified: it is written under another name, hashed, synced
and then renamed. What is bound to fail is found before an order is submitted, because an order costs credits.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.cli.client.answers import Image, Task
from app.cli.client.connection import Client
from app.cli.output import CommandError, Exit, from_os_error, size_text

CHUNK_BYTES = 64 * 1024
LOOKED_AT_BYTES = 16
DOWNLOAD_TRIES = 3
INDEX = "{index}"

# What file systems without hard links answer.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

_TYPE_BY_SUFFIX = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
}
# What the server converts an image to.
_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp", "image/avif": "avif"}

# Refusals that fetching again does not change.
_GONE = frozenset({"image_gone", "image_not_found", "not_found"})


@dataclass(frozen=True, slots=True)
class Saved:
    """A result on the disk; ``converted`` from the type that the task holds to the one that the file's name says."""

    image: Image
    path: Path
    size_bytes: int
    converted: bool


def target(pattern: Path | None, index: int, count: int) -> Path | None:
    """The file for an image: the name given, numbered where there are several; None if none was given."""
    if pattern is None or pattern.is_dir():
        return None
    if INDEX in pattern.name:
        return pattern.with_name(pattern.name.replace(INDEX, str(index)))
    return pattern if count == 1 else pattern.with_name(f"{pattern.stem}-{index}{pattern.suffix}")


def check_targets(pattern: Path | None, count: int, *, force: bool) -> None:
    """Find out before anything is charged that the images can be saved. Raises CommandError (exit 2)."""
    try:
        folder = Path() if pattern is None else pattern if pattern.is_dir() else pattern.parent
        if not folder.is_dir():
            raise CommandError(Exit.USAGE, "no_folder", f"there is no folder {folder}")
        # A file is made and removed: permissions alone do not tell of a full or read-only disk.
        probe = folder / _partial_name()
        probe.touch()
        probe.unlink()
        for index in range(count):
            path = target(pattern, index, count)
            if path is not None:
                _check_free(path, force=force)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CommandError(
            Exit.USAGE, "not_writable", f"{pattern or 'this folder'} cannot be written: {reason}"
        ) from error


def _partial_name() -> str:
    return f".{secrets.token_hex(6)}.part"


def _check_free(path: Path, *, force: bool) -> None:
    """Only a regular file is ever replaced: a rename would replace a device by an image."""
    if path.exists() and not path.is_file():
        raise CommandError(Exit.USAGE, "not_a_file", f"{path} is not a regular file, and is left as it is")
    if path.exists() and not force:
        raise _exists(path)


def save(client: Client, task: Task, pattern: Path | None, *, count: int, force: bool) -> Iterator[Saved]:
    """Fetch a task's results one after the other. Raises CommandError saying how to fetch them again."""
    for image in task.images:
        fallback = f"{task.id}-{image.index}.{image.extension}"
        folder = pattern if pattern and pattern.is_dir() else Path()
        path = target(pattern, image.index, count) or folder / fallback
        with _still_at_the_server(task):
            yield _fetch(client, task, image, path, force=force)


def misnamed(path: Path, image: Image) -> bool:
    """Whether a file's name promises another type than its image has."""
    return _TYPE_BY_SUFFIX.get(path.suffix.lower(), image.mime) != image.mime


@contextmanager
def _still_at_the_server(task: Task) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _with_hint(from_os_error(error), task) from error
    except CommandError as error:
        raise _with_hint(error, task) from error


def _with_hint(error: CommandError, task: Task) -> CommandError:
    if error.code in _GONE:
        return error
    hint = f"The image is made and paid for: `darkroom watch {task.id} -o FILE` fetches it."
    facts = {**error.facts, "task_id": task.id}
    return CommandError(Exit(error.exit_code), error.code, error.detail, hint=hint, facts=facts)


def _fetch(client: Client, task: Task, image: Image, path: Path, *, force: bool) -> Saved:
    wanted = _TYPE_BY_SUFFIX.get(path.suffix.lower())
    converting = _FORMATS.get(wanted or "") if misnamed(path, image) and image.pixels else None
    for tries_left in reversed(range(DOWNLOAD_TRIES)):
        try:
            with client.image(task.id, image.index, format=converting) as response:
                chunks = response.iter_content(CHUNK_BYTES)
                size_bytes = write_verified(path, chunks, None if converting else image, force=force)
        except CommandError as error:
            # A broken transfer or a damaged image may succeed the next time; a refusal or a full disk will not.
            if not tries_left or error.code not in ("server_away", "image_damaged"):
                raise
        else:
            return Saved(image, path, size_bytes, bool(converting))
    raise AssertionError("the last try returns or raises")


def write_verified(path: Path, chunks: Iterable[bytes], image: Image | None, *, force: bool) -> int:
    """Write a result under its name, complete and as the task describes it, or not at all; how many bytes.

    ``image`` None: a conversion, of which the task says nothing; it must look like an image.
    Raises CommandError (``image_damaged``, ``file_exists``) and OSError.
    """
    # A short name of our own: the requested one may already have the maximum length.
    partial = path.with_name(_partial_name())
    try:
        with partial.open("xb") as file:
            if image is None:
                _copy_converted(file, chunks)
            else:
                _copy_verified(file, chunks, image)
            size_bytes = file.tell()
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(partial, path, force=force)
    finally:
        partial.unlink(missing_ok=True)
    return size_bytes


def _copy_converted(file: BinaryIO, chunks: Iterable[bytes]) -> None:
    head = b""
    for chunk in chunks:
        head = head if len(head) >= LOOKED_AT_BYTES else head + chunk
        file.write(chunk)
    if not looks_like_image(head):
        raise _damaged("it is no image")


def _copy_verified(file: BinaryIO, chunks: Iterable[bytes], image: Image) -> None:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > image.size_bytes:
            raise _damaged(f"it is larger than {image.size_bytes} bytes")
        digest.update(chunk)
        file.write(chunk)
    if size != image.size_bytes:
        raise _damaged(f"{size} of {image.size_bytes} bytes arrived")
    if digest.hexdigest() != image.sha256:
        raise _damaged("its sha256 is another")


def _put_in_place(partial: Path, path: Path, *, force: bool) -> None:
    """Rename. A file that appeared meanwhile is replaced only with ``force``."""
    _check_free(path, force=force)
    if not force:
        try:
            os.link(partial, path)
        except FileExistsError:
            raise _exists(path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            return
    partial.replace(path)


def _exists(path: Path) -> CommandError:
    return CommandError(Exit.USAGE, "file_exists", f"{path} exists already", hint="--force replaces it.")


def _damaged(reason: str) -> CommandError:
    detail = f"the image that arrived is not the one the task describes: {reason}"
    return CommandError(Exit.FAILED, "image_damaged", detail)


# --- images to send --------------------------------------------------------------------------------


def read_image(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a local image. Raises CommandError when it is missing, too large or not an image."""
    try:
        size_bytes = path.stat().st_size
        if path.is_dir():
            raise CommandError(Exit.USAGE, "not_an_image", f"{path} is a folder")
        if size_bytes > max_bytes:
            limit = f"{size_text(size_bytes)}; at most {size_text(max_bytes)} may be sent"
            raise CommandError(Exit.USAGE, "file_too_large", f"{path} has {limit}")
        data = path.read_bytes()
    except OSError as error:
        raise CommandError(Exit.USAGE, "cannot_read", from_os_error(error).detail) from error
    if not looks_like_image(data):
        what = "is empty" if not data else "is not a PNG, JPEG, WebP, GIF or AVIF image"
        raise CommandError(Exit.USAGE, "not_an_image", f"{path} {what}")
    return data


def looks_like_image(data: bytes) -> bool:
    """Whether the first bytes are those of an image; the server checks the rest."""
    return (
        data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"))
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or (data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"))
    )
