"""From the input of a WaveSpeed task to what is drawn: images that go in, sizes, formats, 3D files, captions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.drawing import models3d
from sandbox.drawing.images import (
    CONTENT_TYPES,
    Recipe,
    clear_where_white,
    digest_of_marked,
    dimensions,
    has_alpha,
)
from sandbox.drawing.sizes import DEFAULT_PX, pixels
from sandbox.emulators.wavespeed.effects import effect_of
from sandbox.emulators.wavespeed.models import BadInput, Model
from sandbox.faults import Script
from sandbox.markers import without_markers
from sandbox.plumbing import inputs, outcomes

# A size class ("4k") is drawn no larger: an emulator need not spend seconds on one image.
CLASS_EDGE_MAX_PX = 2048
_CLASS_PX = {
    **{"360p": 360, "480p": 480, "540p": 540, "720p": 720, "1080p": 1080},
    **{"0.5k": 512, "1k": 1024, "1.5k": 1536, "2k": 2048, "4k": 4096, "8k": 7680},
}
# What no drawing is made in: a list of such results would be of another kind.
_FORMATS = {"jpg": "jpeg", "png": "png", "jpeg": "jpeg", "webp": "webp"}
_WHY = {"link": "not an image", "base64": "broken base64", "image": "not an image"}

Finder = Callable[[str], bytes | None]  # the bytes of an upload by its link; None for anyone else's link


class Unreachable(ValueError):  # noqa: N818 - reads as what it is
    """A link of our own under which nothing was ever stored, or a data URI where a link is needed."""


@dataclass(frozen=True)
class Inputs:
    """What goes in, as bytes: images, the base first, and a mask that is clear where it is new."""

    images: tuple[bytes, ...] = ()
    mask: bytes | None = None


@dataclass(frozen=True)
class Served:
    """A result file: an image, or a 3D file where ``seed_3d`` is set."""

    name: str
    recipe: Recipe | None = None
    seed_3d: str = ""

    @property
    def content_type(self) -> str:
        """Of the undamaged file."""
        return CONTENT_TYPES[self.recipe.file_format] if self.recipe else models3d.CONTENT_TYPE

    def blob(self, draw: Callable[[Recipe], bytes]) -> bytes:
        """The file. Raises NotAnImage."""
        return draw(self.recipe) if self.recipe else models3d.glb(self.seed_3d)


def inputs_of(model: Model, given: Mapping[str, Any], find: Finder) -> Inputs:
    """The images of an input. Links elsewhere are never fetched: they count as none.

    Raises: BadInput for bytes that are no image, or a mask with transparency where white marks the change;
    Unreachable.
    """
    images: list[bytes] = []
    masks: list[bytes] = []
    for name in model.image_fields:
        links = given.get(name, [])
        found = [_image(name, link, find) for link in (links if isinstance(links, list) else [links])]
        (masks if name.startswith("mask_") else images).extend(blob for blob in found if blob is not None)
    mask = masks[0] if masks else None
    return Inputs(tuple(images), mask if mask is None or model.masks_clear else _white_to_clear(mask))


def _image(name: str, link: str, find: Finder) -> bytes | None:
    is_data = link.startswith("data:")
    if is_data and name.endswith("_url"):
        raise Unreachable(f"{name} is not a reachable URL")
    try:
        if is_data:
            return inputs.image_in_data_url(link)
        stored = find(link)
        return None if stored is None else inputs.image_in(stored)
    except inputs.BadInput as error:
        raise BadInput(f"invalid value for '{name}': {_WHY[error.why]}") from error


def _white_to_clear(mask: bytes) -> bytes:
    """A mask whose white is new content (CONTRACT.md, section 7), as our drawing takes it: clear where it is new."""
    if has_alpha(mask):
        raise BadInput("invalid value for 'mask_image': transparency, where white marks what to change")
    return clear_where_white(mask)


def files_of(model: Model, given: Mapping[str, Any], taken: Inputs, fate: Script) -> Iterator[Served]:
    """The result files of a task, as many as come of those asked for; a caption is none."""
    prompt, seed = str(given.get("prompt") or ""), given.get("seed")
    if model.output == "model_3d" and outcomes.count_of(1, fate):
        ending = given.get("geometry_file_format", "glb")
        yield Served(f"0.{ending}", seed_3d=f"{model.path} {prompt} {seed} {_what_is_marked(taken)}")
    if model.output != "image":
        return
    extension = model.asked(given, "output_format") or "png"
    extension = extension if extension in _FORMATS else "png"
    first = Recipe(
        *(prompt, model.path, *_size(model, given, taken.images)),
        seed=max(seed or 0, 0),
        file_format=_FORMATS[extension],
        inputs=taken.images,
        mask=taken.mask,
        effect=effect_of(model.path),
    )
    asked = model.asked(given, "num_images") or model.asked(given, "max_images") or 1
    for number, recipe in enumerate(outcomes.recipes(first, asked, fate)):
        yield Served(f"{number}.{extension}", recipe=recipe)


def _what_is_marked(taken: Inputs) -> str:
    """A digest of the first image's pixels inside the mask, which is all that a 3D file shows; empty without."""
    return digest_of_marked(taken.images[0], taken.mask) if taken.images and taken.mask else ""


def _size(model: Model, given: Mapping[str, Any], images: tuple[bytes, ...]) -> tuple[int, int]:
    """Pixels: the size asked for, or a ratio and a class, or the size of the image that went in."""
    size, ratio = given.get("size") or "auto", given.get("aspect_ratio") or given.get("image_size") or "auto"
    if size != "auto":
        return pixels(size.replace("*", "x"))
    if ratio != "auto":
        width_px, height_px = pixels(ratio)
    elif images:
        width_px, height_px = dimensions(images[0])
    else:
        default = model.asked({}, "size")
        width_px, height_px = pixels(default.replace("*", "x")) if default else DEFAULT_PX
    edge_class = model.asked(given, "resolution") or model.asked(given, "target_resolution")
    if edge_class:
        return _to_edge(width_px, height_px, min(CLASS_EDGE_MAX_PX, _CLASS_PX[edge_class.lower()]))
    factor = model.asked(given, "desired_increase") or 1
    return width_px * factor, height_px * factor


def _to_edge(width_px: int, height_px: int, edge_px: int) -> tuple[int, int]:
    scale = edge_px / max(width_px, height_px)
    return max(16, round(width_px * scale)), max(16, round(height_px * scale))


def caption(given: Mapping[str, Any], taken: Inputs) -> str:
    """What the captioner says of an image."""
    width_px, height_px = dimensions(taken.images[0]) if taken.images else DEFAULT_PX
    focus = without_markers(given.get("focus") or "")
    told = f", with attention to {focus}" if focus else ""
    return f"An image of {width_px} by {height_px} pixels{told}."
