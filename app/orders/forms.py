"""Orders as multipart forms: image parts, and text fields that get the types that JSON would have given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from flask import Request
from werkzeug.exceptions import HTTPException

from app.http.bodies import parse_object, storable
from app.http.errors import MalformedFormError, MalformedJsonError
from app.shapes.schemas.orders import OrderFields
from jobs.errors import FieldFault
from jobs.submission.order import ReferenceImage, Role
from providers.catalog.catalog import Catalog
from providers.orders.aliases import ALIASES, IMAGE_ALIASES, renamed
from providers.orders.rules import WHOLE_FIELDS

_ROLES: Mapping[str, Role] = {"images": "image", "mask": "mask", "face": "face"}
_NAMES = {**{name: name for name in _ROLES}, **IMAGE_ALIASES}
# Images may be several, so that their parts may also have the brackets of a list.
IMAGE_PARTS: Mapping[str, Role] = {
    part: _ROLES[name]
    for given, name in _NAMES.items()
    for part in ((given, f"{given}[]") if name == "images" else (given,))
}
# An image that is not in the form itself may also be named by the id of its upload alone.
TEXT_PARTS: Mapping[str, Role] = {**IMAGE_PARTS, "upload_id": "image", "upload_id[]": "image"}
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_REAL = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,19})?([eE][+-]?[0-9]{1,2})?")
_BOOLEANS = {
    "true": True,
    "1": True,
    "on": True,
    "yes": True,
    "false": False,
    "0": False,
    "off": False,
    "no": False,
}


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body: fields with JSON's types, images, and what is wrong with its parts."""

    fields: dict[str, Any] = field(repr=False)
    images: list[ReferenceImage] = field(repr=False)
    faults: list[FieldFault]


@lru_cache(maxsize=2)
def kinds_of(catalog: Catalog) -> Mapping[str, str]:
    """The JSON type of every field an order may have: those of the shape, and every model's settings."""
    words = {"int": "integer", "float": "number", "bool": "boolean", "list": "array"}
    kinds: dict[str, str] = {}
    for name, spec in (param for model in catalog.models.values() for param in model.params.items()):
        # One model takes as a number what another takes as a word of a list, "2": a number serves both.
        if kinds.get(name, "string") == "string":
            kinds[name] = words.get(spec.type, "string")
    kinds |= dict.fromkeys(WHOLE_FIELDS, "integer")
    for name, schema in OrderFields.model_json_schema()["properties"].items():
        kinds[name] = next((each["type"] for each in schema.get("anyOf", ()) if "type" in each), "string")
    return kinds


def read(request: Request, kinds: Mapping[str, str]) -> Form:
    """The fields and images of a multipart body. Raises MalformedFormError, or a 413 where a cap is exceeded."""
    try:
        texts, files = request.form, request.files
    except HTTPException:
        raise
    except ValueError as error:
        raise MalformedFormError("the multipart body ends early or has no valid boundary") from error
    form = Form({}, [], [])
    for name, file in files.items(multi=True):
        _take_file(form, name, file.read())
    for name, values in texts.lists():
        _take_texts(form, name, values, kinds)
    fields, clashes = renamed(form.fields, ALIASES, kinds)
    faults = [FieldFault(clash.given, "conflict", clash.message) for clash in clashes]
    return Form(fields, form.images, form.faults + faults)


def _take_file(form: Form, name: str, data: bytes) -> None:
    role = IMAGE_PARTS.get(name)
    if role is None:
        form.faults.append(FieldFault(name[:100], "not_supported", "is not a part for images"))
        return
    form.images.append(ReferenceImage(role, data, _image_name(form, role)))


def _take_texts(form: Form, name: str, values: list[str], kinds: Mapping[str, str]) -> None:
    if not all(storable(text) for text in (name, *values)):
        form.faults.append(
            FieldFault(name[:100].replace("\x00", ""), "wrong_type", "holds characters no text may hold")
        )
    elif role := TEXT_PARTS.get(name):
        form.images.extend(
            ReferenceImage(role, field_name=_image_name(form, role), text=text) for text in values if text
        )
    elif len(values) > 1:
        form.faults.append(FieldFault(name[:100], "conflict", "is given more than once"))
    elif values[0] or name == "prompt":  # browsers send empty inputs along
        try:
            form.fields[name] = typed(values[0], kinds.get(name) or kinds.get(ALIASES.get(name, name), "string"))
        except MalformedJsonError as error:
            form.faults.append(FieldFault(name, "wrong_type", f"must be JSON: {error.detail}"))


def _image_name(form: Form, role: Role) -> str:
    if role != "image":
        return role
    return f"images[{sum(part.role == 'image' for part in form.images)}]"


def typed(text: str, kind: str) -> Any:
    """The text as its kind; left as text where it does not fit, for the schema to say so.

    Raises MalformedJsonError for an object that is none.
    """
    if kind == "integer" and _WHOLE.fullmatch(text):
        return int(text)
    if kind == "number" and _REAL.fullmatch(text):
        return float(text)
    if kind == "boolean":
        return _BOOLEANS.get(text.strip().lower(), text)
    if kind == "object":
        return parse_object(text.encode())
    if kind == "array":
        return parse_object(f'{{"list":{text}}}'.encode()).get("list") if text.startswith("[") else text.split(",")
    return text
