"""Where a catalogue and an upstream's list differ: every kind, and no other."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from providers.catalog import catalog
from providers.catalog.entries import Model
from providers.listing.drift import Drift, compare
from providers.listing.listed import ListedField, ListedModel, Listing
from providers.listing.sent_fields import sent_fields

TODAY = date(2026, 11, 21)
MODEL = catalog.load().models["qwen-image"]
PATH = MODEL.path
THEIRS = ListedModel(
    PATH, price_usd=MODEL.cost_usd, fields=sent_fields(MODEL, "generate"), required=frozenset({"prompt"})
)


def against(listed: ListedModel | None, *, model: Model = MODEL, **facts: Any) -> Drift:
    models = {} if listed is None else {listed.name: listed}
    return compare("wavespeed", [model], Listing(models, **facts), today=TODAY)


def with_field(name: str, **changes: Any) -> ListedModel:
    fields = dict(THEIRS.fields or {})
    return replace(THEIRS, fields={**fields, name: replace(fields[name], **changes)})


def without(name: str) -> ListedModel:
    return replace(THEIRS, fields={key: each for key, each in (THEIRS.fields or {}).items() if key != name})


def test_the_same_is_no_drift() -> None:
    drift = against(THEIRS)
    assert not drift
    assert (drift.compared, drift.new, drift.counts()) == (1, (), {})


@pytest.mark.parametrize(
    ("theirs", "kind", "words"),
    [
        (None, "missing", "not in the upstream's list"),
        (replace(THEIRS, gone_on="2026-11-01"), "gone", "2026-11-01"),
        (replace(THEIRS, gone_on="2027-01-01T00:00:00Z"), "retiring", "2027-01-01"),
        (replace(THEIRS, price_usd=Decimal("0.05")), "price", "0.02 USD here, 0.05 USD there"),
        (replace(THEIRS, formula='{"total_price": base_price * 2}'), "price", "0.04 USD there"),
        (without("seed"), "fields", "seed: is not taken there"),
        (with_field("output_format", enum=("png", "webp")), "fields", "choice jpeg is not taken there"),
        (with_field("output_format", default="png"), "fields", "default png there, jpeg here"),
        (with_field("seed", high=100), "fields", "seed: at most 100 there"),
        (with_field("seed", low=0), "fields", "seed: at least 0 there, -1 here"),
        (with_field("size", low=512), "fields", "size: at least 512 there"),
        (replace(THEIRS, required=frozenset({"prompt", "style"})), "fields", "style: is required there"),
    ],
)
def test_each_kind_of_drift(theirs: ListedModel | None, kind: str, words: str) -> None:
    drift = against(theirs)
    assert drift.counts() == {kind: 1}
    (found,) = drift.differences
    assert (found.model, found.path) == ("qwen-image", PATH)
    assert words in found.detail


@pytest.mark.parametrize(
    "theirs",
    [
        replace(THEIRS, fields=None, price_usd=None),  # a list of names alone
        with_field("output_format", enum=("jpeg", "png", "webp", "heic")),  # a choice that we do not offer
        with_field("seed", high=2**40),
        replace(THEIRS, fields={**(THEIRS.fields or {}), "style": ListedField("string")}),
        replace(THEIRS, formula='{"total_price": base_price * num_images}'),
        replace(THEIRS, formula='{"total_price": base_price * $number(get_duration_v3(video))}'),  # not to be compared
    ],
)
def test_what_is_no_drift(theirs: ListedModel) -> None:
    assert against(theirs).differences == ()


def test_a_model_with_a_formula_is_compared_by_it() -> None:
    ours = MODEL.model_copy(update={"cost_formula": "base_price * 2", "cost_base_usd": Decimal("0.01")})
    same = replace(THEIRS, formula="base_price * 2", price_usd=Decimal("0.01"))
    assert not against(same, model=ours)
    assert against(replace(same, formula="base_price * 3"), model=ours).counts() == {"price": 1}
    assert against(replace(same, price_usd=Decimal("0.02")), model=ours).counts() == {"price": 1}


def test_a_list_that_takes_fewer_items_is_drift() -> None:
    model = catalog.load().models["qwen-edit-plus"]
    path = model.paths.get("edit", model.path)
    fields = dict(sent_fields(model, "edit"))
    [name] = [name for name, each in fields.items() if each.most]
    theirs = ListedModel(path, fields=fields, required=frozenset({"prompt", name}))
    assert against(theirs, model=model).counts() == {}
    fewer = {**fields, name: replace(fields[name], most=1)}
    [found] = against(replace(theirs, fields=fewer), model=model).differences
    assert (found.kind, found.detail) == ("fields", f"{name}: at most 1 items there, {fields[name].most} here")


def test_a_default_of_true_is_not_one() -> None:
    spec = replace((THEIRS.fields or {})["seed"], default=1)
    params = {**MODEL.params, "seed": MODEL.params["seed"].model_copy(update={"default": 1})}
    ours = MODEL.model_copy(update={"params": params})
    for default, counts in ((1, {}), (1.0, {}), (True, {"fields": 1})):
        theirs = replace(THEIRS, fields={**(THEIRS.fields or {}), "seed": replace(spec, default=default)})
        assert against(theirs, model=ours).counts() == counts, default


def test_new_models_are_counted_and_are_no_drift() -> None:
    more = {PATH: THEIRS, "acme/new": ListedModel("acme/new")}
    drift = compare("wavespeed", [MODEL], Listing(more), today=TODAY)
    assert not drift
    assert drift.new == ("acme/new",)
    assert compare("wavespeed", [MODEL], Listing(more, whole=False), today=TODAY).new == ()


def test_hidden_and_ended_models_are_not_looked_for() -> None:
    for changes in ({"hidden": True}, {"status": "shutdown"}, {"status": "unknown"}):
        assert not against(None, model=MODEL.model_copy(update=changes))
    known = MODEL.model_copy(update={"status": "retiring", "retires_on": date(2027, 1, 1)})
    assert not against(replace(THEIRS, gone_on="2027-01-01"), model=known)
    assert against(replace(THEIRS, gone_on="2026-11-01"), model=known).counts() == {"gone": 1}


def test_an_upstream_may_call_a_model_otherwise() -> None:
    theirs = replace(THEIRS, name="qwen-3")
    assert against(theirs).counts() == {"missing": 1}
    assert not against(theirs, called={"qwen-image": "qwen-3"})
    assert not against(theirs, called={PATH: "qwen-3"})
