"""The name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

# Comparing takes time by the product of the lengths.
MAX_NAME_CHARS = 64


def did_you_mean(name: str, known: Collection[str]) -> str:
    """``"; did you mean size?"``, or nothing where no name comes near."""
    near = difflib.get_close_matches(name[:MAX_NAME_CHARS].lower(), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
