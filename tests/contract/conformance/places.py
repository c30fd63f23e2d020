"""Where the images of an order belong on the wire, as each CONTRACT.md says: what the recorder must have seen.

The general rule reads the fields of the catalogue; fields that carry a meaning, and routes that name them otherwise,
are stated here a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from conformance.pixels import digest
from conformance.subjects import Subject
from providers.base import InputImage, UpstreamOrder

Places = Mapping[str, Sequence[InputImage]]

# Of two images with different meanings, the field of each: base, then face or style.
MEANINGS: Mapping[str, tuple[str, str]] = {
    "image-face-swap": ("image", "face_image"),
    "image-face-swap-pro": ("image", "face_image"),
    "image-head-swap": ("image", "face_image"),
    "infinite-you": ("target_image", "source_image"),
    "stability-style-transfer": ("init_image", "style_image"),
}


def expected(subject: Subject, order: UpstreamOrder) -> dict[str, list[str]]:
    """The digests of the images of ``order`` by their wire field, each field's in order."""
    spelled = BY_SUBJECT.get(subject.name) or BY_SUBJECT.get(subject.provider, _by_catalogue)
    return {field: [digest(image) for image in images] for field, images in spelled(order).items() if images}


def seen(asked: Mapping[str, Any], inside: str = "") -> dict[str, list[str]]:
    """What the emulator recorded of one request, in the same form."""
    found: dict[str, list[str]] = {}
    for image in asked["images"]:
        found.setdefault(image["field"].removeprefix(inside), []).append(image["sha256"])
    return found


def _by_catalogue(order: UpstreamOrder) -> Places:
    """Fields for one image in the order of the catalogue, then a list with the rest."""
    images = [*order.images, *([order.face] if order.face else [])]
    if meanings := MEANINGS.get(order.model.id):
        return dict(zip(meanings, ([image] for image in images), strict=False))
    inputs = order.model.inputs
    found: dict[str, list[InputImage]] = {}
    left = list(order.images)
    for name, spec in inputs.image_fields.items():
        if name != inputs.roles.get("face"):
            found[name] = left if spec.is_list else left[:1]
            left = left[len(found[name]) :]
    assert left == [], "more images than fields"
    if order.face:
        found[inputs.roles["face"]] = [order.face]
    return found | ({inputs.mask_field: [order.mask]} if order.mask and inputs.mask_field else {})


def _openai_form(order: UpstreamOrder) -> Places:
    name = "image" if len(order.images) == 1 else "image[]"
    return {name: order.images, "mask": [order.mask] if order.mask else []}


def _gemini(order: UpstreamOrder) -> Places:
    return {"contents.parts.inlineData.data": order.images}


def _xai(order: UpstreamOrder) -> Places:
    return {"image.url" if len(order.images) == 1 else "images.url": order.images}


def _router(order: UpstreamOrder) -> Places:
    return dict.fromkeys(order.model.inputs.image_fields, order.images)


def _llama_swap(order: UpstreamOrder) -> Places:
    if order.model.id != "llamaswap-sdapi":
        return _openai_form(order)
    masks = [order.mask] if order.mask else []
    return {"init_images": order.images[:1], "extra_images": order.images[1:], "mask": masks}


def _llama_swap_job(order: UpstreamOrder) -> Places:
    references = order.images[1:] if order.model.id == "llamaswap-sdapi" else order.images
    masks = [order.mask] if order.mask else []
    return {"init_image": order.images[:1], "ref_images": references, "mask_image": masks}


BY_SUBJECT: Mapping[str, Callable[[UpstreamOrder], Places]] = {
    "openai": _openai_form,
    "chatgpt2api": _openai_form,
    "gemini": _gemini,
    "xai": _xai,
    "huggingface": _router,
    "llamaswap": _llama_swap,
    "llamaswap-jobs": _llama_swap_job,
}
