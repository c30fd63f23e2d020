"""Where a caller stands with the limits that concern a request, as headers say it: RateLimit and RateLimit-Policy
(draft-ietf-httpapi-ratelimit-headers-10), and what dialects make of the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flask import Response, g

from jobs.submission.load import LoadStanding

Unit = Literal["requests", "concurrent-requests", "images"]


@dataclass(frozen=True, slots=True)
class Told:
    """``left`` of ``limit`` in a window, None for what is in flight; ``reset_s``: in so many seconds there is more."""

    name: str
    unit: Unit
    limit: int
    window_s: int | None
    left: int
    reset_s: int

    @property
    def policy(self) -> str:
        """An item of RateLimit-Policy."""
        window = "" if self.window_s is None else f";w={self.window_s}"
        return f'"{self.name}";q={self.limit}{window};qu="{self.unit}"'

    @property
    def item(self) -> str:
        """The item of RateLimit. When a job ends no one knows, so that a time is told only to those who must wait."""
        reset = "" if self.window_s is None and self.left else f";t={self.reset_s}"
        return f'"{self.name}";r={self.left}{reset}'


def note(standings: Sequence[LoadStanding]) -> None:
    """Have the answer to this request tell also of these limits of load."""
    if standings:
        more = [Told(each.policy, each.unit, each.limit, each.window_s, each.left, each.reset_s) for each in standings]
        g.standings = [*told(), *more]


def told() -> Sequence[Told]:
    """The limits that concern this request."""
    found: Sequence[Told] = g.get("standings") or ()
    return found


def nearest(standings: Sequence[Told], unit: Unit | None = None) -> Told | None:
    """The limit that is nearest to its end, of one unit or of any; None where there is none."""
    of_unit = [each for each in standings if unit is None or each.unit == unit]
    return min(of_unit, key=lambda each: (each.left / each.limit, -each.reset_s), default=None)


def mark(response: Response) -> None:
    """Add the headers to the answer of a request that was counted."""
    standings = told()
    if (near := nearest(standings)) is not None:
        # Added, not set: nothing else sets them, and setting searches all the others.
        response.headers.add("RateLimit-Policy", ", ".join(each.policy for each in standings))
        response.headers.add("RateLimit", near.item)
