"""When a callback that failed is sent again."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Seconds before each attempt, counted from the end of the one before: three days and three hours in all.
WAITS_S = (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
ATTEMPTS = len(WAITS_S)
JITTER = 0.1
MAX_RETRY_AFTER_S = 24 * 3600
# Answers that ask for time: the whole endpoint waits.
SLOW_DOWN = frozenset({429, 502, 504})
SLOW_DOWN_S = 30.0


def wait_s(ended: int, *, retry_after_s: float = 0.0) -> float | None:
    """Return the seconds until the next attempt after ``ended`` ones, up to a tenth more than the schedule says.

    ``retry_after_s``: what the receiver asked for, at least. None: there is no further attempt.
    """
    if ended >= ATTEMPTS:
        return None
    return max(WAITS_S[ended] * (1 + JITTER * random.random()), retry_after_s)


def retry_after_s(header: str | None) -> float:
    """Return the seconds of a Retry-After header, at most a day; 0 without one that can be read."""
    if header is None:
        return 0.0
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", header):
        return float(min(int(header), MAX_RETRY_AFTER_S))
    try:
        moment = parsedate_to_datetime(header)
    except (TypeError, ValueError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER_S)
