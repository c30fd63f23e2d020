"""What each v2beta endpoint of Stability AI takes: its parts, their ranges, the pictures, the price.

Source: upstreams sheet "Stability", sections 2 and 7, read 2026-11-20. Where two sources give different
ranges, the narrower one holds here.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from flask import request
from PIL import Image

from sandbox.drawing.images import NotAnImage, check

RATIOS = ("21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21")
STYLES = (
    "3d-model", "analog-film", "anime", "cinematic", "comic-book", "digital-art", "enhance", "fantasy-art",
    "isometric", "line-art", "low-poly", "modeling-compound", "neon-punk", "origami", "photographic",
    "pixel-art", "tile-texture",
)  # fmt: skip
SEED_MAX = 4_294_967_294
_WHOLE = re.compile(r"-?\d{1,18}")
_REAL = re.compile(r"-?\d{1,18}(\.\d{1,18})?([eE]-?\d{1,2})?")


@dataclass(frozen=True)
class Words:
    """A text part by its length."""

    least: int = 1
    most: int = 10_000

    def complaint(self, text: str) -> str | None:
        fits = self.least <= len(text) <= self.most
        return None if fits else f"must be between {self.least} and {self.most} characters"


@dataclass(frozen=True)
class Number:
    """A number as text."""

    low: float
    high: float
    whole: bool = False

    def complaint(self, text: str) -> str | None:
        if not (_WHOLE if self.whole else _REAL).fullmatch(text):
            return "must be a whole number" if self.whole else "must be a number"
        fits = self.low <= float(text) <= self.high
        return None if fits else f"must be between {self.low:g} and {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def complaint(self, text: str) -> str | None:
        return None if text in self.words else f"must be one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Picture:
    """A file part. Edges and areas in pixels; ``narrow``: the sides may differ 2.5 times at most."""

    edge: tuple[int, int] = (64, 16_384)
    area: tuple[int, int] = (4_096, 9_437_184)
    narrow: bool = False

    def complaint(self, blob: bytes) -> str | None:
        size = dimensions(blob)
        if size is None:
            return "must be a jpeg, png or webp picture"
        short, long = sorted(size)
        if not self.edge[0] <= short <= long <= self.edge[1]:
            return f"sides must be between {self.edge[0]} and {self.edge[1]} pixels"
        if not self.area[0] <= short * long <= self.area[1]:
            return f"total pixels must be between {self.area[0]} and {self.area[1]}"
        if self.narrow and long > 2.5 * short:
            return "the aspect ratio must be between 1:2.5 and 2.5:1"
        return None


Part = Words | Number | Choice | Picture
Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Order:
    """A request that passed every rule. ``files`` are encoded pictures by part."""

    path: str
    texts: Mapping[str, str]
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def endpoint(self) -> "Endpoint":
        return ENDPOINTS[self.path]

    @property
    def prompt(self) -> str:
        """The words that say what to make; empty for an endpoint without any."""
        return self.texts.get("prompt") or self.texts.get("background_prompt") or ""

    @property
    def model(self) -> str:
        return self.texts.get("model", "sd3.5-large") if self.path.endswith("/sd3") else self.path.rsplit("/", 1)[1]

    @property
    def credits(self) -> float:
        return _SD3_CREDITS[self.model] if self.path.endswith("/sd3") else self.endpoint.credits

    @property
    def base(self) -> bytes | None:
        """The picture that is worked on."""
        return next((self.files[name] for name in ("image", "subject_image", "init_image") if name in self.files), None)


@dataclass(frozen=True)
class Endpoint:
    """``makes`` says how large the result is; ``rule`` holds what parts demand of each other."""

    credits: float
    required: tuple[str, ...]
    parts: Parts
    makes: str = "input"
    later: bool = False
    rule: Callable[[Order], Iterator[str]] = lambda _order: iter(())


class BadParts(ValueError):  # noqa: N818 - reads as what it is
    """What is wrong with a request, one sentence for each part."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__("; ".join(complaints))
        self.complaints = complaints


def read(path: str) -> Order:
    """The current request's parts, checked against the endpoint's table. Raises BadParts."""
    if request.mimetype != "multipart/form-data":
        raise BadParts(["content-type: must be multipart/form-data"])
    texts, files = request.form.to_dict(), {name: upload.read() for name, upload in request.files.items()}
    order = Order(path, texts, files)
    complaints = [*_repeated(), *_faults(order)]
    if not complaints:
        complaints = list(order.endpoint.rule(order))
    if complaints:
        raise BadParts(complaints)
    return order


def _repeated() -> Iterator[str]:
    for source in (request.form, request.files):
        yield from (f"{name}: must be given once" for name in source if len(source.getlist(name)) > 1)


def _faults(order: Order) -> Iterator[str]:
    endpoint = order.endpoint
    given: dict[str, str | bytes] = {**order.texts, **order.files}
    yield from (f"{name}: is required" for name in endpoint.required if name not in given)
    for name, value in given.items():
        part = endpoint.parts.get(name)
        complaint = "is not a known field" if part is None else _complaint(part, value)
        if complaint:
            yield f"{name}: {complaint}"


def _complaint(part: Part, value: str | bytes) -> str | None:
    if isinstance(part, Picture):
        return part.complaint(value) if isinstance(value, bytes) else "must be a file"
    return part.complaint(value) if isinstance(value, str) else "must not be a file"


def dimensions(blob: bytes) -> tuple[int, int] | None:
    """Width and height of a jpeg, png or webp; None where it is none."""
    try:
        check(blob)
        with Image.open(io.BytesIO(blob), formats=("PNG", "JPEG", "WEBP")) as picture:
            return picture.size
    except (NotAnImage, OSError, ValueError, SyntaxError):
        return None


# ---------------------------------------------------------------- what parts demand of each other


def _ultra(order: Order) -> Iterator[str]:
    if "image" in order.files and "strength" not in order.texts:
        yield "strength: is required with image"


def _sd3(order: Order) -> Iterator[str]:
    given = {*order.texts, *order.files}
    if order.texts.get("mode", "text-to-image") == "image-to-image":
        yield from (f"{name}: is required" for name in ("image", "strength") if name not in given)
        wrong = {"aspect_ratio"} & given
    else:
        wrong = {"image", "strength"} & given
    yield from (f"{name}: is not allowed in this mode" for name in sorted(wrong))
    if order.model == "sd3-large-turbo" and "negative_prompt" in given:
        yield "negative_prompt: is not allowed with sd3-large-turbo"


def _outpaint(order: Order) -> Iterator[str]:
    if not any(int(order.texts.get(side, "0")) for side in SIDES):
        yield "left: one of left, right, up and down must be more than 0"


def _relight(order: Order) -> Iterator[str]:
    given = {*order.texts, *order.files}
    if not given & {"background_prompt", "background_reference"}:
        yield "background_prompt: is required without background_reference"
    if "light_source_strength" in given and not given & {"light_source_direction", "light_reference"}:
        yield "light_source_strength: is allowed only with light_source_direction or light_reference"


# ---------------------------------------------------------------- the tables

SIDES = ("left", "right", "up", "down")
_SHARE = Number(0, 1)
_FORMAT: Parts = {"output_format": Choice(("png", "jpeg", "webp"))}
_SEEDED: Parts = {"seed": Number(0, SEED_MAX, whole=True), **_FORMAT}
_COMMON: Parts = {"negative_prompt": Words(least=0), **_SEEDED}
_PROMPT: Parts = {"prompt": Words()}
_STYLE: Parts = {"style_preset": Choice(STYLES)}
_RATIO: Parts = {"aspect_ratio": Choice(RATIOS)}
_PLAIN: Parts = {"image": Picture()}
_NARROW: Parts = {"image": Picture(narrow=True)}
_GROW: Parts = {"grow_mask": Number(0, 20, whole=True)}
_MASK: Parts = {"mask": Picture(edge=(1, 16_384), area=(1, 2**28)), **_GROW}
_SKETCH = Endpoint(5, ("image", "prompt"), {**_NARROW, **_PROMPT, "control_strength": _SHARE, **_STYLE, **_COMMON})
_MESH: Parts = {
    "image": Picture(edge=(1, 16_384), area=(4_096, 4_194_304)),
    "texture_resolution": Choice(("512", "1024", "2048")),
    "remesh": Choice(("none", "triangle", "quad")),
}
_SD3_CREDITS = {
    "sd3.5-large": 6.5,
    "sd3.5-large-turbo": 4,
    "sd3.5-medium": 3.5,
    "sd3-large": 6.5,
    "sd3-large-turbo": 4,
    "sd3-medium": 3.5,
}

ENDPOINTS: Mapping[str, Endpoint] = MappingProxyType({
    "stable-image/generate/core": Endpoint(
        3, ("prompt",), {**_PROMPT, **_RATIO, **_STYLE, **_COMMON}, makes="ratio_large"
    ),
    "stable-image/generate/ultra": Endpoint(
        8,
        ("prompt",),
        {
            **_PROMPT, **_RATIO, **_STYLE, **_COMMON, "strength": _SHARE,
            "image": Picture(area=(4_096, 2**28)),
        },
        makes="ratio",
        rule=_ultra,
    ),
    "stable-image/generate/sd3": Endpoint(
        6.5,
        ("prompt",),
        {
            **_PROMPT, **_RATIO, **_STYLE, **_COMMON, **_PLAIN, "strength": _SHARE,
            "mode": Choice(("text-to-image", "image-to-image")), "model": Choice(tuple(_SD3_CREDITS)),
            "cfg_scale": Number(1, 10), "output_format": Choice(("png", "jpeg")),
        },
        makes="ratio",
        rule=_sd3,
    ),
    "stable-image/edit/inpaint": Endpoint(
        5, ("image", "prompt"), {**_PLAIN, **_PROMPT, **_MASK, **_STYLE, **_COMMON}
    ),
    "stable-image/edit/erase": Endpoint(5, ("image",), {**_PLAIN, **_MASK, **_SEEDED}),
    "stable-image/edit/outpaint": Endpoint(
        4,
        ("image",),
        {
            **_NARROW, **{side: Number(0, 2000, whole=True) for side in SIDES}, "creativity": _SHARE,
            "prompt": Words(least=0), **_STYLE, **_SEEDED,
        },
        makes="padded",
        rule=_outpaint,
    ),
    "stable-image/edit/search-and-replace": Endpoint(
        5, ("image", "prompt", "search_prompt"),
        {**_NARROW, **_PROMPT, "search_prompt": Words(), **_GROW, **_STYLE, **_COMMON},
    ),
    "stable-image/edit/search-and-recolor": Endpoint(
        5, ("image", "prompt", "select_prompt"),
        {**_NARROW, **_PROMPT, "select_prompt": Words(), **_GROW, **_STYLE, **_COMMON},
    ),
    "stable-image/edit/remove-background": Endpoint(
        5, ("image",), {"image": Picture(area=(4_096, 4_194_304)), "output_format": Choice(("png", "webp"))}
    ),
    "stable-image/edit/replace-background-and-relight": Endpoint(
        8,
        ("subject_image",),
        {
            "subject_image": Picture(narrow=True), "background_reference": Picture(), "light_reference": Picture(),
            "background_prompt": Words(), "foreground_prompt": Words(),
            "light_source_direction": Choice(("left", "right", "above", "below")), "light_source_strength": _SHARE,
            "preserve_original_subject": _SHARE, "original_background_depth": _SHARE,
            "keep_original_background": Choice(("true", "false")), **_COMMON,
        },
        later=True,
        rule=_relight,
    ),
    "stable-image/upscale/fast": Endpoint(
        2, ("image",), {"image": Picture(edge=(32, 1536), area=(1_024, 1_048_576)), **_FORMAT}, makes="x4"
    ),
    "stable-image/upscale/conservative": Endpoint(
        40,
        ("image", "prompt"),
        {"image": Picture(area=(1, 9_437_184), narrow=True), **_PROMPT, "creativity": Number(0.2, 0.5), **_COMMON},
        makes="4mp",
    ),
    "stable-image/upscale/creative": Endpoint(
        60,
        ("image", "prompt"),
        {
            "image": Picture(area=(4_096, 1_048_576)), **_PROMPT, "creativity": Number(0.1, 0.35), **_STYLE,
            **_COMMON,
        },
        makes="4k",
        later=True,
    ),
    "stable-image/control/sketch": _SKETCH,
    "stable-image/control/structure": _SKETCH,
    "stable-image/control/style": Endpoint(
        5, ("image", "prompt"), {**_NARROW, **_PROMPT, **_RATIO, "fidelity": _SHARE, **_STYLE, **_COMMON}, makes="ratio"
    ),
    "stable-image/control/style-transfer": Endpoint(
        8,
        ("init_image", "style_image"),
        {
            "init_image": Picture(narrow=True), "style_image": Picture(narrow=True), "prompt": Words(least=0),
            "style_strength": _SHARE, "composition_fidelity": _SHARE, "change_strength": Number(0.1, 1), **_COMMON,
        },
    ),
    "3d/stable-fast-3d": Endpoint(
        10,
        ("image",),
        {**_MESH, "foreground_ratio": Number(0.1, 1), "vertex_count": Number(-1, 20_000, whole=True)},
        makes="glb",
    ),
    "3d/stable-point-aware-3d": Endpoint(
        4,
        ("image",),
        {
            **_MESH, "foreground_ratio": Number(1, 2), "target_type": Choice(("none", "vertex", "face")),
            "target_count": Number(100, 20_000, whole=True), "guidance_scale": Number(1, 10),
            "seed": _SEEDED["seed"],
        },
        makes="glb",
    ),
})  # fmt: skip

# Section 7: pixels of the 1 MP ratios. Which ones the real service gives is not documented.
_PIXELS = {
    "21:9": (1536, 640),
    "16:9": (1344, 768),
    "3:2": (1216, 832),
    "5:4": (1088, 896),
    "1:1": (1024, 1024),
    "4:5": (896, 1088),
    "2:3": (832, 1216),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}


def size_px(order: Order) -> tuple[int, int]:
    """Width and height of the result of a picture endpoint."""
    ratio = _PIXELS[order.texts.get("aspect_ratio", "1:1")]
    match order.endpoint.makes:
        case "ratio":
            return ratio
        case "ratio_large":
            return round(ratio[0] * 1.5**0.5 / 64) * 64, round(ratio[1] * 1.5**0.5 / 64) * 64
    return _from_input(order, *((dimensions(order.base) if order.base else None) or (1024, 1024)))


def _from_input(order: Order, width: int, height: int) -> tuple[int, int]:
    match order.endpoint.makes:
        case "padded":
            left, right, up, down = (int(order.texts.get(side, "0")) for side in SIDES)
            return width + left + right, height + up + down
        case "x4":
            return width * 4, height * 4
        case "4mp":
            return _of_area(width, height, 2048 * 2048)
        case "4k":
            return _of_area(width, height, 3840 * 2160)
    return width, height


def _of_area(width: int, height: int, area: int) -> tuple[int, int]:
    scale = (area / (width * height)) ** 0.5
    return round(width * scale), round(height * scale)
