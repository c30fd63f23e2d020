"""From an upstream's cost to our price. Whole micro-credits; 1 credit is 1 US cent by default."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

MICROCREDITS_PER_CREDIT = 1_000_000
CREDITS_PER_USD = 100


def unit_price_microcredits(cost_usd: Decimal, *, markup: Decimal, minimum_microcredits: int) -> int:
    """The price of one image: cost x markup, rounded up, at least the minimum.

    By the minimum, images of self-hosted upstreams, whose catalogue cost is zero, count against a balance.
    """
    exact = cost_usd * markup * CREDITS_PER_USD * MICROCREDITS_PER_CREDIT
    return max(int(exact.to_integral_value(ROUND_CEILING)), minimum_microcredits)


def credits_text(microcredits: int) -> str:
    """Write micro-credits as a plain decimal number of credits: 5300000 -> '5.3'."""
    whole = Decimal(microcredits) / MICROCREDITS_PER_CREDIT
    return f"{whole.normalize():f}"
