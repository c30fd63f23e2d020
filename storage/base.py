"""What a store of bytes must do, and what a verified image is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol


class MediaError(Exception):
    """Bytes that are no acceptable image. ``code`` is public (docs/errors.md)."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class BlobNotFoundError(Exception):
    """No such blob: never written, or deleted."""


class StorageUnavailableError(Exception):
    """The store cannot be reached or is full; trying again may help."""


class MediaBusyError(StorageUnavailableError):
    """Every decoder stayed busy for the whole time a caller may wait; trying again helps."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A verified image at rest. ``key`` names the blob; it consists of our ids and a hash."""

    key: str
    mime: str
    width_px: int  # 0 x 0: not an image but a 3D file or a text
    height_px: int
    size_bytes: int
    sha256: str  # lower-case hex of the stored bytes


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """The limits of one image. Uploads come from users, results from upstreams."""

    max_upload_bytes: int = 10 * 1024 * 1024
    max_result_bytes: int = 64 * 1024 * 1024
    max_text_bytes: int = 256 * 1024
    max_pixels: int = 40_000_000  # of an upload
    max_result_pixels: int = 80_000_000  # an upscaler's 8K square has 67 million, and it is paid for
    max_upload_edge_px: int = 8192
    max_result_edge_px: int = 16384
    max_frames: int = 50
    max_animation_pixels: int = 160_000_000  # width x height x frames, for results, which are decoded whole

    decoder_wall_s: float = 30.0  # one image: sending, decoding, storing and the reply
    decoder_cpu_s: int = 12  # one image; the largest and least compressible upload takes about five
    decoder_memory_bytes: int = 1024 * 1024 * 1024  # address space, Python and Pillow included
    decoder_images: int = 500  # then the process is replaced
    decoder_queue_s: float = 30.0  # how long a caller waits for a free decoder


# What a model makes, and the mime type of a text.
Kind = Literal["image", "model_3d", "text"]
TEXT = "text/plain"


class Store(Protocol):
    """Bytes by key. Written once; keys are generated, never taken from outside.

    A key is ``/``-joined parts of ``[A-Za-z0-9_.-]``, none starting with a dot; any other raises ValueError.
    Every method may raise StorageUnavailableError.
    """

    def put_file(self, path: str, key: str) -> None:
        """Keep the file at ``path`` under ``key``, moving it: afterwards it is gone from there, kept or not.

        Durable on return. An existing key is left as it is.
        """

    def copy(self, key: str, target: str) -> None:
        """Keep the blob ``key`` under ``target`` as well; either lives on when the other is deleted.

        ``target`` is a new key. Durable on return. Raises BlobNotFoundError.
        """

    def open(self, key: str) -> BinaryIO:
        """Raises BlobNotFoundError."""

    def read(self, key: str) -> bytes:
        """Raises BlobNotFoundError."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Idempotent."""

    def iter_keys(self, prefix: str = "", *, older_than_s: float = 0.0) -> Iterator[str]:
        """Keys that start with ``prefix`` and were written at least ``older_than_s`` ago, in no particular order."""

    def folders(self, parent: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Names one level below ``parent`` that hold keys: after ``after``, at most ``limit``.

        In the order of :func:`storage.keys.folder_order`, which is that of the keys in them.
        """

    def iter_folders(self, parent: str, names: Sequence[str], *, older_than_s: float = 0.0) -> Iterator[str]:
        """Keys in these folders of ``parent`` (names from ``folders``), written at least ``older_than_s`` ago."""

    def link(self, key: str, *, content_type: str, disposition: str) -> str | None:
        """A URL, valid for minutes, where a client gets the blob with these headers from the store itself.

        None where the store has no such URLs or the operator does not want them. Does not check that the blob exists.
        """

    def check(self) -> None:
        """Raise StorageUnavailableError when a write would fail (readiness)."""
