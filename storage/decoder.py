"""The decoder process: reads requests on stdin, decodes and stores images, replies on stdout.

Untrusted bytes reach C code only here, under limits that the kernel enforces. It also writes the files, so that no
fsync stalls the event loop of its parent. It ends when stdin ends.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from storage import decoder_protocol, models3d, raster, sniff, variants
from storage.base import TEXT, BlobNotFoundError, MediaError, StorageUnavailableError, StoredImage
from storage.decoder_protocol import DecodeRequest
from storage.local import LocalStore, write_staging_file
from storage.structure import read_structure

NO_SIZE = (0, 0)
EXTENSIONS = {**sniff.EXTENSIONS, **models3d.EXTENSIONS, TEXT: "txt"}

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_OPEN_FILES = 64
# A process that still holds this much memory between images ends, to give it back.
_RETIRE_ABOVE_BYTES = 200 * 1024 * 1024

Reply = dict[str, Any]


def main(argv: list[str]) -> None:
    """``argv``: memory_bytes, cpu_s and wall_s of one image, max_body_bytes, the parent's process id."""
    memory_bytes, cpu_s, wall_s, max_body_bytes, parent_pid = (int(word) for word in argv)
    follow_parent(parent_pid)
    confine(memory_bytes)
    answers = claim_stdout()
    send(answers, {"ready": True})
    while True:
        try:
            head, body = decoder_protocol.receive(sys.stdin.buffer, max_body_bytes=max_body_bytes)
        except EOFError:
            return
        start_clocks(cpu_s=cpu_s, wall_s=wall_s)
        reply = reply_to(decoder_protocol.from_head(head), body, partial(tell_decoded, answers, head))
        stop_clocks()
        send(answers, {**reply, "id": head["id"], "retire": is_bloated()})


def follow_parent(parent_pid: int) -> None:
    """End with the parent even in the middle of an image; an idle decoder ends with its stdin anyway.

    Linux sends the signal when the *thread* that started us ends, so the handler asks who our parent is.
    """

    def end_if_orphaned(_number: int = 0, _frame: FrameType | None = None) -> None:
        if os.getppid() != parent_pid:
            os._exit(0)

    # Ctrl-C and a supervisor's SIGTERM go to the whole group; the parent may still need this image.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, end_if_orphaned)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
    end_if_orphaned()


def confine(memory_bytes: int) -> None:
    """Give up what decoding does not need."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    warnings.simplefilter("ignore")


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def claim_stdout() -> BinaryIO:
    """The pipe to the parent; what a library prints to stdout goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def start_clocks(*, cpu_s: int, wall_s: int) -> None:
    """Let the kernel end this process if one image takes too long, whatever C code it is in."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used.ru_utime + used.ru_stime) + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def stop_clocks() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)


def is_bloated() -> bool:
    """Whether much memory is held now. (The peak in rusage would not do: a child inherits its parent's.)"""
    if sys.platform != "linux":
        return False
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() > _RETIRE_ABOVE_BYTES


def tell_decoded(answers: BinaryIO, head: dict[str, Any]) -> None:
    """Tell the parent that the image is valid: from here on only the disk can be slow."""
    stop_clocks()
    send(answers, {"id": head["id"], "decoded": True})


def send(answers: BinaryIO, head: dict[str, Any]) -> None:
    answers.write(decoder_protocol.framed(head))
    answers.flush()


def reply_to(request: DecodeRequest, body: bytes, on_decoded: Callable[[], None]) -> Reply:
    """Handle one request; errors that mean something to the caller become replies, others end the process."""
    try:
        return Handler(request, on_decoded).work(body)
    except MediaError as error:
        return {"error": "media", "code": error.code, "detail": error.detail}
    except MemoryError:
        return {"error": "media", "code": "image_undecodable", "detail": "needs too much memory"}
    except BlobNotFoundError as error:
        return {"error": "missing", "detail": str(error)}
    except StorageUnavailableError as error:
        return {"error": "storage", "detail": str(error)}


class Handler:
    """Handles one request."""

    def __init__(self, request: DecodeRequest, on_decoded: Callable[[], None]) -> None:
        self._request = request
        self._on_decoded = on_decoded
        self._store = LocalStore(Path(request.root)) if request.root is not None else None

    def work(self, body: bytes) -> Reply:
        match self._request.verb:
            case "upload":
                return self._upload(body)
            case "result":
                return self._result(body)
            case "variant":
                return self._variant(body)
            case "white_mask":
                return self._white_mask(body)
            case "model_3d" | "text":
                return self._keep(body, TEXT if self._request.verb == "text" else models3d.identify(body), NO_SIZE)
            case "describe":
                return {"image": asdict(describe(body, self._request.target_key))}

    def _upload(self, body: bytes) -> Reply:
        request = self._request
        structure = read_structure(body, request.mime, max_frames=request.bounds.max_frames)
        raster.check_bounds(structure.width_px, structure.height_px, request.bounds)
        # Cut here: what follows the image must not reach the image library.
        image = raster.open_image(body[: structure.end], request.mime, request.bounds)
        plain = raster.upright(image)
        if request.role == "mask":
            plain = raster.as_mask(plain)
        # A mask needs its exact edges, so it is never stored lossy.
        mime = sniff.JPEG if request.mime == sniff.JPEG and request.role != "mask" else sniff.PNG
        return self._keep(raster.encode_upload(plain, mime), mime, plain.size)

    def _result(self, body: bytes) -> Reply:
        request = self._request
        structure = read_structure(body, request.mime, max_frames=request.bounds.max_frames)
        if structure.end < len(body):
            raise MediaError("trailing_data", f"{len(body) - structure.end} bytes after the image")
        raster.check_bounds(structure.width_px, structure.height_px, request.bounds)
        image = raster.open_image(body, request.mime, request.bounds)
        raster.decode_all(image, request.bounds)
        return self._keep(body, request.mime, image.size)

    def _variant(self, body: bytes) -> Reply:
        request, store = self._request, self._store
        if store is not None:
            body = store.read(request.source_key)
        image = raster.open_image(body, request.mime, request.bounds)
        sideways = raster.is_sideways(image)
        whole = image.size[::-1] if sideways else image.size
        size = variants.fit(whole, request.box_px)
        if size == whole and request.target_mime == request.mime and raster.orientation_of(image) == 1:
            return {"image": asdict(describe(body, request.source_key))}
        target = variants.variant_key(request.source_key, size, request.target_mime)
        if store is not None:
            if store.exists(target):
                return {"image": asdict(describe(store.read(target), target))}
            variants.check_room(store, request.source_key)
        variants.check_encodable(size, request.target_mime)
        # JPEG can decode straight to a smaller size.
        image.draft(None, size[::-1] if sideways else size)
        small = raster.shrink(raster.upright(image), size)
        del image, body  # the encoder needs the room
        data = raster.encode_variant(small, request.target_mime)
        return self._keep(data, request.target_mime, size, key=target)

    def _white_mask(self, body: bytes) -> Reply:
        request, store = self._request, self._store
        if store is not None:
            if store.exists(request.target_key):
                return {"image": asdict(describe(store.read(request.target_key), request.target_key))}
            body = store.read(request.source_key)
        mask = raster.white_edits(raster.upright(raster.open_image(body, request.mime, request.bounds)))
        return self._keep(raster.encode_upload(mask, sniff.PNG), sniff.PNG, mask.size)

    def _keep(self, data: bytes, mime: str, size_px: tuple[int, int], *, key: str = "") -> Reply:
        """Under ``key``, the key the request names, or the hash of what is kept."""
        self._on_decoded()
        sha256 = hashlib.sha256(data).hexdigest()
        key = key or self._request.target_key or f"{self._request.prefix}/{sha256}.{EXTENSIONS[mime]}"
        image = StoredImage(key, mime, size_px[0], size_px[1], len(data), sha256)
        path = write_staging_file(self._request.staging, data)
        if self._store is None:
            return {"image": asdict(image), "path": path}
        self._store.put_file(path, key)
        return {"image": asdict(image)}


def describe(data: bytes, key: str) -> StoredImage:
    """A blob that we wrote ourselves, as a StoredImage."""
    header = sniff.read_header(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return StoredImage(key, header.mime, header.width_px, header.height_px, len(data), sha256)


if __name__ == "__main__":
    main(sys.argv[1:])
