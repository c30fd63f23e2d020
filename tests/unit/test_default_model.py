"""The model of an order that names none: the operator's default, the catalogue's, then the cheapest that takes it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import InvalidOrderError
from jobs.submission.order import Order, ReferenceImage
from jobs.submission.quoting import Quote, Quoting
from providers.catalog import catalog
from providers.catalog.catalog import Catalog

ALL = ("openai", "flux", "wavespeed", "stability")


def quoted(
    *configured: str,
    setting: str | None = None,
    shown: Catalog | None = None,
    operation: str = "generate",
    images: int = 0,
    **fields: Any,
) -> Quote:
    quoting = Quoting(
        shown or catalog.load(),
        configured=configured,
        markup=Decimal(1),
        minimum_unit_price_microcredits=1,
        default_model=setting,
    )
    references = [ReferenceImage("image", field_name=f"images[{at}]") for at in range(images)]
    return quoting.quote(Order(operation, fields, references, []))


def chosen(quote: Quote) -> tuple[str, str | None]:
    assert quote.chosen is not None
    assert quote.chosen["model"] == quote.model.id
    return quote.model.id, quote.chosen.get("rule")


def test_the_catalogues_default_is_taken_where_its_provider_is_configured() -> None:
    found = quoted(*ALL, prompt="a fox")
    assert chosen(found) == ("gpt-image-2", "catalog_default")
    assert found.chosen is not None
    assert found.chosen["reason"] == "the default model of the catalogue"


def test_without_that_provider_the_cheapest_is_taken() -> None:
    assert chosen(quoted("flux", "stability", prompt="a fox")) == ("flux-2-klein-4b", "cheapest")


def test_the_operators_setting_goes_before_the_catalogue() -> None:
    assert chosen(quoted(*ALL, setting="flux-2-pro", prompt="a fox")) == ("flux-2-pro", "operator_default")


def test_a_setting_whose_provider_is_not_configured_leaves_it_to_the_catalogue() -> None:
    assert chosen(quoted("openai", setting="flux-2-pro", prompt="a fox")) == ("gpt-image-2", "catalog_default")


def test_the_operators_file_goes_before_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "catalog.local.yaml"
    path.write_text("default_model: stable-image-core\n")
    found = quoted(*ALL, setting="flux-2-pro", shown=catalog.load(local=path), prompt="a fox")
    assert chosen(found) == ("stable-image-core", "operator_default")


def test_what_the_default_cannot_do_goes_to_the_cheapest_that_can() -> None:
    model, rule = chosen(quoted(*ALL, operation="upscale", images=1))
    assert "upscale" in catalog.load().models[model].operations
    assert rule == "cheapest"


def test_an_order_that_the_default_does_not_take_goes_to_the_cheapest_that_does() -> None:
    found = quoted(*ALL, prompt="a fox", seed=3)
    model, rule = chosen(found)
    assert rule == "cheapest"
    assert "seed" in catalog.load().models[model].params
    assert found.chosen is not None
    assert "gpt-image-2 would not" in found.chosen["reason"]


def test_auto_asks_for_the_ranking_and_not_for_the_default() -> None:
    assert chosen(quoted(*ALL, model="auto", prompt="a fox"))[1] == "cheapest"
    assert chosen(quoted(*ALL, model="auto:quality", prompt="a fox"))[1] == "best"


def test_a_named_model_was_chosen_by_no_rule() -> None:
    assert quoted(*ALL, model="flux-2-pro", prompt="a fox").chosen is None


def test_a_fault_of_the_order_is_told_once() -> None:
    with pytest.raises(InvalidOrderError) as refused:
        quoted(*ALL, prompt="")
    assert [(fault.field, fault.code) for fault in refused.value.faults] == [("prompt", "required")]


def told(*configured: str, **order: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidOrderError) as refused:
        quoted(*configured, **order)
    return [(fault.field, fault.message) for fault in refused.value.faults]


def test_a_misspelt_field_is_the_only_fault_of_an_order_that_names_no_model() -> None:
    assert told(*ALL, prompt="a fox", promt="x", stps=20) == [
        ("promt", "no model for generate takes it; did you mean prompt?"),
        ("stps", "no model for generate takes it; did you mean steps?"),
    ]


def test_a_misspelt_field_next_to_one_that_the_nearest_model_lacks_leaves_both() -> None:
    found = dict(told("openai", prompt="a fox", sise="1024x1024", seed=1))
    assert found["sise"] == "no model for generate takes it; did you mean size?"
    assert found["seed"].startswith("gpt-image-2 does not take it")
    assert "gpt-image-2 comes nearest" in found["model"]


def test_fallbacks_that_do_not_exist_are_told_with_a_model_that_does_not() -> None:
    found = told(*ALL, prompt="a fox", model="nosuch", fallback_models=["flux-2-pro", "neither", "auto"])
    assert [field for field, _ in found] == ["model", "fallback_models[1]"]
