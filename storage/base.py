"""What a store of bytes must do, and what a verified picture is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Protocol


class MediaError(Exception):
    """Bytes that are no acceptable picture. ``code`` is public (docs/errors.md)."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class BlobNotFoundError(Exception):
    """No such blob: never written, or deleted."""


class StorageUnavailableError(Exception):
    """The store cannot be reached or is full; trying again may help."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A verified picture at rest. ``key`` names the blob; it is made of our ids and a hash alone."""

    key: str
    mime: str
    width_px: int
    height_px: int
    size_bytes: int
    sha256: str  # lower-case hex of the stored bytes


class Store(Protocol):
    """Bytes by key. Written once; keys are generated, never taken from outside."""

    def put_file(self, path: str, key: str) -> None:
        """Keep the file at ``path`` under ``key``, moving it. Durable on return; an existing key is left as it is."""

    def open(self, key: str) -> BinaryIO:
        """Raises BlobNotFoundError, StorageUnavailableError."""

    def read(self, key: str) -> bytes: ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Idempotent."""

    def check(self) -> None:
        """Raise StorageUnavailableError when a write would fail (readiness)."""
