"""From OpenAI's request to an order: its own fields are read here, the rest is an order's as on the native routes.

What no model takes is left out and named to the caller, because these clients send fields that only OpenAI's own
models have. ``auto`` says nothing. ``standard`` and ``hd`` are the qualities of models that are gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flask import Request

from app.http.bodies import read_json_object
from app.orders import request_body
from app.orders.forms import kinds_of
from app.orders.request_body import IMAGE_FIELDS, RequestBody
from app.shapes.schemas.orders import OrderFields
from jobs.errors import FieldFault
from jobs.submission.order import Order
from providers.catalog.catalog import Catalog, Model, UnknownModelError
from providers.orders.aliases import ALIASES, IMAGE_ALIASES

ResponseFormat = Literal["url", "b64_json"]
Route = Literal["generations", "edits", "variations"]

NAME = "openai"
OPERATIONS: Mapping[Route, str] = {"generations": "generate", "edits": "edit", "variations": "variations"}
FORMATS = ("url", "b64_json")
MAX_PARTIALS = 3
MAX_USER_CHARS = 512
MAX_NAMED = 20
# Of requests that say more about the answer than about the image, with the types that a form's texts get.
_OWN_KINDS = {"stream": "boolean", "partial_images": "integer", "response_format": "string", "user": "string"}
_AUTO = ("size", "quality", "background", "moderation")
_OLD_QUALITIES = {"standard": "medium", "hd": "high"}
_PLAIN = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


@dataclass(frozen=True, slots=True)
class Asked:
    """An order and how it is to be answered. ``ignored`` names the fields that were left out."""

    order: Order = field(repr=False)
    stream: bool
    response_format: ResponseFormat
    ignored: tuple[str, ...]


def read(request: Request, route: Route, catalog: Catalog, default_format: ResponseFormat) -> Asked:
    """The order in a request to a route. Raises the errors of a body that cannot be read at all."""
    if request.is_json:
        return of_members(read_json_object(request), route, catalog, default_format)
    body = request_body.read(request, {**kinds_of(catalog), **_OWN_KINDS})
    return _asked(body, route, catalog, default_format)


def of_members(members: dict[str, Any], route: Route, catalog: Catalog, default_format: ResponseFormat) -> Asked:
    """The order in the members of a JSON object, as a route takes it; the images in it are unwrapped in place."""
    faults = _unwrap_images(members)
    body = request_body.of_members(members, {**kinds_of(catalog), **_OWN_KINDS})
    body.faults[:0] = faults
    return _asked(body, route, catalog, default_format)


def _asked(body: RequestBody, route: Route, catalog: Catalog, default_format: ResponseFormat) -> Asked:
    fields = body.fields
    ignored: list[str] = []
    stream = _flag(body, "stream")
    if _partials(body):
        ignored.append("partial_images")  # no upstream sends images that are not complete
    wanted = _format(body)
    _keep_user(body)
    for name in _AUTO:
        if fields.get(name) == "auto":
            del fields[name]
    operation = OPERATIONS[route]
    model = _named(catalog, fields.get("model"))
    if model is not None:
        operation = _operation(model, operation, masked=any(image.role == "mask" for image in body.images))
        if _stands_for_gone(model, fields["model"], operation):
            ignored.append("model")
            del fields["model"]
    _translate_quality(fields, model)
    known = {*OrderFields.model_fields, *IMAGE_FIELDS, *ALIASES, *IMAGE_ALIASES, *kinds_of(catalog)}
    for name in [name for name in fields if name not in known]:
        ignored.append(name)
        del fields[name]
    fields.setdefault("lenient", True)
    client = {"dialect": NAME, "route": route, "response_format": wanted or default_format}
    order = Order(operation, fields, body.images, body.faults, client=client)
    return Asked(order, stream, wanted or default_format, tuple(ignored))


def ignored_header(names: tuple[str, ...], warnings: list[str]) -> str:
    """The fields left out, by the dialect or by the model's rules, as the value of a header; empty for none."""
    dropped = [found[1] for words in warnings if (found := re.match(r"([\w.]+) was left out: ", words))]
    plain = [name for name in dict.fromkeys((*names, *dropped)) if _PLAIN.fullmatch(name)]
    return ", ".join(plain[:MAX_NAMED])


def _unwrap_images(members: dict[str, Any]) -> list[FieldFault]:
    """``images`` and ``mask`` as objects of an address or of an uploaded file become the texts that an order takes."""
    faults: list[FieldFault] = []
    images = members.get("images")
    if isinstance(images, list):
        members["images"] = [_image_text(each, f"images[{at}]", faults) for at, each in enumerate(images)]
    for name in ("mask", "image"):
        if isinstance(members.get(name), dict):
            members[name] = _image_text(members[name], name, faults)
    return faults


def _image_text(given: Any, name: str, faults: list[FieldFault]) -> Any:
    if not isinstance(given, dict):
        return given
    address = given.get("image_url")
    if isinstance(address, dict):
        address = address.get("url")
    named = [each for each in (address, given.get("file_id")) if each is not None]
    if len(named) == 1 and isinstance(named[0], str):
        return named[0]
    faults.append(FieldFault(name, "wrong_type", "must have either image_url or file_id, as a text"))
    return ""


def _flag(body: RequestBody, name: str) -> bool:
    value = body.fields.pop(name, False)
    if not isinstance(value, bool):
        body.faults.append(FieldFault(name, "wrong_type", "must be true or false"))
    return value is True


def _partials(body: RequestBody) -> int:
    value = body.fields.pop("partial_images", 0)
    if isinstance(value, bool) or not isinstance(value, int):
        body.faults.append(FieldFault("partial_images", "wrong_type", "must be a whole number"))
        return 0
    if not 0 <= value <= MAX_PARTIALS:
        body.faults.append(FieldFault("partial_images", "out_of_range", f"must be 0 to {MAX_PARTIALS}"))
    return value


def _format(body: RequestBody) -> ResponseFormat | None:
    value = body.fields.pop("response_format", None)
    if value == "url":
        return "url"
    if value is not None and value != "b64_json":
        body.faults.append(FieldFault("response_format", "not_allowed", f"must be {' or '.join(FORMATS)}"))
    return "b64_json" if value is not None else None


def _keep_user(body: RequestBody) -> None:
    """OpenAI's name for the end user goes into the metadata, where tasks can be found by it."""
    user = body.fields.pop("user", None)
    if user is None or user == "":
        return
    if not isinstance(user, str) or len(user) > MAX_USER_CHARS:
        body.faults.append(FieldFault("user", "wrong_type", f"must be a text of at most {MAX_USER_CHARS} characters"))
        return
    metadata = body.fields.get("metadata") or {}
    if isinstance(metadata, dict):
        body.fields["metadata"] = {"user": user, **metadata}


def _named(catalog: Catalog, name: object) -> Model | None:
    if not isinstance(name, str):
        return None
    try:
        return catalog.resolve(name).model
    except UnknownModelError:
        return None  # the submit says so, with the nearest names


def _operation(model: Model, operation: str, *, masked: bool) -> str:
    """A model that changes what a mask marks, and nothing else, is asked to do that."""
    only_masked = operation == "edit" and masked and "edit" not in model.operations
    return "inpaint" if only_masked and "inpaint" in model.operations else operation


def _stands_for_gone(model: Model, name: str, operation: str) -> bool:
    """Whether a name of OpenAI's former models leads to one that lacks the operation these had."""
    return name.lower().startswith("dall") and operation not in model.operations


def _translate_quality(fields: dict[str, Any], model: Model | None) -> None:
    """The words of models that are gone, where the model has others for it."""
    asked = fields.get("quality")
    if not isinstance(asked, str) or asked not in _OLD_QUALITIES:
        return
    spec = model.params.get("quality") if model is not None else None
    if spec is None or asked not in spec.enum:
        fields["quality"] = _OLD_QUALITIES[asked]
