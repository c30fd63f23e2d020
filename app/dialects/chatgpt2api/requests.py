"""Orders of chatgpt2api's clients: JSON for generations, multipart or JSON for edits, in all spellings
(providers/upstreams/chatgpt2api/CONTRACT.md, section 2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flask import Request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException

from app.dialects.chatgpt2api.words import NAME
from app.http.bodies import parse_object, read_json_object, storable
from app.http.errors import MalformedFormError, MalformedJsonError
from app.orders import forms, request_body
from app.services import Services
from jobs.errors import FieldFault
from jobs.submission.order import Order, ReferenceImage
from providers.catalog.catalog import UnknownModelError

DEFAULT_MODEL = "gpt-image-2"
MAX_ID_CHARS = 255
_IMAGES = ("image", "image[]", "images", "images[]", "image_url", "image_url[]")
_MASKS = ("mask", "mask[]")
_PIXELS = re.compile(r"[0-9]{1,5}x[0-9]{1,5}")
_RATIO = re.compile(r"[0-9]{1,3}:[0-9]{1,3}")
_ID_FAULT = FieldFault("client_task_id", "required", f"must be a text of 1 to {MAX_ID_CHARS} characters")


@dataclass(slots=True)
class Asked:
    """A body, taken apart. ``sources``: what stands for images and masks, as it came."""

    members: Mapping[str, Any]
    images: list[object] = field(default_factory=list)
    masks: list[object] = field(default_factory=list)
    faults: list[FieldFault] = field(default_factory=list)


def read_generation(request: Request, service: Services) -> Order:
    """The order in a generation. Raises the errors of a body that cannot be read."""
    return _order(Asked(read_json_object(request)), service, "generate")


def read_edit(request: Request, service: Services) -> Order:
    """The order in an edit. Raises the errors of a body that cannot be read."""
    if request.is_json:
        members = read_json_object(request)
        sources = [members[name] for name in ("images", "image", "image_url") if name in members]
        asked = Asked(members, sources, [members.get("mask")])
    else:
        asked = _of_form(request)
    if not any(True for _ in _spread(asked.images)):
        asked.faults.append(FieldFault("image", "required", "image file or image_url is required"))
    return _order(asked, service, "edit")


def _of_form(request: Request) -> Asked:
    try:
        texts, files = list(request.form.items(multi=True)), list(request.files.items(multi=True))
    except HTTPException:
        raise
    except ValueError as error:
        raise MalformedFormError("the multipart body ends early or has no valid boundary") from error
    if not all(storable(name + value) for name, value in texts):
        raise MalformedFormError("a field holds characters that no text may hold")
    parts: list[tuple[str, object]] = [*texts, *files]
    return Asked(
        {name: value for name, value in texts if name not in (*_IMAGES, *_MASKS)},
        [_maybe_json(value) for name, value in parts if name in _IMAGES],
        [_maybe_json(value) for name, value in parts if name in _MASKS],
    )


def _order(asked: Asked, service: Services, mode: Literal["generate", "edit"]) -> Order:
    members, faults = asked.members, asked.faults
    task_id = members.get("client_task_id")
    if not isinstance(task_id, str) or not 1 <= len(task_id.strip()) <= MAX_ID_CHARS:
        faults.append(_ID_FAULT)
        task_id = ""
    prompt = members.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        faults.append(FieldFault("prompt", "required", "prompt is required"))
    _check_count(members.get("n"), faults)
    texts = {name: _text(members.get(name), name, faults) for name in ("model", "size", "quality")}
    fields = {
        "prompt": prompt,
        "model": _model(service, texts["model"]),
        "lenient": True,  # size and quality are hints there
        **_hints(texts["size"], texts["quality"]),
    }
    images = [*_references(asked.images, "image", faults), *_references(asked.masks[:1], "mask", faults)]
    order = request_body.of_members(fields, forms.kinds_of(service.catalog), images).order(mode)
    named = {fault.field for fault in faults}
    client = {"dialect": NAME, "id": task_id.strip(), "mode": mode, **texts, "model": texts["model"] or DEFAULT_MODEL}
    return replace(order, faults=[*faults, *(each for each in order.faults if each.field not in named)], client=client)


def _text(value: object, name: str, faults: list[FieldFault]) -> str:
    if value is not None and not isinstance(value, str):
        faults.append(FieldFault(name, "wrong_type", "must be a text"))
    return value.strip()[:200] if isinstance(value, str) else ""


def _check_count(value: object, faults: list[FieldFault]) -> None:
    """``n`` is read and has no effect: a task is one image."""
    text = "1" if value is None else str(value).strip()
    if text not in ("", "1", "2", "3", "4"):
        faults.append(FieldFault("n", "out_of_range", "n must be between 1 and 4"))


def _hints(size: str, quality: str) -> dict[str, str]:
    found = {}
    if _PIXELS.fullmatch(size):
        found["size"] = size
    elif _RATIO.fullmatch(size):
        found["aspect_ratio"] = size
    return found if quality in ("", "auto") else {**found, "quality": quality}


def _model(service: Services, given: str) -> str | None:
    """The model that a name means here: by the catalogue, else the one of that name behind a chatgpt2api of ours. None:
    the service's own choice, for an order that names none."""
    name = given or DEFAULT_MODEL
    behind = f"{NAME}-{name}"
    for each in (name, behind) if behind in service.catalog.models else (name,):
        try:
            if service.catalog.resolve(each).model.provider in service.configured:
                return each
        except UnknownModelError:
            continue
    return given or None


# ---------------------------------------------------------------- references to images


def _maybe_json(value: object) -> object:
    """A form field may hold the JSON of a list or an object."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return parse_object(f'{{"it":{value}}}'.encode())["it"]
        except MalformedJsonError:
            return value
    return value


def _spread(values: Iterable[object]) -> Iterator[object]:
    """Each reference by itself: a file, a text, or an object."""
    for value in values:
        if isinstance(value, list):
            yield from _spread(value)
        elif value is not None and value != "":
            yield value


def _references(
    values: Iterable[object], role: Literal["image", "mask"], faults: list[FieldFault]
) -> Iterator[ReferenceImage]:
    for position, value in enumerate(_spread(values)):
        name = role if role == "mask" else f"images[{position}]"
        if isinstance(value, FileStorage):
            yield ReferenceImage(role, value.read(), name)
        elif isinstance(text := _link(value), str) and text.strip():
            yield ReferenceImage(role, field_name=name, text=text.strip())
        elif isinstance(value, dict) and value.get("file_id"):
            words = "file_id image references are not supported; use image_url instead"
            faults.append(FieldFault(name, "not_supported", words))
        else:
            faults.append(FieldFault(name, "wrong_type", "image reference must include image_url"))


def _link(value: object) -> object:
    """The text in a reference; anything but a text where there is none."""
    if not isinstance(value, dict):
        return value
    if inline := value.get("b64_json") or value.get("base64"):
        return inline
    link = value.get("image_url", value.get("url"))
    return link.get("url") if isinstance(link, dict) else link
