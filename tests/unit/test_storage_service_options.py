"""Options that clients of image services know: a style, an image as a prompt, a ratio; as orders and on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from app_doubles import CATALOG, MINE, PNG, make_edge

from providers.base import InputImage, UpstreamOrder
from providers.catalog.catalog import Model
from providers.orders.rules import OrderProblems, check_order
from providers.upstreams.flux import adapter as flux
from providers.upstreams.stability import adapter as stability
from providers.upstreams.xai import adapter as xai

XAI = [model for model in CATALOG.models.values() if model.provider == "xai" and "style" in model.params]
STYLES = set(CATALOG.models["stability-inpaint"].params["style"].enum)
IMAGE = InputImage(PNG, "image/png", 64, 64)


def checked(model: Model, operation: str = "generate", *, images: int = 0, **fields: Any) -> UpstreamOrder:
    found = check_order(
        model, operation, {"prompt": "a fox", **fields}, image_count=images, has_mask=False, has_face=False,
        lenient=False,
    )  # fmt: skip
    return UpstreamOrder(operation, model, found.prompt, size=found.size, params=found.params, images=[IMAGE] * images)


@pytest.mark.parametrize("model", XAI, ids=lambda model: model.id)
@pytest.mark.parametrize("operation", ["generate", "edit"])
def test_a_style_of_xai_is_written_behind_the_prompt(model: Model, operation: str) -> None:
    """The upstream answers 400 to a field of this name."""
    order = checked(model, operation, images=int(operation == "edit"), style=" watercolour, muted ")
    body = dict(xai.build_submit(order).json or {})
    assert body["prompt"] == "a fox\n\nStyle: watercolour, muted."
    assert "style" not in body
    plain = dict(xai.build_submit(checked(model, operation, images=int(operation == "edit"))).json or {})
    assert plain["prompt"] == "a fox"


def test_every_imagine_model_of_xai_takes_a_style() -> None:
    assert {model.id for model in XAI} == {
        "grok-imagine-image", "grok-imagine-image-2.0", "grok-imagine-image-quality",
    }  # fmt: skip


@pytest.mark.parametrize("given", ["comic-book", "Comic Book", "comic_book", "COMIC-BOOK"])
def test_a_style_preset_of_stability_is_found_however_it_is_spelled(given: str) -> None:
    request = stability.build_submit(checked(CATALOG.models["stable-image-core"], style=given))
    assert ("style_preset", "comic-book") in request.form


def test_a_style_preset_that_there_is_not_is_refused_with_the_list_and_the_nearest() -> None:
    with pytest.raises(OrderProblems) as caught:
        checked(CATALOG.models["stable-image-core"], style="anmie")
    [problem] = caught.value.problems
    assert (problem.field, problem.code) == ("style", "not_allowed")
    assert problem.message.endswith("; did you mean anime?")
    assert len(STYLES) == 17
    assert all(style in problem.message for style in STYLES)


def test_an_image_is_a_prompt_for_flux_by_its_own_names() -> None:
    """``image_prompt`` and ``image_prompt_strength`` are what an order calls images and strength."""
    edge = make_edge(configured=("flux",))
    answer = edge.client.post(
        "/api/images/generate",
        json={
            "model": "flux-pro-1.1-ultra",
            "prompt": "a fox",
            "image_prompt": "https://cat.example/x.png",
            "imagePromptStrength": 0.4,
            "aspect_ratio": "21:9",
        },
        headers=MINE,
    )
    assert answer.status_code == 202, answer.json
    _, _, fields, images, _ = edge.submission.orders[0]
    assert (fields["strength"], [image.role for image in images]) == (0.4, ["image"])
    assert answer.json["request"]["strength"] == 0.4


@pytest.mark.parametrize("ratio", ["21:9", "1:1", "9:21", "4:5"])
def test_flux_gets_the_image_its_strength_and_the_ratio(ratio: str) -> None:
    model = CATALOG.models["flux-pro-1.1-ultra"]
    body = flux.build_submit(checked(model, images=1, strength=0.4, aspect_ratio=ratio)).json or {}
    assert (body["image_prompt_strength"], body["aspect_ratio"]) == (0.4, ratio)
    assert body["image_prompt"]


@pytest.mark.parametrize("name", ["flux-dev", "flux-pro-1.1"])
def test_models_without_a_strength_take_the_image_alone(name: str) -> None:
    model = CATALOG.models[name]
    assert (flux.build_submit(checked(model, images=1)).json or {})["image_prompt"]
    with pytest.raises(OrderProblems) as caught:
        checked(model, images=1, strength=0.4)
    assert [problem.field for problem in caught.value.problems] == ["strength"]
