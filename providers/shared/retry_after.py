"""How long an upstream asks us to wait."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 300.0

_IN_WORDS = re.compile(r"(?i)\b(?:in|after)\s+(?=\d)((?:\d+h)?(?:\d+m(?!s))?(?:\d+(?:\.\d+)?\s?(?:s|ms)\w*)?)")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s?(ms|h|m|s)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def retry_after_s(headers: Mapping[str, str], message: str = "") -> float | None:
    """Seconds to wait, from the headers or else from the words of the message; at most ``MAX_RETRY_AFTER_S``.

    None where the upstream says nothing usable.
    """
    for found in (_from_ms(headers), _from_header(headers), _from_words(message)):
        if found is not None and math.isfinite(found) and found > 0:
            return min(found, MAX_RETRY_AFTER_S)
    return None


def _from_ms(headers: Mapping[str, str]) -> float | None:
    number = _number(headers.get("retry-after-ms", ""))
    return None if number is None else number / 1000


def _from_header(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    number = _number(text)
    if number is not None or not text:
        return number
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _from_words(message: str) -> float | None:
    found = _IN_WORDS.search(message[:2000])
    amounts = _AMOUNT.findall(found[1]) if found else []
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in amounts) or None
