"""The decoder process: reads tasks on stdin, decodes and stores images, answers on stdout.

Bytes from outside meet C code only here, under limits the kernel enforces. It also does the writing, so
that no fsync ever stalls the event loop of its parent. It ends when stdin ends.
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
from storage.decoder_protocol import Task
from storage.local import LocalStore, write_staging_file
from storage.structure import dissect

NO_SIZE = (0, 0)
EXTENSIONS = {**sniff.EXTENSIONS, **models3d.EXTENSIONS, TEXT: "txt"}

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_OPEN_FILES = 64
# A process that holds on to this much between images gives it back by ending.
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
        reply = answer(decoder_protocol.from_head(head), body, partial(decoded, answers, head))
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
    """The pipe to the parent, out of reach of any library that prints."""
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


def decoded(answers: BinaryIO, head: dict[str, Any]) -> None:
    """Tell the parent that the image is good: from here on only the disk can be slow."""
    stop_clocks()
    send(answers, {"id": head["id"], "decoded": True})


def send(answers: BinaryIO, head: dict[str, Any]) -> None:
    answers.write(decoder_protocol.framed(head))
    answers.flush()


def answer(task: Task, body: bytes, on_decoded: Callable[[], None]) -> Reply:
    """Do one task; errors that have a meaning for the caller become replies, others end the process."""
    try:
        return Worker(task, on_decoded).work(body)
    except MediaError as error:
        return {"error": "media", "code": error.code, "detail": error.detail}
    except MemoryError:
        return {"error": "media", "code": "image_undecodable", "detail": "needs too much memory"}
    except BlobNotFoundError as error:
        return {"error": "missing", "detail": str(error)}
    except StorageUnavailableError as error:
        return {"error": "storage", "detail": str(error)}


class Worker:
    """One task under way."""

    def __init__(self, task: Task, on_decoded: Callable[[], None]) -> None:
        self._task = task
        self._on_decoded = on_decoded
        self._store = LocalStore(Path(task.root)) if task.root is not None else None

    def work(self, body: bytes) -> Reply:
        match self._task.verb:
            case "upload":
                return self._upload(body)
            case "result":
                return self._result(body)
            case "variant":
                return self._variant(body)
            case "white_mask":
                return self._white_mask(body)
            case "model_3d" | "text":
                return self._keep(body, TEXT if self._task.verb == "text" else models3d.identify(body), NO_SIZE)
            case "describe":
                return {"picture": asdict(describe(body, self._task.target_key))}

    def _upload(self, body: bytes) -> Reply:
        task = self._task
        anatomy = dissect(body, task.mime, max_frames=task.bounds.max_frames)
        raster.check_bounds(anatomy.width_px, anatomy.height_px, task.bounds)
        # Cut here: what follows the image must not even reach the decoder.
        image = raster.open_image(body[: anatomy.end], task.mime, task.bounds)
        plain = raster.upright(image)
        if task.role == "mask":
            plain = raster.as_mask(plain)
        # A mask lives by its exact edges, so it is never made lossy again.
        mime = sniff.JPEG if task.mime == sniff.JPEG and task.role != "mask" else sniff.PNG
        return self._keep(raster.encode_upload(plain, mime), mime, plain.size)

    def _result(self, body: bytes) -> Reply:
        task = self._task
        anatomy = dissect(body, task.mime, max_frames=task.bounds.max_frames)
        if anatomy.end < len(body):
            raise MediaError("trailing_data", f"{len(body) - anatomy.end} bytes behind the picture")
        raster.check_bounds(anatomy.width_px, anatomy.height_px, task.bounds)
        image = raster.open_image(body, task.mime, task.bounds)
        raster.decode_all(image, task.bounds)
        return self._keep(body, task.mime, image.size)

    def _variant(self, body: bytes) -> Reply:
        task, store = self._task, self._store
        if store is not None:
            if store.exists(task.target_key):
                return {"picture": asdict(describe(store.read(task.target_key), task.target_key))}
            body = store.read(task.source_key)
        image = raster.open_image(body, task.mime, task.bounds)
        sideways = raster.is_sideways(image)
        whole = image.size[::-1] if sideways else image.size
        size = raster.fit(whole, task.box_px)
        if size == whole and task.target_mime == task.mime and raster.orientation_of(image) == 1:
            return {"picture": asdict(describe(body, task.source_key))}
        variants.check_encodable(size, task.target_mime)
        # JPEG can decode straight to a smaller size.
        image.draft(None, size[::-1] if sideways else size)
        small = raster.shrink(raster.upright(image), size)
        del image, body  # the encoder needs the room
        data = raster.encode_variant(small, task.target_mime)
        return self._keep(data, task.target_mime, size)

    def _white_mask(self, body: bytes) -> Reply:
        task, store = self._task, self._store
        if store is not None:
            if store.exists(task.target_key):
                return {"picture": asdict(describe(store.read(task.target_key), task.target_key))}
            body = store.read(task.source_key)
        mask = raster.white_edits(raster.upright(raster.open_image(body, task.mime, task.bounds)))
        return self._keep(raster.encode_upload(mask, sniff.PNG), sniff.PNG, mask.size)

    def _keep(self, data: bytes, mime: str, size_px: tuple[int, int]) -> Reply:
        """Under the key the task names, or under the hash of what is kept."""
        self._on_decoded()
        sha256 = hashlib.sha256(data).hexdigest()
        key = self._task.target_key or f"{self._task.prefix}/{sha256}.{EXTENSIONS[mime]}"
        image = StoredImage(key, mime, size_px[0], size_px[1], len(data), sha256)
        path = write_staging_file(self._task.staging, data)
        if self._store is None:
            return {"picture": asdict(image), "path": path}
        self._store.put_file(path, key)
        return {"picture": asdict(image)}


def describe(data: bytes, key: str) -> StoredImage:
    """A blob we wrote ourselves, as a Image."""
    header = sniff.read_header(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return StoredImage(key, header.mime, header.width_px, header.height_px, len(data), sha256)


if __name__ == "__main__":
    main(sys.argv[1:])
