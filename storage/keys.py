"""The form of storage keys, the same for every store."""

from __future__ import annotations

import re

_PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_MAX = 512


def is_key(key: str) -> bool:
    """Whether ``key`` has the form of our keys; anything else in a store is not ours."""
    return len(key) <= _MAX and _KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """``key`` itself. Raises ValueError when it does not have the form of our keys."""
    if not is_key(key):
        raise ValueError(f"not a storage key: {key[:80]!r}")
    return key


def folder_order(name: str) -> str:
    """A sort key that orders folders like the keys in them: ``a-1/x`` comes before ``a/x``."""
    return f"{name}/" if name else ""
