"""Identifiers: ``<prefix>_<26 characters>``, sortable by time, 80 bits of chance."""

from __future__ import annotations

import re
import secrets
import time

# Crockford's base 32: no I, L, O or U, so that an id survives being read aloud.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PATTERN = re.compile(r"[a-z]+_[0-9A-HJKMNP-TV-Z]{26}")


def new_id(prefix: str) -> str:
    """Make an id such as ``job_01J9Z3...``: 48 bits of milliseconds, then 80 random bits."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_id(text: str, prefix: str) -> bool:
    """Whether ``text`` could be one of ours; saves the database a question."""
    return text.startswith(f"{prefix}_") and _PATTERN.fullmatch(text) is not None
