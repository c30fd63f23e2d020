"""From the requested size to the nearest one that a model makes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.catalog.catalog import Catalog, load
from providers.catalog.size_rules import AspectRatioRule, PixelsRule
from providers.orders.pixels import limits_of, nearest_pixels
from providers.orders.size_requests import class_area_px, parse_ratio
from providers.orders.sizes import SizeChoice, choose_size

CATALOG = load()
PIXEL_MODELS = [model for model in CATALOG.models.values() if model.size_rule(PixelsRule)]


def size_of(model_id: str, **fields: Any) -> SizeChoice:
    return choose_size(CATALOG.models[model_id], fields)


@pytest.mark.parametrize(
    ("model_id", "fields", "used"),
    [
        # pixels, as one text
        ("gpt-image-2", {"size": "1024x1024"}, {"size": "1024x1024"}),
        ("gpt-image-2", {"size": "1000x1000"}, {"size": "1008x1008"}),
        ("gpt-image-2", {"size": " 1024 * 768 "}, {"size": "1024x768"}),
        ("gpt-image-2", {"width": 1000, "height": 1000}, {"size": "1008x1008"}),
        ("gpt-image-2", {"size": "1024x768", "width": 1024, "height": 768}, {"size": "1024x768"}),
        ("gpt-image-2", {"size": "256x256"}, {"size": "816x816"}),
        ("gpt-image-2", {"size": "8000x8000"}, {"size": "2880x2880"}),
        ("gpt-image-2", {"aspect_ratio": "3:2"}, {"size": "1248x832"}),
        ("gpt-image-2", {"aspect_ratio": "16:9"}, {"size": "1280x720"}),
        ("gpt-image-2", {"size": "16:9"}, {"size": "1280x720"}),
        ("gpt-image-2", {"aspect_ratio": "16:9", "resolution": "2K"}, {"size": "2816x1584"}),
        ("gpt-image-2", {"size": "1024x768", "aspect_ratio": "4:3"}, {"size": "1024x768"}),
        ("gpt-image-2", {"size": "auto"}, {"size": "auto"}),
        ("gpt-image-2", {}, {}),
        ("seedream-v4.5", {"aspect_ratio": "1:1"}, {"size": "2048x2048"}),
        ("qwen-image", {"size": "3000x1500"}, {"size": "1536x768"}),
        # pixels, as two fields
        ("flux-2-pro", {"size": "1000x1000"}, {"width": 1008, "height": 1008}),
        ("flux-2-pro", {"size": "auto"}, {}),
        ("flux-pro-1.1", {"width": 4000, "height": 200}, {"width": 1440, "height": 256}),
        (
            "replicate-flux-1.1-pro",
            {"size": "1024x768"},
            {"aspect_ratio": "custom", "width": 1024, "height": 768},
        ),
        ("replicate-flux-1.1-pro", {"aspect_ratio": "16:9"}, {"aspect_ratio": "16:9"}),
        # fixed sizes
        ("gpt-image-1.5", {"size": "1792x1024"}, {"size": "1536x1024"}),
        ("gpt-image-1.5", {"size": "1200x1000"}, {"size": "1024x1024"}),
        ("gpt-image-1.5", {"aspect_ratio": "9:16"}, {"size": "1024x1536"}),
        ("gpt-image-1.5", {"size": "auto"}, {"size": "auto"}),
        ("dall-e-2", {"size": "400x400"}, {"size": "512x512"}),
        # ratios
        ("stable-image-core", {"size": "1024x768"}, {"aspect_ratio": "5:4"}),
        ("stable-image-core", {"aspect_ratio": "18:18"}, {"aspect_ratio": "1:1"}),
        ("stable-image-core", {"size": "auto"}, {}),
        ("flux-kontext-pro", {"size": "1500x1000"}, {"aspect_ratio": "3:2"}),
        ("flux-kontext-pro", {"aspect_ratio": "5:1"}, {"aspect_ratio": "21:9"}),
        ("flux-3-image", {"aspect_ratio": "auto"}, {"aspect_ratio": "auto"}),
        ("grok-imagine-image", {"aspect_ratio": "9:19.5"}, {"aspect_ratio": "9:19.5"}),
        # ratio and class
        ("gemini-3.1-flash-image", {"size": "1024x1024"}, {"aspect_ratio": "1:1", "resolution": "1K"}),
        ("gemini-3.1-flash-image", {"size": "640x480"}, {"aspect_ratio": "4:3", "resolution": "512"}),
        ("gemini-3.1-flash-image", {"size": "1920x1080"}, {"aspect_ratio": "16:9", "resolution": "2K"}),
        ("gemini-3.1-flash-image", {"size": "16000x9000"}, {"aspect_ratio": "16:9", "resolution": "4K"}),
        ("gemini-3.1-flash-image", {"resolution": "2k"}, {"resolution": "2K"}),
        (
            "gemini-3.1-flash-image",
            {"size": "1024x1024", "resolution": "4K"},
            {"aspect_ratio": "1:1", "resolution": "4K"},
        ),
        ("flux-3-image", {"size": "1024x1024"}, {"aspect_ratio": "1:1", "resolution": "1k"}),
        ("flux-3-image", {"size": "700x700"}, {"aspect_ratio": "1:1", "resolution": "768sq"}),
        ("replicate-flux-2-pro", {"size": "1024x1024"}, {"aspect_ratio": "1:1", "resolution": "1 MP"}),
        ("gemini-3.1-flash-lite-image", {"resolution": "4K"}, {"resolution": "1K"}),
        # class alone, factor, padding
        ("image-upscaler", {"size": "3840x2160"}, {"resolution": "4k"}),
        ("image-upscaler", {"resolution": "3k"}, {"resolution": "4k"}),
        ("bria-increase-resolution", {"factor": 3}, {"factor": 4}),
        ("stability-outpaint", {"left": 5000, "top": 4}, {"left": 2000, "top": 4}),
        # hints
        ("chatgpt2api-gpt-image-2", {"size": "1000x1000"}, {"size": "1000x1000"}),
        ("chatgpt2api-gpt-image-2", {"width": 33, "height": 17}, {"size": "33x17"}),
        ("chatgpt2api-gpt-image-2", {"aspect_ratio": "16:9"}, {"size": "16:9"}),
        ("chatgpt2api-gpt-image-2", {"size": "10x10"}, {"size": "16x16"}),
        ("chatgpt2api-gpt-image-2", {"size": "10000x10000"}, {"size": "8192x8192"}),
        ("chatgpt2api-codex-gpt-image-2", {"aspect_ratio": "16:9"}, {"size": "1280x720"}),
        ("chatgpt2api-gpt-image-2", {}, {}),
        # no size field at all: "auto" is accepted everywhere
        ("step1x-edit", {"size": "auto"}, {}),
    ],
)
def test_the_nearest_size(model_id: str, fields: dict[str, Any], used: dict[str, Any]) -> None:
    choice = size_of(model_id, **fields)
    assert (choice.problems, choice.unsupported, choice.used) == ((), (), used)


@pytest.mark.parametrize(
    ("model_id", "fields", "changed"),
    [
        ("gpt-image-2", {"size": "1000x1000"}, {"size": {"asked": "1000x1000", "used": "1008x1008"}}),
        (
            "gpt-image-2",
            {"width": 1000, "height": 1000},
            {"size": {"asked": "1000x1000", "used": "1008x1008"}},
        ),
        ("gpt-image-2", {"size": "1024*1024"}, {}),
        ("gpt-image-2", {"aspect_ratio": "16:9"}, {"aspect_ratio": {"asked": "16:9", "used": "1280x720"}}),
        ("gpt-image-2", {"size": "16:9"}, {"size": {"asked": "16:9", "used": "1280x720"}}),
        (
            "gpt-image-2",
            {"size": "1024x768", "resolution": "4K"},
            {"resolution": {"asked": "4K", "used": "1024x768"}},
        ),
        (
            "gemini-3.1-flash-image",
            {"size": "1920x1080"},
            {"size": {"asked": "1920x1080", "used": "16:9 at 2K"}},
        ),
        ("gemini-3.1-flash-image", {"resolution": "2k"}, {"resolution": {"asked": "2k", "used": "2K"}}),
        ("stability-upscale-fast", {"factor": 2}, {"factor": {"asked": "2", "used": "4"}}),
        ("stability-upscale-fast", {"factor": 4}, {}),
        ("stability-outpaint", {"left": 5000, "top": 4}, {"left": {"asked": "5000", "used": "2000"}}),
        ("chatgpt2api-gpt-image-2", {"size": "1000x1000"}, {}),
    ],
)
def test_a_change_is_reported_and_only_a_change(model_id: str, fields: dict[str, Any], changed: dict[str, Any]) -> None:
    assert size_of(model_id, **fields).changed == changed


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"size": "0x1024"}, "size", "out_of_range"),
        ({"size": "-5x1024"}, "size", "out_of_range"),
        ({"size": "20000x20000"}, "size", "out_of_range"),
        ({"size": "9000x100"}, "size", "out_of_range"),
        ({"width": 0, "height": 10}, "width", "out_of_range"),
        ({"aspect_ratio": "0:1"}, "aspect_ratio", "out_of_range"),
        ({"aspect_ratio": "100:1"}, "aspect_ratio", "out_of_range"),
        ({"size": "100:1"}, "size", "out_of_range"),
        ({"size": "large"}, "size", "wrong_type"),
        ({"size": 1024}, "size", "wrong_type"),
        ({"size": ""}, "size", "wrong_type"),
        ({"aspect_ratio": "wide"}, "aspect_ratio", "wrong_type"),
        ({"width": True, "height": 10}, "width", "wrong_type"),
        ({"width": 10.5, "height": 10}, "width", "wrong_type"),
        ({"width": "10", "height": 10}, "width", "wrong_type"),
        ({"width": 1024}, "height", "required"),
        ({"size": "1024x1024", "width": 512, "height": 512}, "size", "conflict"),
        ({"size": "1024x1024", "aspect_ratio": "16:9"}, "aspect_ratio", "conflict"),
        ({"resolution": "2K"}, "aspect_ratio", "required"),
        ({"aspect_ratio": "1:1", "resolution": "huge"}, "resolution", "not_allowed"),
        ({"aspect_ratio": "1:1", "resolution": "99999k"}, "resolution", "not_allowed"),
    ],
)
def test_an_invalid_size_is_refused(fields: dict[str, Any], field: str, code: str) -> None:
    choice = size_of("gpt-image-2", **fields)
    assert [(problem.field, problem.code) for problem in choice.problems] == [(field, code)]
    assert choice.used == {}


@pytest.mark.parametrize(
    ("model_id", "fields", "field", "code"),
    [
        ("gemini-3.1-flash-image", {"resolution": "huge"}, "resolution", "not_allowed"),
        ("bria-increase-resolution", {"factor": 0}, "factor", "out_of_range"),
        ("bria-expand", {}, "aspect_ratio", "required"),
        ("stability-outpaint", {}, "left", "required"),
        ("stability-outpaint", {"left": 0}, "left", "required"),
        ("stability-outpaint", {"left": -1, "right": 5}, "left", "out_of_range"),
    ],
)
def test_models_with_needs_of_their_own(model_id: str, fields: dict[str, Any], field: str, code: str) -> None:
    assert [(each.field, each.code) for each in size_of(model_id, **fields).problems] == [(field, code)]


@pytest.mark.parametrize(
    ("model_id", "fields", "unsupported"),
    [
        ("step1x-edit", {"size": "512x512"}, ("size",)),
        ("stable-image-core", {"resolution": "2K", "aspect_ratio": "1:1"}, ("resolution",)),
        ("replicate-flux-1.1-pro", {"resolution": "2K", "aspect_ratio": "1:1"}, ("resolution",)),
        ("gpt-image-2", {"factor": 2, "left": 3}, ("factor", "left")),
    ],
)
def test_fields_the_model_does_not_take_are_named(
    model_id: str, fields: dict[str, Any], unsupported: tuple[str, ...]
) -> None:
    assert size_of(model_id, **fields).unsupported == unsupported


sides = st.integers(min_value=1, max_value=16_384)


@settings(max_examples=500, deadline=None)
@given(model=st.sampled_from(PIXEL_MODELS), width=sides, height=sides)
def test_whatever_is_asked_the_pixels_are_within_the_limits(model: Any, width: int, height: int) -> None:
    limits = limits_of(model.size_rule(PixelsRule), max_width=model.max_width, max_height=model.max_height)
    used = nearest_pixels(width, height, limits)
    assert limits.allow(*used)
    if limits.allow(width, height):
        assert used == (width, height)


@given(width=st.integers(512, 2048), height=st.integers(512, 2048))
def test_the_ratio_is_kept_where_the_grid_lets_it(width: int, height: int) -> None:
    choice = size_of("gpt-image-2", width=width, height=height)
    used_width, used_height = map(int, str(choice.used["size"]).split("x"))
    wanted = min(max(width / height, 1 / 3), 3)
    assert abs(math.log(used_width / used_height / wanted)) < 0.025


@given(
    model=st.sampled_from(list(CATALOG.models.values())),
    fields=st.fixed_dictionaries({"size": st.tuples(sides, sides).map(lambda pair: f"{pair[0]}x{pair[1]}")}),
)
def test_no_size_breaks_any_model(model: Any, fields: dict[str, str]) -> None:
    choice = choose_size(model, fields)
    assert choice.used or choice.problems or choice.unsupported


@pytest.mark.parametrize(
    ("label", "area"),
    [
        ("1K", 1024**2),
        ("0.5k", 512**2),
        ("1080p", 1920 * 1080),
        ("768sq", 768**2),
        ("0.5 MP", 500_000),
        ("512", 512**2),
    ],
)
def test_area_of_a_class(label: str, area: float) -> None:
    assert class_area_px(label) == pytest.approx(area)


def test_every_class_and_ratio_in_the_catalogue_can_be_read(catalog: Catalog = CATALOG) -> None:
    for model in catalog.models.values():
        aspect = model.size_rule(AspectRatioRule)
        words = [*aspect.enum, *(aspect.range or ())] if aspect else []
        assert [word for word in words if word != "auto" and parse_ratio(word) is None] == []
