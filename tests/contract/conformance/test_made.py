"""What was ordered is made: images from a text, edits, masks, several at once."""

from __future__ import annotations

import io

from PIL import Image

from conformance.orders import PROMPT, mask_for, sample_image
from conformance.rounds import bytes_of, counts, paid_request, results, wire_fields
from conformance.subjects import Subject, subjects
from providers.base import UpstreamOrder
from providers.catalog.entries import Model
from sandbox.testing import Sandbox


def made(subject: Subject, sandbox: Sandbox, order: UpstreamOrder) -> list[bytes]:
    provider = subject.load(sandbox)
    return [bytes_of(provider, image) for image in results(provider, order)]


def assert_images(files: list[bytes], count: int) -> None:
    assert len(files) == count
    for data in files:
        Image.open(io.BytesIO(data)).load()


@subjects("generate")
def test_an_image_is_made_of_words(sandbox: Sandbox, subject: Subject) -> None:
    assert_images(made(subject, sandbox, subject.order(prompt=PROMPT)), 1)
    tally = counts(sandbox, subject.provider)
    assert (tally["submits"], tally["accepted"]) == (1, 1)


@subjects("edit")
def test_an_image_is_edited(sandbox: Sandbox, subject: Subject) -> None:
    order = subject.order(subject.edit, "edit", prompt=PROMPT, images=[sample_image()])
    assert_images(made(subject, sandbox, order), 1)
    assert counts(sandbox, subject.provider)["accepted"] == 1


@subjects("mask")
def test_a_part_is_edited(sandbox: Sandbox, subject: Subject) -> None:
    model = subject.order(subject.mask).model
    operation = next(name for name in ("inpaint", "edit", model.operation) if name in model.operations)
    order = subject.order(subject.mask, operation, prompt=PROMPT, images=[sample_image()], mask=mask_for(model))
    assert_images(made(subject, sandbox, order), 1)


def _most(model: Model) -> int:
    return min(model.max_per_call, 4)


@subjects("several")
def test_several_images_are_one_call(sandbox: Sandbox, subject: Subject) -> None:
    order = subject.order(subject.several, prompt=PROMPT)
    assert_images(
        made(subject, sandbox, subject.order(subject.several, prompt=PROMPT, n=_most(order.model))), _most(order.model)
    )
    tally = counts(sandbox, subject.provider)
    assert (tally["submits"], tally["accepted"]) == (1, 1)


@subjects("generate")
def test_a_seed_that_we_chose_is_told_with_the_image(sandbox: Sandbox, subject: Subject) -> None:
    """And none is chosen where the upstream's own default makes another image each time."""
    provider, order = subject.load(sandbox), subject.order(prompt=PROMPT)
    [image] = results(provider, order)
    sent = [name for name in wire_fields(paid_request(sandbox, subject.provider)) if name.endswith("seed")]
    if "seed" not in order.params and sent:
        assert subject.provider == "llamaswap"
        assert image.seed is not None
        assert paid_request(sandbox, subject.provider)["fields"]["seed"] == image.seed
        [another] = results(provider, order, key="call-2.0")
        assert another.seed != image.seed
