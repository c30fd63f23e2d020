"""From cost to price: rounded up, never below the minimum, in whole micro-credits."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.errors import InsufficientCreditsError
from quota.prices import credits_text, unit_price_microcredits

costs = st.decimals(0, 100, places=6)


@pytest.mark.parametrize(
    ("cost", "markup", "minimum", "price"),
    [
        ("0.053", "1", 0, 5_300_000),
        ("0.053", "1.5", 0, 7_950_000),
        ("0", "1", 100_000, 100_000),
        ("0", "1", 0, 0),
        ("0.000000001", "1", 0, 1),
        ("0.0000000101", "1", 0, 2),
        ("0.001", "1", 100_000, 100_000),
        ("0.001", "1", 100_001, 100_001),
    ],
)
def test_examples(cost: str, markup: str, minimum: int, price: int) -> None:
    assert unit_price_microcredits(Decimal(cost), markup=Decimal(markup), minimum_microcredits=minimum) == price


@given(costs, st.decimals("0.01", 10, places=4), st.integers(0, 10**9))
def test_a_price_covers_its_cost_and_overcharges_by_less_than_one(cost: Decimal, markup: Decimal, minimum: int) -> None:
    price = unit_price_microcredits(cost, markup=markup, minimum_microcredits=minimum)
    exact = cost * markup * 100 * 1_000_000
    assert price >= max(exact, minimum)
    assert price == minimum or price - exact < 1


@given(costs, costs)
def test_what_costs_more_is_never_cheaper(one: Decimal, other: Decimal) -> None:
    low, high = sorted((one, other))
    prices = [unit_price_microcredits(cost, markup=Decimal("1.1"), minimum_microcredits=1000) for cost in (low, high)]
    assert prices == sorted(prices)


@pytest.mark.parametrize(
    ("microcredits", "shown"),
    [
        (5_300_000, "5.3"),
        (0, "0"),
        (1, "0.000001"),
        (10_000_000, "10"),
        (100_000_000_000, "100000"),
        (-2_500_000, "-2.5"),
    ],
)
def test_credits_are_written_as_a_plain_number(microcredits: int, shown: str) -> None:
    assert credits_text(microcredits) == shown


def test_a_refusal_names_price_and_balance() -> None:
    error = InsufficientCreditsError(price_microcredits=5_300_000, spendable_microcredits=100_000)
    assert str(error) == "this order costs 5.3 credits; 0.1 are free to spend"
    assert error.code == "insufficient_credits"
