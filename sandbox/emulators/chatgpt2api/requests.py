"""Reading what a caller asks for: JSON for generations, multipart or JSON for edits, in all spellings.

Source: providers/upstreams/chatgpt2api/CONTRACT.md, sections 2 and 7.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_to_bytes

from flask import request
from werkzeug.datastructures import FileStorage

from sandbox.emulators.chatgpt2api.errors import ApiError, SchemaError, entry_of, invalid_body
from sandbox.plumbing.bodies import json_object
from sandbox.plumbing.validation import Schema, load_yaml

DEFAULT_MODEL = "gpt-image-2"
IMAGE_BYTES_MAX = 50 * 2**20
_SCHEMAS = {route: Schema(form) for route, form in load_yaml(__file__, "schemas.yaml")["routes"].items()}
_IMAGES = ("image", "image[]", "images", "images[]", "image_url", "image_url[]")
_MASKS = ("mask", "mask[]")


@dataclass(frozen=True)
class ImageOrder:
    """What a caller asks for. ``sources`` and ``masks`` are still as they came: ``load`` makes images of them."""

    mode: str
    prompt: str
    task_id: str = ""
    model: str = DEFAULT_MODEL
    size: str = ""
    quality: str = "auto"
    n: int = 1
    response_format: str = "b64_json"
    sources: Sequence[object] = ()
    masks: Sequence[object] = ()
    images: tuple[bytes, ...] = ()
    mask: bytes | None = None


def read_json(route: str) -> dict[str, Any]:
    """The body of a JSON route. Raises SchemaError with every schema error, before anything else is looked at."""
    if not request.get_data():
        raise invalid_body("missing", "Field required", None)
    text = "Input should be a valid dictionary or object to extract fields from"
    given = request.get_json(silent=True) if request.is_json else request.get_data(as_text=True)[:200]
    no_object = invalid_body("model_attributes_type", text, given)
    document = json_object(broken=_broken, no_object=no_object)
    if request.mimetype != "application/json":
        raise no_object
    read = {**document, "n": _whole(document["n"])} if "n" in document else document
    if problems := _SCHEMAS[route].problems(read):
        raise SchemaError(*(entry_of(problem, document) for problem in problems))
    return read


def _broken(error: ValueError) -> SchemaError:
    place, why = getattr(error, "pos", 0), getattr(error, "msg", str(error))
    return invalid_body("json_invalid", "JSON decode error", {}, place, error=why)


def _whole(given: Any) -> Any:
    """As the real server reads a count: "2" and 2.0 are 2; what no number can be read from stays as it is."""
    try:
        return int(given)
    except (TypeError, ValueError, OverflowError):
        return given


def read_generation(route: str) -> ImageOrder:
    """The body of a generation. Raises SchemaError."""
    document = read_json(route)
    return _order("generate", document["prompt"], document, n=document.get("n", 1))


def read_edit() -> ImageOrder:
    """The body of an edit. Raises ApiError: these routes read their fields by hand, and ignore those not known."""
    is_json = request.mimetype == "application/json"
    fields, sources, masks = _json_edit() if is_json else _form_edit()
    prompt = _text(fields, "prompt")
    if not prompt:
        raise ApiError("prompt is required")
    _check_flag(_text(fields, "stream").lower())
    return _order("edit", prompt, fields, n=_count(_text(fields, "n", "1")), sources=sources, masks=masks)


def _order(mode: str, prompt: str, fields: Mapping[str, Any], **more: Any) -> ImageOrder:
    return ImageOrder(
        mode=mode,
        prompt=prompt,
        task_id=_text(fields, "client_task_id"),
        model=_text(fields, "model", DEFAULT_MODEL),
        size=_text(fields, "size"),
        quality=_text(fields, "quality", "auto"),
        response_format=_text(fields, "response_format", "b64_json"),
        **more,
    )


def _text(fields: Mapping[str, Any], name: str, default: str = "") -> str:
    given = fields.get(name)
    return ("" if given is None else str(given).strip()) or default


def _count(given: str) -> int:
    try:
        n = int(given)
    except ValueError as error:
        raise ApiError("n must be an integer") from error
    if not 1 <= n <= 4:
        raise ApiError("n must be between 1 and 4")
    return n


def _check_flag(given: str) -> None:
    if given not in {"", "true", "1", "yes", "y", "on", "false", "0", "no", "n", "off"}:
        raise ApiError("stream must be a boolean")


# ---------------------------------------------------------------- references to images


def _json_edit() -> tuple[dict[str, Any], list[object], list[object]]:
    document = json_object(
        broken=lambda _error: ApiError("invalid JSON body"), no_object=ApiError("JSON body must be an object")
    )
    sources = _all_sources(document[name] for name in ("images", "image", "image_url") if name in document)
    return document, sources, _all_sources([document.get("mask")])


def _form_edit() -> tuple[dict[str, Any], list[object], list[object]]:
    parts = [*request.form.items(multi=True), *request.files.items(multi=True)]
    sources = _all_sources(value for name, value in parts if name in _IMAGES)
    return dict(request.form.items()), sources, _all_sources(value for name, value in parts if name in _MASKS)


def _all_sources(values: Iterable[object]) -> list[object]:
    return [source for value in values for source in _sources(value)]


def _sources(value: object) -> list[object]:
    """One reference or many, spread out: an upload, a data or http URL, bare base64, a list or an object."""
    value = _maybe_json(value)
    if value is None or value == "":
        return []
    if isinstance(value, FileStorage):
        return [value]
    if isinstance(value, str):
        text = value.strip()
        is_link = text.lower().startswith(("data:", "http://", "https://"))
        return [text if is_link else _decoded(text, "invalid base64 image data")] if text else []
    if isinstance(value, list):
        return _all_sources(value)
    if isinstance(value, dict):
        return _sources_of_object(value)
    raise ApiError("invalid image reference")


def _maybe_json(value: object) -> object:
    """A form field may hold the JSON of a list or an object."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _sources_of_object(reference: dict[str, Any]) -> list[object]:
    if reference.get("file_id"):
        raise ApiError("file_id image references are not supported; use image_url instead")
    if inline := reference.get("b64_json") or reference.get("base64"):
        return [_decoded(str(inline), "invalid base64 image data")]
    if "image_url" not in reference and "url" not in reference:
        raise ApiError("image reference must include image_url")
    link = reference.get("image_url", reference.get("url"))
    return _sources(link.get("url") if isinstance(link, dict) else link)


def load(order: ImageOrder) -> ImageOrder:
    """The order with its images read. Raises ApiError where an edit has none or one cannot be had."""
    images = tuple(_bytes_of(source) for source in order.sources)
    masks = [_bytes_of(source) for source in order.masks]
    if order.mode == "edit" and not images:
        raise ApiError("image file or image_url is required")
    return replace(order, sources=(), masks=(), images=images, mask=masks[0] if masks else None)


def _bytes_of(source: object) -> bytes:
    if isinstance(source, FileStorage):
        blob = bytes(source.read())
    else:
        blob = source if isinstance(source, bytes) else _linked(str(source))
        if len(blob) > IMAGE_BYTES_MAX:
            raise ApiError("image URL exceeds 50MB limit")
    if not blob:
        raise ApiError("image file is empty")
    return blob


def _linked(link: str) -> bytes:
    if not link.lower().startswith("data:"):
        raise ApiError("image_url fetch failed: the sandbox fetches nothing, send the image itself")
    head, comma, payload = link.partition(",")
    if not comma:
        raise ApiError("invalid data image URL")
    if not (head.split(";", 1)[0].removeprefix("data:") or "image/png").startswith("image/"):
        raise ApiError("image_url must point to an image")
    return _decoded(payload, "invalid data image URL") if ";base64" in head else unquote_to_bytes(payload)


def _decoded(text: str, complaint: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise ApiError(complaint) from error
