"""A few decoder processes, started when first needed, replaced when they die, hang or reach their share of images.

Works in plain threads and, after ``gevent.monkey.patch_all()``, in greenlets: it waits only in ``queue``,
``threading`` and ``subprocess``, which gevent makes cooperative. A caller that finds every decoder busy
queues for a bounded time.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from storage import counts, decoder_protocol
from storage.base import BlobNotFoundError, MediaBusyError, MediaError, MediaLimits, StorageUnavailableError
from storage.decoder_protocol import DecodeRequest

_PACKAGE_ROOT = str(Path(__file__).resolve().parent.parent)
# -I keeps the environment, the working folder and the user's site out of the path, so ours is given here:
# last, so that nothing next to our package can replace the standard library.
_BOOT = f"import sys; sys.path.append({_PACKAGE_ROOT!r}); from storage.decoder import main; main(sys.argv[1:])"
# Nothing of the parent's environment is passed on: it holds passwords and keys.
_ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": os.defpath}
_PIPE_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_START_S = 20.0
_GOODBYE_S = 2.0
_TRIES = 2
# The kernel ended it because of the image's cost: a second try would cost the same.
_OUT_OF_TIME = (-signal.SIGXCPU, -signal.SIGALRM)

Reply = dict[str, Any]


class DecoderDiedError(Exception):
    """A decoder ended, or sent something that is no reply, before the request was done."""

    def __init__(self, *, timed_out: bool, was_decoded: bool = False) -> None:
        super().__init__(timed_out, was_decoded)
        self.timed_out = timed_out
        self.was_decoded = was_decoded


class Decoder:
    """One decoder process; one request at a time."""

    def __init__(self, limits: MediaLimits) -> None:
        """Raises StorageUnavailableError when the process does not come up."""
        self._wall_s = limits.decoder_wall_s
        self._ids = itertools.count()
        self._images_left = limits.decoder_images
        self._process = _spawn(limits)
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process started with pipes has none")
        self._requests, self._answers = self._process.stdin, self._process.stdout
        with contextlib.suppress(OSError, AttributeError):  # the kernel's allowance; only speed depends on it
            fcntl.fcntl(self._requests.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._greet()

    def _greet(self) -> None:
        """Wait until it runs, so that a broken installation is never taken for a broken image."""
        is_up = False
        try:
            with _Deadline(_START_S, self._process):
                decoder_protocol.receive(self._answers, max_body_bytes=0)
            is_up = True
        except (OSError, EOFError, ValueError):
            raise StorageUnavailableError("the decoder process does not start") from None
        finally:
            if not is_up:  # also when our greenlet is killed while it waits
                self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_spent(self) -> bool:
        """Whether it has done its share of images and should be replaced."""
        return self._images_left < 1

    def ask(self, request: DecodeRequest, body: bytes) -> Reply:
        """Send one request and return its reply.

        Raises DecoderDiedError; after any exception this decoder is of no use.
        """
        self._images_left -= 1
        was_decoded = False
        with _Deadline(self._wall_s, self._process) as deadline:
            try:
                request_id = self._send(request, body)
                reply = self._receive(request_id)
                if was_decoded := bool(reply.get("decoded")):
                    reply = self._receive(request_id)
            except (OSError, EOFError, ValueError):
                timed_out = deadline.has_struck or self._end_code() in _OUT_OF_TIME
                raise DecoderDiedError(timed_out=timed_out, was_decoded=was_decoded) from None
        if reply["retire"] or deadline.has_struck:
            self._images_left = 0
        return reply

    def _send(self, request: DecodeRequest, body: bytes) -> int:
        request_id = next(self._ids)
        self._requests.write(
            decoder_protocol.framed(decoder_protocol.to_head(request, request_id=request_id), body_bytes=len(body))
        )
        view = memoryview(body)
        for start in range(0, len(body), _CHUNK_BYTES):
            self._requests.write(view[start : start + _CHUNK_BYTES])
            time.sleep(0)  # gevent: a decoder that reads as fast as we write would block the other greenlets
        self._requests.flush()
        return request_id

    def _receive(self, request_id: int) -> Reply:
        reply, _ = decoder_protocol.receive(self._answers, max_body_bytes=0)
        if reply.get("id") != request_id:
            raise ValueError("the reply to another request")
        return reply

    def _end_code(self) -> int | None:
        try:
            return self._process.wait(timeout=_GOODBYE_S)
        except subprocess.TimeoutExpired:
            return None

    def retire(self) -> None:
        """Let it end by itself, which it does when its stdin ends."""
        with contextlib.suppress(OSError):
            self._requests.close()
        if self._end_code() is None:
            self.kill()
        self._answers.close()

    def kill(self) -> None:
        """End it whatever it does. One that waits for the disk stays for a while, with its pipes."""
        self._process.kill()
        if self._end_code() is not None:
            with contextlib.suppress(OSError):
                self._requests.close()
            self._answers.close()


def _spawn(limits: MediaLimits) -> subprocess.Popen[bytes]:
    words = (
        limits.decoder_memory_bytes,
        limits.decoder_cpu_s,
        math.ceil(limits.decoder_wall_s),
        max(limits.max_upload_bytes, limits.max_result_bytes),
        os.getpid(),
    )
    command = [sys.executable, "-I", "-c", _BOOT, *map(str, words)]
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_ENVIRONMENT, cwd="/")
    except OSError as error:  # no memory, process or descriptor left
        raise StorageUnavailableError(f"cannot start a decoder: {error.strerror}") from None


class _Deadline:
    """Kills the process when the time is up, unless left before."""

    def __init__(self, wall_s: float, process: subprocess.Popen[bytes]) -> None:
        self._lock = threading.Lock()
        self._process = process
        self._is_over = False
        self.has_struck = False
        self._timer = threading.Timer(wall_s, self._strike)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Under the lock, so that no deadline ever strikes a process that has gone on to its next request.
        with self._lock:
            self._is_over = True
        self._timer.cancel()

    def _strike(self) -> None:
        with self._lock:
            if not self._is_over:
                self.has_struck = True
                self._process.kill()


class DecoderPool:
    """At most ``size`` decoders. Thread-safe, greenlet-safe and safe to inherit by fork."""

    def __init__(self, size: int, limits: MediaLimits) -> None:
        self._size = size
        self._limits = limits
        self._fork_lock = threading.Lock()
        self._left_to_parent: list[object] = []
        self._open_queue()

    def _open_queue(self) -> None:
        self._pid = os.getpid()
        self._is_closed = False
        # Last in, first out: with little to do one decoder stays warm and the others need not exist.
        self._idle: queue.LifoQueue[Decoder | None] = queue.LifoQueue()
        for _ in range(self._size):
            self._idle.put(None)

    def run(self, request: DecodeRequest, body: bytes) -> Reply:
        """Have a request done, once more by a new decoder if the first one dies.

        Raises: MediaError, BlobNotFoundError, MediaBusyError, StorageUnavailableError.
        """
        began = time.monotonic()
        decoder = self._take()
        good: Decoder | None = None
        try:
            for tries_left in reversed(range(_TRIES)):
                decoder = decoder or Decoder(self._limits)
                try:
                    reply = decoder.ask(request, body)
                except DecoderDiedError as death:
                    decoder.kill()
                    decoder = None
                    if death.timed_out or not tries_left:
                        raise _verdict(death) from None
                else:
                    good = decoder
                    return _without_error(reply)
        finally:
            counts.DECODE_SECONDS.of(request.verb).observe(time.monotonic() - began)
            self._give_back(good)
            if decoder is not None and decoder is not good:
                decoder.kill()  # left in the middle of a request, for example by a killed greenlet
        raise AssertionError("the last try returns or raises")

    def _take(self) -> Decoder | None:
        self._leave_parents_decoders()
        try:
            decoder = self._idle.get(timeout=self._limits.decoder_queue_s)
        except queue.Empty:
            counts.DECODERS_BUSY.of().inc()
            raise MediaBusyError("every decoder is busy") from None
        if self._is_closed:
            self._idle.put(None)
            raise StorageUnavailableError("shutting down")
        return decoder

    def _give_back(self, decoder: Decoder | None) -> None:
        is_done = decoder is not None and (decoder.is_spent or self._is_closed)
        self._idle.put(None if is_done else decoder)
        if decoder is not None and is_done:
            decoder.retire()

    def _leave_parents_decoders(self) -> None:
        """After a fork, two processes on one pipe would get each other's images.

        The inherited objects are kept, not closed: closing could disturb the parent's event loop.
        """
        if self._pid == os.getpid():
            return
        with self._fork_lock:
            if self._pid != os.getpid():
                self._left_to_parent.append(self._idle)
                self._open_queue()

    def load(self) -> tuple[int, int]:
        """How many decoders are at work, and how many may be."""
        return self._size - self._idle.qsize(), self._size

    def idle_pids(self) -> list[int]:
        """Process ids of the idle decoders."""
        return [decoder.pid for decoder in list(self._idle.queue) if decoder is not None]

    def close(self) -> None:
        """End the idle decoders now and the busy ones after their image. Callers in the queue are refused."""
        self._leave_parents_decoders()
        self._is_closed = True
        idle: list[Decoder | None] = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for decoder in idle:
            self._give_back(decoder)


def _without_error(reply: Reply) -> Reply:
    match reply.get("error"):
        case "media":
            raise MediaError(reply["code"], reply["detail"])
        case "missing":
            raise BlobNotFoundError(reply["detail"])
        case "storage":
            raise StorageUnavailableError(reply["detail"])
    return reply


def _verdict(death: DecoderDiedError) -> MediaError | StorageUnavailableError:
    if death.was_decoded:
        return StorageUnavailableError("the disk does not answer")
    why = "takes too long" if death.timed_out else "the decoder crashed"
    return MediaError("image_undecodable", why)
