"""The limits of ``extra``: what goes to the upstream as it is, is kept with the order and read with its task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jobs.errors import FieldFault

MAX_EXTRA_BYTES = 64 * 1024
MAX_EXTRA_DEPTH = 8
MAX_EXTRA_MEMBERS = 500


def extra_faults(extra: object) -> list[FieldFault]:
    """What is too much about ``extra``; nothing for what is no object, which its type says."""
    if not isinstance(extra, dict):
        return []
    faults = []
    if len(json.dumps(extra, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_EXTRA_BYTES:
        faults.append(FieldFault("extra", "too_long", f"is more than {MAX_EXTRA_BYTES} bytes as JSON"))
    levels = [len(level) for level in _levels(extra)]
    if len(levels) > MAX_EXTRA_DEPTH:
        faults.append(FieldFault("extra", "out_of_range", f"is nested deeper than {MAX_EXTRA_DEPTH} levels"))
    if sum(levels) > MAX_EXTRA_MEMBERS:
        faults.append(FieldFault("extra", "too_many", f"has more than {MAX_EXTRA_MEMBERS} members in all"))
    return faults


def _levels(extra: dict[str, Any]) -> Iterator[list[Any]]:
    """The values of each level, the outermost first."""
    level: list[Any] = list(extra.values())
    while level:
        yield level
        level = [child for node in level for child in _children(node)]


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
