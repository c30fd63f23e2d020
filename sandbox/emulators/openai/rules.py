"""What each GPT image model takes, and what OpenAI says to everything else; the requests are in ``schemas.yaml``."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from flask import request
from werkzeug.datastructures import FileStorage

from sandbox.chat import user_text
from sandbox.drawing.images import Recipe, dimensions, has_alpha
from sandbox.drawing.sizes import DEFAULT_PX, parse_wxh
from sandbox.emulators.openai.errors import ApiError, a_type, of_problem
from sandbox.plumbing.inputs import BadInput, image_in, image_in_data_url
from sandbox.plumbing.validation import Schema, closed, json_type, load_yaml

IMAGES_MAX = 16
MASK_BYTES_MAX, IMAGE_BYTES_MAX, LINK_MAX = 4 * 2**20, 50 * 2**20, 20_971_520
EDGE_MAX_PX, PIXELS_MIN, PIXELS_MAX = 3840, 655_360, 8_294_400
_FILES = ("image", "image[]", "mask", "markup")
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
_TEXT_MODEL = re.compile(r"^(gpt-\d|chatgpt-|o\d)(?!.*image)")
_REASONING = re.compile(r"^(o\d|gpt-5)(?!.*chat)")

_FORMS = load_yaml(__file__, "schemas.yaml")
IMAGE_MODELS: Mapping[str, Any] = _FORMS["models"]
_CHAT = Schema(closed(_FORMS["chat"], ["model", "messages"], free=_FORMS["chat_takes"]))
_CONFLICTS = [
    (param, said, Schema({"properties": when, "required": list(when)})) for param, said, when in _FORMS["conflicts"]
]


@dataclass(frozen=True)
class ImageOrder:
    """A request that passed every rule: its fields with their defaults, and how its first image is drawn."""

    model: str
    fields: Mapping[str, Any]
    recipe: Recipe

    @property
    def prompt(self) -> str:
        return self.recipe.prompt


@cache
def _schema(operation: str, model: str) -> Schema:
    takes, known = IMAGE_MODELS[model]["takes"], _FORMS["operations"][operation]
    narrowed = {name: takes.get(name, part) for name, part in known.items()}
    form = closed(narrowed, ["prompt"])
    return Schema(form, checks={"sides": _size_fault}, first=("additionalProperties",))


def _size_fault(_limit: object, size: str) -> str | None:
    """What is wrong with a flexible size."""
    exact = parse_wxh(size) if "x" in size else None
    if exact is None:
        return None if size == "auto" else "Expected 'auto' or WIDTHxHEIGHT, for example '1024x1024'."
    width, height = exact
    if not width or not height or width % 16 or height % 16:
        return "Width and height must both be divisible by 16."
    if max(width, height) > EDGE_MAX_PX:
        return f"The longest edge must be at most {EDGE_MAX_PX} pixels."
    if max(width, height) > 3 * min(width, height):
        return "The aspect ratio must be between 1:3 and 3:1."
    if not PIXELS_MIN <= width * height <= PIXELS_MAX:
        return f"The total number of pixels must be between {PIXELS_MIN} and {PIXELS_MAX}."
    return None


# ---------------------------------------------------------------- image requests


def read_generation() -> ImageOrder:
    """The body of ``/images/generations``. Raises ApiError."""
    document = json_body()
    return _order("generate", document, _checked("generate", document))


def read_edit() -> ImageOrder:
    """The body of ``/images/edits``, as multipart or JSON. Raises ApiError."""
    if request.mimetype == "multipart/form-data":
        return _form_edit()
    document = json_body()
    fields = _checked("edit_json", document)
    inputs = tuple(_linked(each, f"images[{place}]") for place, each in enumerate(fields.get("images", ())))
    if not inputs:
        raise ApiError("required", param="images")
    mask = _linked(fields["mask"], "mask") if "mask" in fields else None
    return _order("edit_json", document, fields, inputs, mask)


def json_body() -> dict[str, Any]:
    """The request's JSON object. Raises ApiError."""
    if request.mimetype != "application/json":
        raise ApiError("content_type", given=request.mimetype or "application/octet-stream")
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        raise ApiError("broken_json") from error
    if not isinstance(document, dict):
        raise ApiError("no_object")
    return document


def _form_edit() -> ImageOrder:
    _refuse_duplicates()
    inputs, model = _uploads(), request.form.get("model", "")
    mask = _uploaded_mask(inputs)
    typed = _schema("edit", model if model in IMAGE_MODELS else "gpt-image-2").typed(request.form)
    fields = _checked("edit", typed)
    if not inputs:
        raise ApiError("required", param="image")
    if "markup" in request.files and not IMAGE_MODELS[model].get("markup"):
        raise ApiError("unsupported", param="markup", model=model)
    return _order("edit", typed, fields, inputs, mask)


def _checked(operation: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something; a null is as good as nothing. Raises ApiError."""
    model = document.get("model") or None
    if model is None:
        raise ApiError("required", param="model")
    if not isinstance(model, str):
        raise ApiError("type", param="model", limit="a string", given=a_type(json_type(model)))
    if model not in IMAGE_MODELS:
        raise ApiError("model_not_found", model=model)
    schema = _schema(operation, model)
    fields = {name: value for name, value in document.items() if value is not None or name not in schema.properties}
    if problem := schema.problem(fields):
        if problem.keyword == "enum" and problem.top == "quality" and problem.value in ("xhigh", "max"):
            raise ApiError("quality.model", param="quality", value=problem.value, model=model)
        raise of_problem(problem, model=model)
    return fields


def _order(
    operation: str,
    document: Mapping[str, Any],
    given: Mapping[str, Any],
    inputs: tuple[bytes, ...] = (),
    mask: bytes | None = None,
) -> ImageOrder:
    fields = _schema(operation, given["model"]).filled(given)
    _refuse_conflicts(document, fields, has_mask=mask is not None)
    width_px, height_px = parse_wxh(fields.get("size", "")) or (dimensions(inputs[0]) if inputs else DEFAULT_PX)
    recipe = Recipe(
        prompt=fields["prompt"],
        model=fields["model"],
        width_px=width_px,
        height_px=height_px,
        file_format=fields["output_format"],
        transparent=fields["background"] == "transparent",
        quality=fields.get("output_compression", 90),
        frames=fields["frame_count"] if fields["output_format"] == "gif" else 1,
        frame_ms=fields["frame_duration_ms"],
        inputs=inputs,
        mask=mask,
    )
    return ImageOrder(fields["model"], fields, recipe)


def _refuse_conflicts(document: Mapping[str, Any], fields: Mapping[str, Any], *, has_mask: bool) -> None:
    """Options that exclude each other."""
    # Defaults count where a value decides, and what was given where its mere presence does.
    given = {name: value for name, value in fields.items() if name in document or not name.startswith("frame_")}
    given |= {"svg": True} if any(name.startswith("svg") for name in document) else {}
    given |= {"mask": True} if has_mask else {}
    for param, said, schema in _CONFLICTS:
        if schema.accepts(given):
            raise ApiError("conflict", param=param, complaint=said.format(**fields))


# ---------------------------------------------------------------- images that go in


def _refuse_duplicates() -> None:
    """Only names ending in ``[]`` may come more than once."""
    for source in (request.form, request.files):
        for name in source:
            if len(source.getlist(name)) > 1 and not name.endswith("[]"):
                raise ApiError("duplicate", param=name)


def _uploads() -> tuple[bytes, ...]:
    if stray := next((name for name in request.files if name not in _FILES), None):
        raise ApiError("additionalProperties", param=stray)
    uploads = [*request.files.getlist("image"), *request.files.getlist("image[]")]
    if len(uploads) > IMAGES_MAX:
        raise ApiError("maxItems", param="image", limit=IMAGES_MAX, length=len(uploads))
    return tuple(_uploaded(upload, "image", IMAGE_BYTES_MAX) for upload in uploads)


def _uploaded_mask(images: tuple[bytes, ...]) -> bytes | None:
    mask, markup = request.files.get("mask"), request.files.get("markup")
    if mask is not None and markup is not None:
        raise ApiError("conflict", param="markup", complaint="'markup' and 'mask' cannot be used together.")
    if markup is not None:
        _refuse_misfit(_uploaded(markup, "markup", IMAGE_BYTES_MAX, types=("image/png",)), images, "markup")
    if mask is None:
        return None
    return _refuse_misfit(_uploaded(mask, "mask", MASK_BYTES_MAX, types=("image/png",)), images, "mask")


def _uploaded(upload: FileStorage, param: str, bytes_max: int, types: tuple[str, ...] = _IMAGE_TYPES) -> bytes:
    mime = upload.mimetype or "application/octet-stream"
    if mime not in types:
        raise ApiError("mimetype", param=param, given=mime, listed=", ".join(f"'{each}'" for each in types))
    blob = upload.read()
    if len(blob) >= bytes_max:
        raise ApiError("file_too_large", param=param, limit=bytes_max // 2**20)
    try:
        return image_in(blob)
    except BadInput as error:
        raise ApiError(error.why, param=param) from error


def _refuse_misfit(mask: bytes, images: tuple[bytes, ...], param: str) -> bytes:
    if not images:
        raise ApiError("required", param="image")
    own, wanted = dimensions(mask), dimensions(images[0])
    if own != wanted:
        raise ApiError("mask_size", param=param, given="{}x{}".format(*own), wanted="{}x{}".format(*wanted))
    if not has_alpha(mask):
        raise ApiError("mask_opaque", param=param)
    return mask


def _linked(reference: Mapping[str, Any], param: str) -> bytes:
    """The image of a data URL; the sandbox keeps no files and calls no one."""
    if "file_id" in reference:
        raise ApiError("no_file", param=param, given=reference["file_id"])
    link = reference.get("image_url", "")
    if not link or len(link) > LINK_MAX:
        raise ApiError("required", param=f"{param}.image_url")
    try:
        return image_in_data_url(link)
    except BadInput as error:
        raise ApiError(error.why, param=param) from error


# ---------------------------------------------------------------- chat


def read_chat() -> tuple[dict[str, Any], str]:
    """The body of a chat and its last user message. Raises ApiError."""
    document = json_body()
    said = {name: value for name, value in document.items() if value is not None or name != "temperature"}
    if problem := _CHAT.problem(said):
        raise of_problem(problem, at="chat.")
    if not _TEXT_MODEL.match(said["model"]):
        raise ApiError("model_not_found", model=said["model"])
    if _REASONING.match(said["model"]):
        if said.get("temperature", 1) != 1:
            raise ApiError("chat.temperature.reasoning", param="temperature", value=said["temperature"])
        if "max_tokens" in said:
            raise ApiError("chat.max_tokens.reasoning", param="max_tokens")
    return document, user_text(said["messages"])
