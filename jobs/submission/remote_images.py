"""Images that callers name by URL, fetched through the guard before an order is accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.fair_pool import FairPool
from core.outbound.untrusted import ADDRESS_REFUSED, Policy, fetch
from core.outbound.urls import UnsafeUrlError
from jobs.errors import FieldFault
from storage.base import MediaBusyError

Fetch = Callable[[str], bytes]

TOTAL_S = 10.0
AT_ONCE = 16
PER_ACCOUNT = 4
WAITING = 256
WAITING_PER_ACCOUNT = 64  # so that no account fills the queue for all others

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


class RemoteImages:
    """Fetches images for orders: a few at a time, accounts in turns, so that one account's slow servers delay no other.

    ``fetch_one`` reads one URL, or raises UnsafeUrlError. One for a process; thread-safe and greenlet-safe.
    """

    def __init__(
        self,
        fetch_one: Fetch,
        *,
        at_once: int = AT_ONCE,
        per_account: int = PER_ACCOUNT,
        waiting: int = WAITING,
        waiting_per_account: int = WAITING_PER_ACCOUNT,
    ) -> None:
        self._fetch_one = fetch_one
        self._pool = FairPool(size=at_once, per_lane=per_account, depth=waiting, lane_depth=waiting_per_account)

    def fetch_all(self, account_id: str, urls: Sequence[tuple[str, str]]) -> list[bytes | FieldFault]:
        """For each (field, URL) its bytes or what is wrong with it. Raises MediaBusyError: too many wait already."""
        if len(urls) > self._pool.room_for(account_id):
            raise MediaBusyError("too many images are being fetched")
        found: dict[int, bytes | FieldFault] = {}
        bugs: list[Exception] = []

        def fetch_at(at: int) -> None:
            try:
                found[at] = self._bytes_or_fault(*urls[at])
            except Exception as bug:  # noqa: BLE001 (raised again by the caller)
                bugs.append(bug)

        lanes = [(account_id, at) for at in range(len(urls))]
        self._pool.each(lanes, fetch_at, meanwhile=lambda _left: None, every_s=TOTAL_S)
        if bugs:
            raise bugs[0]
        return [found[at] for at in range(len(urls))]

    def _bytes_or_fault(self, name: str, url: str) -> bytes | FieldFault:
        try:
            return self._fetch_one(url)
        except UnsafeUrlError as error:
            # A name that leads to a forbidden address looks like one that leads nowhere, so that no caller can find
            # out which names and addresses exist on our side.
            code = "url_unreachable" if error.detail == ADDRESS_REFUSED else error.code
            return FieldFault(name, code, _WORDS.get(code, "could not be fetched"))
