"""From the input of a prediction to its images: what goes in, how large it is drawn, in which format."""

from collections.abc import Callable, Mapping
from typing import Any

from sandbox.drawing.images import NotAnImage, Recipe, clear_where_white, dimensions, has_alpha
from sandbox.drawing.sizes import pixels
from sandbox.emulators.replicate.errors import invalid
from sandbox.emulators.replicate.models import Model
from sandbox.plumbing.inputs import BadInput, image_in, image_in_base64

# Pixels of a ratio at one megapixel (section 9 of the contract).
_WIDE_PX = {"16:9": (1344, 768), "21:9": (1536, 640), "3:2": (1216, 832), "5:4": (1088, 896), "4:3": (1152, 896)}
RATIO_PX: Mapping[str, tuple[int, int]] = {
    "1:1": (1024, 1024),
    **_WIDE_PX,
    **{":".join(reversed(ratio.split(":"))): (height, width) for ratio, (width, height) in _WIDE_PX.items()},
}
EDGE_MAX_PX = 2048

Finder = Callable[[str], bytes | None]  # the bytes of an uploaded file by its link, None for any other link


def inputs_of(model: Model, given: Mapping[str, Any], find: Finder) -> tuple[tuple[bytes, ...], bytes | None]:
    """The images that go in, and the mask. Links elsewhere are never fetched: they count as none.

    Raises: Problem for bytes that are no image, or for a mask of the other polarity (all here want white).
    """
    blobs: list[bytes] = []
    mask = None
    for name, part in model.fields.items():
        if name not in given or "uri" not in (part.get("format"), part.get("items", {}).get("format")):
            continue
        links = given[name] if isinstance(given[name], list) else [given[name]]
        found = [blob for link in links if (blob := _bytes_at(name, link, find)) is not None]
        if name == "mask":
            mask = _mask(found[0]) if found else None
        else:
            blobs += found
    return tuple(blobs), mask if blobs else None


def _bytes_at(name: str, link: str, find: Finder) -> bytes | None:
    try:
        if link.startswith("data:"):
            return image_in_base64(link.partition(",")[2])
        blob = find(link)
        return None if blob is None else image_in(blob)
    except (BadInput, NotAnImage) as error:
        raise invalid([(name, f"cannot be read as an image: {error}")], place="input") from error


def _mask(blob: bytes) -> bytes:
    if has_alpha(blob):
        raise invalid([("mask", "has transparency, where white marks what to paint")], place="input")
    return clear_where_white(blob)


def recipe_for(
    model: Model, given: Mapping[str, Any], blobs: tuple[bytes, ...], mask: bytes | None, *, seed: int
) -> Recipe:
    """How the first image of a prediction is drawn."""
    width_px, height_px = size_px(model, given, blobs)
    file_format = given.get("output_format") or model.default("output_format") or "png"
    return Recipe(
        prompt=str(given.get("prompt") or ""),
        model=model.path,
        width_px=width_px,
        height_px=height_px,
        seed=seed,
        file_format="jpeg" if file_format == "jpg" else file_format,
        quality=int(given.get("output_quality", 80)),
        inputs=blobs,
        mask=mask,
    )


def size_px(model: Model, given: Mapping[str, Any], blobs: tuple[bytes, ...]) -> tuple[int, int]:
    """Width and height: asked in pixels, or those of the input, or those of the ratio."""
    ratio = str(given.get("aspect_ratio") or (None if blobs else model.default("aspect_ratio")))
    if ratio == "custom" or ("aspect_ratio" not in model.fields and "width" in model.fields):
        default = dimensions(blobs[0]) if blobs else RATIO_PX["1:1"]
        return _clamped(given.get("width", default[0]), given.get("height", default[1]))
    if ratio in RATIO_PX:
        scale = _megapixels(given) ** 0.5
        return _clamped(*(round(edge * scale) for edge in RATIO_PX[ratio]))
    if ":" in ratio:
        return _clamped(*pixels(ratio))
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
