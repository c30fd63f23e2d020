"""What each GPT image model takes, and what OpenAI says to everything else.

Source: openai-python 3.51 (types of the images resource) and the vendor's model pages, read 2026-11-20.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import request
from werkzeug.datastructures import FileStorage

from sandbox.drawing.images import NotAnImage, check, dimensions, has_alpha
from sandbox.drawing.sizes import parse_wxh
from sandbox.emulators.openai.errors import ApiError, invalid_value, missing, model_not_found, unknown_parameter

PROMPT_MAX = 32_000
IMAGES_MAX = 16
IMAGE_BYTES_MAX = 50 * 2**20
MASK_BYTES_MAX = 4 * 2**20
LINK_MAX = 20_971_520
FIXED_SIZES = ("1024x1024", "1024x1536", "1536x1024")
EDGE_MAX_PX, PIXELS_MIN, PIXELS_MAX = 3840, 655_360, 8_294_400
_USUAL = ("auto", "low", "medium", "high")
_FINE = (*_USUAL, "xhigh", "max")


@dataclass(frozen=True)
class ImageModel:
    """One model's limits. ``flexible`` sizes are any WxH within bounds, else the three fixed ones."""

    created_at: int
    flexible: bool = False
    qualities: tuple[str, ...] = _USUAL
    fidelities: tuple[str, ...] = ()
    complexity: bool = False
    motion_and_vector: bool = False
    markup: bool = False


_V25 = ImageModel(1788800000, flexible=True, qualities=_FINE, markup=True)
_V26 = ImageModel(1793800000, flexible=True, qualities=_FINE, markup=True, complexity=True, motion_and_vector=True)
IMAGE_MODELS: dict[str, ImageModel] = {
    "gpt-image-1-mini": ImageModel(1759500000, fidelities=("low",)),
    "gpt-image-1.5": ImageModel(1765700000, fidelities=("low", "high")),
    "chatgpt-image-latest": ImageModel(1765700000),
    "gpt-image-2": ImageModel(1776700000, flexible=True),
    "gpt-image-2-2026-04-21": ImageModel(1776700000, flexible=True),
    "gpt-image-2.5-flare": _V25,
    "gpt-image-2.5-flare-2026-09-08": _V25,
    "gpt-image-2.5-sunburst": _V25,
    "gpt-image-2.5-sunburst-2026-09-08": _V25,
    "gpt-image-2.6-flare": _V26,
    "gpt-image-2.6-sunburst": _V26,
}

_COMMON = frozenset({
    "prompt", "model", "n", "size", "quality", "background", "output_format", "output_compression",
    "complexity", "frame_count", "frame_duration_ms", "svg", "stream", "partial_images",
    "safety_identifier", "user",
})  # fmt: skip
KNOWN = {
    "generate": _COMMON | {"moderation"},
    "edit": _COMMON | {"image", "image[]", "mask", "markup", "input_fidelity", "svg[model]", "svg[reasoning][effort]"},
    "edit_json": _COMMON | {"images", "mask", "input_fidelity", "moderation"},
}
_INTEGERS = {
    "n": (1, 10),
    "output_compression": (0, 100),
    "partial_images": (0, 3),
    "frame_count": (2, 16),
    "frame_duration_ms": (10, 655_350),
}


@dataclass(frozen=True)
class ImageOrder:
    """A request that passed every rule. ``size_px`` None means that no size was named."""

    model: str
    prompt: str
    n: int = 1
    size_px: tuple[int, int] | None = None
    quality: str = "auto"
    background: str = "auto"
    output_format: str = "png"
    compression: int | None = None
    stream: bool = False
    partial_images: int = 0
    frames: int = 9
    frame_ms: int = 200
    safety_identifier: str | None = None
    inputs: tuple[bytes, ...] = field(default=(), repr=False)
    mask: bytes | None = field(default=None, repr=False)


def read_generation() -> ImageOrder:
    """The body of ``/images/generations``. Raises ApiError."""
    return _order(json_body(), "generate")


def read_edit() -> ImageOrder:
    """The body of ``/images/edits``, as multipart or JSON. Raises ApiError."""
    if request.mimetype == "application/json":
        document = json_body()
        images = _linked_images(document.get("images"))
        mask = _linked(document["mask"], "mask") if document.get("mask") is not None else None
        return _order(document, "edit_json", images, mask)
    if request.mimetype != "multipart/form-data":
        raise _unsupported_content_type()
    _refuse_duplicates()
    images = _uploads()
    return _order(_typed(request.form), "edit", images, _uploaded_mask(images))


def json_body() -> dict[str, Any]:
    """The request's JSON object. Raises ApiError."""
    if request.mimetype != "application/json":
        raise _unsupported_content_type()
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        text = "We could not parse the JSON body of your request. (HINT: is it really JSON?)"
        raise ApiError(text) from error
    if not isinstance(document, dict):
        raise ApiError("Invalid body: expected a JSON object.", code="invalid_type")
    return document


def _unsupported_content_type() -> ApiError:
    given = request.mimetype or "application/octet-stream"
    return ApiError(
        f"Unsupported content type: '{given}'. This API method only accepts 'application/json' or "
        "'multipart/form-data' requests.",
        code="unsupported_content_type",
    )


def _order(
    fields: Mapping[str, Any], operation: str, images: tuple[bytes, ...] = (), mask: bytes | None = None
) -> ImageOrder:
    name, model = _model_of(fields)
    for key in fields:
        if key not in KNOWN[operation]:
            raise unknown_parameter(key)
    if operation != "generate" and not images:
        raise missing("images" if operation == "edit_json" else "image")
    numbers = {key: _integer(fields, key, *bounds) for key, bounds in _INTEGERS.items()}
    output_format = _choice(fields, "output_format", _formats(model), "png")
    order = ImageOrder(
        model=name,
        prompt=_prompt(fields),
        n=numbers["n"] or 1,
        size_px=_size(fields, model),
        quality=_quality(fields, name, model),
        background=_choice(fields, "background", ("auto", "transparent", "opaque"), "auto"),
        output_format=output_format,
        compression=numbers["output_compression"],
        stream=_boolean(fields, "stream"),
        partial_images=numbers["partial_images"] or 0,
        frames=numbers["frame_count"] or 9,
        frame_ms=numbers["frame_duration_ms"] or 200,
        safety_identifier=fields.get("safety_identifier") or None,
        inputs=images,
        mask=mask,
    )
    _check_extras(fields, name, model)
    _check_together(order, fields)
    return order


def _model_of(fields: Mapping[str, Any]) -> tuple[str, ImageModel]:
    name = fields.get("model")
    if name is None or name == "":
        raise missing("model")
    if not isinstance(name, str):
        raise _wrong_type("model", "a string", name)
    if name not in IMAGE_MODELS:
        raise model_not_found(name)
    return name, IMAGE_MODELS[name]


def _prompt(fields: Mapping[str, Any]) -> str:
    prompt = fields.get("prompt")
    if prompt is None:
        raise missing("prompt")
    if not isinstance(prompt, str):
        raise _wrong_type("prompt", "a string", prompt)
    if not prompt.strip():
        text = "Invalid 'prompt': empty string. Expected a string with minimum length 1."
        raise ApiError(text, code="empty_string", param="prompt")
    if len(prompt) > PROMPT_MAX:
        text = (
            f"Invalid 'prompt': string too long. Expected a string with maximum length {PROMPT_MAX}, "
            f"but got a string with length {len(prompt)} instead."
        )
        raise ApiError(text, code="string_above_max_length", param="prompt")
    return prompt


def _size(fields: Mapping[str, Any], model: ImageModel) -> tuple[int, int] | None:
    size = fields.get("size")
    if size is None or size == "auto":
        return None
    if not isinstance(size, str):
        raise _wrong_type("size", "a string", size)
    exact = parse_wxh(size) if "x" in size else None
    if not model.flexible:
        if size not in FIXED_SIZES or exact is None:
            raise _not_among("size", size, (*FIXED_SIZES, "auto"))
        return exact
    if exact is None:
        raise invalid_value("size", f"Invalid size '{size}'. Expected 'auto' or WIDTHxHEIGHT, for example '1024x1024'.")
    if complaint := _size_complaint(*exact):
        raise invalid_value("size", f"Invalid size '{size}'. {complaint}")
    return exact


def _size_complaint(width: int, height: int) -> str | None:
    if not width or not height or width % 16 or height % 16:
        return "Width and height must both be divisible by 16."
    if max(width, height) > EDGE_MAX_PX:
        return f"The longest edge must be at most {EDGE_MAX_PX} pixels."
    if max(width, height) > 3 * min(width, height):
        return "The aspect ratio must be between 1:3 and 3:1."
    if not PIXELS_MIN <= width * height <= PIXELS_MAX:
        return f"The total number of pixels must be between {PIXELS_MIN} and {PIXELS_MAX}."
    return None


def _quality(fields: Mapping[str, Any], name: str, model: ImageModel) -> str:
    quality = fields.get("quality")
    if quality in _FINE and quality not in model.qualities:
        raise invalid_value("quality", f"The quality '{quality}' is not supported by the model '{name}'.")
    return _choice(fields, "quality", model.qualities, "auto")


def _formats(model: ImageModel) -> tuple[str, ...]:
    return ("png", "jpeg", "webp", "gif", "svg") if model.motion_and_vector else ("png", "jpeg", "webp")


def _check_extras(fields: Mapping[str, Any], name: str, model: ImageModel) -> None:
    """Options that only some models have."""
    if "complexity" in fields:
        if not model.complexity:
            raise _not_supported("complexity", name)
        _choice(fields, "complexity", ("low", "medium", "high"), "high")
    if "input_fidelity" in fields:
        if not model.fidelities:
            raise _not_supported("input_fidelity", name)
        _choice(fields, "input_fidelity", model.fidelities, "low")
    if "moderation" in fields:
        _choice(fields, "moderation", ("auto", "low"), "auto")
    if "markup" in request.files and not model.markup:
        raise _not_supported("markup", name)
    identifier = fields.get("safety_identifier")
    if identifier is not None and not isinstance(identifier, str):
        raise _wrong_type("safety_identifier", "a string", identifier)


def _check_together(order: ImageOrder, fields: Mapping[str, Any]) -> None:
    """Options that exclude each other."""
    if order.background == "transparent" and order.output_format == "jpeg":
        raise invalid_value("background", "Transparent background is not supported with output_format 'jpeg'.")
    if order.compression is not None and order.compression != 100 and order.output_format not in ("jpeg", "webp"):
        raise invalid_value(
            "output_compression", f"Compression is not supported for output format '{order.output_format}'."
        )
    if order.partial_images and not order.stream:
        raise invalid_value("partial_images", "partial_images can only be used when stream is true.")
    for key in ("frame_count", "frame_duration_ms"):
        if key in fields and order.output_format != "gif":
            raise invalid_value(key, f"'{key}' can only be used with output_format 'gif'.")
    if any(key.startswith("svg") for key in fields) and order.output_format != "svg":
        raise invalid_value("svg", "'svg' can only be used with output_format 'svg'.")
    if order.output_format in ("gif", "svg") and order.stream:
        raise invalid_value("stream", f"Streaming is not supported with output_format '{order.output_format}'.")
    if order.output_format == "svg" and order.n != 1:
        raise invalid_value("n", "'n' must be 1 with output_format 'svg'.")
    if order.output_format == "gif" and order.mask is not None:
        raise invalid_value("mask", "A mask cannot be used with output_format 'gif'.")


def _refuse_duplicates() -> None:
    """Only names ending in ``[]`` may come more than once."""
    for source in (request.form, request.files):
        for name in source:
            if len(source.getlist(name)) > 1 and not name.endswith("[]"):
                text = (
                    f"Duplicate parameter: '{name}'. You provided multiple values for this parameter, "
                    "whereas only one is allowed. To provide a list of values, use the array syntax instead, "
                    f"e.g. '{name}[]=<value>'."
                )
                raise ApiError(text, code="duplicate_parameter", param=name)


def _uploads() -> tuple[bytes, ...]:
    for name in request.files:
        if name not in ("image", "image[]", "mask", "markup"):
            raise unknown_parameter(name)
    uploads = [*request.files.getlist("image"), *request.files.getlist("image[]")]
    if len(uploads) > IMAGES_MAX:
        text = (
            f"Invalid 'image': array too long. Expected an array with maximum length {IMAGES_MAX}, "
            f"but got an array with length {len(uploads)} instead."
        )
        raise ApiError(text, code="array_above_max_length", param="image")
    return tuple(_picture(upload, "image", IMAGE_BYTES_MAX) for upload in uploads)


def _uploaded_mask(images: tuple[bytes, ...]) -> bytes | None:
    mask, markup = request.files.get("mask"), request.files.get("markup")
    if mask is not None and markup is not None:
        raise invalid_value("markup", "'markup' and 'mask' cannot be used together.")
    if markup is not None:
        _matching(_picture(markup, "markup", IMAGE_BYTES_MAX, kinds=("image/png",)), images, "markup")
    if mask is None:
        return None
    return _matching(_picture(mask, "mask", MASK_BYTES_MAX, kinds=("image/png",)), images, "mask")


def _picture(
    upload: FileStorage,
    param: str,
    bytes_max: int,
    kinds: tuple[str, ...] = ("image/jpeg", "image/png", "image/webp"),
) -> bytes:
    kind = (upload.content_type or "application/octet-stream").split(";")[0].strip().lower()
    if kind not in kinds:
        listed = ", ".join(f"'{known}'" for known in kinds)
        text = f"Invalid file '{param}': unsupported mimetype ('{kind}'). Supported file formats are {listed}."
        raise ApiError(text, code="unsupported_file_mimetype", param=param)
    blob = upload.read()
    if len(blob) >= bytes_max:
        text = f"Invalid file '{param}': file too large. Files must be less than {bytes_max // 2**20}MB."
        raise ApiError(text, code="file_too_large", param=param)
    return _readable(blob, param)


def _readable(blob: bytes, param: str) -> bytes:
    try:
        check(blob)
    except NotAnImage as error:
        text = "Invalid image file or mode for image 1, please check your image file."
        raise ApiError(text, code="invalid_image_file", param=param) from error
    return blob


def _matching(mask: bytes, images: tuple[bytes, ...], param: str) -> bytes:
    if not images:
        raise missing("image")
    own, wanted = dimensions(mask), dimensions(images[0])
    if own != wanted:
        text = (
            f"Invalid {param} image: its size ({own[0]}x{own[1]}) does not match the size of the input image "
            f"({wanted[0]}x{wanted[1]})."
        )
        raise ApiError(text, code="invalid_image_size", param=param)
    if not has_alpha(mask):
        raise ApiError(
            f"Invalid {param} image format - {param} image missing alpha channel.",
            code="invalid_image_format",
            param=param,
        )
    return mask


def _linked_images(references: object) -> tuple[bytes, ...]:
    if references is None:
        return ()
    if not isinstance(references, list):
        raise _wrong_type("images", "an array", references)
    if len(references) > IMAGES_MAX:
        text = f"Invalid 'images': array too long. Expected an array with maximum length {IMAGES_MAX}."
        raise ApiError(text, code="array_above_max_length", param="images")
    return tuple(_linked(reference, f"images[{place}]") for place, reference in enumerate(references))


def _linked(reference: object, param: str) -> bytes:
    if not isinstance(reference, dict):
        raise _wrong_type(param, "an object", reference)
    if "file_id" in reference:
        raise ApiError(f"No such File object: {reference['file_id']}", status=404, param=param)
    link = reference.get("image_url")
    if not isinstance(link, str) or len(link) > LINK_MAX:
        raise missing(f"{param}.image_url")
    head, comma, payload = link.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        # A stand-in has no business calling out.
        raise ApiError(
            "Error while downloading the image: the sandbox fetches nothing.",
            code="invalid_image_url",
            param=param,
        )
    try:
        return _readable(base64.b64decode(payload, validate=True), param)
    except binascii.Error as error:
        raise ApiError("Invalid base64 image_url.", code="invalid_base64", param=param) from error


def _typed(form: Mapping[str, str]) -> dict[str, Any]:
    """Form fields, which are all text, as the values they stand for."""
    fields: dict[str, Any] = dict(form.items())
    for key in _INTEGERS:
        if key in fields and str(fields[key]).lstrip("-").isdigit():
            fields[key] = int(fields[key])
    if str(fields.get("stream", "")).lower() in ("true", "false"):
        fields["stream"] = fields["stream"].lower() == "true"
    return fields


def _integer(fields: Mapping[str, Any], key: str, least: int, most: int) -> int | None:
    given = fields.get(key)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int):
        raise _wrong_type(key, "an integer", given)
    if given < least:
        text = f"Invalid '{key}': integer below minimum value. Expected >= {least}, but got {given} instead."
        raise ApiError(text, code="integer_below_min_value", param=key)
    if given > most:
        text = f"Invalid '{key}': integer above maximum value. Expected <= {most}, but got {given} instead."
        raise ApiError(text, code="integer_above_max_value", param=key)
    return given


def _boolean(fields: Mapping[str, Any], key: str) -> bool:
    given = fields.get(key)
    if given is not None and not isinstance(given, bool):
        raise _wrong_type(key, "a boolean", given)
    return bool(given)


def _choice(fields: Mapping[str, Any], key: str, choices: tuple[str, ...], default: str) -> str:
    given = fields.get(key)
    if given is None:
        return default
    if not isinstance(given, str):
        raise _wrong_type(key, "a string", given)
    if given not in choices:
        raise _not_among(key, given, choices)
    return given


def _not_among(key: str, given: str, choices: tuple[str, ...]) -> ApiError:
    listed = ", ".join(f"'{choice}'" for choice in choices[:-1])
    return invalid_value(key, f"Invalid value: '{given}'. Supported values are: {listed}, and '{choices[-1]}'.")


def _not_supported(key: str, model: str) -> ApiError:
    return invalid_value(key, f"The model '{model}' does not support the '{key}' parameter.")


def _wrong_type(key: str, wanted: str, given: object) -> ApiError:
    names = {
        str: "a string",
        int: "an integer",
        float: "a number",
        bool: "a boolean",
        list: "an array",
        dict: "an object",
    }
    got = names.get(type(given), "null")
    return ApiError(
        f"Invalid type for '{key}': expected {wanted}, but got {got} instead.", code="invalid_type", param=key
    )
