"""Raw orders against models: what is accepted, in which form, and every fault."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.catalog.catalog import load
from providers.orders.rules import CheckedOrder, OrderProblems, check_order
from providers.orders.size_requests import SIZE_FIELDS
from providers.orders.texts import clean_text

CATALOG = load()


def check(model_id: str, operation: str = "generate", **fields: Any) -> CheckedOrder:
    flags = {name: fields.pop(name) for name in ("image_count", "has_mask", "has_face", "lenient") if name in fields}
    return check_order(CATALOG.models[model_id], operation, fields, **{"image_count": 0, **flags})


def faults(model_id: str, operation: str = "generate", **fields: Any) -> list[tuple[str, str]]:
    with pytest.raises(OrderProblems) as refused:
        check(model_id, operation, **fields)
    return sorted((problem.field, problem.code) for problem in refused.value.problems)


def test_a_checked_order_has_canonical_values() -> None:
    checked = check("gpt-image-2", prompt=" a fox\r\n", n=3, size="1000x1000", quality="high", output_format="JPG")
    assert checked.prompt == "a fox"
    assert checked.n == 3
    assert checked.size == {"size": "1008x1008"}
    assert checked.params == {"quality": "high", "output_format": "jpeg"}
    assert checked.normalised == {
        "size": {"asked": "1000x1000", "used": "1008x1008"},
        "output_format": {"asked": "JPG", "used": "jpeg"},
    }
    assert (checked.warnings, checked.dropped) == ((), ())


def test_what_was_left_out_stays_out() -> None:
    checked = check("flux-2-pro", prompt="a fox", seed=None, size=None, n=None)
    assert (checked.n, checked.size, checked.params, checked.normalised) == (1, {}, {}, {})


@pytest.mark.parametrize(
    ("operation", "fields", "size", "quality"),
    [
        ("generate", {}, {"size": "1024x1024"}, "medium"),
        ("generate", {"size": None, "quality": None}, {"size": "1024x1024"}, "medium"),
        ("generate", {"size": "auto"}, {"size": "auto"}, "medium"),
        ("generate", {"quality": "auto"}, {"size": "1024x1024"}, "auto"),
        ("generate", {"aspect_ratio": "1:2", "quality": "low"}, {"size": "720x1440"}, "low"),
        ("edit", {}, {}, "medium"),
    ],
)
def test_what_a_price_depends_on_is_sent_where_an_order_leaves_it_out(
    operation: str, fields: dict[str, Any], size: dict[str, str], quality: str
) -> None:
    checked = check("gpt-image-2", operation, prompt="a fox", image_count=int(operation == "edit"), **fields)
    assert (checked.size, checked.params) == (size, {"quality": quality})


def test_a_default_that_an_operators_entry_takes_away_is_not_sent() -> None:
    model = CATALOG.models["gpt-image-2"]
    without = {name: spec for name, spec in model.params.items() if name != "quality"}
    model = model.model_copy(update={"params": without})
    assert check_order(model, "generate", {"prompt": "a fox"}).params == {}


@pytest.mark.parametrize(
    ("model_id", "operation", "fields", "code"),
    [
        ("hf-flux-dev", "generate", {"negative_prompt": "blurry"}, "not_supported"),
        ("hf-flux-krea-dev", "generate", {"negative_prompt": "blurry"}, "not_supported"),
        ("hf-flux-dev", "generate", {"steps": 51}, "out_of_range"),
        ("hf-flux-dev", "generate", {"guidance": 0.5}, "out_of_range"),
        ("hf-flux-dev", "generate", {"guidance": 20.5}, "out_of_range"),
        ("replicate-flux-2-klein-4b", "generate", {"output_megapixels": "3"}, "not_allowed"),
        ("stability-upscale-creative", "upscale", {"creativity": 0.51}, "out_of_range"),
    ],
)
def test_bounds_that_vendors_clients_state(model_id: str, operation: str, fields: dict[str, Any], code: str) -> None:
    [name] = fields
    found = faults(model_id, operation, prompt="a fox", image_count=int(operation == "upscale"), **fields)
    assert found == [(name, code)]


def test_stabilitys_creative_upscale_takes_creativity_up_to_a_half() -> None:
    checked = check("stability-upscale-creative", "upscale", prompt="a fox", image_count=1, creativity=0.5)
    assert checked.params["creativity"] == 0.5


def test_the_format_is_named_as_the_model_names_it() -> None:
    assert check("replicate-flux-schnell", prompt="a fox", output_format="jpeg").params["output_format"] == "jpg"


def test_auto_means_left_out_where_the_model_has_no_such_word() -> None:
    assert check("ws-gpt-image-2", prompt="a fox", quality="auto").params == {}
    assert check("gpt-image-2", prompt="a fox", quality="auto").params == {"quality": "auto"}


def test_every_fault_is_named_at_once() -> None:
    assert faults(
        "gpt-image-2",
        "edit",
        prompt=" ",
        n=11,
        size="0x0",
        quality="extreme",
        output_compression=101,
        background=3,
        seed=7,
    ) == [
        ("background", "wrong_type"),
        ("images", "required"),
        ("n", "out_of_range"),
        ("output_compression", "out_of_range"),
        ("prompt", "required"),
        ("quality", "not_allowed"),
        ("seed", "not_supported"),
        ("size", "out_of_range"),
    ]


def test_messages_help() -> None:
    with pytest.raises(OrderProblems) as refused:
        check("gpt-image-2", prompt="a fox", quality="extreme", seed=7)
    told = str(refused.value)
    assert "auto, low, medium, high" in told
    assert "it takes:" in told


def test_an_operation_the_model_cannot_do_hides_no_other_fault() -> None:
    assert faults("qwen-image", "upscale", prompt="a fox", n=0) == [
        ("n", "out_of_range"),
        ("operation", "not_supported"),
    ]


def test_lenient_drops_what_the_model_does_not_take_and_says_so() -> None:
    checked = check("gpt-image-2", prompt="a fox", seed=7, steps=4, factor=2, lenient=True)
    assert checked.params == {"quality": "medium"}
    assert checked.dropped == ("seed", "steps", "factor")
    assert len(checked.warnings) == 3


def test_lenient_still_refuses_wrong_values_and_images() -> None:
    assert faults("gpt-image-2", prompt="a fox", quality="extreme", lenient=True, image_count=1) == [
        ("images", "not_supported"),
        ("quality", "not_allowed"),
    ]


def test_a_body_of_thousands_of_unknown_fields_gets_a_short_answer() -> None:
    strays: dict[str, Any] = {f"field_{number}": 1 for number in range(5_000)}
    assert len(faults("gpt-image-2", prompt="a fox", **strays)) == 20
    long_name: dict[str, Any] = {"x" * 9_999: 1}
    assert faults("gpt-image-2", prompt="a fox", **long_name) == [("x" * 64, "not_supported")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("prompt", "required")),
        ({"prompt": "\x00 \t\n"}, ("prompt", "required")),
        ({"prompt": 5}, ("prompt", "wrong_type")),
        ({"prompt": "x" * 32_001}, ("prompt", "too_long")),
        ({"prompt": "x", "n": True}, ("n", "wrong_type")),
        ({"prompt": "x", "n": "2"}, ("n", "wrong_type")),
        ({"prompt": "x", "n": 0}, ("n", "out_of_range")),
        ({"prompt": "x", "seed": True}, ("seed", "wrong_type")),
        ({"prompt": "x", "seed": 1.5}, ("seed", "wrong_type")),
        ({"prompt": "x", "seed": 2**80}, ("seed", "out_of_range")),
        ({"prompt": "x", "steps": 51}, ("steps", "out_of_range")),
        ({"prompt": "x", "guidance": "5"}, ("guidance", "wrong_type")),
        ({"prompt": "x", "guidance": float("nan")}, ("guidance", "out_of_range")),
        ({"prompt": "x", "guidance": 10**400}, ("guidance", "out_of_range")),
        ({"prompt": "x", "prompt_upsampling": 1}, ("prompt_upsampling", "wrong_type")),
    ],
)
def test_one_fault(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    assert faults("flux-2-flex", **fields) == [expected]


def test_a_whole_float_is_a_whole_number() -> None:
    checked = check("flux-2-flex", prompt="x", n=2.0, steps=5.0, guidance=3)
    assert (checked.n, checked.params) == (2, {"steps": 5, "guidance": 3})


def test_our_limits_bound_what_a_model_leaves_open() -> None:
    assert faults("hf-flux-dev", prompt="x", steps=100_000) == [("steps", "out_of_range")]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("x", "wrong_type"),
        ([1] * 51, "too_many"),
        (["x" * 20_000], "too_long"),
        ([{1, 2}], "wrong_type"),
        ([float("nan")], "wrong_type"),
    ],
)
def test_lists_are_bounded(value: Any, code: str) -> None:
    given = {"target_lang": "de", "sensitives": value, "image_count": 1}
    assert faults("qwen-image-translate", "translate", **given) == [("sensitives", code)]


def test_prompt_limits_are_those_of_the_model() -> None:
    assert faults("stable-image-core", prompt="x" * 10_001) == [("prompt", "too_long")]
    assert check("gpt-image-2", prompt="x" * 32_000).prompt == "x" * 32_000


def test_a_model_without_a_prompt_refuses_a_text_but_not_an_empty_one() -> None:
    assert check("image-upscaler", "upscale", prompt="  ", image_count=1).prompt is None
    assert faults("image-upscaler", "upscale", prompt="sharper", image_count=1) == [("prompt", "not_supported")]


def test_a_setting_the_model_cannot_do_without() -> None:
    given = {"prompt": "a red hat", "image_count": 1}
    assert faults("stability-search-and-replace", "edit", **given) == [("find", "required")]
    assert faults("stability-search-and-replace", "edit", find=" ", **given) == [("find", "required")]
    assert check("stability-search-and-replace", "edit", find="hat", **given).params == {"find": "hat"}


def test_a_setting_needed_only_with_an_image() -> None:
    assert check("stable-image-ultra", prompt="x").params == {}
    assert faults("stable-image-ultra", prompt="x", image_count=1) == [("strength", "required")]


def test_a_setting_of_one_operation_is_not_taken_by_another() -> None:
    assert check("gpt-image-2", prompt="x", moderation="low").params == {"quality": "medium", "moderation": "low"}
    assert faults("gpt-image-2", "edit", prompt="x", moderation="low", image_count=1) == [
        ("moderation", "not_supported")
    ]


BOX = {"width": 10, "height": 20, "length": 30}


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        ("rodin-v2-text", "bbox_condition", [BOX]),
        ("rodin-v2-image", "bbox_condition", []),
        ("qwen-image-translate", "terminologies", [{"src": "hat", "tgt": "Hut"}]),
        ("flux-fill-dev", "loras", [{"path": "owner/lora"}, {"path": "owner/other", "scale": 0.5}]),
    ],
)
def test_a_list_of_objects_is_sent_as_it_is(model: str, name: str, value: list[Any]) -> None:
    assert listed(model, name, value).params[name] == value


def listed(model: str, name: str, value: object) -> CheckedOrder:
    found = CATALOG.models[model]
    fields = {"prompt": "a fox"} if found.inputs.prompt == "required" else {"target_lang": "de"}
    fields = {} if model == "rodin-v2-image" else fields
    mask = found.inputs.mask == "required"
    return check_order(
        found, found.operation, {**fields, name: value}, image_count=found.inputs.images.min, has_mask=mask
    )


@pytest.mark.parametrize(
    ("model", "name", "item"),
    [
        ("rodin-v2-text", "bbox_condition", 10),
        ("rodin-v2-text", "bbox_condition", {"width": 10, "height": 20}),
        ("rodin-v2-text", "bbox_condition", {**BOX, "depth": 1}),
        ("rodin-v2-text", "bbox_condition", {**BOX, "width": "10"}),
        ("rodin-v2-text", "bbox_condition", {**BOX, "width": True}),
        ("rodin-v2-text", "bbox_condition", {**BOX, "width": 1.5}),
        ("rodin-v2-text", "bbox_condition", {**BOX, "width": -1}),
        ("qwen-image-translate", "terminologies", {"src": " ", "tgt": "Hut"}),
        ("flux-fill-dev", "loras", {"path": "owner/lora", "scale": 5}),
    ],
)
def test_an_object_of_a_list_has_the_members_that_its_model_names(model: str, name: str, item: object) -> None:
    with pytest.raises(OrderProblems) as caught:
        listed(model, name, [item])
    [problem] = caught.value.problems
    assert (problem.field, problem.code) == (name, "wrong_type")
    assert problem.message.startswith("must be a list of objects {")


def test_the_message_spells_the_objects_out() -> None:
    with pytest.raises(OrderProblems) as caught:
        listed("flux-fill-dev", "loras", [1])
    assert "{path: text, scale: number of at least 0 and at most 4 (optional)}" in caught.value.problems[0].message


@pytest.mark.parametrize(
    ("value", "code"), [(2, "not_allowed"), (0, "not_allowed"), ("high", "wrong_type"), (True, "wrong_type")]
)
def test_a_whole_number_may_be_a_choice(value: object, code: str) -> None:
    assert faults("midjourney", prompt="a fox", quality=value) == [("quality", code)]
    for same in (4, 4.0, "4"):  # a form has texts alone
        assert check("midjourney", prompt="a fox", quality=same).params == {"quality": 4}


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"background": "transparent", "output_format": "jpeg"}, ("background", "not_allowed")),
        ({"output_compression": 50}, ("output_compression", "not_allowed")),
        ({"output_compression": 50, "output_format": "png"}, ("output_compression", "not_allowed")),
    ],
)
def test_settings_that_do_not_go_together(fields: dict[str, Any], fault: tuple[str, str]) -> None:
    assert faults("gpt-image-2", prompt="x", **fields) == [fault]


def test_settings_that_go_together() -> None:
    assert check("gpt-image-2", prompt="x", background="transparent").params
    assert check("gpt-image-2", prompt="x", output_compression=100).params
    assert check("gpt-image-2", prompt="x", output_compression=50, output_format="webp").params


@pytest.mark.parametrize(
    ("model_id", "operation", "images", "expected"),
    [
        ("gpt-image-2", "edit", {}, [("images", "required")]),
        ("gpt-image-2", "edit", {"image_count": 17}, [("images", "too_many")]),
        ("gpt-image-2", "generate", {"image_count": 1}, [("images", "not_supported")]),
        ("gpt-image-2", "generate", {"has_mask": True}, [("mask", "not_supported")]),
        ("gpt-image-2", "inpaint", {"image_count": 1}, [("mask", "required")]),
        ("gpt-image-2", "edit", {"image_count": 1, "has_face": True}, [("face", "not_supported")]),
        ("qwen-edit", "edit", {"image_count": 1, "has_mask": True}, [("mask", "not_supported")]),
        ("flux-fill-dev", "inpaint", {"image_count": 1}, [("mask", "required")]),
        ("vidu-q2-reference", "generate", {}, [("images", "required")]),
        ("chatgpt2api-gpt-image-2", "edit", {"image_count": 17}, [("images", "too_many")]),
    ],
)
def test_the_wrong_images(
    model_id: str, operation: str, images: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert faults(model_id, operation, prompt="x", **images) == expected


@pytest.mark.parametrize(
    ("model_id", "operation", "images"),
    [
        ("gpt-image-2", "edit", {"image_count": 1}),
        ("gpt-image-2", "edit", {"image_count": 16, "has_mask": True}),
        ("chatgpt2api-gpt-image-2", "edit", {"image_count": 2, "has_mask": True}),
        ("flux-2-pro", "generate", {"image_count": 2}),
        ("stability-inpaint", "inpaint", {"image_count": 1}),
    ],
)
def test_the_right_images(model_id: str, operation: str, images: dict[str, Any]) -> None:
    assert check(model_id, operation, prompt="x", **images).image_count == images["image_count"]


@pytest.mark.parametrize(
    ("model_id", "operation", "images", "told"),
    [
        (
            "hunyuan3d-v2-multi-view",
            "image_to_3d",
            {"image_count": 1},
            "needs 3 images (front_image_url, back_image_url, left_image_url), 1 given",
        ),
        ("image-face-swap", "face_swap", {"has_face": True}, "needs 1 image in addition to the face, none given"),
        ("image-captioner", "caption", {"image_count": 2}, "takes 1 image, 2 given"),
        ("rodin-v2-text", "text_to_3d", {"image_count": 1}, "takes no image to text-to-3d"),
        ("qwen-edit", "edit", {"image": "x", "image_count": 1}, "it takes: aspect_ratio, height, images, n,"),
        ("qwen-edit", "inpaint", {"image_count": 1}, "qwen-edit cannot inpaint; it can: edit"),
        ("image-captioner", "caption", {"image_count": 1, "n": 2}, "makes one text, n is 1"),
        ("image-translator", "translate", {"image_count": 1}, "is needed by this model: one of english,"),
        ("bria-eraser", "erase", {"image_count": 1}, "is needed to erase with bria-eraser"),
    ],
)
def test_messages_name_what_is_missing(model_id: str, operation: str, images: dict[str, Any], told: str) -> None:
    words = {} if CATALOG.models[model_id].inputs.prompt == "none" else {"prompt": "x"}
    with pytest.raises(OrderProblems) as caught:
        check(model_id, operation, **words, **images)
    [problem] = caught.value.problems
    assert told in problem.message


def test_a_number_is_taken_for_the_text_it_means() -> None:
    assert check("ws-flux-kontext-pro-t2i", prompt="x", safety_tolerance=2).params == {"safety_tolerance": "2"}
    assert check("replicate-flux-schnell", prompt="x", megapixels=0.25).params == {"megapixels": "0.25"}
    assert faults("ws-flux-kontext-pro-t2i", prompt="x", safety_tolerance=9) == [("safety_tolerance", "wrong_type")]


def test_an_operation_may_allow_fewer_values() -> None:
    assert check("llamaswap-z-image", prompt="x", output_format="webp").params
    refused = faults("llamaswap-z-image", "edit", prompt="x", output_format="webp", image_count=1)
    assert refused == [("output_format", "not_allowed")]


def test_a_face_counts_as_an_image_and_is_needed_to_swap() -> None:
    assert check("image-face-swap", "face_swap", image_count=1, has_face=True).image_count == 2
    assert faults("image-face-swap", "face_swap", image_count=2) == [("face", "required")]


def test_one_of_several_is_enough() -> None:
    assert faults("image-eraser", "erase", image_count=1) == [("prompt", "required")]
    assert check("image-eraser", "erase", image_count=1, has_mask=True)
    assert check("image-eraser", "erase", image_count=1, prompt="the lamp").prompt == "the lamp"


def test_chatgpt2api_takes_quality_as_a_hint() -> None:
    assert check("chatgpt2api-gpt-image-2", prompt="x", quality="high", n=10).params == {"quality": "high"}


def test_text_is_composed_and_free_of_controls() -> None:
    assert clean_text(" cafe\u0301\x00\x1b[0m\r\n\tx\ud800\u200d ") == "café[0m\n\tx\u200d"
    # What turns the direction of the writing, and what ends a line elsewhere.
    assert clean_text("\ufeffa\u202egnp.exe\u202c\u2066b\u2069\u2028c") == "agnp.exeb\nc"
    assert clean_text("\U0001f468\u200d\U0001f469 \u0645\u06cc\u200c\u062e\u0648") == (
        "\U0001f468\u200d\U0001f469 \u0645\u06cc\u200c\u062e\u0648"
    )


def test_towers_of_accents_cost_no_time() -> None:
    started = time.process_time()
    clean_text("a" + "\u0301\u0316" * 16_000)
    clean_text("\u0f73" * 32_000)
    assert time.process_time() - started < 0.5


@given(text=st.text())
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    once.encode()


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
)


@given(data=st.data(), model=st.sampled_from(list(CATALOG.models.values())))
def test_the_worst_orders_are_only_refused(data: st.DataObject, model: Any) -> None:
    operation = data.draw(st.sampled_from(sorted(model.operations)))
    names = ["prompt", "n", "nonsense", *SIZE_FIELDS, *model.params]
    fields = data.draw(st.dictionaries(st.sampled_from(names), junk, max_size=6))
    try:
        checked = check_order(model, operation, fields, image_count=data.draw(st.integers(0, 20)), lenient=True)
    except OrderProblems as refused:
        assert refused.problems
    else:
        assert set(checked.params) <= set(model.params)
        assert 1 <= checked.n <= 10
