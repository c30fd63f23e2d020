"""Reading the body of a response up to a limit, and the errors that this may end with."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException

import requests
from urllib3.exceptions import HTTPError as Urllib3Error

CHUNK_BYTES = 64 * 1024
TRANSPORT_ERRORS = (requests.RequestException, Urllib3Error, HTTPException, OSError)


class TooLargeError(Exception):
    """A body beyond the limit of the request."""


def capped(response: requests.Response, max_bytes: int) -> Iterator[bytes]:
    """Decoded chunks as they arrive, at most ``CHUNK_BYTES`` each. Closes the connection unless read to the end.

    Raises: TooLargeError, and one of ``TRANSPORT_ERRORS``.
    """
    announced = response.headers.get("Content-Length", "")
    try:
        if announced.isdecimal() and int(announced) > max_bytes:
            raise TooLargeError(f"announces {announced[:20]} bytes, limit {max_bytes}")
        size_bytes = 0
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            size_bytes += len(chunk)
            if size_bytes > max_bytes:
                raise TooLargeError(f"more than {max_bytes} bytes")
            yield chunk
    except BaseException:
        response.close()
        raise
    response.raw.release_conn()


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, the error first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
