"""Folders, secret files and locks under ``DARKROOM_VAR``.

The mode of a folder we did not make is never changed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from core.embedded.faults import EmbeddedError
from core.embedded.users import User


def make_folder(path: Path, *, owner: User | None = None) -> Path:
    """Make ``path`` (and its parents) if missing, closed to others, owned by ``owner`` if given.

    As root our own folders stay passable (0711), so that a server running as another user reaches its own; every file
    with a secret in them is 0600.
    """
    if path.is_dir():
        return path
    make_folder(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        return path
    path.chmod(0o711 if os.geteuid() == 0 and owner is None else 0o700)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)
    return path


def secret_in(path: Path, *, owner: User | None = None) -> str:
    """The secret in ``path``; the first call generates it (256 bits) and writes it, 0600."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        write_private(path, secrets.token_urlsafe(32) + "\n", owner=owner)
        return path.read_text().strip()


def write_private(path: Path, text: str, *, owner: User | None = None) -> None:
    """Replace ``path`` by ``text`` atomically, readable by its owner only from the first moment on."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if owner is not None:
            os.fchown(file.fileno(), owner.uid, owner.gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


class FolderLock:
    """Held by at most one process; the kernel releases it when the holder dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise EmbeddedError immediately; taking it twice is harmless."""
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError:
            raise EmbeddedError(f"{self.path.parent} belongs to another user: set DARKROOM_VAR") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise EmbeddedError(
                f"{self.path.parent} is in use by process {holder or 'unknown'}: stop it, "
                "or set DARKROOM_VAR (and the ports) to something else"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
