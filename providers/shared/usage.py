"""What an upstream reports of its price, as :class:`~providers.reported_cost.ReportedCost`: money if sure, and counts.

Pure functions that never raise: a broken number must not lose a paid result. What is not a number from 0 to
:data:`MAX_AMOUNT` is left out, and money is rounded up to whole micro-USD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

from providers.catalog.entries import TokenPrices
from providers.reported_cost import ReportedCost

MAX_AMOUNT: Final = 10**12
MAX_NAMES = 32  # of one mapping or list
MAX_NESTING = 3
MAX_WORD_CHARS = 64
MICROUSD_PER_USD = 1_000_000


class Tokens(NamedTuple):
    """How many tokens of each kind one call used."""

    text_input: int = 0
    image_input: int = 0
    text_output: int = 0
    image_output: int = 0


def number(found: object) -> int | float | None:
    """A number from 0 to :data:`MAX_AMOUNT`; None for anything else, ``true`` and NaN included."""
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return found if 0 <= found <= MAX_AMOUNT else None  # no comparison holds for NaN


def whole(found: object) -> int | None:
    """A whole number from 0 to :data:`MAX_AMOUNT`; None for anything else."""
    checked = number(found)
    return checked if isinstance(checked, int) else None


def counts(found: object) -> dict[str, Any]:
    """The numbers of an upstream's object under their own names, and the short words that describe them.

    The result can be stored as JSON: limited in length and depth, without NaN. Empty for anything else.
    """
    kept = _kept(found, MAX_NESTING)
    return kept if isinstance(kept, dict) else {}


def _kept(found: object, depth: int) -> Any:
    if isinstance(found, str):
        return found if _is_word(found) else None
    if depth and isinstance(found, Mapping):
        return dict(_named(found, depth - 1)) or None
    if depth and isinstance(found, list):
        return [kept for each in found[:MAX_NAMES] if (kept := _kept(each, depth - 1)) is not None] or None
    return number(found)


def _named(found: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in list(found.items())[:MAX_NAMES]:
        kept = _kept(value, depth)
        if kept is not None and isinstance(name, str) and _is_word(name):
            yield name, kept


def _is_word(text: str) -> bool:
    """Whether a text is short, and without characters that a database refuses."""
    return 0 < len(text) <= MAX_WORD_CHARS and text.isascii() and text.isprintable()


def reported(usage: Mapping[str, Any], *, usd: Fraction | None = None) -> ReportedCost | None:
    """The counts, and ``usd`` as micro-USD; None where there is neither."""
    microusd = None if usd is None else math.ceil(usd * MICROUSD_PER_USD)
    if microusd is not None and microusd > MAX_AMOUNT:
        microusd = None
    return ReportedCost(microusd, usage) if usage or microusd is not None else None


def amount_usd(found: object, *, units_per_usd: int) -> Fraction | None:
    """US dollars from an amount in the upstream's units (credits, ticks). None where it is not an amount."""
    amount = number(found)
    return None if amount is None else Fraction(Decimal(str(amount))) / units_per_usd


def price_usd(tokens: Tokens | None, prices: TokenPrices | None) -> Fraction | None:
    """US dollars for the tokens; None where a kind that was used has no price, or no tokens were counted."""
    if tokens is None or prices is None or not any(tokens):
        return None
    total = Fraction(0)
    for kind, count in tokens._asdict().items():
        price = getattr(prices, kind)
        if count and price is None:
            return None
        total += count * Fraction(price or 0)
    return total / MICROUSD_PER_USD
