"""How long upstreams take to answer, what they answer instead of a result, and what we add, for metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from jobs import counts
from jobs.states import Ended, Signal


@contextmanager
def measured(provider: str, kind: Literal["submit", "check"]) -> Iterator[None]:
    """Count a request to an upstream: its length, and its error, which passes through."""
    began = time.monotonic()
    try:
        yield
    except Exception as error:
        counts.upstream_error(provider, kind, error)
        raise
    finally:
        counts.UPSTREAM_SECONDS.of(provider, kind).observe(time.monotonic() - began)


def note_own_delay(provider: str, signals: Sequence[Signal], *, answered_at: float | None) -> None:
    """Count how long after the upstream's answer (``time.monotonic()``) its job ended, if the step ended it well."""
    if answered_at is not None and any(isinstance(each, Ended) and each.status == "succeeded" for each in signals):
        counts.OWN_DELAY.of(provider).observe(time.monotonic() - answered_at)
