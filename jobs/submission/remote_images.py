"""Images that callers name by URL, fetched through the guard before an order is accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from jobs.errors import FieldFault
from providers.http.untrusted import Policy, fetch
from providers.http.urls import UnsafeUrlError

Fetch = Callable[[str], bytes]

TOTAL_S = 10.0
AT_ONCE = 8

_WORDS = {
    "url_not_allowed": "is not a public https URL",
    "url_unreachable": "could not be fetched",
    "url_too_slow": f"did not arrive within {TOTAL_S:.0f} s",
    "url_too_large": "is larger than an image may be",
    "url_redirects": "redirects too often",
}


def fetch_image(url: str, *, max_bytes: int) -> bytes:
    """The bytes at a public https URL. Raises UnsafeUrlError."""
    return fetch(url, Policy.user(max_bytes=max_bytes, total_s=TOTAL_S)).data


def fetch_all(fetch_one: Fetch, urls: Sequence[tuple[str, str]]) -> list[bytes | FieldFault]:
    """For each (field, URL) its bytes or what is wrong with it, a few at a time."""
    if not urls:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(urls)), thread_name_prefix="fetch") as pool:
        return list(pool.map(lambda named: _bytes_or_fault(fetch_one, *named), urls))


def _bytes_or_fault(fetch_one: Fetch, name: str, url: str) -> bytes | FieldFault:
    try:
        return fetch_one(url)
    except UnsafeUrlError as error:
        return FieldFault(name, error.code, _WORDS.get(error.code, "could not be fetched"))
