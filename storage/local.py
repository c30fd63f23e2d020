"""The store on local disk: a folder only its owner can enter.

A write is write, fsync, rename, fsync of the folder, so that a blob is complete and durable or not
there at all. Folders on the path are opened one by one without following symbolic links: no key and no
link inside can lead out of the root.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from storage.base import BlobNotFoundError, StorageUnavailableError
from storage.keys import check_key, folder_order, is_key

STAGING = ".staging"
STAGING_AGE_S = 3600.0

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# ELOOP and ENOTDIR: a link or a file where a folder or a blob should be.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# A folder emptied by delete() may vanish under a writer on its way into it.
_PUT_TRIES = 5
_NAMES_AT_A_TIME = 1000


def new_staging_file(folder: str) -> str:
    """Path of a new empty file that only we can read. Raises StorageUnavailableError."""
    with _as_storage_errors("make a file"):
        descriptor, path = tempfile.mkstemp(dir=folder)
        os.close(descriptor)
    return path


def write_staging_file(folder: str, data: bytes) -> str:
    """Path of a new file with ``data``, not yet durable. No file stays when it raises."""
    path = new_staging_file(folder)
    try:
        with _as_storage_errors("write"), Path(path).open("wb") as file:
            file.write(data)
    except StorageUnavailableError:
        Path(path).unlink(missing_ok=True)
        raise
    return path


def sweep_folder(folder: Path) -> int:
    """Remove what killed writers left in a staging folder; the number of files removed."""
    removed = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            about = path.lstat()
            if stat.S_ISREG(about.st_mode) and about.st_mtime <= time.time() - STAGING_AGE_S:
                path.unlink()
                removed += 1
    return removed


class LocalStore:
    """Blobs as files below ``root``, folders 0700, files 0600. Safe to use from many processes at once."""

    def __init__(self, root: Path) -> None:
        """Raises StorageUnavailableError when the folder cannot be made."""
        with _as_storage_errors("open the folder"):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root = root.resolve()
            self.staging = self.root / STAGING
            self.staging.mkdir(mode=0o700, exist_ok=True)

    def put_file(self, path: str, key: str) -> None:
        """Keep the file at ``path`` under ``key``, moving it; afterwards it is no longer there, stored or not.

        Two writers of one new key at the same moment: the later one wins. Keys end in a hash of the
        content or name one derivation of it, so both hold the same image.
        """
        check_key(key)
        try:
            with _as_storage_errors("write"):
                self._put(path, key)
        finally:
            Path(path).unlink(missing_ok=True)

    def copy(self, key: str, target: str) -> None:
        """Keep the blob ``key`` under ``target`` as well: by a second link to its bytes, which never change, or as a
        file of its own where the disk has no links. Raises BlobNotFoundError, StorageUnavailableError."""
        check_key(target)
        with self.open(key) as blob:
            path = new_staging_file(str(self.staging))
            try:
                with _as_storage_errors("write"):
                    if not self._linked(key, path):
                        with Path(path).open("wb") as file:
                            shutil.copyfileobj(blob, file)
                    self._put(path, target)
            finally:
                Path(path).unlink(missing_ok=True)

    def _linked(self, key: str, path: str) -> bool:
        """Put a link to the blob in the place of the file ``path``; False where the disk, or the blob's owner, does
        not let us. The blob counts as written now: no search for orphans may take the link for an old one's."""
        try:
            with self._folder_of(key) as (folder, name):
                os.utime(name, dir_fd=folder, follow_symlinks=False)
                Path(path).unlink()
                os.link(name, path, src_dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _put(self, path: str, key: str) -> None:
        with self._on_this_disk(path) as source:
            source_fd = os.open(source, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(source_fd, 0o600)
                os.fsync(source_fd)
            finally:
                os.close(source_fd)
            for _ in range(_PUT_TRIES - 1):
                with contextlib.suppress(FileNotFoundError):
                    self._settle(source, key)
                    return
            self._settle(source, key)

    def _settle(self, source: str, key: str) -> None:
        with self._folder_of(key, make=True) as (folder, name):
            if not _is_blob(folder, name):
                os.rename(source, name, dst_dir_fd=folder)
            # Also for a blob that is there: its writer may not have come this far yet.
            os.fsync(folder)

    @contextlib.contextmanager
    def _on_this_disk(self, path: str) -> Iterator[str]:
        """``path``, or a copy in our own staging folder when a rename could not reach us from there."""
        if _device(Path(path)) == _device(self.root):
            yield path
            return
        copy = new_staging_file(str(self.staging))
        try:
            shutil.copyfile(path, copy)
            yield copy
        finally:
            Path(copy).unlink(missing_ok=True)

    def open(self, key: str) -> BinaryIO:
        """The blob for reading. Raises BlobNotFoundError, StorageUnavailableError."""
        check_key(key)
        with _as_storage_errors("read", absent=key), self._folder_of(key) as (folder, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise BlobNotFoundError(key)
            return os.fdopen(descriptor, "rb")

    def read(self, key: str) -> bytes:
        """The whole blob. Raises BlobNotFoundError, StorageUnavailableError."""
        with self.open(key) as blob, _as_storage_errors("read"):
            return blob.read()

    def exists(self, key: str) -> bool:
        """Raises StorageUnavailableError when that cannot be known."""
        check_key(key)
        try:
            with _as_storage_errors("look", absent=key), self._folder_of(key) as (folder, name):
                return _is_blob(folder, name)
        except BlobNotFoundError:
            return False

    def delete(self, key: str) -> None:
        """Remove the blob and the folders it leaves empty. Idempotent. Raises StorageUnavailableError."""
        check_key(key)
        with contextlib.suppress(BlobNotFoundError), _as_storage_errors("delete", absent=key):
            with self._folder_of(key) as (folder, name):
                os.unlink(name, dir_fd=folder)
            self._prune(key)

    def _prune(self, key: str) -> None:
        parent, _, _ = key.rpartition("/")
        while parent:
            try:
                with self._folder_of(parent) as (folder, name):
                    os.rmdir(name, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    return
                raise
            parent, _, _ = parent.rpartition("/")

    def iter_keys(self, prefix: str = "", *, older_than_s: float = 0.0) -> Iterator[str]:
        """Keys starting with ``prefix`` and last written at least ``older_than_s`` ago.

        Links are not followed. Raises ValueError when the folders in ``prefix`` could not be part of a key.
        """
        parent = prefix.rpartition("/")[0]
        if parent:
            check_key(parent)
        top = self.root / parent
        if top.resolve() != top:
            return
        written_before = time.time() - older_than_s
        for folder, _, names in os.walk(top, onerror=_unless_gone):
            inside = Path(folder).relative_to(self.root).as_posix()
            for name in names:
                key = name if inside == "." else f"{inside}/{name}"
                if key.startswith(prefix) and is_key(key) and _written_at(folder, name) <= written_before:
                    yield key

    def folders(self, parent: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Names of the folders in ``parent``, as ``Store.folders`` says. Links are not followed.

        Reads every name in ``parent`` but holds no more than ``limit``, and lets other greenlets run meanwhile.
        """
        top = self.root / check_key(parent)
        if top.resolve() != top:
            return []
        try:
            with os.scandir(top) as entries:
                return heapq.nsmallest(limit, _folder_names(entries, after), key=folder_order)
        except OSError as error:
            _unless_gone(error)
            return []

    def iter_folders(self, parent: str, names: Sequence[str], *, older_than_s: float = 0.0) -> Iterator[str]:
        """The keys in some folders, one folder after the other."""
        for name in names:
            yield from self.iter_keys(f"{parent}/{name}/", older_than_s=older_than_s)
            time.sleep(0)  # a disk is slow, and other greenlets share this thread

    def link(self, key: str, *, content_type: str, disposition: str) -> None:
        """None: no client can reach a file of ours."""

    def check(self) -> None:
        """Raise StorageUnavailableError when a write would fail.

        Without fsync, because this runs in the event loop of the web process: a full, read-only or
        removed disk shows without it.
        """
        Path(write_staging_file(str(self.staging), b"\0" * 4096)).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _folder_of(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """An open descriptor of the folder that holds ``key``, and the last part of the key."""
        *parts, name = key.split("/")
        folder = os.open(self.root, _FOLDER_FLAGS)
        try:
            for part in parts:
                inner = _enter(folder, part, make=make)
                os.close(folder)
                folder = inner
            yield folder, name
        finally:
            os.close(folder)


def _folder_names(entries: Iterable[os.DirEntry[str]], after: str) -> Iterator[str]:
    for number, entry in enumerate(entries, start=1):
        if number % _NAMES_AT_A_TIME == 0:
            time.sleep(0)  # a million names take a second, which an event loop cannot spare
        comes_after = folder_order(entry.name) > folder_order(after)
        if comes_after and is_key(entry.name) and entry.is_dir(follow_symlinks=False):
            yield entry.name


def _unless_gone(error: OSError) -> None:
    """A folder that cannot be listed is an error; one that was deleted meanwhile is not."""
    if error.errno not in _ABSENT:
        with _as_storage_errors("list"):
            raise error


def _device(path: Path) -> int:
    return path.stat().st_dev


def _enter(folder: int, part: str, *, make: bool) -> int:
    try:
        return os.open(part, _FOLDER_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, mode=0o700, dir_fd=folder)
        os.fsync(folder)
    return os.open(part, _FOLDER_FLAGS, dir_fd=folder)


def _is_blob(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _written_at(folder: str, name: str) -> float:
    """Seconds since the epoch; infinite for what is not a file or has just been deleted."""
    try:
        about = (Path(folder) / name).lstat()
    except FileNotFoundError:
        return float("inf")
    return about.st_mtime if stat.S_ISREG(about.st_mode) else float("inf")


@contextlib.contextmanager
def _as_storage_errors(verb: str, *, absent: str = "") -> Iterator[None]:
    """Turn the disk's errors into ours; with ``absent`` a missing file means that this key has no blob."""
    try:
        yield
    except OSError as error:
        if absent and error.errno in _ABSENT:
            raise BlobNotFoundError(absent) from None
        name = errno.errorcode.get(error.errno or 0, "unknown")
        # Only the name: the message of an OSError contains paths.
        raise StorageUnavailableError(f"cannot {verb}: {name}") from None
