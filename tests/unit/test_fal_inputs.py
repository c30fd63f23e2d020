"""fal's input of a model as the fields of an order, and fal's names of models."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialects.fal import apps, inputs
from app.dialects.fal.apps import Target, UnknownAppError
from providers.catalog import catalog
from providers.orders.rules import all_fields_of

CATALOG = catalog.load()
EVERYONE = {model.provider for model in CATALOG.models.values()}


def read(**members: Any) -> inputs.Input:
    return inputs.read(members, {"safety_tolerance"})


def chosen(name: str, *, images: bool = False, mask: bool = False, configured: set[str] = EVERYONE) -> Target:
    return apps.choose(apps.find(name, CATALOG), CATALOG, configured, has_image=images, has_mask=mask)


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ("square_hd", {"size": "1024x1024"}),
        ("square", {"size": "512x512"}),
        ("portrait_4_3", {"size": "768x1024"}),
        ("portrait_16_9", {"size": "576x1024"}),
        ("landscape_4_3", {"size": "1024x768"}),
        ("landscape_16_9", {"size": "1024x576"}),
        ("1536x1024", {"size": "1536x1024"}),
        ({"width": 640, "height": 512}, {"width": 640, "height": 512}),
        ("auto", {}),
        ("auto_2K", {"resolution": "2k"}),
    ],
)
def test_a_size_is_a_name_or_numbers(asked: Any, fields: dict[str, Any]) -> None:
    found = read(image_size=asked)
    assert (found.fields, found.faults) == (fields, [])


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        (7, [("body", "image_size")]),
        ("huge", [("body", "image_size")]),
        ({"width": 0, "height": True}, [("body", "image_size", "width"), ("body", "image_size", "height")]),
        ({"width": 5}, [("body", "image_size", "height")]),
    ],
)
def test_a_size_at_fault_is_named_where_the_client_said_it(asked: Any, places: list[inputs.Where]) -> None:
    found = read(image_size=asked)
    assert [inputs.where_of(fault.field, found.where) for fault in found.faults] == places
    assert not {"size", "width", "height"} & found.fields.keys()


def test_images_inside_the_answer_are_asked_for_by_sync_mode() -> None:
    assert [read(sync_mode=asked).data_urls for asked in (True, False)] == [True, False]
    assert not read().data_urls


@pytest.mark.parametrize("name", ["mask_url", "mask_image_url"])
def test_a_mask_has_two_names(name: str) -> None:
    assert read(**{name: "https://a.example/m.png"}).fields == {"mask": "https://a.example/m.png"}


def test_fields_get_our_names_and_what_no_one_knows_is_ignored() -> None:
    found = read(prompt="x", num_images=2, num_inference_steps=9, guidance_scale=3.5, loras=[], seed=None, model="y")
    assert found.fields == {"prompt": "x", "n": 2, "steps": 9, "guidance": 3.5}
    assert found.ignored == ["loras", "model"]
    assert inputs.where_of("steps", found.where) == ("body", "num_inference_steps")


def test_a_setting_of_the_model_is_taken() -> None:
    assert read(safety_tolerance="2").fields == {"safety_tolerance": "2"}


def test_images_come_under_many_names_and_each_is_named_by_its_own() -> None:
    found = read(image_url="a", image_urls=["a", "b", 3], mask_url="m", swap_image_url="f")
    assert found.fields == {"images": ["a", "b"], "mask": "m", "face": "f"}
    assert found.has_image
    assert found.has_mask
    assert inputs.where_of("images[1]", found.where) == ("body", "image_urls", 1)
    assert [inputs.where_of(fault.field, found.where) for fault in found.faults] == [("body", "image_urls", 2)]


def test_every_wrong_type_is_found_at_once() -> None:
    found = read(image_urls="a", mask_url=1, sync_mode="yes", enable_safety_checker=1, image_size=[])
    assert {inputs.where_of(fault.field, found.where)[1] for fault in found.faults} == {
        *("image_urls", "mask_url", "sync_mode", "enable_safety_checker", "image_size"),
    }


def test_one_thing_said_twice_differently_is_a_fault() -> None:
    found = read(num_images=2, num_outputs=3)
    assert [fault.code for fault in found.faults] == ["conflict"]


def test_every_name_of_fals_stands_for_models_that_do_it() -> None:
    for name, app in apps.known().items():
        models = [CATALOG.models[each] for each in app.models]
        operation = app.operation or chosen(name).operation
        assert any(operation in model.operations for model in models), name
        assert name == name.lower()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("fal-ai/flux/dev", Target("flux-dev", "generate")),
        ("fal-ai/nano-banana/edit", Target("gemini-2.5-flash-image", "edit")),
        ("FAL-AI/Flux/Dev", Target("flux-dev", "generate")),
        ("fal-ai/bytedance/seedream/v4.5/text-to-image", Target("seedream-v4.5", "generate")),
        ("fal-ai/bytedance/seedream/v4.5/edit", Target("seedream-v4.5-edit", "edit")),
        ("fal-ai/bria/background/remove", Target("bria-remove-background", "remove_background")),
        ("darkroom/gpt-image-2", Target("gpt-image-2", "generate")),
        ("darkroom/image-eraser/erase", Target("image-eraser", "erase")),
        ("darkroom/auto", Target("auto", "generate")),
        ("replicate/flux-dev", Target("replicate-flux-dev", "generate")),
    ],
)
def test_a_name_means_a_model_and_an_operation(name: str, target: Target) -> None:
    assert chosen(name) == target


def test_the_images_of_an_order_decide_where_the_name_does_not() -> None:
    assert chosen("fal-ai/gpt-image-1", images=True).operation == "edit"
    assert chosen("fal-ai/gpt-image-1", images=True, mask=True).operation == "inpaint"
    assert chosen("fal-ai/gpt-image-1/edit-image", images=True, mask=True).operation == "inpaint"
    assert chosen("fal-ai/hunyuan3d-v3", images=True) == Target("hunyuan3d-v3-image", "image_to_3d")
    assert chosen("fal-ai/hunyuan3d-v3") == Target("hunyuan3d-v3-text", "text_to_3d")


def test_the_first_model_that_can_run_here_counts() -> None:
    assert chosen("fal-ai/flux/dev", configured={"wavespeed", "replicate"}).model == "replicate-flux-dev"
    assert chosen("fal-ai/flux/dev", configured={"wavespeed"}).model == "ws-flux-dev"
    assert chosen("fal-ai/flux/dev", configured=set()).model == "flux-dev"


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownAppError, match="did you mean fal-ai/flux/dev"):
        apps.find("fal-ai/flux/devv", CATALOG)
    for name in ("flux", "fal-ai", "x" * 300, "darkroom/", "workflows/a/b", "fal-ai/flux/dev/requests/x"):
        with pytest.raises(UnknownAppError):
            apps.find(name, CATALOG)


def test_the_addresses_of_a_request_have_owner_and_alias_alone() -> None:
    assert apps.prefix_of("fal-ai/flux/dev/image-to-image") == "fal-ai/flux"
    assert apps.prefix_of("workflows/me/mine/x") == "workflows/me/mine"


def test_every_field_that_fal_calls_otherwise_is_one_of_ours() -> None:
    ours = {field for model in CATALOG.models.values() for op in model.operations for field in all_fields_of(model, op)}
    assert set(inputs._OWN_NAMES.values()) <= ours
