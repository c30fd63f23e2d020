"""From a request to an order: fields and reference images, whichever way they came.

JSON and multipart say the same thing: fields of API.md "Submit", and images as bytes or as text
(``data:`` URL, base64, https URL, ``job_id#index``). Everything that is wrong is collected and told
at once, together with what the catalogue finds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Request
from pydantic import ValidationError

from app.http.bodies import faults_of, read_json_object
from app.http.errors import IdempotencyKeyError, UnsupportedMediaTypeError
from app.orders import forms
from app.services import Services
from app.shapes.schemas import MAX_METADATA_BYTES, OrderIn
from jobs.errors import (
    FieldFault,
    ImageGoneError,
    ImageNotFoundError,
    ImageNotReadyError,
    InvalidOrderError,
    JobNotFoundError,
)
from jobs.submission.idempotency import IdempotencyKey, of_sdk_attempt
from jobs.submission.remote_images import fetch_all
from jobs.submission.service import Customer, Quote, Reference, Role, Submitted

MAX_IMAGES = 16
NOT_YET = frozenset({"webhook_url", "webhook_events", "upload_id"})
_JOB_IMAGE = re.compile(r"(job_[0-9A-HJKMNP-TV-Z]{26})(?:#([0-9]{1,3}))?")
_DATA_URL = re.compile(r"data:[\w.+/-]{0,100};base64,", re.ASCII)
_RETRY_COUNT = re.compile(r"[0-9]{1,2}")
_KEY_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
_KEY_BARE = re.compile(r"[\x21\x23-\x7e]{1,255}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_MISSING = (JobNotFoundError, ImageNotReadyError, ImageNotFoundError, ImageGoneError)


@dataclass(frozen=True, slots=True)
class Given:
    """A reference image as it was given: bytes, or a text that says where they are."""

    role: Role
    name: str
    data: bytes | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)


@dataclass(slots=True)
class Incoming:
    """An order as read from a request; ``faults`` are those of its shape."""

    fields: dict[str, Any] = field(repr=False)
    given: list[Given] = field(repr=False)
    faults: list[FieldFault]

    @property
    def roles(self) -> list[Role]:
        return [each.role for each in self.given]


# ---------------------------------------------------------------- reading


def read(request: Request, kinds: Mapping[str, str]) -> Incoming:
    """The order in a request. Raises the errors of a body that cannot be read at all.

    ``kinds`` types the text of form fields; see :func:`app.orders.forms.kinds_of`.
    """
    if request.is_json:
        incoming = _from_json(read_json_object(request))
    elif request.mimetype == "multipart/form-data":
        incoming = _from_form(forms.read(request, kinds))
    else:
        raise UnsupportedMediaTypeError("send the order as application/json or multipart/form-data")
    incoming.fields = {name: value for name, value in incoming.fields.items() if value is not None}
    incoming.faults += _shape_faults(incoming)
    return incoming


def _from_json(body: dict[str, Any]) -> Incoming:
    incoming = Incoming(body, [], [])
    images = body.pop("images", None)
    if images is not None and not isinstance(images, list):
        incoming.faults.append(FieldFault("images", "wrong_type", "must be a list of texts"))
        images = None
    named: list[tuple[Role, str, Any]] = [("image", f"images[{at}]", value) for at, value in enumerate(images or ())]
    for role in ("mask", "face"):
        if (value := body.pop(role, None)) is not None:
            named.append((role, role, value))
    for role, name, value in named:
        if isinstance(value, str):
            incoming.given.append(Given(role, name, text=value))
        else:
            incoming.faults.append(FieldFault(name, "wrong_type", "must be a text"))
    return incoming


def _from_form(form: forms.Form) -> Incoming:
    given = [Given(part.role, part.name, part.data, part.text) for part in form.images]
    return Incoming(form.fields, given, form.faults)


def _shape_faults(incoming: Incoming) -> list[FieldFault]:
    faults = [
        FieldFault(name, "not_available_yet", "is part of the interface, but not served by this version")
        for name in incoming.fields
        if name in NOT_YET
    ]
    try:
        OrderIn.model_validate(incoming.fields)
    except ValidationError as error:
        faults += faults_of(error)
    metadata = incoming.fields.get("metadata")
    if metadata is not None and len(json.dumps(metadata, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        faults.append(FieldFault("metadata", "too_long", f"is more than {MAX_METADATA_BYTES} bytes as JSON"))
    if incoming.roles.count("image") > MAX_IMAGES:
        faults.append(FieldFault("images", "too_many", f"at most {MAX_IMAGES} go with an order, mask and face aside"))
    for role in ("mask", "face"):
        if incoming.roles.count(role) > 1:
            faults.append(FieldFault(role, "too_many", "is given more than once"))
    return faults


def idempotency_key(key_id: str, request: Request, incoming: Incoming) -> IdempotencyKey | None:
    """The key of this attempt, with the fingerprint of what it stands for: the caller's own, or one made for
    an SDK that counts its retries (CONVENTIONS section 2). Raises IdempotencyKeyError."""
    header = request.headers.get("Idempotency-Key")
    if header is None:
        count = request.headers.get("x-stainless-retry-count", "")
        if not _RETRY_COUNT.fullmatch(count):
            return None
        return of_sdk_attempt(key_id, _fingerprint(request, incoming), int(count))
    header = header.strip()
    if quoted := _KEY_QUOTED.fullmatch(header):
        key = re.sub(r'\\(["\\])', r"\1", quoted[1])
    elif _KEY_BARE.fullmatch(header):
        key = header
    else:
        raise IdempotencyKeyError
    return IdempotencyKey(key, _fingerprint(request, incoming))


def _fingerprint(request: Request, incoming: Incoming) -> bytes:
    """A hash over method, route and parsed parts: form boundaries and key order say nothing."""
    digest = hashlib.sha256(f"{request.method}\n{request.path}\n".encode())
    digest.update(json.dumps(incoming.fields, sort_keys=True, separators=(",", ":")).encode())
    for each in incoming.given:
        content = each.data if each.data is not None else each.text.encode()
        digest.update(f"\n{each.role} {each.data is None} {hashlib.sha256(content).hexdigest()}".encode())
    return digest.digest()


# ---------------------------------------------------------------- placing


def quote(services: Services, operation: str, incoming: Incoming) -> Quote:
    """Price an order. Raises InvalidOrderError naming the faults of its shape and the catalogue's."""
    if incoming.faults:
        raise InvalidOrderError(_all_faults(services, operation, incoming))
    return services.desk.quote(operation, incoming.fields, roles=incoming.roles)


def place(
    services: Services,
    customer: Customer,
    operation: str,
    incoming: Incoming,
    *,
    key: IdempotencyKey | None,
    max_image_bytes: int,
    request_id: str,
) -> Submitted:
    """Put an order in the queue; its nudges are the caller's to publish. Raises as Desk.submit."""
    if incoming.faults:
        raise InvalidOrderError(_all_faults(services, operation, incoming))
    if any(_elsewhere(each) for each in incoming.given):
        if key is not None and (known := services.records.earlier(customer.account_id, key)) is not None:
            return known
        # Priced first: an order that cannot be run makes us fetch nothing.
        services.desk.quote(operation, incoming.fields, roles=incoming.roles)
    references = gather(services, customer.account_id, incoming.given, max_image_bytes=max_image_bytes)
    return services.desk.submit(
        customer, operation, incoming.fields, references, idempotency_key=key, request_id=request_id
    )


def _all_faults(services: Services, operation: str, incoming: Incoming) -> list[FieldFault]:
    """The faults of the shape, and what the catalogue says of the fields that are well shaped."""
    bad = {re.split(r"[.\[]", fault.field)[0] for fault in incoming.faults}
    if "model" in bad:
        return incoming.faults  # other fields can only be judged against a model
    sound = {name: value for name, value in incoming.fields.items() if name not in bad}
    try:
        services.desk.quote(operation, sound, roles=incoming.roles)
    except InvalidOrderError as error:
        return incoming.faults + [fault for fault in error.faults if fault.field not in bad]
    return incoming.faults


def gather(services: Services, account_id: str, given: Sequence[Given], *, max_image_bytes: int) -> list[Reference]:
    """The bytes of every image, wherever they are. Raises InvalidOrderError naming each bad one."""
    found: list[bytes | FieldFault | None] = [
        _here(services, account_id, each, max_image_bytes=max_image_bytes) for each in given
    ]
    remote = [at for at, content in enumerate(found) if content is None]
    fetched = fetch_all(services.fetch, [(given[at].name, given[at].text) for at in remote]) if remote else []
    for at, content in zip(remote, fetched, strict=True):
        found[at] = content
    faults = [content for content in found if isinstance(content, FieldFault)]
    if faults:
        raise InvalidOrderError(faults)
    return [
        Reference(each.role, content, each.name)
        for each, content in zip(given, found, strict=True)
        if isinstance(content, bytes)
    ]


def _elsewhere(each: Given) -> bool:
    return each.data is None and (_is_url(each.text) or _JOB_IMAGE.fullmatch(each.text) is not None)


def _is_url(text: str) -> bool:
    return text[:8].lower().startswith(("https://", "http://"))


def _here(services: Services, account_id: str, each: Given, *, max_image_bytes: int) -> bytes | FieldFault | None:
    """Bytes that came along or lie in our store; None for a URL, which is fetched with the others."""
    if each.data is not None:
        return each.data if len(each.data) <= max_image_bytes else _too_large(each, max_image_bytes)
    if _is_url(each.text):
        return None
    if each.text.startswith("upl_"):
        return FieldFault(each.name, "not_available_yet", "uploads by id are not served by this version")
    if named := _JOB_IMAGE.fullmatch(each.text):
        return _of_task(services, account_id, each, named[1], int(named[2] or 0))
    return _decoded(each, max_image_bytes)


def _of_task(services: Services, account_id: str, each: Given, job_id: str, index: int) -> bytes | FieldFault:
    try:
        image = services.records.image(account_id, job_id, index)
    except _MISSING as error:
        return FieldFault(each.name, error.code, error.detail or "there is no such image of yours")
    return services.store.read(image.key)


def _decoded(each: Given, max_image_bytes: int) -> bytes | FieldFault:
    """Base64, with or without a data: URL around it; its length is judged before it is decoded."""
    prefix = _DATA_URL.match(each.text)
    text = each.text[prefix.end() :] if prefix else each.text
    if len(text) > 4 * (max_image_bytes // 3 + 1):
        return _too_large(each, max_image_bytes)
    try:
        if not _BASE64.fullmatch(text):
            raise binascii.Error
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        wanted = "is no base64" if prefix else "is neither data: URL, base64, https URL nor job_id#index"
        return FieldFault(each.name, "wrong_type", wanted)


def _too_large(each: Given, max_image_bytes: int) -> FieldFault:
    return FieldFault(each.name, "image_too_large_bytes", f"is larger than {max_image_bytes} bytes")
