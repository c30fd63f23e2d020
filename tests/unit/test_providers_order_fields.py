"""An order as wire fields, by the catalogue."""

from __future__ import annotations

from typing import Any

import pytest

from providers.base import InputImage, UpstreamOrder
from providers.catalog import catalog
from providers.catalog.entries import Model
from providers.errors import RequestRefused
from providers.shared import order_fields

CATALOG = catalog.load()


def sample_image(name: str) -> InputImage:
    return InputImage(name.encode(), "image/png", 64, 64)


def order(model: str, operation: str | None = None, **fields: Any) -> UpstreamOrder:
    found = CATALOG.models[model]
    return UpstreamOrder(operation or found.operation, found, fields.pop("prompt", "a fox"), **fields)


def test_what_was_left_out_is_left_out() -> None:
    assert order_fields.wire_fields(order("ws-flux-dev")) == {"prompt": "a fox"}


def test_settings_size_and_count_go_under_their_wire_names() -> None:
    asked = order("ws-flux-dev", n=3, size={"size": "768x512"}, params={"steps": 20, "n": 3}, extra={"loras": []})
    assert order_fields.wire_fields(asked) == {
        "prompt": "a fox",
        "size": "768*512",
        "num_inference_steps": 20,
        "num_images": 3,
        "loras": [],
    }


@pytest.mark.parametrize(
    ("model", "size", "fields"),
    [
        ("flux-2-pro", {"width": 512, "height": 256}, {"width": 512, "height": 256}),
        ("hf-flux-dev", {"width": 512, "height": 256}, {"image_size": {"width": 512, "height": 256}}),
        ("image-upscaler", {"resolution": "4k"}, {"target_resolution": "4k"}),
        ("bria-increase-resolution", {"factor": 4}, {"desired_increase": 4}),
        ("flux-pro-1.0-expand", {"left": 8, "top": 16}, {"left": 8, "top": 16}),
        ("ws-flux-kontext-pro", {"aspect_ratio": "16:9"}, {"aspect_ratio": "16:9"}),
        (
            "replicate-flux-1.1-pro",
            {"aspect_ratio": "custom", "width": 512, "height": 256},
            {"aspect_ratio": "custom", "width": 512, "height": 256},
        ),
        (
            "gemini-3-pro-image",
            {"aspect_ratio": "1:1", "resolution": "2K"},
            {
                "generationConfig.imageConfig.aspectRatio": "1:1",
                "generationConfig.imageConfig.imageSize": "2K",
            },
        ),
        ("step1x-edit", {}, {}),
    ],
)
def test_a_canonical_size_goes_where_the_model_wants_it(
    model: str, size: dict[str, str | int], fields: dict[str, Any]
) -> None:
    assert order_fields.size_fields(order(model, size=size)) == fields


def names(asked: UpstreamOrder) -> list[tuple[str, list[bytes], bool]]:
    return [
        (placed.field, [image.data for image in placed.images], placed.is_list)
        for placed in order_fields.placed_images(asked)
    ]


@pytest.mark.parametrize(
    ("model", "fields", "placed"),
    [
        ("qwen-edit", {"images": ["a"]}, [("image", ["a"], False)]),
        ("qwen-edit-plus", {"images": ["a", "b"]}, [("images", ["a", "b"], True)]),
        ("flux-2-pro", {"images": ["a", "b"]}, [("input_image", ["a"], False), ("input_image_2", ["b"], False)]),
        ("grok-imagine-image", {"images": ["a"]}, [("image", ["a"], False)]),
        ("grok-imagine-image", {"images": ["a", "b"]}, [("images", ["a", "b"], True)]),
        (
            "infinite-you",
            {"images": ["a"], "face": "f"},
            [("target_image", ["a"], False), ("source_image", ["f"], False)],
        ),
        (
            "akool-face-swap",
            {"images": ["a", "b"], "face": "f"},
            [("image", ["a"], False), ("target_image", ["b"], True), ("source_image", ["f"], True)],
        ),
        (
            "ideogram-v3-turbo",
            {"images": ["a", "b", "c"], "mask": "m"},
            [("image", ["a"], False), ("reference_images", ["b", "c"], True), ("mask_image", ["m"], False)],
        ),
        ("sam-3d-objects", {"images": ["a"], "mask": "m"}, [("image", ["a"], False), ("mask_images", ["m"], True)]),
        ("hunyuan3d-v3-image", {"images": ["a", "b"]}, [("image", ["a"], False), ("back_image", ["b"], False)]),
        (
            "stability-style-transfer",
            {"images": ["a", "b"]},
            [("init_image", ["a"], False), ("style_image", ["b"], False)],
        ),
    ],
)
def test_every_image_finds_its_field(
    model: str, fields: dict[str, Any], placed: list[tuple[str, list[str], bool]]
) -> None:
    sample_images: dict[str, Any] = {"images": [sample_image(name) for name in fields["images"]]}
    sample_images |= {role: sample_image(fields[role]) for role in ("mask", "face") if role in fields}
    assert names(order(model, **sample_images)) == [
        (field, [n.encode() for n in data], many) for field, data, many in placed
    ]


def _takes(model: Model) -> int:
    return model.inputs.images.max if model.inputs.images.max is not None else 3


@pytest.mark.parametrize("model", [m for m in CATALOG.models.values() if m.inputs.image_fields], ids=lambda m: m.id)
def test_no_model_loses_an_image_it_takes(model: Model) -> None:
    face = sample_image("face") if "face" in model.inputs.roles else None
    images = [sample_image(str(number)) for number in range(_takes(model) - (face is not None))]
    asked = UpstreamOrder(model.operation, model, None, images=images, face=face)
    sent = [image.data for placed in order_fields.placed_images(asked) for image in placed.images]
    assert sorted(sent) == sorted(image.data for image in [*images, *([face] if face else [])])


def test_extra_may_not_change_what_is_bought() -> None:
    with pytest.raises(RequestRefused):
        order_fields.wire_fields(order("ws-flux-dev", extra={"num_images": 4}))


def test_dotted_names_become_objects() -> None:
    assert order_fields.nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("fields", [{"a": 1, "a.b": 2}, {"a.b.c": 1, "a": {}}, {"a.b.c": 1, "a.b": {"d": 2}}])
def test_a_field_inside_another_one_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused):
        order_fields.nested(fields)
