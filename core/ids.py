"""Identifiers: ``<prefix>_<26 characters>``, sortable by time, with 80 random bits.

Those of one process sort in the order in which they were made, also within a millisecond: the order
of ids is the order of the queue.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from datetime import datetime
from uuid import UUID

# Crockford's base 32: without I, L, O and U, so that an id can be read aloud.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_SHIFTS = range(120, -1, -10)
_PATTERN = re.compile(r"[a-z]+_[0-9A-HJKMNP-TV-Z]{26}")


_lock = threading.Lock()
_last = 0


def _next_number() -> int:
    """Above the one before: a new millisecond and 80 random bits, or a random step of up to 64 bits."""
    global _last  # noqa: PLW0603 (the order of a process's ids is a process's state)
    fresh = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(79)
    with _lock:
        _last = fresh if fresh >> 80 > _last >> 80 else _last + 1 + secrets.randbits(64)
        return _last


def new_id(prefix: str) -> str:
    """Make an id such as ``job_01J9Z3...``: 48 bits of milliseconds, then random bits."""
    return _written(prefix, _next_number())


def id_before(prefix: str, moment: datetime) -> str:
    """The id below which every id was made before ``moment``; 0 for a moment before 1970."""
    return _written(prefix, max(0, int(moment.timestamp() * 1000)) << 80)


def _written(prefix: str, number: int) -> str:
    return f"{prefix}_" + "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def is_id(text: str, prefix: str) -> bool:
    """Whether ``text`` has the form of our ids; saves a query for what cannot exist."""
    return text.startswith(f"{prefix}_") and _PATTERN.fullmatch(text) is not None


def as_uuid(text: str) -> UUID:
    """The same 128 bits as a UUID, for services whose ids look so. ``text`` is one of our ids."""
    number = 0
    for letter in text.rpartition("_")[2]:
        number = number << 5 | _ALPHABET.index(letter)
    return UUID(int=number & _UUID_BITS)


def of_uuid(prefix: str, uuid: UUID) -> str:
    """The id that :func:`as_uuid` made ``uuid`` of."""
    return _written(prefix, uuid.int)


_UUID_BITS = (1 << 128) - 1
