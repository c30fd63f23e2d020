"""What a body of ``generateContent`` or of Imagen's ``predict`` asks for. Raises ApiError for every other.

Source: providers/upstreams/gemini/CONTRACT.md, sections 0, 2, 4 and 5.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from flask import request

from sandbox.drawing.images import Recipe, dimensions
from sandbox.emulators.gemini.errors import ApiError
from sandbox.plumbing.inputs import BadInput, image_in_base64
from sandbox.plumbing.validation import Schema, load_yaml

RATIOS_10 = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
RATIOS_14 = (*RATIOS_10, "1:4", "4:1", "1:8", "8:1")
INPUT_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
INPUTS_MAX = 14
_SCHEMAS = {method: Schema(form) for method, form in load_yaml(__file__, "schemas.yaml")["routes"].items()}
_USUAL_ALPHABET = str.maketrans("-_", "+/")
_SNAKE = re.compile(r"_([a-z])")
# Section 5: pixels of the class 1K; the other way round for the reversed ratio.
_PIXELS = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:4": (896, 1200),
    "4:5": (928, 1152),
    "9:16": (768, 1376),
    "1:4": (512, 2064),
    "1:8": (352, 2928),
    "9:21": (672, 1584),
}
_SCALE = {"512": 0.5, "1K": 1, "2K": 2, "4K": 4}


@dataclass(frozen=True)
class ImageModel:
    """``tokens``: put out for one image of each size class, the default one first."""

    tokens: Mapping[str, int]
    ratios: tuple[str, ...] = RATIOS_14
    levels: tuple[str, ...] = ("MINIMAL", "HIGH")


MODELS: Mapping[str, ImageModel] = {
    "gemini-3.1-flash-image": ImageModel({"1K": 1120, "512": 747, "2K": 1680, "4K": 2520}),
    "gemini-3.1-flash-lite-image": ImageModel({"1K": 1120}),
    "gemini-3-pro-image": ImageModel({"1K": 1120, "2K": 1120, "4K": 2000}, RATIOS_10, ("LOW", "HIGH")),
    # Its tokens are not published: those of 3.1 Flash are taken instead.
    "gemini-nano-banana-2.1": ImageModel({"1K": 1120, "2K": 1680, "4K": 2520}, levels=("MINIMAL", "MEDIUM", "HIGH")),
}
# Shut down; only a gateway that still runs answers to them (the key ``legacy-gateway``).
IMAGEN: Mapping[str, tuple[str, ...]] = {
    "imagen-4.0-generate-001": ("1K", "2K"),
    "imagen-4.0-ultra-generate-001": ("1K", "2K"),
    "imagen-4.0-fast-generate-001": ("1K",),
}


@dataclass(frozen=True)
class ImageOrder:
    """A request that passed every rule. ``first`` is its first image, which costs ``tokens``."""

    first: Recipe
    count: int = 1
    tokens: int = 0
    wants_text: bool = False
    thoughts: bool = False
    says_filtered: bool = False


def read_generate(name: str) -> ImageOrder:
    """The body of a ``:generateContent``. Raises ApiError."""
    body, model = _body("generateContent"), MODELS[name]
    config = body.get("generationConfig", {})
    image, thinking = config.get("imageConfig", {}), config.get("thinkingConfig", {})
    modalities = [each.upper() for each in config.get("responseModalities", ["TEXT", "IMAGE"])]
    if "IMAGE" not in modalities:
        raise ApiError("The requested combination of response modalities is not supported by the model.")
    level = thinking.get("thinkingLevel", model.levels[0]).upper()
    if level not in model.levels:
        raise ApiError(f"Thinking level {level} is not supported for this model.")
    prompt, inputs = _parts(body.get("contents", []))
    ratio = _among(image.get("aspectRatio", ""), model.ratios, "aspectRatio") or _nearest(model, inputs)
    size = _among(image.get("imageSize", ""), model.tokens, "imageSize") or "1K"
    width_px, height_px = _pixels(ratio, size)
    return ImageOrder(
        Recipe(prompt, name, width_px, height_px, seed=config.get("seed", 0), inputs=inputs),
        tokens=model.tokens[size],
        wants_text="TEXT" in modalities,
        thoughts=thinking.get("includeThoughts", False),
    )


def read_predict(name: str) -> ImageOrder:
    """The body of a ``:predict``. Raises ApiError."""
    body = _body("predict")
    instances, given = body.get("instances", []), body.get("parameters", {})
    if len(instances) != 1 or not instances[0].get("prompt", "").strip():
        raise ApiError("instances must hold one object with a prompt.")
    size = _among(given.get("sampleImageSize", "1K"), IMAGEN[name], "sampleImageSize")
    width_px, height_px = _pixels(given.get("aspectRatio", "1:1"), size)
    mime = given.get("outputOptions", {}).get("mimeType", "image/png").lower()
    return ImageOrder(
        Recipe(instances[0]["prompt"], name, width_px, height_px, file_format=mime.removeprefix("image/")),
        count=given.get("sampleCount", 4),
        says_filtered=given.get("includeRaiReason", False),
    )


def _body(method: str) -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise ApiError("Invalid JSON payload received. Content-Type must be application/json.")
    try:
        document = _in_camel_case(json.loads(request.get_data()))
    except ValueError as error:
        raise ApiError(f"Invalid JSON payload received. {error}") from error
    problem = _SCHEMAS[method].problem(document)
    if problem is None:
        return dict(document)
    if problem.keyword == "additionalProperties":
        place, _, name = problem.field.rpartition(".")
        where = f" at '{place}'" if place else ""
        text = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
        raise ApiError(text, field=place)
    text = f"Invalid value at '{problem.field}': {json.dumps(problem.value)[:80]}"
    raise ApiError(text, field=problem.field)


def _in_camel_case(value: Any) -> Any:
    """A document whose names may come in snake_case too."""
    if isinstance(value, dict):
        return {_SNAKE.sub(lambda found: found[1].upper(), name): _in_camel_case(v) for name, v in value.items()}
    return [_in_camel_case(each) for each in value] if isinstance(value, list) else value


def _among(value: str, known: Collection[str], name: str) -> str:
    """``value`` as it is, empty or known."""
    if value and value not in known:
        raise ApiError(f"{name} {value} is not supported. Supported values: {', '.join(known)}.")
    return value


def _parts(contents: list[Mapping[str, Any]]) -> tuple[str, tuple[bytes, ...]]:
    """The words and images of all turns."""
    parts = [part for content in contents for part in content.get("parts", [])]
    if not parts:
        raise ApiError("* GenerateContentRequest.contents: contents is not specified")
    if any(len({"text", "inlineData", "fileData"} & part.keys()) != 1 for part in parts):
        raise ApiError("Unable to submit request because it must have exactly one kind of data in each part.")
    texts = [part["text"] for part in parts if part.get("text", "").strip()]
    if not texts:
        raise ApiError("Unable to submit request because it must have a text parameter.")
    if any("fileData" in part for part in parts):
        raise ApiError("File not found: the sandbox keeps no files.", status=404)
    inputs = tuple(_image(part["inlineData"]) for part in parts if "inlineData" in part)
    if len(inputs) > INPUTS_MAX:
        raise ApiError(f"Too many images in the request: {len(inputs)}, the limit is {INPUTS_MAX}.")
    return "\n".join(texts), inputs


def _image(data: Mapping[str, str]) -> bytes:
    kind = data.get("mimeType", "")
    if kind not in INPUT_TYPES:
        raise ApiError(f"Unsupported MIME type: {kind}")
    try:
        # Google's own client writes the URL-safe alphabet, others the usual one.
        return image_in_base64(data.get("data", "").translate(_USUAL_ALPHABET))
    except BadInput as error:
        text = "Base64 decoding failed." if error.why == "base64" else "Unable to process input image."
        raise ApiError(text) from error


def _nearest(model: ImageModel, inputs: tuple[bytes, ...]) -> str:
    """The ratio of the model that is nearest to that of the first input."""
    if not inputs:
        return "1:1"
    width, height = dimensions(inputs[0])
    return min(model.ratios, key=lambda ratio: abs(_share(ratio) / (width / height) - 1))


def _share(ratio: str) -> float:
    width, height = ratio.split(":")
    return int(width) / int(height)


def _pixels(ratio: str, size: str) -> tuple[int, int]:
    reversed_ratio = ":".join(reversed(ratio.split(":")))
    width, height = _PIXELS.get(ratio) or reversed(_PIXELS[reversed_ratio])
    return round(width * _SCALE[size]), round(height * _SCALE[size])
