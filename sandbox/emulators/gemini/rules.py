"""What ``generateContent`` and Imagen's ``predict`` take, and what Google says to everything else.

Source: upstreams sheet "Google Gemini API", sections 0, 2, 4 and 5, read 2026-11-20.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from flask import request

from sandbox.drawing.images import NotAnImage, check, dimensions
from sandbox.emulators.gemini.errors import ApiError

RATIOS_10 = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
RATIOS_14 = (*RATIOS_10, "1:4", "4:1", "1:8", "8:1")
INPUT_TYPES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
INPUTS_MAX = 14
_USUAL_ALPHABET = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class ImageModel:
    """``tokens``: put out for one picture of each size class, the default one first."""

    tokens: Mapping[str, int]
    ratios: tuple[str, ...] = RATIOS_14
    levels: tuple[str, ...] = ("MINIMAL", "HIGH")


MODELS: Mapping[str, ImageModel] = MappingProxyType({
    "gemini-3.1-flash-image": ImageModel({"1K": 1120, "512": 747, "2K": 1680, "4K": 2520}),
    "gemini-3.1-flash-lite-image": ImageModel({"1K": 1120}),
    "gemini-3-pro-image": ImageModel({"1K": 1120, "2K": 1120, "4K": 2000}, RATIOS_10, ("LOW", "HIGH")),
    # Its tokens are not published: those of 3.1 Flash stand in.
    "gemini-nano-banana-2.1": ImageModel({"1K": 1120, "2K": 1680, "4K": 2520}, levels=("MINIMAL", "MEDIUM", "HIGH")),
})  # fmt: skip
# Shut down; only a gateway that stayed behind answers to them (the key ``legacy-gateway``).
IMAGEN: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "imagen-4.0-generate-001": ("1K", "2K"),
    "imagen-4.0-ultra-generate-001": ("1K", "2K"),
    "imagen-4.0-fast-generate-001": ("1K",),
})  # fmt: skip

# Section 5: pixels of the class 1K.
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
class Order:
    """A request that passed every rule. ``size`` is the class, "" where none was named."""

    model: str
    prompt: str
    ratio: str = ""
    size: str = ""
    n: int = 1
    seed: int = 0
    wants_text: bool = True
    thoughts: bool = False
    says_filtered: bool = False
    file_format: str = "png"
    inputs: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def tokens(self) -> int:
        """Put out for one picture."""
        return MODELS[self.model].tokens[self.size or "1K"]


def size_px(order: Order) -> tuple[int, int]:
    """Width and height of the result; without a ratio that of the first input, brought near."""
    width, height = _pixels_of(order.ratio or _nearest(order))
    scale = _SCALE[order.size or "1K"]
    return round(width * scale), round(height * scale)


def _nearest(order: Order) -> str:
    if not order.inputs:
        return "1:1"
    width, height = dimensions(order.inputs[0])
    return min(MODELS[order.model].ratios, key=lambda ratio: abs(_share(ratio) / (width / height) - 1))


def _share(ratio: str) -> float:
    width, height = ratio.split(":")
    return int(width) / int(height)


def _pixels_of(ratio: str) -> tuple[int, int]:
    if ratio in _PIXELS:
        return _PIXELS[ratio]
    height, width = _PIXELS[":".join(reversed(ratio.split(":")))]
    return width, height


# ---------------------------------------------------------------- the form of a body

Check = Callable[[Any], bool]
Spec = Any  # a Check, {name: Spec}, or [Spec]


def _choice(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value.upper() in words


def _number(low: float, high: float) -> Check:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _whole(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


_INT32 = _whole(-(2**31), 2**31 - 1)
_CONTENT: Spec = {
    "role": _choice("USER", "MODEL"),
    "parts": [
        {
            "text": _is_text,
            "inlineData": {"mimeType": _is_text, "data": _is_text},
            "fileData": {"mimeType": _is_text, "fileUri": _is_text},
            "thought": _is_bool,
            "thoughtSignature": _is_text,
        }
    ],
}
_THRESHOLDS = ("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH")
_CATEGORIES = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "JAILBREAK", "CIVIC_INTEGRITY")
GENERATE: Spec = {
    "contents": [_CONTENT],
    "systemInstruction": _CONTENT,
    "safetySettings": [
        {
            "category": _choice(*(f"HARM_CATEGORY_{name}" for name in _CATEGORIES)),
            "threshold": _choice(*_THRESHOLDS, "BLOCK_NONE", "OFF"),
        }
    ],
    "generationConfig": {
        "responseModalities": [_choice("TEXT", "IMAGE")],
        "imageConfig": {"aspectRatio": _is_text, "imageSize": _is_text},
        "seed": _INT32,
        "temperature": _number(0, 2),
        "topP": _number(0, 1),
        "topK": _number(1, 1000),
        "candidateCount": _whole(1, 1),
        "thinkingConfig": {
            "thinkingLevel": _choice("MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"),
            "includeThoughts": _is_bool,
        },
        "continuationToken": _is_text,
    },
    "serviceTier": _choice("FLEX", "STANDARD", "PRIORITY"),
    "store": _is_bool,
    "labels": _is_map,
}
PREDICT: Spec = {
    "instances": [{"prompt": _is_text}],
    "parameters": {
        "sampleCount": _whole(1, 4),
        "aspectRatio": _choice("1:1", "3:4", "4:3", "9:16", "16:9"),
        "sampleImageSize": _choice("1K", "2K"),
        "personGeneration": _choice("DONT_ALLOW", "ALLOW_ADULT"),
        "safetySetting": _choice(*_THRESHOLDS),
        "guidanceScale": _number(0, 1000),
        "language": _is_text,
        "includeRaiReason": _is_bool,
        "includeSafetyAttributes": _is_bool,
        "outputOptions": {
            "mimeType": _choice("IMAGE/PNG", "IMAGE/JPEG"),
            "compressionQuality": _whole(0, 100),
        },
    },
}


def _formed(value: Any, spec: Spec, place: str) -> Any:
    """``value`` with its names in camelCase, which may come in snake_case too. Raises ApiError."""
    if isinstance(spec, dict):
        if not isinstance(value, dict):
            raise _misfit(place, value)
        return {name: _formed(inner, known, f"{place}.{name}") for name, known, inner in _named(value, spec, place)}
    if isinstance(spec, list):
        if not isinstance(value, list):
            raise _misfit(place, value)
        return [_formed(inner, spec[0], f"{place}[{number}]") for number, inner in enumerate(value)]
    if not spec(value):
        raise _misfit(place, value)
    return value


def _named(value: Mapping[str, Any], spec: Mapping[str, Spec], place: str) -> Iterator[tuple[str, Spec, Any]]:
    for written, inner in value.items():
        name = re.sub(r"_([a-z])", lambda found: found[1].upper(), written)
        if name not in spec:
            text = f'Invalid JSON payload received. Unknown name "{written}"{_at(place)}: Cannot find field.'
            raise ApiError(text, field=place.strip("."))
        yield name, spec[name], inner


def _misfit(place: str, value: Any) -> ApiError:
    shown = json.dumps(value)[:80]
    return ApiError(f"Invalid value at '{place.strip('.')}': {shown}", field=place.strip("."))


def _at(place: str) -> str:
    return f" at '{place.strip('.')}'" if place.strip(".") else ""


def _body(spec: Spec) -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise ApiError("Invalid JSON payload received. Content-Type must be application/json.")
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        raise ApiError(f"Invalid JSON payload received. {error}") from error
    if not isinstance(document, dict):
        raise ApiError("Invalid JSON payload received. Expected an object.")
    return dict(_formed(document, spec, ""))


# ---------------------------------------------------------------- what it asks for


def read_generate(name: str) -> Order:
    """The body of a ``:generateContent``. Raises ApiError."""
    body, model = _body(GENERATE), MODELS[name]
    config = body.get("generationConfig", {})
    image, thinking = config.get("imageConfig", {}), config.get("thinkingConfig", {})
    modalities = [each.upper() for each in config.get("responseModalities", ["TEXT", "IMAGE"])]
    if "IMAGE" not in modalities:
        raise ApiError("The requested combination of response modalities is not supported by the model.")
    level = thinking.get("thinkingLevel", model.levels[0]).upper()
    if level not in model.levels:
        raise ApiError(f"Thinking level {level} is not supported for this model.")
    prompt, inputs = _parts(body.get("contents", []))
    return Order(
        model=name,
        prompt=prompt,
        ratio=_among(image.get("aspectRatio", ""), ("", *model.ratios), "aspectRatio"),
        size=_among(image.get("imageSize", ""), ("", *model.tokens), "imageSize"),
        seed=config.get("seed", 0),
        wants_text="TEXT" in modalities,
        thoughts=thinking.get("includeThoughts", False),
        inputs=inputs,
    )


def _among(value: str, known: tuple[str, ...], name: str) -> str:
    if value not in known:
        listed = ", ".join(filter(None, known))
        raise ApiError(f"{name} {value} is not supported. Supported values: {listed}.")
    return value


def _parts(contents: list[Mapping[str, Any]]) -> tuple[str, tuple[bytes, ...]]:
    """The words and pictures of all turns."""
    parts = [part for content in contents for part in content.get("parts", [])]
    if not parts:
        raise ApiError("* GenerateContentRequest.contents: contents is not specified")
    if any(len({"text", "inlineData", "fileData"} & part.keys()) != 1 for part in parts):
        raise ApiError("Unable to submit request because it must have exactly one kind of data in each part.")
    texts = [part["text"] for part in parts if part.get("text", "").strip()]
    if not texts:
        raise ApiError("Unable to submit request because it must have a text parameter.")
    if any("fileData" in part for part in parts):
        raise ApiError("File not found: the sandbox keeps no files.", status=404, rpc="NOT_FOUND")
    inputs = tuple(_picture(part["inlineData"]) for part in parts if "inlineData" in part)
    if len(inputs) > INPUTS_MAX:
        raise ApiError(f"Too many images in the request: {len(inputs)}, the limit is {INPUTS_MAX}.")
    return "\n".join(texts), inputs


def _picture(data: Mapping[str, str]) -> bytes:
    kind = data.get("mimeType", "")
    if kind not in INPUT_TYPES:
        raise ApiError(f"Unsupported MIME type: {kind}")
    try:
        # Google's own client writes the URL-safe alphabet, others the usual one.
        blob = base64.b64decode(data.get("data", "").translate(_USUAL_ALPHABET), validate=True)
        check(blob)
    except binascii.Error as error:
        raise ApiError("Base64 decoding failed.") from error
    except NotAnImage as error:
        raise ApiError("Unable to process input image. Please retry or report.") from error
    return blob


def read_predict(name: str) -> Order:
    """The body of a ``:predict``. Raises ApiError."""
    body = _body(PREDICT)
    instances, given = body.get("instances", []), body.get("parameters", {})
    if len(instances) != 1 or not instances[0].get("prompt", "").strip():
        raise ApiError("instances must hold one object with a prompt.")
    return Order(
        model=name,
        prompt=instances[0]["prompt"],
        ratio=given.get("aspectRatio", "1:1"),
        size=_among(given.get("sampleImageSize", "1K"), IMAGEN[name], "sampleImageSize"),
        n=given.get("sampleCount", 4),
        says_filtered=given.get("includeRaiReason", False),
        file_format=given.get("outputOptions", {}).get("mimeType", "image/png").lower().removeprefix("image/"),
    )
