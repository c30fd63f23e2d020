"""From the input of a WaveSpeed task to what is drawn: pictures that go in, sizes, formats, 3D files, captions."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from sandbox.drawing import models3d
from sandbox.drawing.bad_files import IMAGE_FAULTS
from sandbox.drawing.images import CONTENT_TYPES, NotAnImage, Recipe, check, dimensions, has_alpha
from sandbox.drawing.sizes import DEFAULT_PX, pixels
from sandbox.emulators.wavespeed.fields import BadField, data_of
from sandbox.emulators.wavespeed.models import Model
from sandbox.faults import Script
from sandbox.markers import Fault, without_markers

# A size class ("4k") is drawn no larger: a stand-in need not spend seconds on one picture.
CLASS_EDGE_MAX_PX = 2048
MASKS = ("mask_image", "mask_images")
_CLASS_PX = {"0.5k": 512, "1k": 1024, "1080p": 1080, "2k": 2048, "4k": 4096, "8k": 7680}
_EXTENSIONS = {"jpg": "jpeg"}

Finder = Callable[[str], bytes | None]  # the bytes of an upload by its link; None for anybody else's link


class Unreachable(ValueError):  # noqa: N818 - reads as what it is
    """A link of our own under which nothing was ever stored, or a data URI where a link is needed."""


@dataclass(frozen=True)
class Inputs:
    """What goes in, as bytes: pictures, the base first, and a mask that is clear where it is new."""

    pictures: tuple[bytes, ...] = ()
    mask: bytes | None = None


@dataclass(frozen=True)
class Served:
    """A result file: a picture, or a 3D file where ``seed_3d`` is set. Available from a moment on."""

    name: str
    from_s: float
    recipe: Recipe | None = None
    seed_3d: str = ""
    fault: Fault | None = None

    @property
    def content_type(self) -> str:
        """Of the undamaged file."""
        return CONTENT_TYPES[self.recipe.file_format] if self.recipe else models3d.CONTENT_TYPE

    def blob(self, draw: Callable[[Recipe], bytes]) -> bytes:
        """The file. Raises NotAnImage."""
        return draw(self.recipe) if self.recipe else models3d.glb(self.seed_3d)


def inputs_of(model: Model, given: Mapping[str, Any], find: Finder) -> Inputs:
    """The pictures of an input. Links elsewhere are never fetched: they count as none.

    Raises: BadField for bytes that are no picture, or a mask with transparency where white marks the change;
    Unreachable.
    """
    blobs: list[bytes] = []
    masks: list[bytes] = []
    for name, field in model.fields.items():
        if field.kind not in ("uri", "uris") or name not in given:
            continue
        links = given[name] if isinstance(given[name], list) else [given[name]]
        found = [_picture(name, link, find) for link in links]
        (masks if name in MASKS else blobs).extend(blob for blob in found if blob is not None)
    if masks and model.path != "openai/gpt-image-1":
        masks = [_white_to_clear(mask) for mask in masks]
    return Inputs(tuple(blobs), masks[0] if masks else None)


def _picture(name: str, link: str, find: Finder) -> bytes | None:
    if link.startswith("data:") and name.endswith("_url"):
        raise Unreachable(f"{name} is not a reachable URL")
    blob = data_of(link) if link.startswith("data:") else find(link)
    if blob is None:
        if link.startswith("data:"):
            raise BadField(f"invalid value for '{name}': broken base64")
        return None
    try:
        check(blob)
    except NotAnImage as error:
        raise BadField(f"invalid value for '{name}': not an image") from error
    return blob


def _white_to_clear(mask: bytes) -> bytes:
    """A mask whose white is new content (section 7), as our drawing takes it: clear where it is new."""
    if has_alpha(mask):
        raise BadField("invalid value for 'mask_image': transparency, where white marks what to change")
    with Image.open(io.BytesIO(mask)) as grey:
        alpha = grey.convert("L").point(lambda level: 255 - level)
    clear, out = Image.new("RGBA", alpha.size), io.BytesIO()
    clear.putalpha(alpha)
    clear.save(out, "PNG")
    return out.getvalue()


def files_of(
    model: Model, given: Mapping[str, Any], inputs: Inputs, script: Script, *, from_s: float
) -> Iterator[Served]:
    """The result files of a task, as many as were asked for; a caption is none."""
    prompt = str(given.get("prompt") or "")
    if model.output == "text":
        return
    if model.output == "model_3d":
        ending = given.get("geometry_file_format", "glb")
        yield Served(f"0.{ending}", from_s, seed_3d=f"{model.path} {prompt} {given.get('seed')}")
        return
    width_px, height_px = _size(model, given, inputs.pictures)
    asked_format = str(given.get("output_format") or getattr(model.fields.get("output_format"), "default", "png"))
    file_format = _EXTENSIONS.get(asked_format, asked_format)
    seed = int(given.get("seed", -1))
    recipe = Recipe(
        prompt=prompt,
        model=model.path,
        width_px=width_px,
        height_px=height_px,
        seed=max(seed, 0),
        file_format=file_format,
        inputs=inputs.pictures,
        mask=inputs.mask,
    )
    fault = script.get(*IMAGE_FAULTS)
    for number in range(int(given.get("num_images") or given.get("max_images") or 1)):
        each = _spoilt(replace(recipe, seed=recipe.seed + number), script)
        yield Served(f"{number}.{asked_format}", from_s, recipe=each, fault=fault)


def _spoilt(recipe: Recipe, script: Script) -> Recipe:
    if script.get("wrong_size"):
        recipe = replace(recipe, width_px=max(16, recipe.width_px // 2), height_px=max(16, recipe.height_px // 2))
    other = "png" if recipe.file_format == "jpeg" else "jpeg"
    return replace(recipe, file_format=other) if script.get("wrong_format") else recipe


def _size(model: Model, given: Mapping[str, Any], blobs: tuple[bytes, ...]) -> tuple[int, int]:
    """Pixels: the size asked for, or a ratio and a class, or the size of the picture that went in."""
    size = str(given.get("size") or "").replace("*", "x")
    if size not in ("", "auto"):
        return pixels(size)
    own = dimensions(blobs[0]) if blobs else None
    factor = int(given.get("desired_increase") or getattr(model.fields.get("desired_increase"), "default", 1) or 1)
    ratio = str(given.get("aspect_ratio") or "auto")
    width_px, height_px = pixels(ratio) if ratio != "auto" or own is None else own
    if ratio == "auto" and own is None:
        default = getattr(model.fields.get("size"), "default", None)
        width_px, height_px = pixels(str(default).replace("*", "x")) if default else DEFAULT_PX
    edge_px = _class_edge_px(model, given)
    if edge_px:
        return _to_edge(width_px, height_px, edge_px)
    return width_px * factor, height_px * factor


def _class_edge_px(model: Model, given: Mapping[str, Any]) -> int | None:
    for name in ("resolution", "target_resolution"):
        asked = given.get(name) or getattr(model.fields.get(name), "default", None)
        if asked:
            return min(CLASS_EDGE_MAX_PX, _CLASS_PX[str(asked).lower()])
    return None


def _to_edge(width_px: int, height_px: int, edge_px: int) -> tuple[int, int]:
    scale = edge_px / max(width_px, height_px)
    return max(16, round(width_px * scale)), max(16, round(height_px * scale))


def caption(given: Mapping[str, Any], inputs: Inputs) -> str:
    """What the captioner says of a picture."""
    width_px, height_px = dimensions(inputs.pictures[0]) if inputs.pictures else DEFAULT_PX
    focus = without_markers(str(given.get("focus") or ""))
    told = f", with attention to {focus}" if focus else ""
    return f"A picture of {width_px} by {height_px} pixels{told}."
