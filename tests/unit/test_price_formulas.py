"""Price formulas: what is read, what is refused before it can run, and what an order costs by one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from jsonata.timebox import Timebox
from pydantic import ValidationError

from jobs.errors import InvalidOrderError
from jobs.submission.order import Order
from providers.catalog import price_formulas
from providers.catalog.entries import Model
from providers.catalog.price_formulas import Formula, FormulaError, compile_any
from providers.orders.costs import cost_usd, expected_cost_microusd
from providers.orders.problems import OrderProblems
from providers.orders.rules import check_order
from providers.shared.extra import reserved_extra

ENDLESS = "($f := function($x){ $f($x + 1) }; $f(1))"


def model(formula: str | None, **changes: Any) -> Model:
    plain: dict[str, Any] = {
        "id": "mine",
        "name": "Mine",
        "provider": "wavespeed",
        "path": "acme/mine",
        "operation": "generate",
        "also": ["edit"],
        "capabilities": [],
        "cost_usd": 0.04,
        "cost_formula": formula,
        "inputs": {
            "prompt": "required",
            "images": {"min": 0, "max": 3},
            "image_fields": {"images": {"list": True, "max": 3}},
            "mask": "none",
        },
        "size": {"size": {"rule": "pixels", "format": "W*H", "min": 256, "max": 2048, "default": "1024x1024"}},
        "params": {
            "detail": {"type": "str", "enum": ["1k", "4k"], "default": "1k"},
            "fast": {"type": "bool", "default": False},
            "guidance": {"type": "float", "field": "guidance_scale", "default": 3.5},
            "n": {"type": "int", "field": "num_images", "min": 1, "max": 4},
        },
        "output": "image",
        "source": [],
        "verified": False,
    }
    return Model.model_validate({**plain, **changes})


def price(formula: str, *, images: int = 0, operation: str = "generate", **fields: Any) -> Decimal:
    mine = model(formula)
    order = check_order(mine, operation, {"prompt": "a kite", **fields}, image_count=images)
    return cost_usd(mine, order)


# ---------------------------------------------------------------- the language


@pytest.mark.parametrize(
    "text",
    [
        ENDLESS,
        "$sum([1..1000000000])",
        "/(a+)+$/",
        "$match(prompt, /(a+)+$/)",
        'images[$ != "x"]',
        "**.price",
        "*",
        "prompt & prompt",
        "$eval(prompt)",
        "$map(images, function($i){1})",
        "images ~> $count",
        "images^(size)",
        "$pad(prompt, 1000000000)",
        "get_duration_v3(video) * base_price",
        "{",
        "(" * 3000 + "1" + ")" * 3000,
        "1 + " * 2000 + "1",
    ],
)
def test_what_may_run_long_is_not_read(text: str) -> None:
    with pytest.raises(FormulaError):
        price_formulas.read(text)
    with pytest.raises(ValidationError, match="cost_formula"):
        model(text)


def test_a_function_of_the_vendor_is_named() -> None:
    with pytest.raises(FormulaError, match=r"needs get_duration_v3\(\), which is not known"):
        price_formulas.read('{"total_price": $number(get_duration_v3(video)) * base_price}')


def test_a_process_that_waits_for_its_processor_loses_no_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a tenth of a second after the one before."""
    clock = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr(Timebox, "current_milli_time", staticmethod(lambda: next(clock)))
    assert price_formulas.read("base_price * 2").value({"base_price": 5}) == 10


def test_an_endless_formula_ends_even_where_the_reader_lets_it_through() -> None:
    """The second bound: evaluated with the reader's checks taken away, it ends by itself."""
    with pytest.raises(FormulaError):
        Formula(ENDLESS, frozenset(), compile_any(ENDLESS)).value({})
    with pytest.raises(FormulaError):
        text = "($f := function($x){ $f($x) + 1 }; $f(1))"
        Formula(text, frozenset(), compile_any(text)).value({})


@pytest.mark.parametrize(
    "text", ['"a"', "true", "1 / 0", "-1", "missing", '{"price": 1}', "null", "[1, 2]", "1e308 * 1e308"]
)
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(FormulaError):
        price_formulas.read(text).value({})


def test_a_text_is_parsed_once() -> None:
    text = '{"total_price": base_price * 1.25}'
    assert price_formulas.read(text) is price_formulas.read(str(text))


def test_names_are_those_of_the_inputs() -> None:
    text = '{"total_price": base_price * ($exists(reference) ? 2 : size = "1*1" ? 3 : num_images)}'
    assert price_formulas.read(text).names == {"reference", "size", "num_images"}


# ---------------------------------------------------------------- what an order costs


@pytest.mark.parametrize(
    ("formula", "fields", "usd"),
    [
        ("base_price", {}, "0.04"),
        ('base_price * (detail = "4k" ? 2 : 1)', {}, "0.04"),
        ('base_price * (detail = "4k" ? 2 : 1)', {"detail": "4k"}, "0.08"),
        ('(detail = "4k" ? 50000 : base_price) + (fast ? 14000 : 0)', {"fast": True}, "0.054"),
        ('size = "1024*1024" ? 10000 : 70000', {}, "0.01"),
        ('size = "512*256" ? 70000 : 10000', {"size": "512x256"}, "0.07"),
        ("base_price + 100 * $ceil($length(prompt) * 10 / 100)", {}, "0.0401"),
        ("guidance_scale > 4 ? 90000 : 10000", {"guidance": 5}, "0.09"),
        ("0.05", {}, "0.05"),  # a formula in dollars is not sold at a twenty-millionth
        ('{"total_price": base_price * 12/7}', {}, "0.068571429"),
    ],
)
def test_an_order_is_priced_by_what_it_would_send(formula: str, fields: dict[str, Any], usd: str) -> None:
    assert price(formula, **fields) == Decimal(usd)


def test_images_count() -> None:
    formula = "base_price + ($exists(images) ? 3000 * $count(images) : 0)"
    assert price(formula) == Decimal("0.04")
    assert price(formula, images=3, operation="edit") == Decimal("0.049")


def test_several_images_by_one_call_are_never_sold_below_their_share() -> None:
    assert price("base_price * num_images", n=3) == Decimal("0.04")
    assert price("num_images > 1 ? 400000 : 40000", n=2) == Decimal("0.2")
    assert price("num_images > 1 ? 40000 : 40000", n=4) == Decimal("0.04")  # a retry may make one alone


def test_a_small_base_price_stays_in_millionths() -> None:
    cheap = model("base_price * 0.5", cost_usd=0.001)
    order = check_order(cheap, "generate", {"prompt": "a kite"})
    assert cost_usd(cheap, order) == Decimal("0.0005")
    assert expected_cost_microusd(cheap, order) == 500


def test_the_base_price_is_the_vendors_where_the_entry_says_it() -> None:
    dear = model("base_price * 2", cost_usd=0.08, cost_base_usd=0.04)
    assert cost_usd(dear, check_order(dear, "generate", {"prompt": "a kite"})) == Decimal("0.08")


def test_an_order_without_a_price_is_refused_and_says_why() -> None:
    broken = model('base_price * (detail = "4k" ? "much" : 1)')
    fine = {"prompt": "a kite"}
    assert Order("generate", fine).check(broken, lenient=False).prompt == "a kite"
    with pytest.raises(OrderProblems):
        cost_usd(broken, check_order(broken, "generate", {**fine, "detail": "4k"}))
    with pytest.raises(InvalidOrderError) as caught:
        Order("generate", {**fine, "detail": "4k"}).check(broken, lenient=True)
    assert [(fault.field, fault.code) for fault in caught.value.faults] == [("model", "price_unknown")]


def test_extra_may_not_change_what_the_formula_reads() -> None:
    assert "enable_web_search" in reserved_extra(model("base_price + (enable_web_search ? 14000 : 0)"))
    assert "enable_web_search" not in reserved_extra(model(None))
