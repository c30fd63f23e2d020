"""The packaged catalogue, and what names mean in it."""

from __future__ import annotations

import copy
import time
from datetime import date
from decimal import Decimal

import pytest
from pydantic import ValidationError

from providers.catalog.catalog import Catalog, UnknownModelError, load
from providers.catalog.entries import Recovery
from providers.catalog.ranking import Goal, ranked

BEFORE_THE_END, AFTER_THE_END = date(2026, 11, 20), date(2026, 12, 1)
ALL_PROVIDERS = {
    "openai",
    "chatgpt2api",
    "flux",
    "replicate",
    "wavespeed",
    "stability",
    "gemini",
    "xai",
    "huggingface",
    "llamaswap",
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


def test_holds_every_model_and_provider(catalog: Catalog) -> None:
    assert len(catalog.models) >= 136
    assert len(catalog.aliases) >= 52
    assert set(catalog.providers) >= ALL_PROVIDERS
    assert {model.provider for model in catalog.models.values()} == set(catalog.providers)


def test_loads_quickly() -> None:
    # The best of three, for the machine may be busy with something else.
    assert min(_load_s() for _ in range(3)) < 0.3


def _load_s() -> float:
    started = time.process_time()
    load()
    return time.process_time() - started


def test_same_content_has_the_same_version(catalog: Catalog) -> None:
    assert load().version == catalog.version


def test_prices_are_exact(catalog: Catalog) -> None:
    assert catalog.models["gpt-image-2"].cost_usd == Decimal("0.053")
    assert catalog.models["hf-sd3-medium"].cost_usd == Decimal("0.0012")


def test_nothing_in_it_can_be_changed(catalog: Catalog) -> None:
    model = catalog.models["gpt-image-2"]
    with pytest.raises(ValidationError):
        model.path = "elsewhere"  # type: ignore[misc]
    with pytest.raises(TypeError):
        model.params["seed"] = model.params["n"]  # type: ignore[index]
    assert copy.deepcopy(model) is model


def test_a_model_can_be_shown_as_json(catalog: Catalog) -> None:
    for model in catalog.models.values():
        assert model.model_dump(mode="json", by_alias=True)["id"] == model.id


@pytest.mark.parametrize(
    ("model_id", "images"),
    [("gpt-image-2", 10), ("chatgpt2api-gpt-image-2", 1), ("ws-flux-dev", 4), ("qwen-image", 1)],
)
def test_images_per_call(catalog: Catalog, model_id: str, images: int) -> None:
    assert catalog.models[model_id].max_per_call == images


@pytest.mark.parametrize("model_id", ["chatgpt2api-gpt-image-2", "chatgpt2api-codex-gpt-image-2"])
def test_chatgpt2api_takes_a_mask_where_transparent_means_change(catalog: Catalog, model_id: str) -> None:
    inputs = catalog.models[model_id].inputs
    assert (inputs.mask, inputs.mask_field, inputs.mask_polarity) == ("optional", "mask", "transparent_edits")


def test_wire_only_settings_are_no_order_fields(catalog: Catalog) -> None:
    names = {name for model in catalog.models.values() for name in model.params}
    assert names.isdisjoint({"response_format", "model", "mode"})


def test_only_chatgpt2api_has_a_dedupe_key(catalog: Catalog) -> None:
    classes = {spec.name: spec.recovery for spec in catalog.providers.values()}
    assert [name for name, each in classes.items() if each is Recovery.RESEND] == ["chatgpt2api"]
    assert catalog.providers["chatgpt2api"].deadline_s == 720


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("gpt-image-2", "gpt-image-2"),
        ("  GPT-Image-2 ", "gpt-image-2"),
        ("gpt-image-2-2026-04-21", "gpt-image-2"),
        ("gpt-image-2.5-sunburst-2026-09-08", "gpt-image-2.5-sunburst"),
        ("openai/gpt-image-2", "gpt-image-2"),
        ("openai:gpt-image-2", "gpt-image-2"),
        ("openai/gpt-image-2-2026-04-21", "gpt-image-2"),
        ("chatgpt2api/gpt-image-2", "chatgpt2api-gpt-image-2"),
        ("google/gemini-3-pro-image", "gemini-3-pro-image"),
        ("models/gemini-3-pro-image", "gemini-3-pro-image"),
        ("black-forest-labs/flux-2-pro", "replicate-flux-2-pro"),
        ("bfl/flux-2-pro", "flux-2-pro"),
        ("wavespeed-ai/qwen-image/text-to-image", "qwen-image"),
        ("openai", "gpt-image-2"),
        ("core", "stable-image-core"),
        ("local", "llamaswap-z-image"),
        ("flux-dev", "flux-dev"),
        ("bfl/flux-dev", "flux-dev"),
        ("black-forest-labs/flux-dev", "replicate-flux-dev"),
        ("midjourney", "midjourney"),
        ("bytedance/seedream-v5.0-pro/edit", "seedream-v5.0-pro-edit"),
        ("wavespeed/google/nano-banana-2/edit", "ws-nano-banana-2-edit"),
    ],
)
def test_an_exact_name_means_its_model_without_a_warning(catalog: Catalog, name: str, model_id: str) -> None:
    found = catalog.resolve(name)
    assert (found.model.id, found.asked, found.warnings) == (model_id, name, ())


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("flux.1-dev", "flux-dev"),
        ("flux-dev-lora", "flux-dev"),
        ("flux-9", "flux-2-pro"),
        ("seedream-5-lite", "seedream-v5.0-lite"),
        ("seedream-5.0-pro", "seedream-v5.0-pro"),
        ("seedream-v5-pro-edit", "seedream-v5.0-pro-edit"),
        ("seedream-4.5", "seedream-v4.5"),
        ("seedream", "seedream-v4.5"),
        ("ideogram-4", "ideogram-v4"),
        ("ideogram", "ideogram-v3-turbo"),
        ("recraft-v4-pro", "recraft-v4.1-pro"),
        ("recraft", "recraft-v4.1"),
        ("qwen-image-2", "qwen-image-2.0"),
        ("qwen-image-2512", "qwen-image"),
        ("kling-o3", "kling-image-o3"),
        ("kling", "kling-image-v3"),
        ("wan-2.7-image-edit-pro", "wan-2.7-pro-edit"),
        ("mai-image-2.5-t2i", "mai-image-2.5"),
        ("midjourney-v8.1", "midjourney"),
    ],
)
def test_names_as_people_type_them(catalog: Catalog, name: str, model_id: str) -> None:
    assert catalog.resolve(name).model.id == model_id


def test_a_job_that_was_sold_as_another_model_keeps_it(catalog: Catalog) -> None:
    """The name flux-dev led to flux-2-pro until flux-dev was offered itself; stored jobs name what they were sold."""
    assert catalog.entry("flux-2-pro").path == "/v1/flux-2-pro"
    assert catalog.entry("flux-dev").path == "/v1/flux-dev"


def test_a_pattern_stands_in_and_says_so(catalog: Catalog) -> None:
    found = catalog.resolve("gemini-9-pro-preview")
    assert found.model.id == "gemini-3-pro-image"
    assert "gemini-9-pro-preview" in found.warnings[0]


@pytest.mark.parametrize(
    ("name", "successor", "words"),
    [
        ("gpt-image-1", "gpt-image-2.5-flare", "switched off by its vendor since 2026-10-23"),
        ("dall-e-3", "gpt-image-2", "2026-05-12"),
        ("grok-imagine-image-quality", "grok-imagine-image-2.0", "answered by its successor"),
    ],
)
def test_what_is_gone_leads_on_with_a_warning(catalog: Catalog, name: str, successor: str, words: str) -> None:
    found = catalog.resolve(name)
    assert found.model.id == successor
    assert words in found.warnings[0]


def test_a_retiring_model_warns_until_its_day_and_is_followed_from_then_on(catalog: Catalog) -> None:
    before = catalog.resolve("gpt-image-1.5", today=BEFORE_THE_END)
    assert (before.model.id, "ends on 2026-12-01" in before.warnings[0]) == ("gpt-image-1.5", True)
    assert catalog.resolve("gpt-image-1.5", today=AFTER_THE_END).model.id == "gpt-image-2.5-flare"


def test_a_doubtful_model_says_so(catalog: Catalog) -> None:
    assert "withdrawn" in catalog.resolve("seededit-v3").warnings[0]


@pytest.mark.parametrize("name", ["paintbrush", "", "*", "x" * 100_000, "gpt_image_2"])
def test_an_unknown_name_is_refused_unless_a_dialect_asks(catalog: Catalog, name: str) -> None:
    with pytest.raises(UnknownModelError) as refused:
        catalog.resolve(name)
    assert len(str(refused.value)) < 500
    lenient = catalog.resolve(name, strict=False)
    assert lenient.model.id == "gpt-image-2"
    assert lenient.warnings


def test_a_mistyped_name_is_met_with_suggestions(catalog: Catalog) -> None:
    with pytest.raises(UnknownModelError) as refused:
        catalog.resolve("gtp-image-2")
    assert "gpt-image-2" in refused.value.suggestions


def test_every_pattern_and_id_ends_at_a_model_that_answers(catalog: Catalog) -> None:
    for name in [*catalog.models, *(target for _, target in catalog.aliases)]:
        assert not catalog.resolve(name, today=AFTER_THE_END).model.gone(AFTER_THE_END)


def first(catalog: Catalog, operation: str, goal: Goal, *providers: str, markup: int = 1) -> str | None:
    found = ranked(catalog, operation, frozenset(providers), goal, Decimal(markup))
    return found[0].id if found else None


def test_the_cheapest_live_one_configured_is_first(catalog: Catalog) -> None:
    assert first(catalog, "generate", "budget", "wavespeed", "stability") == "ws-flux-schnell"


def test_a_model_that_is_ending_is_never_chosen(catalog: Catalog) -> None:
    assert (
        first(catalog, "generate", "budget", "openai") == "gpt-image-2.5-flare"
    )  # gpt-image-1-mini costs less, and ends


def test_a_model_that_needs_no_further_setting_is_first(catalog: Catalog) -> None:
    # search-and-replace costs the same, and needs find
    assert first(catalog, "edit", "budget", "stability") == "stability-control-sketch"


def test_nobody_is_ranked_where_nobody_can(catalog: Catalog) -> None:
    assert first(catalog, "face_swap", "budget", "openai") is None
    assert first(catalog, "generate", "quality") is None


@pytest.mark.parametrize(
    ("operation", "providers", "best"),
    [
        ("generate", ["stability"], "stable-image-ultra"),
        ("generate", ["openai"], "gpt-image-2"),
        ("image_to_3d", ["stability"], "stable-fast-3d"),  # no one confirmed stable-point-aware-3d, of the better grade
        ("edit", ["huggingface"], "hf-flux-2-dev-edit"),  # where nothing is confirmed, what there is
        ("generate", ["flux"], "flux-2-max"),
        ("upscale", ["stability"], "stability-upscale-conservative"),
        ("generate", ["replicate"], "replicate-flux-2-pro"),
    ],
)
def test_the_best_is_confirmed_then_graded_then_dear(
    catalog: Catalog, operation: str, providers: list[str], best: str
) -> None:
    assert first(catalog, operation, "quality", *providers) == best


def test_select_meets_every_condition(catalog: Catalog) -> None:
    chosen = catalog.select(
        "edit", provider="wavespeed", max_price_usd=Decimal("0.03"), capability="multi_image", configured={"wavespeed"}
    )
    assert {"qwen-edit-plus", "ws-flux-2-turbo-edit", "qwen-image-2.0-edit"} <= {model.id for model in chosen}
    for model in chosen:
        assert ("edit" in model.operations, model.provider, "multi_image" in model.capabilities) == (
            True,
            "wavespeed",
            True,
        )
        assert model.cost_usd <= Decimal("0.03")
    assert "ws-flux-2-pro-edit" not in {model.id for model in chosen}  # 0.06
    assert catalog.select(provider="wavespeed", configured={"openai"}) == []


def test_select_leaves_out_what_is_gone(catalog: Catalog) -> None:
    assert "gpt-image-1" not in {model.id for model in catalog.select()}


def test_select_by_status_knows_the_whole_catalogue(catalog: Catalog) -> None:
    assert "gpt-image-1" in {model.id for model in catalog.select(status="shutdown")}
    assert {model.id for model in catalog.select(status="redirected")} == {"grok-imagine-image-quality"}
    assert len(catalog.select(status="all")) == len(catalog.models)


def test_a_retiring_model_is_shut_down_from_its_last_day_on(catalog: Catalog) -> None:
    model = catalog.models["gpt-image-1.5"]
    assert (model.status_on(BEFORE_THE_END), model.status_on(AFTER_THE_END)) == ("retiring", "shutdown")
