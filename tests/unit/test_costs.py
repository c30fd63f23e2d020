"""What an image costs, by the tiers of its model."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from providers.catalog.catalog import load
from providers.orders.costs import cost_usd
from providers.orders.rules import check_order

CATALOG = load()


def cost(model_id: str, operation: str = "generate", *, images: int = 0, **fields: Any) -> Decimal:
    model = CATALOG.models[model_id]
    prompt = {} if model.inputs.prompt == "none" else {"prompt": "a fox"}
    return cost_usd(model, check_order(model, operation, {**prompt, **fields}, image_count=images))


@pytest.mark.parametrize(
    ("model_id", "fields", "usd"),
    [
        ("gpt-image-2", {}, "0.053"),
        ("gpt-image-2", {"quality": "auto", "size": "1536x1024"}, "0.165"),
        ("gpt-image-2", {"quality": "high"}, "0.211"),
        ("gpt-image-2", {"quality": "high", "size": "auto"}, "0.2471"),
        ("gpt-image-2", {"quality": "high", "size": "1000x1000"}, "0.2087"),
        ("gpt-image-2", {"quality": "high", "size": "1536x1024"}, "0.165"),
        ("gpt-image-2", {"quality": "low", "width": 1024, "height": 1536}, "0.005"),
        ("gpt-image-2", {"quality": "high", "size": "3840x2160"}, "0.401"),
        ("gpt-image-2", {"quality": "high", "size": "2048x2048"}, "0.4283"),
        ("gpt-image-2.5-flare", {}, "0.0528"),
        ("gpt-image-2.5-flare", {"quality": "max"}, "0.2109"),
        ("gpt-image-2.6-sunburst", {"quality": "high", "aspect_ratio": "3:2"}, "0.0521"),
        ("gpt-image-2.6-sunburst", {"quality": "medium"}, "0.0528"),
        ("gemini-3-pro-image", {}, "0.1405"),
        ("gemini-3-pro-image", {"resolution": "2K"}, "0.1405"),
        ("gemini-3-pro-image", {"size": "4096x4096"}, "0.2461"),
        ("gemini-3.1-flash-image", {"size": "512x512"}, "0.0466"),
        ("gemini-2.5-flash-image", {}, "0.0391"),
        ("hf-flux-dev", {"size": "1024x1024"}, "0.025"),
        ("hf-flux-dev", {"size": "1536x1536"}, "0.075"),
        ("hf-flux-krea-dev", {"size": "1536x1024"}, "0.05"),
        ("hf-qwen-image", {"size": "1536x1024"}, "0.04"),
        ("hf-flux-schnell", {}, "0.0014"),
        ("replicate-flux-2-klein-4b", {}, "0.001"),
        ("replicate-flux-2-klein-4b", {"output_megapixels": "0.25"}, "0.001"),
        ("replicate-flux-2-klein-4b", {"output_megapixels": "4"}, "0.004"),
        ("replicate-sdxl", {"steps": 500}, "0.08"),
        ("ws-gpt-image-2", {}, "0.06"),
        ("ws-gpt-image-2", {"resolution": "2k"}, "0.12"),
        ("ws-gpt-image-2", {"quality": "high", "resolution": "4k"}, "0.66"),
        ("ws-nano-banana-2", {"enable_web_search": True}, "0.084"),
        (
            "ws-nano-banana-2",
            {"enable_web_search": True, "enable_image_search": True, "resolution": "4k"},
            "0.168",
        ),
        ("ws-nano-banana-2", {"enable_web_search": False}, "0.07"),
        ("grok-imagine-image-2.0", {"resolution": "2k"}, "0.08"),
        ("grok-imagine-image-2.0", {"quality": "low"}, "0.04"),
        ("flux-2-pro", {}, "0.03"),
        ("flux-2-pro", {"size": "1024x1024"}, "0.03"),
        ("flux-2-pro", {"size": "2000x2000"}, "0.075"),
        ("replicate-flux-2-pro", {"resolution": "4 MP"}, "0.075"),
        ("dall-e-3", {"quality": "hd", "size": "1792x1024"}, "0.12"),
        ("chatgpt2api-gpt-image-2", {"quality": "high"}, "0"),
    ],
)
def test_one_image(model_id: str, fields: dict[str, Any], usd: str) -> None:
    assert cost(model_id, **fields) == Decimal(usd)


def test_the_number_of_images_does_not_change_the_price_of_one() -> None:
    assert cost("gpt-image-2", n=10) == cost("gpt-image-2")


@pytest.mark.parametrize(
    ("images", "resolution", "usd"),
    [(1, None, "0.04"), (3, "4K", "0.07"), (4, None, "0.05"), (7, "2K", "0.1")],
)
def test_tiers_that_count_images(images: int, resolution: str | None, usd: str) -> None:
    assert cost("vidu-q2-reference", images=images, resolution=resolution) == Decimal(usd)


@pytest.mark.parametrize(
    ("images", "fields", "usd"),
    [
        (1, {}, "0.375"),
        (2, {}, "0.525"),
        (1, {"generate_type": "Geometry"}, "0.25"),
        (4, {"generate_type": "LowPoly"}, "0.6"),
    ],
)
def test_further_views_add(images: int, fields: dict[str, Any], usd: str) -> None:
    assert cost("hunyuan3d-v3-image", "image_to_3d", images=images, **fields) == Decimal(usd)


@pytest.mark.parametrize(
    ("fields", "sizes_px", "usd"),
    [
        ({"size": "1024x1024"}, (), "0.045"),  # as in an estimate: a megapixel
        ({"size": "1024x1024"}, [(1024, 1024)], "0.045"),
        ({"size": "1024x1024"}, [(4000, 3000)], "0.21"),
        ({}, [(2000, 1500)], "0.105"),  # the result is as large as the input
        ({}, [(4000, 3000)], "0.255"),  # and at most four megapixels
    ],
)
def test_input_megapixels_are_paid_for(fields: dict[str, Any], sizes_px: Any, usd: str) -> None:
    model = CATALOG.models["flux-2-pro"]
    checked = check_order(model, "edit", {"prompt": "a fox", **fields}, image_count=1)
    assert cost_usd(model, replace(checked, input_px=tuple(sizes_px))) == Decimal(usd)


def test_input_images_add_where_the_vendor_counts_them() -> None:
    assert cost("flux-2-pro", "edit", images=2) == Decimal("0.06")
    assert cost("grok-imagine-image", "edit", images=3) == Decimal("0.026")


def test_every_condition_of_the_catalogues_tiers_is_known() -> None:
    derived = {"size", "shape", "resolution", "images", "extra_views"}
    for model in CATALOG.models.values():
        for tier in model.cost_tiers:
            assert set(tier.when) <= derived | set(model.params), model.id
            assert (tier.usd is None) != (tier.usd_add is None), model.id


def test_default_price_is_what_a_plain_order_costs() -> None:
    differ = {
        model.id
        for model in CATALOG.models.values()
        if model.cost_tiers and "generate" in model.operations and model.inputs.images.min == 0
        if cost(model.id) != model.cost_usd
    }
    assert differ == set()
