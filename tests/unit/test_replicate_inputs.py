"""What clients put into ``input``, as an order."""

from __future__ import annotations

from typing import Any

import pytest

from app.dialects.replicate.clipped import MAX_BYTES, clipped
from app.dialects.replicate.inputs import Translated, operation_for, translate
from app.dialects.replicate.names import names_of
from providers.catalog import catalog

NAMES = names_of(catalog.load())
IMAGE, OTHER, THIRD = "https://images.example/1.png", "https://images.example/2.png", "data:image/png;base64,AAAA"


def read(model: str, **given: Any) -> Translated:
    return translate(given, NAMES.model(model))


def images(found: Translated) -> list[tuple[str, str]]:
    return [(image.role, image.text) for image in found.images]


def test_the_models_own_names_become_ours() -> None:
    found = read(
        "stability-ai/sdxl", prompt="a fox", num_outputs=2, num_inference_steps=30, guidance_scale=5.0,
        prompt_strength=0.5, scheduler="DDIM", seed=7, width=1024, height=768, negative_prompt=None,
    )  # fmt: skip
    assert found.members == {
        "prompt": "a fox", "n": 2, "steps": 30, "guidance": 5.0, "strength": 0.5, "sampler": "DDIM", "seed": 7,
        "width": 1024, "height": 768,
    }  # fmt: skip
    assert not found.notes
    assert not found.faults


def test_what_no_one_knows_is_left_out_with_a_note() -> None:
    found = read("black-forest-labs/flux-schnell", prompt="a fox", lora_weights="x", disable_safety_checker=True)
    assert found.members == {"prompt": "a fox"}
    assert [note.split(" was")[0] for note in found.notes] == ["input.lora_weights", "input.disable_safety_checker"]


@pytest.mark.parametrize(
    "name", ["model", "metadata", "extra", "fallback_models", "deadline_s", "lenient", "webhook_url", "upload_id"]
)
def test_an_input_cannot_set_what_is_about_the_job(name: str) -> None:
    found = translate({"prompt": "a fox", name: "dev"}, NAMES.model("black-forest-labs/flux-schnell"))
    assert found.members == {"prompt": "a fox"}
    assert found.notes


def test_a_field_that_others_take_is_left_to_the_check_of_the_model() -> None:
    assert read("black-forest-labs/flux-schnell", prompt="a fox", guidance_scale="x").members["guidance"] == "x"


def test_two_names_for_one_thing_must_agree() -> None:
    found = read("black-forest-labs/flux-schnell", prompt="a fox", num_outputs=2, num_images=3)
    assert [(fault.field, fault.code) for fault in found.faults] == [("input.num_images", "conflict")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"input_image": IMAGE, "input_image_3": THIRD, "input_image_2": OTHER}, [IMAGE, OTHER, THIRD]),
        ({"input_images": [IMAGE, OTHER]}, [IMAGE, OTHER]),
        ({"image_input": [IMAGE], "image": OTHER}, [IMAGE, OTHER]),
        ({"image": IMAGE, "image2": OTHER}, [IMAGE, OTHER]),
        ({"image": "", "image_2": None}, []),
    ],
)
def test_images_come_in_the_order_of_their_names_numbers(given: dict[str, Any], expected: list[str]) -> None:
    found = read("black-forest-labs/flux-2-pro", prompt="a fox", **given)
    assert [image.text for image in found.images] == expected


def test_a_mask_and_a_face_have_their_roles() -> None:
    assert images(read("stability-ai/sdxl", image=IMAGE, mask=OTHER)) == [("image", IMAGE), ("mask", OTHER)]
    swap = next(named for named in NAMES.by_name.values() if named.model.operation == "face_swap")
    found = translate({"swap_image": IMAGE, "target_image": OTHER}, swap)
    assert sorted(images(found)) == [("face", IMAGE), ("image", OTHER)]


def test_an_image_that_is_no_text_is_a_fault() -> None:
    found = read("black-forest-labs/flux-2-pro", input_images=[IMAGE, 3], mask={})
    assert [fault.field for fault in found.faults] == ["input.input_images", "input.mask"]


@pytest.mark.parametrize(
    ("given", "kept", "noted"),
    [
        ({"aspect_ratio": "custom", "width": 512, "height": 640}, {"width": 512, "height": 640}, 0),
        ({"aspect_ratio": "16:9", "width": 512, "height": 640}, {"aspect_ratio": "16:9"}, 2),
        ({"aspect_ratio": "match_input_image"}, {}, 1),
        ({"size": "custom", "width": 512, "height": 640}, {"width": 512, "height": 640}, 0),
    ],
)
def test_replicates_words_for_sizes(given: dict[str, Any], kept: dict[str, Any], noted: int) -> None:
    found = read("black-forest-labs/flux-1.1-pro", **given)
    assert found.members == kept
    assert len(found.notes) == noted


@pytest.mark.parametrize(
    ("model", "given", "operation"),
    [
        ("black-forest-labs/flux-2-pro", {}, "generate"),
        ("black-forest-labs/flux-2-pro", {"input_images": [IMAGE]}, "edit"),
        ("black-forest-labs/flux-dev", {"image": IMAGE}, "generate"),
        ("stability-ai/sdxl", {"image": IMAGE}, "generate"),
        ("stability-ai/sdxl", {"image": IMAGE, "mask": OTHER}, "inpaint"),
        ("openai/gpt-image-2", {"image": IMAGE}, "edit"),
        ("openai/gpt-image-2", {"image": IMAGE, "mask": OTHER}, "inpaint"),
        ("wavespeed/image-upscaler", {"image": IMAGE}, "upscale"),
    ],
)
def test_the_images_say_what_is_to_be_done(model: str, given: dict[str, Any], operation: str) -> None:
    assert operation_for(NAMES.model(model).model, read(model, **given).images) == operation


def test_a_fault_is_told_at_the_place_the_caller_knows() -> None:
    found = read("black-forest-labs/flux-2-pro", num_outputs=2, input_image=IMAGE)
    places = [found.place_of(name) for name in ("n", "images[0]", "images", "prompt", "model", "input.x")]
    assert places == ["input.num_outputs", "input.input_image", "input.input_image", "input.prompt", "model", "input.x"]


def test_a_kept_input_is_short() -> None:
    kept = clipped({"prompt": "x" * 2000, "image": "data:image/png;base64," + "A" * 9000, "note": "y" * 2000, "n": [1]})
    assert kept["prompt"] is None  # the job has it
    assert kept["image"] == "data:image/png;base64,... (9022 characters)"
    assert len(kept["note"]) < 1100
    assert kept["n"] == [1]
    many = clipped({f"field_{number}": "z" * 900 for number in range(200)})
    assert 0 < len(many) < 40
    assert sum(map(len, many.values())) < MAX_BYTES
