"""A request's body as it arrives: with a deadline, and with errors that the routes can answer.

gunicorn reads a body for as long as its client cares to send one, and its errors mean nothing to Flask.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from gunicorn.http.errors import LimitRequestHeaders, ParseException

from core.errors import ServiceError

# A body may take its base time, and as long as this speed needs for what has arrived: 256 kbit/s.
SLOWEST_BYTES_PER_S = 32 * 1024
STEP_BYTES = 256 * 1024
# Each chunk costs microseconds of the hub however little it holds: 16 MB in chunks of 256 bytes are as many.
MAX_CHUNKS = 64 * 1024
CHUNKS_IN_A_ROW = 256


class BodyTimeoutError(ServiceError):
    """The body did not arrive in time."""

    code = "request_timeout"


class MalformedBodyError(ServiceError):
    """The body is not framed as HTTP wants it: chunk sizes, chunk extensions, line ends, trailers."""

    code = "bad_request"


class TrailersTooLargeError(ServiceError):
    """The trailers of a chunked body exceed the limit of headers."""

    code = "headers_too_large"


class Reader(Protocol):
    """The readers of gunicorn.http.body."""

    def read(self, size: int) -> bytes: ...


def bound_chunks(reader: Any) -> None:
    """Have a ``gunicorn.http.body.ChunkedReader`` let other requests in between chunks, and raise MalformedBodyError
    for more of them than any client sends in earnest."""
    parse, count = reader.parse_chunk_size, 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > MAX_CHUNKS:
            raise MalformedBodyError(f"the body has more than {MAX_CHUNKS} chunks")
        if count % CHUNKS_IN_A_ROW == 0:
            gevent.sleep(0)
        return parse(*args, **kwargs)

    reader.parse_chunk_size = counted


class TimedReader:
    """Reads for gunicorn's ``Body``; calls ``failed`` once when the rest of the body cannot be read.

    The deadline is ``base_s`` seconds after the beginning, and moves with what arrives. It does not count once the body
    is there: an answer may take its time.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        base_s: float,
        failed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._failed = failed
        self._clock = clock
        self._ends_at = clock() + base_s
        self._ended = False

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, none at the end. Raises BodyTimeoutError, MalformedBodyError,
        TrailersTooLargeError, OSError for a client that has left."""
        if self._ended or getattr(self._reader, "length", None) == 0:
            return b""
        try:
            data = self._within_time(min(size, STEP_BYTES))
        except BaseException:
            self._failed()
            raise
        self._ended = not data and size > 0
        self._ends_at += len(data) / SLOWEST_BYTES_PER_S
        return data

    def _within_time(self, size: int) -> bytes:
        late = BodyTimeoutError()
        left_s = self._ends_at - self._clock()
        if left_s <= 0:
            raise late
        try:
            with gevent.Timeout(left_s, late):
                data: Any = self._reader.read(size)
        except LimitRequestHeaders:
            raise TrailersTooLargeError("the trailers of the body are too large") from None
        except ParseException as error:
            # Its text quotes the body.
            raise MalformedBodyError(f"the chunked body is malformed ({type(error).__name__})") from None
        except TimeoutError:  # of the socket
            raise late from None
        return bytes(data)
