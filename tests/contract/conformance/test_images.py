"""Every image and mask of an order arrives as it is, where it belongs; and only what a mask marks is changed.

Each check is also run on what goes wrong most easily, to see that it finds it: a mask left out, a mask of the other
polarity, images in another order.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from conformance.orders import CATALOG, SIDE_PX, with_images
from conformance.pixels import (
    GROUND,
    LOSS,
    KeptMasks,
    assert_only_the_marked_part_changed,
    distinct,
    image_of,
)
from conformance.places import expected, seen
from conformance.rounds import bytes_of, paid_request, results
from conformance.subjects import Subject, every_subject, served_models_that
from providers.base import InputImage, UpstreamOrder
from providers.catalog.entries import Model
from providers.errors import ProviderError, RequestRefused
from providers.orders.needs import face_need, image_range, mask_need
from sandbox.testing import Sandbox

MOST_IMAGES = 4
Change = Callable[[UpstreamOrder], UpstreamOrder]
OTHER = {"white_edits": "transparent_edits", "transparent_edits": "white_edits"}


def takes_images(model: Model) -> bool:
    return any(image_range(model, operation)[1] for operation in model.operations)


def takes_several(model: Model) -> bool:
    return any(_most(model, operation) > 1 for operation in model.operations)


def masked_operations(model: Model) -> list[str]:
    return sorted(name for name in model.operations if mask_need(model, name) != "none")


def takes_mask(model: Model) -> bool:
    return bool(masked_operations(model))


def draws_masked(model: Model) -> bool:
    return takes_mask(model) and model.output == "image"


def _most(model: Model, operation: str) -> int:
    """References that an order has here, the face aside."""
    return min(image_range(model, operation)[1], MOST_IMAGES) - (face_need(model) == "required")


def unchanged(order: UpstreamOrder) -> UpstreamOrder:
    return order


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptMasks]:
    kept = KeptMasks(tmp_path_factory.mktemp("masks"))
    yield kept
    kept.close()


# ---------------------------------------------------------------- on the wire


def illustrated(model: Model, masks: KeptMasks) -> Iterator[UpstreamOrder]:
    """Orders with one image, with several, and with a mask, for each operation."""
    for operation in sorted(model.operations):
        least, most = image_range(model, operation)[0], _most(model, operation)
        for count in sorted({max(1, least - (face_need(model) == "required")), most} - {0}):
            order = with_images(model, operation, count, has_mask=mask_need(model, operation) == "required")
            if order:
                yield _dressed(order, masks)
        if mask_need(model, operation) == "optional" and (order := with_images(model, operation, 1, has_mask=True)):
            yield _dressed(order, masks)


def _dressed(order: UpstreamOrder, masks: KeptMasks) -> UpstreamOrder:
    return replace(
        order,
        images=[distinct(place) for place in range(len(order.images))],
        face=distinct(9) if order.face else None,
        mask=masks.of(order.model) if order.mask else None,
    )


def assert_each_arrives(
    sandbox: Sandbox, subject: Subject, orders: Sequence[UpstreamOrder], *, change: Change = unchanged
) -> None:
    """Send ``change`` of each order, and compare what arrives with the order itself. Raises AssertionError."""
    provider = subject.load(sandbox)
    assert orders
    for number, order in enumerate(orders):
        provider.submit(change(order), dedupe_key=f"call-{number}.0")
        assert seen(paid_request(sandbox, subject.provider), subject.inside) == expected(subject, order)


@served_models_that(takes_images)
def test_every_image_arrives_byte_for_byte_in_its_field(
    sandbox: Sandbox, subject: Subject, model: Model, masks: KeptMasks
) -> None:
    assert_each_arrives(sandbox, subject, list(illustrated(model, masks)))


@served_models_that(takes_several)
def test_images_in_another_order_are_seen(sandbox: Sandbox, subject: Subject, model: Model, masks: KeptMasks) -> None:
    orders = [order for order in illustrated(model, masks) if len(order.images) > 1]
    with pytest.raises(AssertionError):
        assert_each_arrives(
            sandbox, subject, orders, change=lambda order: replace(order, images=list(reversed(order.images)))
        )


@served_models_that(takes_mask)
def test_a_mask_left_out_is_seen_on_the_wire(
    sandbox: Sandbox, subject: Subject, model: Model, masks: KeptMasks
) -> None:
    orders = [order for order in illustrated(model, masks) if order.mask]
    with pytest.raises((AssertionError, RequestRefused)):
        assert_each_arrives(sandbox, subject, orders, change=lambda order: replace(order, mask=None))


# ---------------------------------------------------------------- in the result


@pytest.fixture
def drawing(sandbox: Sandbox) -> Iterator[Sandbox]:
    """The sandbox with results as large as what goes in: JPEG blends 16 pixels on each side of an edge."""
    before = sandbox.settings()["edge_max_px"]
    sandbox.settings(edge_max_px=SIDE_PX)
    yield sandbox
    sandbox.settings(edge_max_px=before)


def made_with_mask(
    sandbox: Sandbox,
    subject: Subject,
    order: UpstreamOrder,
    base: InputImage,
    mask: InputImage | None,
) -> list[bytes]:
    provider = subject.load(sandbox)
    order = replace(order, images=[base], mask=mask)
    return [bytes_of(provider, image) for image in results(provider, order, key=f"call-{order.operation}.0")]


def masked_orders(model: Model) -> Iterator[UpstreamOrder]:
    for operation in masked_operations(model):
        order = with_images(model, operation, 1, has_mask=True)
        assert order is not None, operation
        yield order


@served_models_that(draws_masked)
def test_only_what_the_mask_marks_is_changed(
    drawing: Sandbox, subject: Subject, model: Model, masks: KeptMasks
) -> None:
    for order in masked_orders(model):
        assert_only_the_marked_part_changed(made_with_mask(drawing, subject, order, image_of(GROUND), masks.of(model)))


@served_models_that(draws_masked)
def test_a_mask_of_the_other_polarity_is_seen(
    drawing: Sandbox, subject: Subject, model: Model, masks: KeptMasks
) -> None:
    inverted = masks.of(with_other_polarity(model))
    for order in masked_orders(model):
        with pytest.raises((AssertionError, ProviderError)):
            assert_only_the_marked_part_changed(made_with_mask(drawing, subject, order, image_of(GROUND), inverted))


@served_models_that(draws_masked)
def test_a_mask_left_out_is_seen_in_the_result(drawing: Sandbox, subject: Subject, model: Model) -> None:
    for order in masked_orders(model):
        with pytest.raises((AssertionError, ProviderError)):
            assert_only_the_marked_part_changed(made_with_mask(drawing, subject, order, image_of(GROUND), None))


def with_other_polarity(model: Model) -> Model:
    assert model.inputs.mask_polarity is not None
    inputs = model.inputs.model_copy(update={"mask_polarity": OTHER[model.inputs.mask_polarity]})
    return model.model_copy(update={"inputs": inputs})


def _shows_only_the_marked_part(sandbox: Sandbox, subject: Subject, model: Model, mask: InputImage | None) -> None:
    """A 3D file follows what the mask marks of the image, and nothing else. Raises AssertionError."""
    for order in masked_orders(model):
        plain, inside, outside = (
            made_with_mask(sandbox, subject, order, image_of(GROUND, patch_at=place), mask)
            for place in (None, 0.2, 0.8)
        )
        assert outside == plain != inside


@served_models_that(lambda model: takes_mask(model) and not draws_masked(model))
def test_a_3d_file_shows_what_the_mask_marks(
    drawing: Sandbox, subject: Subject, model: Model, masks: KeptMasks
) -> None:
    assert model.output == "model_3d"
    _shows_only_the_marked_part(drawing, subject, model, masks.of(model))
    for wrong in (masks.of(with_other_polarity(model)), None):
        with pytest.raises((AssertionError, ProviderError)):
            _shows_only_the_marked_part(drawing, subject, model, wrong)


# ---------------------------------------------------------------- time


@every_subject()
def test_the_time_outs_of_catalogue_and_adapter_agree(sandbox: Sandbox, subject: Subject) -> None:
    """A step is given up ``call_timeout_s`` and a margin after it began: never while its submit may still answer."""
    provider: Any = subject.load(sandbox)
    assert provider.submit_timeout_s == CATALOG.providers[subject.provider].call_timeout_s


# ---------------------------------------------------------------- the emulators' tools


def _tool(drawing: Sandbox, subject: Subject, model: Model, operation: str) -> list[Image.Image]:
    """What the operation makes of a flat image, settings at their least."""
    drawing.settings(edge_max_px=0, prepared=False)
    order = with_images(model, operation, 1, has_mask=False)
    assert order is not None
    made = [Image.open(io.BytesIO(data)) for data in made_with_mask(drawing, subject, order, image_of(GROUND), None)]
    drawing.settings(prepared=True)
    return made


def _can(operation: str) -> Callable[[Model], bool]:
    return lambda model: operation in model.operations and model.output == "image"


@served_models_that(_can("remove_background"))
def test_a_removed_background_is_transparent(drawing: Sandbox, subject: Subject, model: Model) -> None:
    for made in _tool(drawing, subject, model, "remove_background"):
        assert made.getchannel("A").getextrema() == (0, 255)
        assert made.getpixel((made.width // 2, made.height // 2)) == (*GROUND, 255)


@served_models_that(_can("outpaint"))
def test_an_outpainted_image_keeps_its_middle(drawing: Sandbox, subject: Subject, model: Model) -> None:
    for made in _tool(drawing, subject, model, "outpaint"):
        colours = made.convert("RGB").getcolors(made.width * made.height) or []
        kept = sum(count for count, seen in colours if max(map(_apart, seen, GROUND)) <= LOSS)
        assert 0.02 < kept / (made.width * made.height) < 1


@served_models_that(_can("upscale"))
def test_an_upscaled_image_is_the_same_image(drawing: Sandbox, subject: Subject, model: Model) -> None:
    for made in _tool(drawing, subject, model, "upscale"):
        assert made.width > SIDE_PX
        assert all(max(map(_apart, pair, GROUND)) <= LOSS for pair in zip(*_extremes(made), strict=True))


def _apart(one: int, other: int) -> int:
    return abs(one - other)


def _extremes(image: Image.Image) -> list[tuple[int, int]]:
    """The least and the most of each channel."""
    found = image.convert("RGB").getextrema()
    return [(int(low), int(high)) for low, high in found]  # type: ignore[misc]
