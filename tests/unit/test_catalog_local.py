"""An operator's own file over the packaged catalogue: what it changes, and what is wrong with it."""

from __future__ import annotations

import textwrap
from decimal import Decimal
from pathlib import Path

import pytest

from providers.catalog.catalog import Catalog, CatalogError, UnknownModelError, build, load
from providers.catalog.files import PACKAGED
from providers.catalog.local import lay_over, merged
from providers.catalog.ranking import ranked
from providers.catalog.reading import read
from providers.orders.costs import cost_usd
from providers.orders.rules import OrderProblems, check_order

BASE = read(PACKAGED)
PLAIN = build(BASE)
HERE = Path("catalog.local.yaml")


def over(text: str) -> Catalog:
    return build(lay_over(BASE, HERE, textwrap.dedent(text).encode()))


def faults_of(text: str) -> list[str]:
    with pytest.raises(CatalogError) as refused:
        over(text)
    return list(refused.value.faults)


@pytest.mark.parametrize("said", ["cost_usd: 0.5", "cost_usd: 0.5, cost_tiers: []"])
def test_an_own_price_is_not_hidden_behind_packaged_price_rules(said: str) -> None:
    for model_id in ("gpt-image-2", "gemini-2.5-flash-image"):
        model = over(f"models: {{{model_id}: {{{said}}}}}").models[model_id]
        assert cost_usd(model, check_order(model, "generate", {"prompt": "a fox"})) == Decimal("0.5")
    kept = over("models: {gpt-image-2: {markup: 2}}").models["gpt-image-2"]
    assert kept.cost_table is not None


def test_a_field_is_overridden_and_the_rest_stays() -> None:
    found = over("models: {gpt-image-2: {cost_usd: 0.06, inputs: {prompt_max_len: 100}}}").models["gpt-image-2"]
    before = PLAIN.models["gpt-image-2"]
    assert (found.cost_usd, found.inputs.prompt_max_len) == (Decimal("0.06"), 100)
    assert (found.inputs.images, found.params, found.cost_tiers) == (
        before.inputs.images,
        before.params,
        before.cost_tiers,
    )


def test_null_takes_a_setting_away() -> None:
    found = over("models: {flux-2-pro: {params: {seed: null}}}").models["flux-2-pro"]
    assert set(PLAIN.models["flux-2-pro"].params) - set(found.params) == {"seed"}
    with pytest.raises(OrderProblems, match="seed"):
        check_order(found, "generate", {"prompt": "a fox", "seed": 1})


def test_null_lifts_a_limit() -> None:
    assert over("models: {flux-2-pro: {inputs: {images: {max: null}}}}").models["flux-2-pro"].inputs.images.max is None


def test_merging_changes_nothing_that_it_was_given() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert merged(base, {"a": {"b": 3, "c": None}, "e": {"f": 1}, "g": None}) == {"a": {"b": 3}, "d": 2, "e": {"f": 1}}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


def test_a_new_model_is_written_out_or_like_another() -> None:
    catalog = over(
        """
        models:
          house-fox:
            like: flux-2-pro
            name: House Fox
            path: /v1/house-fox
            cost_usd: 0.02
          plain:
            provider: openai
            path: plain
            operation: generate
            capabilities: []
            cost_usd: 0.01
            inputs: {prompt: required, images: {min: 0, max: 0}, mask: none}
            size: none
            params: {}
            output: image
        """
    )
    fox = catalog.resolve("flux/house-fox").model
    assert (fox.name, fox.provider, fox.cost_usd) == ("House Fox", "flux", Decimal("0.02"))
    assert fox.params == PLAIN.models["flux-2-pro"].params
    assert catalog.resolve("/v1/house-fox").model is fox
    assert (catalog.models["plain"].verified, catalog.models["plain"].live) == (False, True)


def test_a_new_model_like_one_that_is_gone_lives() -> None:
    assert over("models: {old-look: {like: dall-e-3, path: x}}").models["old-look"].live


def test_the_operators_aliases_stand_first_and_may_take_others_away() -> None:
    catalog = over("aliases: {House: flux-2-max, 'flux*': flux-2-flex, 'qwen*': null}")
    assert catalog.resolve("house").model.id == "flux-2-max"
    assert catalog.resolve("flux-9").model.id == "flux-2-flex"
    with pytest.raises(UnknownModelError):
        catalog.resolve("qwen-unheard-of")
    assert catalog.resolve("whatever", strict=False).model.id == "gpt-image-2"


def test_a_catch_all_of_the_operator_stays_last() -> None:
    catalog = over("aliases: {'*': flux-2-max}")
    assert catalog.resolve("whatever", strict=False).model.id == "flux-2-max"
    assert catalog.resolve("grok-9", strict=False).model.id == "grok-imagine-image"


def test_a_hidden_model_has_no_name_but_still_runs() -> None:
    catalog = over("models: {flux-2-max: {hidden: true}, gpt-image-2.5-flare: {hidden: true}}")
    # Its own names mean nothing, and neither does one that only leads on to it.
    for name in ("flux-2-max", "bfl/flux-2-max", "flux-2-max-2026-01-01", "gpt-image-1"):
        with pytest.raises(UnknownModelError) as refused:
            catalog.resolve(name)
        assert "flux-2-max" not in refused.value.suggestions
    assert "flux-2-max" not in {model.id for model in catalog.select(status="all")}
    assert catalog.entry("flux-2-max").id == "flux-2-max"
    with pytest.raises(UnknownModelError):
        catalog.entry("flux-2-maxi")


def test_an_alias_to_a_hidden_model_is_as_if_it_were_not_there() -> None:
    catalog = over("models: {gemini-3-pro-image: {hidden: true}}")
    found = catalog.resolve("gemini-9-pro")
    assert found.model.id == "gemini-3.1-flash-image"
    assert "stands in" in found.warnings[0]


def test_a_copy_takes_the_names_of_the_hidden_one() -> None:
    catalog = over("models: {flux-2-max: {hidden: true}, house-max: {like: flux-2-max}}")
    assert catalog.resolve("/v1/flux-2-max").model.id == "house-max"


def test_a_whole_provider_is_hidden_or_marked_up_unless_a_model_says_otherwise() -> None:
    catalog = over(
        """
        providers:
          flux: {markup: 1.5}
          xai: {hidden: true}
        models:
          flux-2-max: {markup: 2}
          grok-imagine-image: {hidden: false}
        """
    )
    assert {model.id: model.markup for model in catalog.select(provider="flux")}["flux-2-pro"] == Decimal("1.5")
    assert catalog.models["flux-2-max"].markup == 2
    assert [model.id for model in catalog.select(provider="xai")] == ["grok-imagine-image"]
    assert catalog.models["gpt-image-2"].markup is None


def test_the_cheapest_is_the_cheapest_at_our_prices() -> None:
    catalog = over("models: {ws-flux-schnell: {markup: 10}, z-image-turbo: {markup: 0.5}, ws-flux-dev: {markup: 1}}")
    found = ranked(catalog, "generate", frozenset({"wavespeed"}), "budget", Decimal(2))
    assert [model.id for model in found[:2]] == ["z-image-turbo", "ws-flux-dev"]  # 0.0025, 0.012; next 0.016


def test_the_version_covers_both_files() -> None:
    versions = {PLAIN.version, over("{}").version, over("{default_model: flux-2-pro}").version}
    assert len(versions) == 3
    assert over("{}").version == over("{}").version


def test_the_default_model_is_the_operators() -> None:
    assert over("default_model: flux-2-pro").preferred == "flux-2-pro"
    assert PLAIN.preferred is None


def test_a_section_whose_entries_are_commented_out_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("models:\nproviders:\naliases:\ndefault_model: flux-2-pro\n")
    assert load(local=path).models == PLAIN.models


def test_every_fault_is_named_at_once() -> None:
    found = faults_of(
        """
        schema_version: 2
        default_model: nobody
        colour: red
        aliases: {flux-2-pro: flux-2-max, x: nobody}
        providers: {openai: {markup: 0}, nobody: {hidden: true}}
        models:
          gpt-imag-2: {cost_usd: 1}
          gpt-image-2: {cost_usd: -1, like: flux-2-pro}
          flux-2-max: {id: other, markup: 1.2}
          new: {like: nobody}
          newer: {provider: nobody, path: x}
          gone: null
          dall-e-3: {replaced_by: nobody}
        """
    )
    told = "\n".join(found)
    for words in (
        "colour: Extra inputs",
        "provider openai: markup",
        "provider nobody: is not a provider",
        "gpt-imag-2: no packaged model (did you mean gpt-image-2?)",
        "gpt-image-2: cost_usd",
        "gpt-image-2: like:",
        "flux-2-max: id:",
        "new: like: nobody",
        "newer: operation: Field required",
        "gone: not a mapping",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("schema_version: 2", "schema_version 2"),
        ("default_model: nobody", "default_model nobody"),
        ("{default_model: flux-2-pro, models: {flux-2-pro: {hidden: true}}}", "flux-2-pro is hidden"),
        ("aliases: {flux-2-pro: flux-2-max}", "alias flux-2-pro: is a model's own id"),
        ("aliases: {x: nobody}", "alias x: target nobody"),
        ("models: {dall-e-3: {replaced_by: nobody}}", "dall-e-3: replaced_by nobody"),
        ("models: {flux-2-pro: {provider: nobody}}", "flux-2-pro: provider nobody"),
        ("models: {flux-2-pro: {quality: 9}}", "flux-2-pro: quality"),
        ("models: {x: {like: [1]}}", "x: like"),
        ("models: [1]", "models: not a mapping"),
        ("models: 3\nproviders: 4", "providers: not a mapping"),
        ("models: {1: 2}", "1: not a mapping"),
        ("", "not a mapping at the top"),  # as a file is while it is being written
        ("# nothing\n", "not a mapping at the top"),
        ("a: 2026-99-99", "not YAML"),
        ("? [a]\n: 1", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("\x00", "not YAML"),
        ("models: {x: {}, x: {}}", "key given twice"),
    ],
)
def test_a_fault_is_named(text: str, fault: str) -> None:
    assert fault in "\n".join(faults_of(text))
