"""Which fields each FLUX model takes, and what FastAPI says about the others (contract sheet, sections 6 and 7)."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from sandbox.drawing.images import NotAnImage, check, dimensions

MEGAPIXEL = 2**20
FLUX_2_AREA_MAX_PX = 4 * MEGAPIXEL
FLUX_3_RATIOS = (
    "auto", "21:9", "2:1", "16:9", "3:2", "7:5", "4:3", "5:4", "1:1",
    "4:5", "3:4", "5:7", "2:3", "9:16", "1:2", "9:21",
)  # fmt: skip
FLUX_3_CLASSES = {"768sq": 768**2, "1k": MEGAPIXEL, "1.5k": 1536**2, "2k": 4 * MEGAPIXEL, "4k": 16 * MEGAPIXEL}
FLUX_3_PRICES = {"768sq": 4.1, "1k": 4.8, "1.5k": 10.0, "2k": 10.0, "4k": 60.7}  # 1.5k is a guess
_RATIO = re.compile(r"(\d{1,3}):(\d{1,3})")

Fault = tuple[str, str]  # pydantic's type of the fault, and its message


class BadBody(Exception):  # noqa: N818 - reads as what it is
    """422: a list of faults, each with ``loc``, ``msg`` and ``type``."""

    def __init__(self, faults: list[dict[str, object]]) -> None:
        super().__init__("422")
        self.faults = faults


class Check(Protocol):
    """What one field may hold."""

    def fault(self, value: Any) -> Fault | None:
        """What is wrong with ``value``, or None."""


@dataclass(frozen=True)
class Text:
    """A string of ``low`` to ``high`` characters."""

    low: int = 0
    high: int = 200_000

    def fault(self, value: Any) -> Fault | None:
        if not isinstance(value, str):
            return "string_type", "Input should be a valid string"
        if len(value) < self.low:
            return "string_too_short", f"String should have at least {self.low} character"
        if len(value) > self.high:
            return "string_too_long", f"String should have at most {self.high} characters"
        return None


@dataclass(frozen=True)
class Number:
    """A number within two ends; ``whole`` takes integers alone, in steps of ``step``."""

    low: float | None = None
    high: float | None = None
    whole: bool = False
    step: int = 1
    nullable: bool = False

    def fault(self, value: Any) -> Fault | None:
        if value is None and self.nullable:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return ("int_type", _valid("integer")) if self.whole else ("float_type", _valid("number"))
        if self.whole and not isinstance(value, int):
            return "int_from_float", "Input should be a valid integer, got a number with a fractional part"
        return self._limits_fault(value)

    def _limits_fault(self, value: float) -> Fault | None:
        if self.low is not None and value < self.low:
            return "greater_than_equal", f"Input should be greater than or equal to {self.low:g}"
        if self.high is not None and value > self.high:
            return "less_than_equal", f"Input should be less than or equal to {self.high:g}"
        if self.whole and value % self.step:
            return "multiple_of", f"Input should be a multiple of {self.step}"
        return None


def _valid(what: str) -> str:
    return f"Input should be a valid {what}"


@dataclass(frozen=True)
class Flag:
    """True or false, and nothing that reads like it."""

    def fault(self, value: Any) -> Fault | None:
        return None if isinstance(value, bool) else ("bool_type", _valid("boolean"))


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def fault(self, value: Any) -> Fault | None:
        if value in self.words:
            return None
        *others, last = (f"'{word}'" for word in self.words)
        return "enum", f"Input should be {', '.join(others)} or {last}"


@dataclass(frozen=True)
class Ratio:
    """``a:b`` from 21:9 to 9:21; any pair, not a list."""

    nullable: bool = False

    def fault(self, value: Any) -> Fault | None:
        if value is None and self.nullable:
            return None
        if not isinstance(value, str):
            return "string_type", _valid("string")
        found = _RATIO.fullmatch(value)
        if found is None or not 9 / 21 <= ratio_of(value) <= 21 / 9:
            return "value_error", "Value error, aspect ratio must be between 21:9 and 9:21"
        return None


def ratio_of(text: str) -> float:
    """Width by height of ``a:b``; 0 where it is none."""
    found = _RATIO.fullmatch(text)
    return int(found[1]) / int(found[2]) if found and int(found[2]) else 0.0


@dataclass(frozen=True)
class Link:
    """A URL, as ``webhook_url`` takes it."""

    def fault(self, value: Any) -> Fault | None:
        if not isinstance(value, str):
            return "url_type", "URL input should be a string or URL"
        if len(value) > 2083:
            return "url_too_long", "URL should have at most 2083 characters"
        is_url = urlsplit(value).scheme in ("http", "https") and bool(urlsplit(value).netloc)
        return None if is_url else ("url_parsing", "Input should be a valid URL, relative URL without a base")


@dataclass(frozen=True)
class Picture:
    """Bare base64 of a picture, or a link where the model takes one. Sides in pixels."""

    links: bool = False
    side_min_px: int = 1
    area_max_px: int = 20_000_000
    size_max_bytes: int = 20 * 2**20

    def fault(self, value: Any) -> Fault | None:
        if not isinstance(value, str):
            return "string_type", _valid("string")
        if value.startswith(("http://", "https://")):
            return None if self.links else ("value_error", "Value error, expected base64, not a URL")
        blob = blob_of(value)
        if blob is None:
            return "value_error", "Value error, invalid base64 image (no data: prefix is taken)"
        return self._size_fault(blob)

    def _size_fault(self, blob: bytes) -> Fault | None:
        try:
            check(blob)
            width_px, height_px = dimensions(blob)
        except NotAnImage:
            return "value_error", "Value error, the image could not be read"
        if min(width_px, height_px) < self.side_min_px:
            return "value_error", f"Value error, images must be at least {self.side_min_px}x{self.side_min_px} pixels"
        if width_px * height_px > self.area_max_px or len(blob) > self.size_max_bytes:
            return "value_error", "Value error, the image is too large"
        return None


@dataclass(frozen=True)
class Pictures:
    """One picture, or a list of one to ten."""

    each: Picture

    def fault(self, value: Any) -> Fault | None:
        items = value if isinstance(value, list) else [value]
        if not 1 <= len(items) <= 10:
            return "too_long", "List should have at least 1 and at most 10 items"
        return next((fault for item in items if (fault := self.each.fault(item))), None)


def blob_of(text: str) -> bytes | None:
    """The bytes of bare base64, or None: a link, a ``data:`` URI, or nonsense."""
    try:
        return base64.b64decode(text, validate=True) or None
    except (binascii.Error, ValueError):
        return None


@dataclass(frozen=True)
class Model:
    """One path. ``size`` names how the result's size follows; prices are in credits (US cents)."""

    fields: Mapping[str, Check]
    size: str
    price: float = 0.0
    price_per_mp: float = 0.0
    required: tuple[str, ...] = ()
    file_format: str = "jpeg"
    active_max: int = 24
    settles_late: bool = False


_COMMON: dict[str, Check] = {
    "seed": Number(whole=True, nullable=True),
    "output_format": Choice(("jpeg", "png", "webp")),
    "webhook_url": Link(),
    "webhook_secret": Text(),
}
_FLUX_1: dict[str, Check] = {
    **_COMMON,
    "prompt": Text(),
    "prompt_upsampling": Flag(),
    "safety_tolerance": Number(0, 6, whole=True),
}
_PIXELS_1: dict[str, Check] = {side: Number(256, 1440, whole=True, step=32) for side in ("width", "height")}
_PRO_1_1: dict[str, Check] = {**_FLUX_1, **_PIXELS_1, "image_prompt": Picture()}
_REPAINT: dict[str, Check] = {
    **_FLUX_1,
    "image": Picture(),
    "steps": Number(15, 50, whole=True),
    "guidance": Number(1.5, 100),
}


def _inputs(count: int) -> dict[str, Check]:
    """``input_image``, ``input_image_2`` ... as Kontext and FLUX.2 call them."""
    return {f"input_image{'' if place == 1 else f'_{place}'}": Picture(links=True) for place in range(1, count + 1)}


def _flux_2(inputs: int) -> dict[str, Check]:
    return {
        **_COMMON,
        **_inputs(inputs),
        "prompt": Text(),
        "width": Number(64, whole=True, step=16),
        "height": Number(64, whole=True, step=16),
        "safety_tolerance": Number(0, 5, whole=True),
    }


_KONTEXT: dict[str, Check] = {**_FLUX_1, **_inputs(4), "aspect_ratio": Ratio(nullable=True)}
_FLUX_2_LARGE: dict[str, Check] = {**_flux_2(8), "disable_pup": Flag()}
_FLEX: dict[str, Check] = {
    **_flux_2(8),
    "prompt_upsampling": Flag(),
    "guidance": Number(1.5, 10),
    "steps": Number(1, 50, whole=True),
    "input_image_blob_path": Text(),
}
_FLUX_3: dict[str, Check] = {
    "prompt": Text(1),
    "images": Pictures(Picture(links=True, side_min_px=256, area_max_px=16_000_000)),
    "aspect_ratio": Choice(FLUX_3_RATIOS),
    "resolution": Choice(tuple(FLUX_3_CLASSES)),
    "grounding": Flag(),
    "safety_tolerance": Number(0, 4, whole=True),
    "version": Text(1),
}
_PROMPT = ("prompt",)

MODELS: Mapping[str, Model] = {
    "flux-dev": Model(
        {**_PRO_1_1, "steps": Number(1, 50, whole=True), "guidance": Number(1.5, 5)}, size="pixels", price=2.5
    ),
    "flux-pro-1.1": Model(_PRO_1_1, size="pixels", price=4),
    "flux-pro-1.1-ultra": Model(
        {
            **_FLUX_1,
            "aspect_ratio": Ratio(),
            "raw": Flag(),
            "image_prompt": Picture(),
            "image_prompt_strength": Number(0, 1),
        },
        size="ultra",
        price=6,
    ),
    "flux-kontext-pro": Model(_KONTEXT, size="kontext", price=4, required=_PROMPT, file_format="png"),
    "flux-kontext-max": Model(_KONTEXT, size="kontext", price=8, required=_PROMPT, file_format="png", active_max=6),
    "flux-pro-1.0-fill": Model({**_REPAINT, "mask": Picture()}, size="input", price=5, required=("image",)),
    "flux-pro-1.0-expand": Model(
        {**_REPAINT, **{side: Number(0, 2048, whole=True) for side in ("top", "bottom", "left", "right")}},
        size="margins",
        price=5,
        required=("image",),
    ),
    "flux-2-pro": Model(_FLUX_2_LARGE, size="flux-2", price=3, price_per_mp=1.5, required=_PROMPT),
    "flux-2-pro-preview": Model(_FLUX_2_LARGE, size="flux-2", price=3, price_per_mp=1.5, required=_PROMPT),
    "flux-2-max": Model(_FLUX_2_LARGE, size="flux-2", price=7, price_per_mp=3, required=_PROMPT),
    "flux-2-flex": Model(_FLEX, size="flux-2", price=5, price_per_mp=5, required=_PROMPT),
    "flux-2-klein-4b": Model(_flux_2(4), size="flux-2", price=1.4, price_per_mp=0.1, required=_PROMPT),
    "flux-2-klein-9b": Model(_flux_2(4), size="flux-2", price=1.5, price_per_mp=0.2, required=_PROMPT),
    "flux-2-klein-9b-preview": Model(_flux_2(4), size="flux-2", price=1.5, price_per_mp=0.2, required=_PROMPT),
    "flux-3-image": Model(_FLUX_3, size="flux-3", required=_PROMPT, settles_late=True),
}


@dataclass(frozen=True)
class Order:
    """A body that passed. ``pictures`` are those that came as bytes, in the order of their fields."""

    name: str
    model: Model
    fields: Mapping[str, Any]
    pictures: tuple[bytes, ...] = field(repr=False, default=())
    mask: bytes | None = field(repr=False, default=None)

    @property
    def prompt(self) -> str:
        return str(self.fields.get("prompt", ""))

    def cost(self, *, output_mp: float, input_mp: float) -> float:
        """Credits: a price for the first megapixel, another for each more, going in or coming out."""
        if self.model.size == "flux-3":
            return FLUX_3_PRICES[self.fields.get("resolution", "1k")]
        further_mp = max(0.0, output_mp - 1) + input_mp
        return round(self.model.price + self.model.price_per_mp * further_mp, 2)


def read(name: str, document: Any) -> Order:
    """The order in a JSON body. Raises BadBody with every fault there is."""
    model = MODELS[name]
    if not isinstance(document, dict):
        raise BadBody([_told([], "model_attributes_type", "Input should be a valid dictionary or object")])
    faults = list(_faults(model, document))
    if faults:
        raise BadBody(faults)
    mask = blob_of(document["mask"]) if "mask" in document else None
    order = Order(name, model, document, tuple(_blobs(model, document)), mask)
    _check_together(order)
    return order


def _faults(model: Model, document: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    for name in model.required:
        if name not in document:
            yield _told([name], "missing", "Field required")
    for name, value in document.items():
        if name not in model.fields:
            # Sure of flux-3-image; the others seem to ignore it, but then nobody would notice here.
            yield _told([name], "extra_forbidden", "Extra inputs are not permitted")
        elif fault := model.fields[name].fault(value):
            yield _told([name], *fault)


def _told(place: list[str], kind: str, text: str) -> dict[str, object]:
    return {"type": kind, "loc": ["body", *place], "msg": text}


def _blobs(model: Model, document: Mapping[str, Any]) -> Iterator[bytes]:
    for name, kind in model.fields.items():
        if name != "mask" and name in document and isinstance(kind, Picture | Pictures):
            items = document[name] if isinstance(document[name], list) else [document[name]]
            yield from (blob for item in items if (blob := blob_of(item)) is not None)


def _check_together(order: Order) -> None:
    """What no field can be wrong about alone."""
    if order.mask is not None and dimensions(order.mask) != dimensions(order.pictures[0]):
        text = "Value error, image and mask must have the same size"
        raise BadBody([_told(["mask"], "value_error", text)])
    area_px = order.fields.get("width", 0) * order.fields.get("height", 0)
    if order.model.size == "flux-2" and area_px > FLUX_2_AREA_MAX_PX:
        raise BadBody([_told(["width"], "value_error", "Value error, at most 4 megapixels")])
