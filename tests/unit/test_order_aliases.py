"""Names of other services' APIs for the fields of an order: in JSON, in forms and in ``extra``."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from app_doubles import CATALOG, MINE, PNG, Edge, make_edge

from app.orders.forms import kinds_of
from app.shapes.schemas.orders import OrderBody
from providers.orders.aliases import ALIASES, IMAGE_ALIASES, aliases_of, renamed

FLUX = "flux-2-flex"  # takes seed, steps and guidance
GENERATE, EDIT = "/api/images/generate", "/api/images/edit"
LINK = "data:image/png;base64," + base64.b64encode(PNG).decode()


@pytest.fixture
def edge() -> Edge:
    return make_edge(configured=("openai", "flux"))


def post(edge: Edge, path: str = GENERATE, **body: Any) -> Any:
    return edge.client.post(path, json={"prompt": "a fox", "model": FLUX, **body}, headers=MINE)


def post_form(edge: Edge, path: str = GENERATE, **parts: Any) -> Any:
    body = {"prompt": "a fox", "model": FLUX, **parts}
    return edge.client.post(path, data=body, headers=MINE, content_type="multipart/form-data")


def faults(answer: Any) -> dict[str, tuple[str, str]]:
    assert answer.status_code == 422, answer.json
    return {fault["field"]: (fault["code"], fault["message"]) for fault in answer.json["errors"]}


SAID = {"num_inference_steps": 20, "guidance_scale": 4.5, "num_images": 2}


def assert_understood(answer: Any) -> None:
    assert answer.status_code == 202, answer.json
    asked = answer.json["request"]
    assert (asked["steps"], asked["guidance"], asked["n"]) == (20, 4.5, 2)
    assert not SAID.keys() & asked.keys()
    assert "extra" not in asked


def test_other_names_are_understood_in_json(edge: Edge) -> None:
    assert_understood(post(edge, **SAID))


def test_other_names_are_understood_in_camel_case(edge: Edge) -> None:
    assert_understood(post(edge, numInferenceSteps=20, guidanceScale=4.5, numImages=2))


def test_other_names_are_understood_in_forms_with_their_types(edge: Edge) -> None:
    assert_understood(post_form(edge, **{name: str(value) for name, value in SAID.items()}))


def test_other_names_are_understood_in_extra(edge: Edge) -> None:
    assert_understood(post(edge, extra=dict(SAID)))


def test_what_the_model_does_not_take_stays_in_extra(edge: Edge) -> None:
    answer = post(edge, model="gpt-image-2", extra={"guidance_scale": 4, "num_images": 2})
    assert answer.status_code == 202, answer.json
    assert (answer.json["request"]["extra"], answer.json["request"]["n"]) == ({"guidance_scale": 4}, 2)


def test_what_would_make_an_input_image_dearer_is_no_extra(edge: Edge) -> None:
    """gpt-image-1 takes 581 tokens of an image at most, and 6,000 more with high fidelity: no rule prices those."""
    found = faults(post(edge, model="gpt-image-1", extra={"input_fidelity": "high"}))
    assert found["extra.input_fidelity"][0] == "not_allowed"
    assert edge.published == []


@pytest.mark.parametrize(
    ("body", "field", "other"),
    [
        ({"guidance": 3, "guidance_scale": 4}, "guidance_scale", "guidance"),
        ({"num_images": 2, "num_outputs": 3}, "num_outputs", "num_images"),
        ({"cfg": 2, "guidance": 3, "guidance_scale": 3}, "cfg", "guidance"),
        ({"steps": 20, "extra": {"num_inference_steps": 21}}, "extra.num_inference_steps", "steps"),
        ({"image": LINK, "images": [LINK, LINK]}, "image", "images"),
    ],
)
def test_the_same_thing_said_twice_differently_names_both(
    edge: Edge, body: dict[str, Any], field: str, other: str
) -> None:
    code, message = faults(post(edge, **body))[field]
    assert code == "conflict"
    assert f"the same as {other}," in message
    assert edge.published == []


def test_a_conflict_in_a_form_names_both(edge: Edge) -> None:
    code, message = faults(post_form(edge, guidance="3", guidance_scale="4"))["guidance_scale"]
    assert (code, "guidance" in message) == ("conflict", True)


@pytest.mark.parametrize(
    "body", [{"guidance": 4, "guidance_scale": 4.0}, {"n": 2, "num_images": 2}, {"n": None, "num_images": 2}]
)
def test_the_same_thing_said_twice_alike_is_one_thing(edge: Edge, body: dict[str, Any]) -> None:
    assert post(edge, **body).status_code == 202


def test_a_setting_of_a_model_keeps_its_own_name() -> None:
    asked = {"guidance_scale": 3, "cfg": 4}
    assert renamed(asked, ALIASES, own={"cfg"}) == ({"guidance": 3, "cfg": 4}, [])


def test_true_is_not_the_number_one() -> None:
    [clash] = renamed({"n": 1, "num_images": True}, ALIASES)[1]
    assert (clash.given, clash.other) == ("num_images", "n")


def test_a_fault_next_to_another_name_is_told_too(edge: Edge) -> None:
    told = faults(post(edge, num_images=99, guidance_scale="much"))
    assert told["n"][0] == "out_of_range"
    assert told["guidance"][0] == "wrong_type"


@pytest.mark.parametrize("name", ["image", "image_url", "imageUrls", "input_image", "init_image"])
def test_images_may_have_the_names_of_other_services(edge: Edge, name: str) -> None:
    assert post(edge, EDIT, **{name: LINK}).status_code == 202
    assert post(edge, EDIT, **{name: [LINK, LINK]}).status_code == 202
    assert [image.role for _, _, _, images, _ in edge.submission.orders for image in images] == ["image"] * 3
    wrong = faults(post(edge, EDIT, **{name: [{"url": LINK}]}))
    assert wrong["images[0]"][0] == "wrong_type"


def test_masks_and_form_parts_may_too(edge: Edge) -> None:
    model = "gpt-image-2"
    assert post(edge, EDIT, model=model, image_url=LINK, mask_url=LINK).status_code == 202
    files = {"input_image": (io.BytesIO(PNG), "a.png"), "mask_image": (io.BytesIO(PNG), "m.png")}
    assert post_form(edge, EDIT, model=model, **files).status_code == 202
    for _, _, _, images, _ in edge.submission.orders:
        assert sorted(image.role for image in images) == ["image", "mask"]


def test_no_alias_is_a_setting_of_a_model() -> None:
    assert not (ALIASES.keys() | IMAGE_ALIASES.keys()) & kinds_of(CATALOG).keys()


def test_every_alias_is_documented() -> None:
    shown = OrderBody.model_json_schema()["properties"]
    page = Path("docs/api-conventions.md").read_text(encoding="utf-8")
    for name in {*ALIASES.values(), *IMAGE_ALIASES.values()}:
        for alias in aliases_of(name):
            assert f"`{alias}`" in shown[name]["description"]
            assert re.search(rf"^\| `{name}` \|.*`{alias}`", page, re.MULTILINE), alias
