"""Which URLs callbacks may go to, and how long an attempt may take."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable

from core.outbound.untrusted import ADDRESS_REFUSED, LOOKUPS_AT_ONCE, Policy
from core.outbound.urls import UnsafeUrlError

ATTEMPT_S = 20.0
# Of the answer only the header is read.
_ANSWER_BYTES = 0


@functools.cache
def _lookups() -> threading.Semaphore:
    """Made at first use, when gevent has patched what it is made of."""
    return threading.Semaphore(LOOKUPS_AT_ONCE)


def refusal(error: UnsafeUrlError) -> str:
    """Return what a caller is told of a URL that :meth:`Policy.check_written` refuses."""
    reason = "its address is private" if error.detail == ADDRESS_REFUSED else error.detail
    return f"must be an https URL on port 443 at a public address: {reason}"


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
