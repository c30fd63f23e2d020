"""What a client does besides the plain order: other names, several images, fallback models, nothing stored."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any

import pytest

from app.orders.operations import OPERATIONS
from providers.catalog.catalog import Model, load
from providers.configured import PROVIDERS
from tests.e2e import schema_orders
from tests.e2e.conftest import Service, in_order

CATALOG = load()
_IN_URL = {name: url for url, name in OPERATIONS.items()}


def _retired() -> Iterator[tuple[str, str]]:
    """(model, operation) of withdrawn models whose successor has the same operation."""
    for model in set(CATALOG.models.values()) - set(CATALOG.select()):
        successor = CATALOG.resolve(model.id).model
        for operation in model.operations & successor.operations:
            yield model.id, _IN_URL[operation]


def test_a_model_that_is_gone_is_made_by_its_successor_which_says_so(service: Service) -> None:
    wanted = sorted(_retired())
    assert len({model for model, _ in wanted}) >= 8

    def ordered(each: tuple[str, str]) -> dict[str, Any]:
        model, operation = each
        schema = service.http.get(service.url(f"/api/models/{model}"), timeout=30).json()["orders"][operation]
        order = {"prompt": f"{operation} by {model}"} | schema_orders.plainest(schema, f"{operation} by {model}")
        return service.submit(operation, **order, model=model)

    for (model, _), task in zip(wanted, _ended(service, in_order(ordered, wanted)), strict=True):
        assert (task["status"], task["model"]) == ("succeeded", CATALOG.resolve(model).model.id)
        assert any(model in warning and f"{task['model']} is used instead" in warning for warning in task["warnings"])
        assert task["price"]["captured_microcredits"] == task["price"]["quoted_microcredits"]


@pytest.mark.parametrize(
    ("name", "model", "warned"),
    [
        ("openai/gpt-image-2", "gpt-image-2", False),
        ("google", "gemini-3.1-flash-image", False),
        ("Stable-Diffusion-XL", "sd3.5-large", True),
        ("black-forest-labs/flux-schnell", "replicate-flux-schnell", False),
        ("sd3.5-large-2026-01-01", "sd3.5-large", False),
    ],
)
def test_a_model_answers_to_its_other_names(service: Service, name: str, model: str, warned: bool) -> None:
    task = service.wait_for("generate", prompt=f"asked as {name}", model=name)
    assert (task["status"], task["model"], bool(task["warnings"])) == ("succeeded", model, warned)


def _cheapest() -> list[Model]:
    """The cheapest model of each provider that needs no reference image."""
    plain = [model for model in CATALOG.select("generate") if model.live and model.inputs.images.min == 0]
    return [min((m for m in plain if m.provider == name), key=lambda m: m.cost_usd) for name in PROVIDERS]


def test_several_images_are_as_few_calls_as_the_model_allows(service: Service) -> None:
    models = _cheapest()
    sent = in_order(lambda m: service.submit(prompt=f"five by {m.id}", model=m.id, n=5), models)
    for model, task in zip(models, _ended(service, sent), strict=True):
        assert (task["status"], len(task["images"])) == ("succeeded", 5)
        assert [image["index"] for image in task["images"]] == [0, 1, 2, 3, 4]
        assert task["attempts"] == math.ceil(5 / model.max_per_call)
        assert task["price"]["captured_microcredits"] == task["price"]["quoted_microcredits"]


@pytest.mark.parametrize("model", ["sd3.5-medium", "z-image-turbo", "flux-2-klein-4b"])
def test_each_image_settles_on_its_own(service: Service, model: str) -> None:
    prompt = f"[sandbox:refuse times=1] five of {model}"
    task = service.wait_for("generate", prompt=prompt, model=model, n=5)
    unit = task["price"]["quoted_microcredits"] // 5
    assert (task["status"], len(task["images"])) == ("succeeded", 4)
    assert service.ledger(task["id"]) == {"hold": 5 * unit, "capture": 4 * unit, "release": unit}
    assert any("4 of 5 images were made" in warning for warning in task["warnings"])


def test_the_second_choice_makes_what_the_first_could_not(service: Service) -> None:
    words = "only the second can"
    service.sandbox("faults", faults="quota", provider="openai", prompt_contains=words)
    order = {"prompt": words, "model": "gpt-image-2", "fallback_models": ["flux-2-pro", "sd3.5-large"]}
    task = service.wait_for("generate", **order)
    assert (task["status"], task["model"], task["provider"]) == ("succeeded", "flux-2-pro", "flux")
    assert any("flux-2-pro was asked instead" in warning for warning in task["warnings"])
    price = task["price"]
    assert price["captured_microcredits"] + price["released_microcredits"] == price["quoted_microcredits"]
    alone = service.http.post(
        service.url("/api/images/estimate"), json={"prompt": words, "model": "flux-2-pro"}, timeout=30
    )
    assert price["captured_microcredits"] == alone.json()["price"]["total_microcredits"]


@pytest.mark.parametrize(
    ("operation", "model", "mime", "begins"),
    [
        ("generate", "stable-image-core", "image/png", b"\x89PNG"),
        ("text-to-3d", "hunyuan3d-v3-text", "model/gltf-binary", b"glTF"),
    ],
)
def test_what_is_not_to_be_stored_comes_in_the_answer(
    service: Service, operation: str, model: str, mime: str, begins: bytes
) -> None:
    task = service.wait_for(operation, prompt="not to be kept", model=model, store=False)
    head, _, body = task["images"][0]["data_url"].partition(",")
    assert head == f"data:{mime};base64"
    assert base64.b64decode(body).startswith(begins)


def test_sixteen_images_and_a_mask_go_with_one_order(service: Service) -> None:
    sample_images = [schema_orders.data_url(schema_orders.sample_image(number)) for number in range(16)]
    mask = schema_orders.data_url(schema_orders.mask())
    task = service.wait_for("edit", prompt="all of them", model="gpt-image-2", images=sample_images, mask=mask)
    assert task["status"] == "succeeded"


def test_tasks_are_found_by_the_operation_they_name(service: Service) -> None:
    task = service.wait_for(
        "to-3d", model="tripo3d-v2.5-image", images=[schema_orders.data_url(schema_orders.sample_image(0))]
    )
    listed = service.http.get(service.url(f"/api/images/tasks?operation={task['operation']}"), timeout=30).json()
    assert task["id"] in [each["id"] for each in listed["data"]]


def _ended(service: Service, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return service.all_ended([task["id"] for task in tasks])
