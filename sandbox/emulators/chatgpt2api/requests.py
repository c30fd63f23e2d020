"""Reading a chatgpt2api submit: JSON for generations, multipart or JSON for edits, in all spellings."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from flask import request
from werkzeug.datastructures import FileStorage

DEFAULT_MODEL = "gpt-image-2"
IMAGE_BYTES_MAX = 50 * 2**20
IMAGE_PARTS = ("image", "image[]", "images", "images[]", "image_url", "image_url[]")
MASK_PARTS = ("mask", "mask[]")
# The real server ignores what it does not know. The task routes refuse it here, so that a caller who sends
# it notices; the others are also used by clients of OpenAI's dialect, who send more.
_TASK_FIELDS = frozenset({"client_task_id", "prompt", "model", "size", "quality"})
_EDIT_FIELDS = _TASK_FIELDS | {"n", "response_format", "stream", *IMAGE_PARTS, *MASK_PARTS}


class Rejected(Exception):  # noqa: N818 - reads as what it is
    """The request is answered with ``status`` and, under ``detail``, a text or a list of schema errors."""

    def __init__(self, status: int, detail: object) -> None:
        super().__init__(str(detail))
        self.status = status
        self.detail = detail


def bad_request(text: str) -> Rejected:
    """400 in the words of the ``/api`` routes."""
    return Rejected(400, {"error": text})


@dataclass(frozen=True)
class Wish:
    """What a caller asks for. ``sources`` and ``masks`` are still as they came: read by ``load`` later."""

    prompt: str
    task_id: str = ""
    model: str = DEFAULT_MODEL
    size: str = ""
    quality: str = "auto"
    n: int = 1
    response_format: str = "b64_json"
    stream: bool = False
    sources: tuple[object, ...] = ()
    masks: tuple[object, ...] = ()


def generation(*, with_task_id: bool) -> Wish:
    """The body of a generation. Raises Rejected with a 422 list, before anything else is looked at."""
    document = _json_document()
    names = ("client_task_id", "prompt") if with_task_id else ("prompt",)
    errors = [error for name in names if (error := _text_error(document, name))]
    errors += [error for name in ("model", "quality", "response_format") if (error := _optional_error(document, name))]
    if document.get("size") is not None and not isinstance(document["size"], str):
        errors.append(_schema_error("string_type", "size", "Input should be a valid string", document["size"]))
    n = 1
    if with_task_id:
        errors += [_unknown_error(name, document[name]) for name in document if name not in _TASK_FIELDS]
    else:
        n, count_errors = _count_or_errors(document)
        errors += count_errors
    if errors:
        raise Rejected(422, errors)
    return Wish(
        prompt=document["prompt"],
        task_id=document.get("client_task_id", "").strip(),
        model=document.get("model", DEFAULT_MODEL).strip() or DEFAULT_MODEL,
        size=(document.get("size") or "").strip(),
        quality=document.get("quality", "auto").strip() or "auto",
        n=n,
        response_format=document.get("response_format", "b64_json"),
        stream=document.get("stream") is True,
    )


def edit(*, with_task_id: bool) -> Wish:
    """The body of an edit. Raises Rejected with a 400: these routes read their fields by hand."""
    if request.mimetype == "application/json":
        fields, sources, masks = _json_edit()
    else:
        fields, sources, masks = _form_edit()
    if with_task_id and (stray := sorted(set(fields) - _EDIT_FIELDS)):
        raise bad_request(f"unknown field: {stray[0]}")
    prompt = _clean(fields.get("prompt"))
    if not prompt:
        raise bad_request("prompt is required")
    return Wish(
        prompt=prompt,
        task_id=_clean(fields.get("client_task_id")),
        model=_clean(fields.get("model")) or DEFAULT_MODEL,
        size=_clean(fields.get("size")),
        quality=_clean(fields.get("quality")) or "auto",
        n=_count(fields.get("n")),
        response_format=_clean(fields.get("response_format")) or "b64_json",
        stream=_flag(fields.get("stream")),
        sources=tuple(sources),
        masks=tuple(masks),
    )


def load(sources: tuple[object, ...]) -> tuple[bytes, ...]:
    """The bytes of every picture given. Raises Rejected where there is none or one cannot be had.

    ``http`` links are not fetched: a stand-in has no business calling out.
    """
    blobs = tuple(_bytes_of(source) for source in sources)
    if not blobs:
        raise bad_request("image file or image_url is required")
    return blobs


def _json_document() -> dict[str, Any]:
    if not request.get_data():
        raise Rejected(422, [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}])
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        place = getattr(error, "pos", 0)
        entry = {"type": "json_invalid", "loc": ["body", place], "msg": "JSON decode error", "input": {}}
        raise Rejected(422, [{**entry, "ctx": {"error": str(getattr(error, "msg", error))}}]) from error
    if not isinstance(document, dict) or request.mimetype != "application/json":
        text = "Input should be a valid dictionary or object to extract fields from"
        given = request.get_data(as_text=True)[:200]
        raise Rejected(422, [{"type": "model_attributes_type", "loc": ["body"], "msg": text, "input": given}])
    return document


def _schema_error(kind: str, field: str, text: str, given: object, **context: object) -> dict[str, object]:
    entry: dict[str, object] = {"type": kind, "loc": ["body", field], "msg": text, "input": given}
    return {**entry, "ctx": context} if context else entry


def _text_error(document: dict[str, Any], field: str) -> dict[str, object] | None:
    if field not in document:
        return _schema_error("missing", field, "Field required", document)
    if not isinstance(document[field], str):
        return _schema_error("string_type", field, "Input should be a valid string", document[field])
    if not document[field]:
        text = "String should have at least 1 character"
        return _schema_error("string_too_short", field, text, "", min_length=1)
    return None


def _optional_error(document: dict[str, Any], field: str) -> dict[str, object] | None:
    if field in document and not isinstance(document[field], str):
        return _schema_error("string_type", field, "Input should be a valid string", document[field])
    return None


def _unknown_error(field: str, given: object) -> dict[str, object]:
    return _schema_error("extra_forbidden", field, "Extra inputs are not permitted", given)


def _count_or_errors(document: dict[str, Any]) -> tuple[int, list[dict[str, object]]]:
    given = document.get("n", 1)
    try:
        n = int(given)
    except (TypeError, ValueError):
        return 1, [_schema_error("int_parsing", "n", "Input should be a valid integer", given)]
    if n < 1:
        return 1, [_schema_error("greater_than_equal", "n", "Input should be greater than or equal to 1", given, ge=1)]
    if n > 4:
        return 1, [_schema_error("less_than_equal", "n", "Input should be less than or equal to 4", given, le=4)]
    return n, []


def _json_edit() -> tuple[dict[str, Any], list[object], list[object]]:
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        raise bad_request("invalid JSON body") from error
    if not isinstance(document, dict):
        raise bad_request("JSON body must be an object")
    sources = [s for key in ("images", "image", "image_url") if key in document for s in _sources(document[key])]
    masks = _sources(document["mask"]) if document.get("mask") is not None else []
    return document, sources, masks


def _form_edit() -> tuple[dict[str, Any], list[object], list[object]]:
    parts = [*request.form.items(multi=True), *request.files.items(multi=True)]
    sources = [s for name, value in parts if name in IMAGE_PARTS for s in _sources(value)]
    masks = [s for name, value in parts if name in MASK_PARTS for s in _sources(value)]
    return dict(request.form.items()), sources, masks


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
        return [source for item in value for source in _sources(item)]
    if isinstance(value, dict):
        return _sources_of_object(value)
    raise bad_request("invalid image reference")


def _sources_of_object(reference: dict[str, Any]) -> list[object]:
    if reference.get("file_id"):
        raise bad_request("file_id image references are not supported; use image_url instead")
    if inline := reference.get("b64_json") or reference.get("base64"):
        return [_decoded(str(inline), "invalid base64 image data")]
    if "image_url" not in reference and "url" not in reference:
        raise bad_request("image reference must include image_url")
    link = reference.get("image_url", reference.get("url"))
    return _sources(link.get("url") if isinstance(link, dict) else link)


def _maybe_json(value: object) -> object:
    """A form field may hold the JSON of a list or an object."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _bytes_of(source: object) -> bytes:
    if isinstance(source, bytes):
        blob = source
    elif isinstance(source, FileStorage):
        blob = source.read()
        source.seek(0)
    else:
        blob = _linked(str(source))
    if not blob:
        raise bad_request("image file is empty")
    if len(blob) > IMAGE_BYTES_MAX and not isinstance(source, FileStorage):
        raise bad_request("image URL exceeds 50MB limit")
    return blob


def _linked(link: str) -> bytes:
    if not link.lower().startswith("data:"):
        raise bad_request("image_url fetch failed: the sandbox fetches nothing, send the picture itself")
    head, comma, payload = link.partition(",")
    if not comma:
        raise bad_request("invalid data image URL")
    if not (head.split(";", 1)[0].removeprefix("data:") or "image/png").startswith("image/"):
        raise bad_request("image_url must point to an image")
    return _decoded(payload, "invalid data image URL") if ";base64" in head else unquote_to_bytes(payload)


def _decoded(text: str, complaint: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(complaint) from error


def _clean(value: object) -> str:
    return "" if value is None else str(value).strip()


def _count(given: object) -> int:
    try:
        n = int(str(given or 1))
    except ValueError as error:
        raise bad_request("n must be an integer") from error
    if not 1 <= n <= 4:
        raise bad_request("n must be between 1 and 4")
    return n


def _flag(given: object) -> bool:
    text = _clean(given).lower()
    if text not in {"", "true", "1", "yes", "y", "on", "false", "0", "no", "n", "off"}:
        raise bad_request("stream must be a boolean")
    return text in {"true", "1", "yes", "y", "on"}
