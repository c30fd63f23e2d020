"""An input as it is kept with its job: whole where it is short, and cut where it is an image or a long text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_TEXT_CHARS = 1000
MAX_BYTES = 32 * 1024
_DATA_HEAD_CHARS = 64


def clipped(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same members, each text of at most MAX_TEXT_CHARS and a mark; those beyond MAX_BYTES of JSON are left out.

    A long prompt is None: the job has it (app/dialects/replicate/prediction.py).
    """
    kept: dict[str, Any] = {}
    left = MAX_BYTES
    for name, value in given.items():
        long_prompt = name == "prompt" and isinstance(value, str) and len(value) > MAX_TEXT_CHARS
        short = None if long_prompt else _short(value)
        left -= len(json.dumps([name, short], ensure_ascii=False).encode())
        if left < 0:
            break
        kept[name] = short
    return kept


def _short(value: Any) -> Any:
    match value:
        case str() if value.startswith("data:"):
            head = value[:_DATA_HEAD_CHARS].split(",", 1)[0]
            return f"{head},... ({len(value)} characters)"
        case str() if len(value) > MAX_TEXT_CHARS:
            return f"{value[:MAX_TEXT_CHARS]}..."
        case dict():
            return {name: _short(each) for name, each in value.items()}
        case list():
            return [_short(each) for each in value]
        case _:
            return value
