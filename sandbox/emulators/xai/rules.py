"""What xAI's two picture routes take, and how large their pictures are.

Source: upstreams sheet "xAI (Grok Imagine)", sections 2 to 4 and 6, read 2026-11-20.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from flask import request

from sandbox.drawing.images import NotAnImage, check, dimensions
from sandbox.emulators.xai import errors
from sandbox.emulators.xai.errors import ApiError

RATIOS = (
    "1:1", "3:4", "4:3", "9:16", "16:9", "2:3", "3:2", "9:19.5", "19.5:9", "9:20", "20:9", "1:2", "2:1", "auto",
)  # fmt: skip
INPUTS_MAX = 5
INPUT_BYTES_MAX = 10 * 2**20
BODY_BYTES_MAX = 20 * 2**20
STEP_PX = 16
_AREA_PX = {"1k": 2**20, "2k": 4 * 2**20}
_HEADS = ("data:image/png;base64", "data:image/jpeg;base64", "data:image/webp;base64")


@dataclass(frozen=True)
class ImageModel:
    """``answers_as``: the model that really answers; ``price_cents`` of one picture."""

    answers_as: str
    ratios: tuple[str, ...] = RATIOS
    qualities: tuple[str, ...] = ()
    price_cents: int = 2
    names_itself: bool = True


_CURRENT = "grok-imagine-image-2.0"
MODELS: Mapping[str, ImageModel] = MappingProxyType({
    # The older interface leaves the model out of its answer.
    "grok-imagine-image": ImageModel("grok-imagine-image", names_itself=False),
    _CURRENT: ImageModel(_CURRENT, (*RATIOS, "21:9", "5:2"), ("low", "medium"), price_cents=6),
    # Retired on 2026-11-02, and answered by the current one.
    "grok-imagine-image-quality": ImageModel(_CURRENT, price_cents=4),
})  # fmt: skip

_COMMON = frozenset({
    "prompt", "model", "n", "aspect_ratio", "resolution", "quality", "response_format", "user", "storage_options",
})  # fmt: skip


@dataclass(frozen=True)
class Order:
    """A request that passed every rule."""

    name: str
    prompt: str
    n: int
    ratio: str
    resolution: str
    wants_bytes: bool
    inputs: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def model(self) -> ImageModel:
        return MODELS[self.name]

    @property
    def ticks(self) -> int:
        """The price of one picture in units of 1e-10 US dollars."""
        return self.model.price_cents * 10**8


def json_body() -> dict[str, Any]:
    """The request's JSON object. Raises ApiError."""
    if request.mimetype != "application/json":
        raise ApiError("Expected request with `Content-Type: application/json`", status=415)
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise ApiError("Request body is too large.")
    try:
        document = json.loads(request.get_data())
    except ValueError as error:
        raise ApiError(f"Failed to parse the request body as JSON: {error}") from error
    if not isinstance(document, dict):
        raise errors.misfit("expected an object")
    return document


def read_generation() -> Order:
    """The body of ``/images/generations``. Raises ApiError."""
    return _order(json_body(), _COMMON)


def read_edit() -> Order:
    """The body of ``/images/edits``: one ``image``, or several ``images``. Raises ApiError."""
    body = json_body()
    given = [name for name in ("image", "image_url", "images") if name in body]
    if len(given) > 1:
        raise ApiError(f"Only one of image and images may be set, not {' and '.join(given)}.")
    if not given:
        raise ApiError("An edit needs image or images.")
    references = body[given[0]] if given[0] == "images" else [body[given[0]]]
    if not isinstance(references, list) or not 1 <= len(references) <= INPUTS_MAX:
        raise errors.misfit(f"images: expected 1 to {INPUTS_MAX} objects")
    inputs = tuple(_picture(reference) for reference in references)
    if len(inputs) == 1 and "aspect_ratio" in body:
        raise errors.unsupported("aspect_ratio")  # the output follows the one input
    return _order(body, _COMMON | {given[0]}, inputs)


def _order(body: Mapping[str, Any], known: frozenset[str], inputs: tuple[bytes, ...] = ()) -> Order:
    for name in body:
        if name not in known:
            raise errors.unsupported(name)
    if not _text(body, "prompt").strip():
        raise errors.misfit("missing field `prompt`")
    name = _text(body, "model")
    if name not in MODELS:
        raise errors.no_model(name)
    _check_quality(body, MODELS[name])
    _check_storage(body.get("storage_options"))
    _text(body, "user")
    return Order(
        name=name,
        prompt=body["prompt"],
        n=_count(body),
        ratio=_choice(body, "aspect_ratio", MODELS[name].ratios, "auto"),
        resolution=_choice(body, "resolution", tuple(_AREA_PX), "1k"),
        wants_bytes=_choice(body, "response_format", ("url", "b64_json"), "url") == "b64_json",
        inputs=inputs,
    )


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise errors.misfit(f"{name}: expected a string")
    return value


def _choice(body: Mapping[str, Any], name: str, words: tuple[str, ...], default: str) -> str:
    value = _text(body, name) if name in body else default
    if value not in words:
        raise ApiError(f"Invalid {name}: {value}. Supported values: {', '.join(words)}.")
    return value


def _count(body: Mapping[str, Any]) -> int:
    count = body.get("n", 1)
    if isinstance(count, bool) or not isinstance(count, int):
        raise errors.misfit("n: expected an integer")
    if not 1 <= count <= 10:
        raise ApiError(f"Invalid n: {count}. It must be between 1 and 10.")
    return count


def _check_quality(body: Mapping[str, Any], model: ImageModel) -> None:
    if "quality" not in body:
        return
    if not model.qualities:
        raise errors.unsupported("quality")
    _choice(body, "quality", model.qualities, "medium")


def _check_storage(options: object) -> None:
    if options is None:
        return
    if not isinstance(options, dict) or not isinstance(options.get("filename"), str):
        raise errors.misfit("storage_options: missing field `filename`")
    if stray := options.keys() - {"filename", "expires_after", "public_url"}:
        raise errors.unsupported(f"storage_options.{sorted(stray)[0]}")


def _picture(reference: object) -> bytes:
    """A data URL of at most 10 MiB; the sandbox fetches no link and keeps no file."""
    if not isinstance(reference, dict):
        raise errors.misfit("image: expected an object")
    if stray := reference.keys() - {"url", "file_id", "type"}:
        raise errors.unsupported(f"image.{sorted(stray)[0]}")
    if reference.get("type", "image_url") != "image_url":
        raise ApiError("Invalid type of image: it must be image_url.")
    if "file_id" in reference:
        raise ApiError("File not found: the sandbox keeps no files.", status=404)
    head, comma, payload = str(reference.get("url", "")).partition(",")
    if not comma or head not in _HEADS:
        raise ApiError("Could not fetch the image: the sandbox takes data URLs of PNG, JPEG and WebP alone.")
    try:
        blob = base64.b64decode(payload, validate=True)
        check(blob)
    except (binascii.Error, NotAnImage) as error:
        raise ApiError("Invalid image: it cannot be decoded.") from error
    if len(blob) > INPUT_BYTES_MAX:
        raise ApiError("Invalid image: it is larger than 10 MiB.")
    return blob


def size_px(order: Order) -> tuple[int, int]:
    """Width and height: the ratio asked, or the first input's, at the area of the class."""
    if order.ratio == "auto":
        width, height = dimensions(order.inputs[0]) if order.inputs else (1, 1)
        share = width / height
    else:
        across, up = order.ratio.split(":")
        share = float(across) / float(up)
    area_px = _AREA_PX[order.resolution]
    return _stepped(math.sqrt(area_px * share)), _stepped(math.sqrt(area_px / share))


def _stepped(side_px: float) -> int:
    return max(STEP_PX, round(side_px / STEP_PX) * STEP_PX)
