"""From the input of a prediction to its pictures: what goes in, how large it is drawn, in which format."""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sandbox.drawing.images import NotAnImage, Recipe, check, clear_where_white, dimensions, has_alpha
from sandbox.emulators.replicate.errors import invalid
from sandbox.emulators.replicate.models import Model
from sandbox.faults import Script

# Pixels of a ratio at one megapixel (section 9 of the contract sheet).
RATIO_PX: Mapping[str, tuple[int, int]] = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "21:9": (1536, 640),
    "9:21": (640, 1536),
    "3:2": (1216, 832),
    "2:3": (832, 1216),
    "4:5": (896, 1088),
    "5:4": (1088, 896),
    "3:4": (896, 1152),
    "4:3": (1152, 896),
}
EDGE_MAX_PX = 2048
_FORMATS = {"jpg": "jpeg"}

Finder = Callable[[str], bytes | None]  # the bytes of an uploaded file by its link, None for any other link


def inputs_of(model: Model, given: Mapping[str, Any], find: Finder) -> tuple[tuple[bytes, ...], bytes | None]:
    """The pictures that go in, and the mask. Links elsewhere are never fetched: they count as none.

    Raises: Problem for bytes that are no picture, or for a mask of the other polarity (all here want white).
    """
    blobs: list[bytes] = []
    mask = None
    for name, field in model.fields.items():
        if field.kind not in ("uri", "uris") or name not in given:
            continue
        links = given[name] if field.kind == "uris" else [given[name]]
        found = [blob for blob in (_bytes_at(name, link, find) for link in links) if blob is not None]
        if name == "mask":
            mask = _mask(found[0]) if found else None
        else:
            blobs += found
    return tuple(blobs), mask if blobs else None


def _bytes_at(name: str, link: str, find: Finder) -> bytes | None:
    try:
        blob = base64.b64decode(link.partition(",")[2], validate=True) if link.startswith("data:") else find(link)
        if blob is not None:
            check(blob)
    except (NotAnImage, binascii.Error) as error:
        raise invalid([(name, f"cannot be read as an image: {error}")], place="input") from error
    return blob


def _mask(blob: bytes) -> bytes:
    if has_alpha(blob):
        raise invalid([("mask", "has transparency, where white marks what to paint")], place="input")
    return clear_where_white(blob)


def recipes(
    model: Model, given: Mapping[str, Any], blobs: tuple[bytes, ...], mask: bytes | None, *, seed: int, fate: Script
) -> Iterator[Recipe]:
    """One for each picture asked for. Scripted: another size, another format, too few, none."""
    width_px, height_px = size_px(model, given, blobs)
    if fate.get("wrong_size"):
        width_px, height_px = max(16, width_px // 2), max(16, height_px // 2)
    name = given.get("output_format") or model.default("output_format") or "png"
    file_format = _FORMATS.get(name, name)
    if fate.get("wrong_format"):
        file_format = "png" if file_format == "jpeg" else "jpeg"
    first = Recipe(
        prompt=str(given.get("prompt") or ""),
        model=model.path,
        width_px=width_px,
        height_px=height_px,
        seed=seed,
        file_format=file_format,
        quality=int(given.get("output_quality", 80)),
        inputs=blobs,
        mask=mask,
    )
    asked, fewer = int(given.get("num_outputs", 1)), fate.get("fewer")
    count = 0 if fate.get("empty") else asked - int(fewer.number(1) if fewer else 0)
    for number in range(max(0, count)):
        yield replace(first, seed=seed + number)


def size_px(model: Model, given: Mapping[str, Any], blobs: tuple[bytes, ...]) -> tuple[int, int]:
    """Width and height: asked in pixels, or those of the input, or those of the ratio."""
    ratio = str(given.get("aspect_ratio") or (None if blobs else model.default("aspect_ratio")))
    if ratio == "custom" or ("aspect_ratio" not in model.fields and "width" in model.fields):
        default = dimensions(blobs[0]) if blobs else (1024, 1024)
        return _clamped(given.get("width", default[0]), given.get("height", default[1]))
    if ratio in RATIO_PX:
        scale = _megapixels(given) ** 0.5
        return _clamped(*(round(edge * scale) for edge in RATIO_PX[ratio]))
    return _clamped(*dimensions(blobs[0])) if blobs else RATIO_PX["1:1"]


def _clamped(width_px: int, height_px: int) -> tuple[int, int]:
    return min(EDGE_MAX_PX, max(16, width_px)), min(EDGE_MAX_PX, max(16, height_px))


def _megapixels(given: Mapping[str, Any]) -> float:
    """``megapixels``, ``output_megapixels`` or ``resolution``, whichever the model has."""
    for name in ("megapixels", "output_megapixels", "resolution"):
        text = str(given.get(name, "")).removesuffix("MP").strip()
        if text.replace(".", "", 1).isdecimal():
            return float(text)
    return 1.0
