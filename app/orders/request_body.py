"""The order in a request: fields and reference images, from JSON or from a form.

Both say the same: the fields of docs/api-conventions.md, "Submit", and images as bytes or as text (``data:`` URL,
base64, https URL, ``job_id#index``). Every fault is collected and reported together with those of the catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Request
from pydantic import ValidationError

from app.http.bodies import faults_of, read_json_object
from app.http.errors import UnsupportedMediaTypeError
from app.orders import forms
from app.orders.extra import extra_faults
from app.shapes.schemas.orders import MAX_METADATA_BYTES, OrderFields
from jobs.errors import FieldFault
from jobs.submission.order import JobWebhook, Order, ReferenceImage, Role
from providers.orders.aliases import ALIASES, IMAGE_ALIASES, renamed
from webhooks.forms import ENDS, EVENTS

MAX_IMAGES = 16
IMAGE_FIELDS = ("images", "mask", "face")
NOT_YET = frozenset({"upload_id"})


@dataclass(slots=True)
class RequestBody:
    """What a request says, before its operation is known. ``faults`` are those of its form."""

    fields: dict[str, Any] = field(repr=False)
    images: list[ReferenceImage] = field(repr=False)
    faults: list[FieldFault]

    def order(self, operation: str) -> Order:
        """The order for an operation, by the catalogue's word."""
        return Order(operation, self.fields, self.images, self.faults, webhook=_webhook(self.fields))


def read(request: Request, kinds: Mapping[str, str]) -> RequestBody:
    """The body of a request. Raises the errors of a body that cannot be read at all.

    ``kinds`` types the text of form fields; see :func:`app.orders.forms.kinds_of`.
    """
    if request.is_json:
        return of_members(read_json_object(request), kinds)
    if request.mimetype == "multipart/form-data":
        form = forms.read(request, kinds)
        body = RequestBody(form.fields, form.images, form.faults)
        return _checked(body)
    raise UnsupportedMediaTypeError("send the order as application/json or multipart/form-data")


def of_members(
    members: Mapping[str, Any], kinds: Mapping[str, str], images: Sequence[ReferenceImage] = ()
) -> RequestBody:
    """The order in the members of a JSON object, checked as a native one; ``images`` come on top of those it names."""
    body = _from_json(dict(members), kinds)
    body.images += images
    return _checked(body)


def _checked(body: RequestBody) -> RequestBody:
    body.fields = {name: value for name, value in body.fields.items() if value is not None}
    body.faults += _field_faults(body.fields)
    body.faults += _image_faults([image.role for image in body.images])
    return body


def _from_json(members: dict[str, Any], own: Collection[str]) -> RequestBody:
    fields, clashes = renamed(members, {**ALIASES, **IMAGE_ALIASES}, own)
    faults = [FieldFault(clash.given, "conflict", clash.message) for clash in clashes]
    images = {name: fields.pop(name) for name in IMAGE_FIELDS if name in fields}
    body = RequestBody(fields, [], faults)
    for name, value in images.items():
        if value is not None:
            _take_images(body, name, value, by_alias=name not in members)
    return body


def _take_images(body: RequestBody, name: str, value: Any, *, by_alias: bool) -> None:
    """``value`` is a list of texts for ``images``, or a single one under another name; a text for mask and face."""
    if name == "images":
        listed = [value] if isinstance(value, str) and by_alias else value
        if not isinstance(listed, list):
            body.faults.append(FieldFault(name, "wrong_type", "must be a list of texts"))
            return
        named: list[tuple[Role, str, Any]] = [("image", f"images[{at}]", each) for at, each in enumerate(listed)]
    else:
        named = [("mask" if name == "mask" else "face", name, value)]
    for role, field_name, each in named:
        if isinstance(each, str):
            body.images.append(ReferenceImage(role, field_name=field_name, text=each))
        else:
            body.faults.append(FieldFault(field_name, "wrong_type", "must be a text"))


def _field_faults(fields: Mapping[str, Any]) -> list[FieldFault]:
    faults = [
        FieldFault(name, "not_available_yet", "is part of the interface, but not served by this version")
        for name in fields
        if name in NOT_YET
    ]
    try:
        OrderFields.model_validate(fields)
    except ValidationError as error:
        faults += faults_of(error)
    if "webhook_events" in fields and "webhook_url" not in fields:
        faults.append(FieldFault("webhook_events", "not_allowed", "goes with webhook_url"))
    faults += extra_faults(fields.get("extra"))
    metadata = fields.get("metadata")
    if metadata is not None and len(json.dumps(metadata, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        faults.append(FieldFault("metadata", "too_long", f"is more than {MAX_METADATA_BYTES} bytes as JSON"))
    return faults


def _webhook(fields: Mapping[str, Any]) -> JobWebhook | None:
    """Where callbacks go; None without a URL, and for fields that are refused for their type anyway."""
    url, events = fields.get("webhook_url"), fields.get("webhook_events", ENDS)
    if not isinstance(url, str) or not isinstance(events, Sequence):
        return None
    return JobWebhook(url, [event for event in EVENTS if event in events])


def _image_faults(roles: list[Role]) -> list[FieldFault]:
    faults = []
    if roles.count("image") > MAX_IMAGES:
        faults.append(FieldFault("images", "too_many", f"at most {MAX_IMAGES} go with an order, mask and face aside"))
    for role in ("mask", "face"):
        if roles.count(role) > 1:
            faults.append(FieldFault(role, "too_many", "is given more than once"))
    return faults
