"""The order of a job in an order's own fields: placed again, it asks every model for the same."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from app.orders import forms, repeating
from jobs.errors import InvalidOrderError
from jobs.reads import repeats
from jobs.reads.repeats import KeptImage, Repeatable
from jobs.submission.order import Order, ReferenceImage
from jobs.submission.service import stored_request
from providers.catalog import catalog
from providers.catalog.catalog import Model
from providers.orders.rules import CheckedOrder, image_range, mask_need
from providers.orders.schema import face_need

CATALOG = catalog.load()
KINDS = forms.kinds_of(CATALOG)
CASES = [(model, operation) for model in CATALOG.models.values() for operation in model.operations]


def first_order(model: Model, operation: str) -> Order:
    fewest, _ = image_range(model, operation)
    face = face_need(model) == "required"
    images = [ReferenceImage("image", b"x") for _ in range(fewest - face)]
    images += [ReferenceImage("mask", b"x")] if mask_need(model, operation) == "required" else []
    images += [ReferenceImage("face", b"x")] if face else []
    return Order(operation, {"prompt": "a red hat", "n": 1, "size": "1000x800", "lenient": True}, images)


def as_row(model: Model, checked: CheckedOrder) -> SimpleNamespace:
    return SimpleNamespace(
        request=stored_request(model, checked, {}),
        first_model=model.id,
        model=model.id,
        fallback_models=[],
        low_priority=False,
        deadline_s=60,
        metadata={},
        keep_s=None,
    )


def plain(checked: CheckedOrder) -> CheckedOrder:
    """Without the words about what was dropped or brought to the nearest."""
    return replace(checked, dropped=(), warnings=(), normalised={})


def test_every_model_is_asked_for_the_same_again() -> None:
    wrong = []
    for model, operation in CASES:
        first = first_order(model, operation)
        try:
            checked = first.check(model, lenient=True)
        except InvalidOrderError:  # this model needs more than the least
            continue
        kept = [KeptImage(image.role, at, "k", deleted=False) for at, image in enumerate(first.images)]
        found = Repeatable(operation, repeats._fields(as_row(model, checked)), kept)
        again = repeating.order_of(found, "job_1", {}, KINDS)
        second = again.check(model, lenient=False) if not again.faults else again.faults
        if not isinstance(second, CheckedOrder) or plain(second) != plain(checked):
            wrong.append((model.id, operation, checked, second))
    assert not wrong[:3]


def test_most_models_were_tried() -> None:
    assert sum(_takes_the_least(model, operation) for model, operation in CASES) > 0.9 * len(CASES)


def _takes_the_least(model: Model, operation: str) -> bool:
    try:
        first_order(model, operation).check(model, lenient=True)
    except InvalidOrderError:
        return False
    return True


@pytest.mark.parametrize(
    ("edits", "left"),
    [
        ({}, {"size": "1x1", "fallback_models": ["b"]}),
        ({"width": 64, "height": 64}, {"width": 64, "height": 64, "fallback_models": ["b"]}),
        ({"aspectRatio": "1:1"}, {"aspect_ratio": "1:1", "fallback_models": ["b"]}),
        ({"size": None}, {"fallback_models": ["b"]}),
        ({"model": "c"}, {"size": "1x1", "model": "c"}),
        ({"model": "c", "fallback_models": ["d"]}, {"size": "1x1", "model": "c", "fallback_models": ["d"]}),
    ],
)
def test_a_size_is_edited_as_a_whole_and_fallbacks_go_with_their_model(
    edits: dict[str, object], left: dict[str, object]
) -> None:
    found = Repeatable("generate", {"size": "1x1", "fallback_models": ["b"]}, [])
    assert repeating.order_of(found, "job_1", edits, KINDS).fields == left


def test_images_are_replaced_by_their_role() -> None:
    kept = [KeptImage("image", 0, "a", deleted=False), KeptImage("mask", 1, "b", deleted=True)]
    found = Repeatable("edit", {}, kept)

    def images(**edits: object) -> list[tuple[str, str]]:
        order = repeating.order_of(found, "job_1", edits, KINDS)
        assert not order.faults
        return [(image.field_name, image.kept.key if image.kept else image.text) for image in order.images]

    assert images() == [("images[0]", "a"), ("mask", "b")]
    assert images(image="https://a.example/x") == [("images[0]", "https://a.example/x"), ("mask", "b")]
    assert images(mask=None) == [("images[0]", "a")]
    assert images(images=None, mask={"upload_id": "upl_1"}) == [("mask", "upl_1")]
    order = repeating.order_of(found, "job_1", {"image": "a", "input_image": "b"}, KINDS)
    assert [fault.code for fault in order.faults] == ["conflict"]
