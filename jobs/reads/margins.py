"""What images cost and what they were sold for, by model, over a number of days.

Sold is what jobs captured, at the price of the call that made each image. Cost is what the upstream reported for a
call, or else what the catalogue expects; only calls that may have been billed count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from core.db import Hot, Statement


@dataclass(frozen=True, slots=True)
class Margin:
    """One model's calls: what they cost in micro-USD, and what they were sold for in micro-credits.

    ``reported_calls``: calls whose cost the upstream reported. ``expected_of_reported_micro_usd``: what the catalogue
    expected for the same calls; compared with ``reported_micro_usd`` it shows whether the catalogue's price is right.
    """

    provider: str
    model: str
    calls: int
    images: int
    expected_micro_usd: int
    reported_calls: int
    reported_micro_usd: int
    expected_of_reported_micro_usd: int
    written_off: int  # calls
    sold_microcredits: int


# Each image is sold at the price of the call that made it, and only if its job captured anything.
MARGINS = Statement("""
SELECT c.provider, c.model, count(*) AS calls, coalesce(sum(c.pictures_kept), 0) AS images,
    coalesce(sum(c.expected_cost), 0) AS expected,
    count(c.reported_cost) AS reported_calls, coalesce(sum(c.reported_cost), 0) AS reported,
    coalesce(sum(c.expected_cost) FILTER (WHERE c.reported_cost IS NOT NULL), 0) AS expected_of_reported,
    count(*) FILTER (WHERE c.written_off) AS written_off,
    coalesce(sum(CASE WHEN j.captured > 0 THEN c.pictures_kept * coalesce(c.unit_price, j.unit_price) END), 0) AS sold
FROM upstream_calls AS c JOIN jobs AS j ON j.id = c.job_id
WHERE c.intended_at > statement_timestamp() - make_interval(days => CAST(:days AS int))
    AND (c.outcome IN ('kept', 'finished', 'lost', 'timed_out') OR c.reported_cost IS NOT NULL OR c.written_off)
GROUP BY c.provider, c.model
ORDER BY c.provider, c.model
""")


def margins(connection: Hot | Connection, *, days: int) -> Sequence[Margin]:
    """Return the margins of the calls of the last ``days``, by provider and model."""
    rows = Hot.of(connection).all(MARGINS, {"days": days})
    return [
        Margin(
            provider=row.provider,
            model=row.model,
            calls=row.calls,
            images=row.images,
            expected_micro_usd=int(row.expected),
            reported_calls=row.reported_calls,
            reported_micro_usd=int(row.reported),
            expected_of_reported_micro_usd=int(row.expected_of_reported),
            written_off=row.written_off,
            sold_microcredits=int(row.sold),
        )
        for row in rows
    ]
