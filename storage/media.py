"""Verified images: bytes become stored images here, and stored images become variants.

Reads headers and leaves everything else to decoder processes: this module decodes nothing, and with a local store it
writes nothing, so it may be called from an event loop.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Literal

from storage import sniff, variants
from storage.base import BlobNotFoundError, Kind, MediaError, MediaLimits, Store, StoredImage
from storage.decoder_protocol import Bounds, DecodeRequest, Role, Verb
from storage.local import LocalStore, sweep_folder
from storage.pool import DecoderPool, Reply

__all__ = ["Media", "MediaError", "MediaLimits", "Role", "StoredImage"]

_PREFIX = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")
_KNOWN_VARIANTS = 4096
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Media:
    """Images in one store. Thread-safe and greenlet-safe; one per process.

    ``work_dir`` holds files on their way into a store that is not local; nothing else may use it.
    """

    def __init__(self, store: Store, work_dir: Path, *, decoders: int = 2, limits: MediaLimits = MediaLimits()) -> None:  # noqa: B008 (frozen)
        self._store = store
        self._limits = limits
        frames = limits.max_frames, limits.max_animation_pixels
        self._upload_bounds = Bounds(limits.max_pixels, limits.max_upload_edge_px, *frames)
        self._result_bounds = Bounds(limits.max_result_pixels, limits.max_result_edge_px, *frames)
        self._pool = DecoderPool(decoders, limits)
        # A decoder can write to a local store itself; for any other it leaves a file here.
        self._root = str(store.root) if isinstance(store, LocalStore) else None
        self._staging = store.staging if isinstance(store, LocalStore) else work_dir.resolve()
        self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known = _Known(_KNOWN_VARIANTS)

    def keep_upload(self, data: bytes, *, prefix: str, role: Role = "image") -> StoredImage:
        """Verify an image from a user, encode it again and keep it under ``prefix/sha256.extension``.

        Upright, in sRGB, eight bit, first frame, without metadata or anything after the image. JPEG stays
        JPEG, except as a mask; everything else becomes PNG, alpha kept.
        Raises: MediaError, MediaBusyError, StorageUnavailableError.
        """
        header = _checked_header(data, self._limits.max_upload_bytes, self._upload_bounds)
        request = self._request("upload", header.mime, self._upload_bounds, prefix=_checked(prefix), role=role)
        return self._kept(self._pool.run(request, data))

    def keep_result(self, data: bytes, *, prefix: str, kind: Kind = "image") -> StoredImage:
        """Verify what an upstream made and keep its bytes unchanged under ``prefix/sha256.extension``.

        Every frame must decode and nothing may follow the image; size is as coded, orientation not applied.
        A 3D file must be what it says (:mod:`storage.models3d`), a text UTF-8 without control characters.
        Raises: MediaError, MediaBusyError, StorageUnavailableError.
        """
        if kind != "image":
            return self._keep_other(data, kind, _checked(prefix))
        header = _checked_header(data, self._limits.max_result_bytes, self._result_bounds)
        request = self._request("result", header.mime, self._result_bounds, prefix=_checked(prefix))
        return self._kept(self._pool.run(request, data))

    def _keep_other(self, data: bytes, kind: Literal["model_3d", "text"], prefix: str) -> StoredImage:
        most = self._limits.max_result_bytes if kind == "model_3d" else self._limits.max_text_bytes
        if len(data) > most:
            raise MediaError("image_too_large_bytes", f"{len(data)}, at most {most}")
        if kind == "text":
            check_text(data)
        return self._kept(self._pool.run(self._request(kind, "", self._result_bounds, prefix=prefix), data))

    def variant(
        self,
        key: str,
        mime: str,
        *,
        width: int | None = None,
        height: int | None = None,
        format: str | None = None,  # noqa: A002
    ) -> StoredImage:
        """The kept image ``key`` in another size or format: png, jpeg, webp or avif (none: as it is).

        Fits inside width x height px, keeps its shape, is never enlarged; upright, first frame, no metadata.
        Made once and cached by the size that results. The image itself comes back where nothing would change.
        Raises: ValueError for format or edges, BlobNotFoundError, MediaError (``too_many_variants`` among them),
            MediaBusyError, StorageUnavailableError.
        """
        box = variants.box_of(width, height)
        target_mime = variants.target_mime(mime, format)
        asked = f"{key} {box} {target_mime}"
        known = self._known.get(asked)
        if known is not None and self._store.exists(known.key):
            return known
        request = replace(
            self._request("variant", mime, self._result_bounds),
            source_key=key,
            target_mime=target_mime,
            box_px=box,
        )
        image = self._kept(self._vary(request))
        self._known.put(asked, image)
        return image

    def white_mask(self, key: str) -> StoredImage:
        """The kept mask ``key`` as 8-bit grey PNG, white where it is transparent; made once and kept next to it.

        Raises: BlobNotFoundError, MediaError, MediaBusyError, StorageUnavailableError.
        """
        request = replace(
            self._request("white_mask", sniff.PNG, self._result_bounds),
            source_key=key,
            target_key=variants.white_mask_key(key),
            target_mime=sniff.PNG,
        )
        return self._kept(self._make(request))

    def delete(self, key: str) -> None:
        """Remove an image and all its variants. Idempotent. Raises StorageUnavailableError.

        The image is deleted last: as long as it is there, a failed attempt can be repeated.
        """
        for variant in list(self._store.iter_keys(variants.variant_prefix(key))):
            self._store.delete(variant)
        self._store.delete(key)

    def decoders(self) -> tuple[int, int]:
        """How many decoders are at work, and how many may be."""
        return self._pool.load()

    def sweep(self) -> int:
        """Remove files that killed decoders left in staging; how many. Retention calls it once a minute."""
        return sweep_folder(self._staging)

    def close(self) -> None:
        """End the decoders. Images in progress are finished, later ones refused."""
        self._pool.close()

    def _vary(self, request: DecodeRequest) -> Reply:
        """A decoder finds in a local store what was made before; for any other it is looked up here."""
        if self._root is not None:
            return self._pool.run(request, b"")
        source = self._store.read(request.source_key)
        # As coded: one that is to be turned has another size in the end, and is made again.
        header = sniff.read_header(source)
        whole = header.width_px, header.height_px
        size = variants.fit(whole, request.box_px)
        target = variants.variant_key(request.source_key, size, request.target_mime)
        if self._store.exists(target):
            with contextlib.suppress(BlobNotFoundError):  # deleted since
                return self._pool.run(replace(request, verb="describe", target_key=target), self._store.read(target))
        if size != whole or request.target_mime != request.mime:
            variants.check_room(self._store, request.source_key)
        return self._pool.run(request, source)

    def _make(self, request: DecodeRequest) -> Reply:
        if self._root is not None:
            return self._pool.run(request, b"")
        if self._store.exists(request.target_key):
            with contextlib.suppress(BlobNotFoundError):  # deleted since
                return self._pool.run(replace(request, verb="describe"), self._store.read(request.target_key))
        return self._pool.run(request, self._store.read(request.source_key))

    def _kept(self, reply: Reply) -> StoredImage:
        """The image of a reply, put into the store if the decoder could not."""
        image = StoredImage(**reply["image"])
        if path := reply.get("path"):
            try:
                self._store.put_file(path, image.key)
            finally:
                Path(path).unlink(missing_ok=True)
        return image

    def _request(
        self,
        verb: Verb,
        mime: str,
        bounds: Bounds,
        *,
        prefix: str = "",
        role: Role = "image",
    ) -> DecodeRequest:
        return DecodeRequest(
            verb=verb,
            staging=str(self._staging),
            root=self._root,
            bounds=bounds,
            mime=mime,
            prefix=prefix,
            role=role,
        )


def _checked_header(data: bytes, max_bytes: int, bounds: Bounds) -> sniff.Header:
    """Refuse what can be refused without decoding. Raises MediaError."""
    if len(data) > max_bytes:
        raise MediaError("image_too_large_bytes", f"{len(data)}, at most {max_bytes}")
    header = sniff.read_header(data)
    too_many = header.width_px * header.height_px > bounds.max_pixels
    if too_many or max(header.width_px, header.height_px) > bounds.max_edge_px:
        raise MediaError("image_too_many_pixels", f"{header.width_px}x{header.height_px}")
    return header


def check_text(data: bytes) -> None:
    """Raises MediaError ``not_a_text`` for what is not UTF-8, is empty or has control characters."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise MediaError("not_a_text", "no UTF-8") from None
    if not text.strip() or _CONTROLS.search(text):
        raise MediaError("not_a_text", "empty, or with control characters")


class _Known:
    """The variants requested last, so that a cached one is served without asking a decoder."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._images: OrderedDict[str, StoredImage] = OrderedDict()

    def get(self, key: str) -> StoredImage | None:
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: str, image: StoredImage) -> None:
        with self._lock:
            self._images[key] = image
            if len(self._images) > self._size:
                self._images.popitem(last=False)


def _checked(prefix: str) -> str:
    """Prefixes are made of our own ids: anything else is a bug, found before it becomes a path."""
    if not _PREFIX.fullmatch(prefix) or f"{prefix}/".startswith(variants.VARIANTS):
        raise ValueError(f"not a storage prefix: {prefix[:80]!r}")
    return prefix
