"""Choosing a model for an order that names none: the first that takes the whole order, and why."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import FieldFault, InvalidOrderError
from jobs.submission.selection import AUTO, Selection, select
from providers.catalog.catalog import Model, load
from providers.catalog.ranking import Goal, ranked
from providers.orders.rules import CheckedOrder, OrderProblems, check_order

CATALOG = load()


def pick(
    *providers: str,
    goal: Goal = "budget",
    operation: str = "generate",
    images: int = 0,
    mask: bool = False,
    **fields: Any,
) -> Selection:
    def check(model: Model, *, lenient: bool) -> CheckedOrder:
        try:
            return check_order(model, operation, fields, image_count=images, has_mask=mask, lenient=lenient)
        except OrderProblems as error:
            raise InvalidOrderError([FieldFault(p.field, p.code, p.message) for p in error.problems]) from None

    lenient = fields.pop("lenient", False)
    candidates = ranked(CATALOG, operation, frozenset(providers), goal)
    return select(candidates, check, operation=operation, asked=f"auto:{goal}", goal=goal, lenient=lenient)


def faults(*providers: str, **order: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidOrderError) as refused:
        pick(*providers, **order)
    return [(fault.field, fault.code) for fault in refused.value.faults]


def test_the_first_that_takes_the_order_is_chosen_and_says_why() -> None:
    plain = pick("openai", "flux", prompt="a fox")
    assert plain.model.id == "flux-2-klein-4b"
    assert plain.stored() == {
        "asked": "auto:budget",
        "model": plain.model.id,
        "rule": "cheapest",
        "reason": plain.reason,
    }
    assert plain.reason is not None
    assert plain.reason.startswith("the cheapest of ")
    clear = pick("openai", "flux", prompt="a fox", background="transparent")
    assert clear.model.id == "gpt-image-2.5-flare"
    assert "flux-2-klein-4b" in (clear.reason or "")


def test_images_and_masks_count() -> None:
    assert pick("openai", "huggingface", operation="edit", prompt="x", images=1).model.provider == "huggingface"
    assert pick("openai", "huggingface", operation="edit", prompt="x", images=1, mask=True).model.provider == "openai"
    assert pick("wavespeed", operation="edit", prompt="x", images=9).model.inputs.images.max in {None, 10, 14}


def test_quality_asks_for_the_best() -> None:
    best = pick("flux", "wavespeed", "stability", goal="quality", prompt="a fox")
    assert best.model.id == "ws-nano-banana-pro"
    assert "best by the catalogue's ranking" in (best.reason or "")
    assert best.rule == "best"


def test_lenient_drops_something_only_where_no_model_takes_all() -> None:
    assert pick("openai", "flux", prompt="a fox", seed=1, lenient=True).model.provider == "flux"
    assert pick("openai", prompt="a fox", seed=1, lenient=True).checked.dropped == ("seed",)


def test_no_candidate_is_an_error() -> None:
    assert faults(operation="face_swap") == [("model", "no_model_available")]


def test_a_fault_of_the_order_itself_is_no_fault_of_the_choice() -> None:
    assert faults("openai", "flux", prompt=" ") == [("prompt", "required")]
    assert faults("openai", "flux", prompt="x", n=11) == [("n", "out_of_range")]


def test_an_order_that_fits_no_model_names_what_the_nearest_lacks() -> None:
    told = faults("openai", "flux", prompt="x", seed=1, background="transparent")
    assert told[0] == ("model", "no_model_fits")
    assert told[1][0] in {"seed", "background"}
    assert len(told) == 2
    assert faults("openai", prompt="x", seed=1) == [("model", "no_model_fits"), ("seed", "not_supported")]


def test_auto_is_the_cheapest() -> None:
    assert AUTO == {"auto": "budget", "auto:budget": "budget", "auto:quality": "quality"}
