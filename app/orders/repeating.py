"""An earlier order placed again: as it was, or with some of its fields said otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.orders import request_body
from app.orders.operations import operation_of
from jobs.errors import FieldFault
from jobs.reads.repeats import SIZE_FIELDS, KeptImage, Repeatable
from jobs.submission.order import KeptInput, Order, ReferenceImage
from providers.orders.aliases import ALIASES, IMAGE_ALIASES, renamed

_FIELD_OF = {"image": "images", "mask": "mask", "face": "face"}


def order_of(found: Repeatable, job_id: str, edits: Mapping[str, Any], kinds: Mapping[str, str]) -> Order:
    """The order of a job with these edits: a member replaces the field, null removes it. ``kinds`` as in
    :func:`app.orders.request_body.read`. Raises UnknownOperationError."""
    said, clashes = renamed(edits, {**ALIASES, **IMAGE_ALIASES}, kinds)
    if isinstance(said.get("images"), str) and "images" not in edits:
        said["images"] = [said["images"]]  # one image under another name
    named = said.pop("operation", None)
    operation = operation_of(named) if isinstance(named, str) else found.operation
    body = request_body.of_members({**_left(found.fields, said), **said}, kinds, _kept(found, job_id, said))
    body.faults += [FieldFault(clash.given, "conflict", clash.message) for clash in clashes]
    if named is not None and not isinstance(named, str):
        body.faults.append(FieldFault("operation", "wrong_type", "must be a text"))
    return replace(body.order(operation), parent_id=job_id)


def _left(fields: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that stay. A size is said as a whole, and the fallbacks go with the model that they follow."""
    dropped: set[str] = set()
    if any(name in said for name in SIZE_FIELDS):
        dropped.update(SIZE_FIELDS)
    if said.get("model") is not None:
        dropped.add("fallback_models")
    return {name: value for name, value in fields.items() if name not in dropped}


def _kept(found: Repeatable, job_id: str, said: Mapping[str, Any]) -> list[ReferenceImage]:
    """The images that the order came with, but those that are said otherwise."""
    replaced = {"images"} if request_body.UPLOAD_ID in said else set()
    replaced.update(name for name in _FIELD_OF.values() if name in said)
    images: list[ReferenceImage] = []
    for each in found.images:
        if _FIELD_OF[each.role] not in replaced:
            at = sum(image.role == "image" for image in images)
            images.append(_reference(each, job_id, f"images[{at}]" if each.role == "image" else each.role))
    return images


def _reference(image: KeptImage, job_id: str, field_name: str) -> ReferenceImage:
    return ReferenceImage(
        image.role,
        field_name=field_name,
        text=f"{job_id}/{image.role}/{image.position}",
        kept=KeptInput(image.key, image.deleted),
    )
