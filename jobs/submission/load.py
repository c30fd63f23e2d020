"""Limits of load: how many jobs may be in flight, and how many images may be ordered in a minute, kept exactly however
many orders come at once.

A job is in flight from its acceptance to its end. Jobs are counted where they are, so that no end has to give anything
back, and no more of them than the limit. The images of a minute are a bucket that refills evenly, in a row of its own:
what is taken for an order that is refused comes back with the transaction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.db import Hot, Statement
from core.errors import ServiceError
from jobs.errors import FieldFault, InvalidOrderError

Whose = Literal["key", "account", "installation"]
Unit = Literal["concurrent-requests", "images"]
INSTALLATION = "installation"
# When a job ends no one knows; so long until a caller at a limit of jobs tries again.
IN_FLIGHT_RETRY_S = 5
WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """What the orders of ``whose`` must keep; ``id``: its own, and for a key that of its ``account_id`` next to it."""

    whose: Whose
    id: str
    account_id: str = ""
    in_flight: int | None = None
    images_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class LoadStanding:
    """Where a caller stands with one limit: ``left`` of ``limit``, and in how many seconds there is more."""

    policy: str
    unit: Unit
    limit: int
    left: int
    reset_s: int

    @property
    def window_s(self) -> int | None:
        return WINDOW_S if self.unit == "images" else None


class LoadLimitError(ServiceError):
    """As many jobs are in flight, or images were ordered, as may be. Nothing is kept; trying again costs nothing."""

    code = "rate_limited"

    def __init__(self, standing: LoadStanding, whose: Whose) -> None:
        what = "jobs in flight" if standing.unit == "concurrent-requests" else "images in a minute"
        super().__init__(
            f"this {whose} may have at most {standing.limit} {what}; try again in {standing.reset_s} s",
            **{"violated-policies": [standing.policy]},
        )
        self.standing = standing
        self.limit = standing.policy


# Rows that have not ended are counted, by indexes that hold no others, up to the limit. In this order, and an account
# being a range to the planner, no other index gives them, whatever the table was like when it planned.
def _of_account(more: str) -> str:
    return f"""
SELECT count(*) FROM (
    (SELECT 1 FROM jobs WHERE account_id >= :account_id AND account_id <= :account_id AND status = 'queued'{more}
        ORDER BY account_id, id LIMIT CAST(:most AS int))
    UNION ALL
    (SELECT 1 FROM jobs WHERE account_id >= :account_id AND account_id <= :account_id
        AND status IN ('running', 'waiting'){more} ORDER BY account_id, id LIMIT CAST(:most AS int))
    LIMIT CAST(:most AS int)
) AS live
"""


_IN_FLIGHT = {
    "account": Statement(_of_account("")),
    # The expression keeps the planner from the index of all the jobs that the key has ever ordered.
    "key": Statement(_of_account(" AND coalesce(key_id, '') = :id")),
    "installation": Statement("""
SELECT count(*) FROM (
    (SELECT 1 FROM jobs WHERE status = 'queued' ORDER BY provider, id LIMIT CAST(:most AS int))
    UNION ALL
    (SELECT 1 FROM jobs WHERE status = 'running' ORDER BY owner LIMIT CAST(:most AS int))
    UNION ALL
    (SELECT 1 FROM jobs WHERE status = 'waiting' ORDER BY provider, due_at LIMIT CAST(:most AS int))
    LIMIT CAST(:most AS int)
) AS live
"""),
}
IN_FLIGHT_ACCOUNT, IN_FLIGHT_KEY = _IN_FLIGHT["account"], _IN_FLIGHT["key"]
IN_FLIGHT_INSTALLATION = _IN_FLIGHT["installation"]

_NOW_IN_BUCKET = """least(CAST(:most AS float), b.images
        + greatest(0, extract(epoch FROM clock_timestamp() - b.at)) * CAST(:most AS float) / 60)"""
# The row stays locked until the transaction ends: orders under one limit are admitted one after the other.
TAKE_IMAGES = Statement(f"""
INSERT INTO image_buckets AS b (id, images, at)
SELECT :id, CAST(:most AS float) - CAST(:n AS int), clock_timestamp() WHERE CAST(:most AS float) >= CAST(:n AS int)
ON CONFLICT (id) DO UPDATE SET images = {_NOW_IN_BUCKET} - CAST(:n AS int), at = clock_timestamp()
WHERE {_NOW_IN_BUCKET} >= CAST(:n AS int)
RETURNING images
""")
LEFT_IMAGES = Statement(f"SELECT {_NOW_IN_BUCKET} AS images FROM image_buckets AS b WHERE id = :id")


def admit(hot: Hot, limits: LoadLimits, n: int) -> Sequence[LoadStanding]:
    """Admit an order of ``n`` images, and where that leaves the caller.

    Must run in a transaction of READ COMMITTED that holds the lock of ``limits`` (or TAKE_IMAGES takes one), so that
    what was ordered while the lock was waited for is counted. Raises LoadLimitError, InvalidOrderError.
    """
    standings = _jobs(hot, limits)
    if (most := limits.images_per_minute) is not None:
        _check_possible(limits, n)
        left = hot.scalar(TAKE_IMAGES, {"id": limits.id, "most": most, "n": n})
        if left is None:
            raise LoadLimitError(_images(limits, most, _left(hot, limits.id, most), n), limits.whose)
        standings.append(_images(limits, most, left, 1))
    return standings


def look_ahead(hot: Hot, limits: LoadLimits, n: int) -> None:
    """Raise what :func:`admit` would raise as things are now; takes and locks nothing."""
    _jobs(hot, limits)
    if (most := limits.images_per_minute) is not None:
        _check_possible(limits, n)
        left = _left(hot, limits.id, most)
        if left < n:
            raise LoadLimitError(_images(limits, most, left, n), limits.whose)


def _jobs(hot: Hot, limits: LoadLimits) -> list[LoadStanding]:
    most = limits.in_flight
    if most is None:
        return []
    values = {"id": limits.id, "account_id": limits.account_id or limits.id, "most": most}
    live = hot.scalar(_IN_FLIGHT[limits.whose], values)
    left = most - int(live)
    standing = LoadStanding(
        f"{limits.whose}-in-flight", "concurrent-requests", most, max(left - 1, 0), IN_FLIGHT_RETRY_S
    )
    if left <= 0:
        raise LoadLimitError(standing, limits.whose)
    return [standing]


def _left(hot: Hot, bucket: str, most: int) -> float:
    left = hot.scalar(LEFT_IMAGES, {"id": bucket, "most": most})
    return float(most if left is None else left)


def _images(limits: LoadLimits, most: int, left: float, wanted: int) -> LoadStanding:
    """The standing of a bucket; it resets when ``wanted`` images are there or, where they are, all."""
    missing = (wanted if left < wanted else most) - left
    wait_s = max(1, math.ceil(missing * WINDOW_S / most))
    return LoadStanding(f"{limits.whose}-images", "images", most, max(int(left), 0), wait_s)


def _check_possible(limits: LoadLimits, n: int) -> None:
    most = limits.images_per_minute
    if most is not None and n > most:
        words = f"this {limits.whose} may order at most {most} images in a minute, and these are {n}"
        raise InvalidOrderError([FieldFault("n", "out_of_range", words)])
