"""The headers by which a client of Replicate says how long it waits, and how long it wants the prediction at all."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.errors import FieldFault

MAX_WAIT_S = 60
MIN_CANCEL_AFTER_S = 5
MAX_CANCEL_AFTER_S = 30 * 86_400
_DURATION = re.compile(r"(?:(?P<h>[0-9]{1,6})h)?(?:(?P<m>[0-9]{1,6})m)?(?:(?P<s>[0-9]{1,9})s?)?")
_UNITS_S = {"h": 3600, "m": 60, "s": 1}
# @ai-sdk/replicate, alone and below `ai`: up to its release for `ai` 6 it cannot read an unfinished prediction.
_WAITS_TO_THE_END = re.compile(r"\bai-sdk/(replicate|provider-utils)/")


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a create is held. ``limit_s``: at most; None: until the prediction ends. ``applied`` is what is said of
    it in Preference-Applied."""

    limit_s: float | None
    applied: str


def read_prefer(values: list[str], user_agent: str) -> Wait | None:
    """The wait that the headers Prefer ask for (RFC 7240); None for none. ``wait=n`` is at most MAX_WAIT_S."""
    for part in ",".join(values).split(","):
        name, has_value, value = part.split(";")[0].partition("=")
        if name.strip().lower() != "wait":
            continue
        digits = value.strip().strip('"')
        if not has_value:
            endless = _WAITS_TO_THE_END.search(user_agent) is not None
            return Wait(None if endless else MAX_WAIT_S, "wait")
        if re.fullmatch(r"[0-9]{1,9}", digits):
            limit_s = min(int(digits), MAX_WAIT_S)
            return Wait(limit_s, f"wait={limit_s}") if limit_s else None
    return None


def read_cancel_after(value: str | None) -> tuple[int | None, list[FieldFault]]:
    """Seconds of a duration as ``90s``, ``5m``, ``1h30m``, or a bare number of seconds; and what is wrong with it."""
    if value is None:
        return None, []
    text = value.strip().lower()
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        return None, [FieldFault("Cancel-After", "wrong_type", "must be a duration as in 90s, 5m or 1h30m45s")]
    after_s = sum(int(found[unit]) * each_s for unit, each_s in _UNITS_S.items() if found[unit])
    if not MIN_CANCEL_AFTER_S <= after_s <= MAX_CANCEL_AFTER_S:
        words = f"must be {MIN_CANCEL_AFTER_S} seconds to {MAX_CANCEL_AFTER_S // 86_400} days"
        return None, [FieldFault("Cancel-After", "out_of_range", words)]
    return after_s, []
