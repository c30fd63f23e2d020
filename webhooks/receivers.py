"""Which URLs callbacks may go to, and how long an attempt may take."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable

from core.outbound.untrusted import LOOKUPS_AT_ONCE, Policy
from core.outbound.urls import origin_of

ATTEMPT_S = 20.0
# Of the answer only the header is read.
_ANSWER_BYTES = 0


@functools.cache
def _lookups() -> threading.Semaphore:
    """Made at first use, when gevent has patched what it is made of."""
    return threading.Semaphore(LOOKUPS_AT_ONCE)


def policy(allowed_hosts: Iterable[str] = (), *, attempt_s: float = ATTEMPT_S) -> Policy:
    """Return the rules for receivers: https on its own port at public addresses.

    ``allowed_hosts`` are the operator's exemptions: names or addresses that may be private, at any port, and by http.
    """
    return Policy(
        _ANSWER_BYTES,
        attempt_s,
        trusted_hosts=frozenset(allowed_hosts),
        silence_s=attempt_s,
        least_bytes_per_s=0,
        lookups=_lookups(),
    )


def hosts_of(text: str) -> frozenset[str]:
    """Return the hosts of DARKROOM_WEBHOOK_ALLOWED_HOSTS: names or addresses with commas between.

    Raises ValueError for an entry that is no host.
    """
    return frozenset(_host(part.strip()) for part in text.split(",") if part.strip())


def _host(written: str) -> str:
    """Return a host as URLs are compared."""
    bare = f"[{written}]" if written.count(":") > 1 and not written.startswith("[") else written
    origin = origin_of(f"http://{bare}/")
    if origin.port != 80 or any(char in written for char in "/?#@"):
        raise ValueError(f"{written} is not a host: a name or an address, without scheme and port")
    return origin.host
