"""What a body of ``generateContent`` or of Imagen's ``predict`` asks for. Raises ApiError for every other.

Source: providers/upstreams/gemini/CONTRACT.md, sections 0, 2, 4 and 5.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.drawing.images import Recipe, dimensions
from sandbox.emulators.gemini.errors import ApiError
from sandbox.plumbing.bodies import json_value
from sandbox.plumbing.inputs import BadInput, image_in_base64
from sandbox.plumbing.validation import Schema, load_yaml

INPUT_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
INPUTS_MAX = 14
_USUAL_ALPHABET = str.maketrans("-_", "+/")
_SNAKE = re.compile(r"_([a-z])")
_SCALE = {"512": 0.5, "1K": 1, "2K": 2, "4K": 4}


def _word_fault(words: list[str], value: object) -> str | None:
    return None if isinstance(value, str) and value.upper() in words else "none of these words"


_DATA = load_yaml(__file__, "schemas.yaml")
MODELS: Mapping[str, Any] = _DATA["models"]
IMAGEN: Mapping[str, list[str]] = _DATA["imagen"]
_SCHEMAS = {method: Schema(form, checks={"x-words": _word_fault}) for method, form in _DATA["routes"].items()}


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
    level = thinking.get("thinkingLevel", model["levels"][0]).upper()
    if level not in model["levels"]:
        raise ApiError(f"Thinking level {level} is not supported for this model.")
    prompt, inputs = _parts(body.get("contents", []))
    ratio = _among(image.get("aspectRatio", ""), model["ratios"], "aspectRatio") or _nearest(model, inputs)
    named = [size for size in model["tokens"] if size]
    size = _among(image.get("imageSize", ""), named, "imageSize") or ("1K" if named else "")
    width_px, height_px = _pixels(ratio, size or "1K")
    return ImageOrder(
        Recipe(prompt, name, width_px, height_px, seed=config.get("seed", 0), inputs=inputs),
        tokens=model["tokens"][size],
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
    document = _in_camel_case(
        json_value(
            wrong_type=ApiError("Invalid JSON payload received. Content-Type must be application/json."),
            broken=lambda error: ApiError(f"Invalid JSON payload received. {error}"),
        )
    )
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


def _nearest(model: Mapping[str, Any], inputs: tuple[bytes, ...]) -> str:
    """The ratio of the model that is nearest to that of the first input."""
    if not inputs:
        return "1:1"
    width, height = dimensions(inputs[0])
    ratios: list[str] = model["ratios"]
    return min(ratios, key=lambda ratio: abs(_share(ratio) / (width / height) - 1))


def _share(ratio: str) -> float:
    width, height = ratio.split(":")
    return int(width) / int(height)


def _pixels(ratio: str, size: str) -> tuple[int, int]:
    reversed_ratio = ":".join(reversed(ratio.split(":")))
    width, height = _DATA["pixels"].get(ratio) or reversed(_DATA["pixels"][reversed_ratio])
    return round(width * _SCALE[size]), round(height * _SCALE[size])
