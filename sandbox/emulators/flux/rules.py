"""Which fields each FLUX model takes, by ``schemas.yaml``, and what FastAPI says about the others.

Source: providers/upstreams/flux/CONTRACT.md, sections 6 and 7.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from flask import Response

from sandbox.drawing.images import dimensions
from sandbox.emulators.field_lists import schema_of
from sandbox.plumbing.calls import WireError, json_answer
from sandbox.plumbing.inputs import BadInput, image_in_base64
from sandbox.plumbing.pydantic_words import said_of
from sandbox.plumbing.validation import Problem, Schema, load_yaml

_DATA = load_yaml(__file__, "schemas.yaml")
MEGAPIXEL = 2**20
FLUX_2_AREA_MAX_PX = 4 * MEGAPIXEL
INPUT_AREA_MAX_PX, INPUT_BYTES_MAX = 20_000_000, 20 * 2**20
ACTIVE_MAX = 24
_RATIO = re.compile(r"(\d{1,3}):(\d{1,3})")
_LINKS = ("http://", "https://")


class BadBody(WireError):  # noqa: N818 - reads as what it is
    """422: a list of faults, each with ``loc``, ``msg`` and ``type``."""

    def __init__(self, *faults: dict[str, object]) -> None:
        super().__init__("422")
        self._faults = faults

    def response(self) -> Response:
        """``{"detail": [...]}``: every fault with its place."""
        return json_answer({"detail": self._faults}, 422)


def fault_at(*place: str, kind: str, text: str) -> dict[str, object]:
    """One fault, as FastAPI tells it."""
    return {"type": kind, "loc": [step for step in place if step], "msg": text}


# ---------------------------------------------------------------- the schemas and the checks of their own keywords


def _image_fault(bounds: Mapping[str, Any], value: object) -> str | None:
    if not isinstance(value, str):
        return None
    if value.startswith(_LINKS):
        return None if bounds.get("links") else "expected base64, not a URL"
    try:
        blob = image_in_base64(value)
    except BadInput as error:
        is_broken = error.why == "base64"
        return "invalid base64 image (no data: prefix is taken)" if is_broken else "the image could not be read"
    side_min_px = bounds.get("side_min_px", 1)
    width_px, height_px = dimensions(blob)
    if min(width_px, height_px) < side_min_px:
        return f"images must be at least {side_min_px}x{side_min_px} pixels"
    too_large = width_px * height_px > bounds.get("area_max_px", INPUT_AREA_MAX_PX) or len(blob) > INPUT_BYTES_MAX
    return "the image is too large" if too_large else None


def _ratio_fault(_limit: object, value: object) -> str | None:
    fits = not isinstance(value, str) or 9 / 21 <= ratio_of(value) <= 21 / 9
    return None if fits else "aspect ratio must be between 21:9 and 9:21"


def _link_fault(_limit: object, value: object) -> str | None:
    fits = not isinstance(value, str) or (value.startswith(_LINKS) and urlsplit(value).netloc)
    return None if fits else "no URL"


def ratio_of(text: str) -> float:
    """Width by height of ``a:b``; 0 where it is none."""
    found = _RATIO.fullmatch(text)
    return int(found[1]) / int(found[2]) if found and int(found[2]) else 0.0


_CHECKS = {"x-image": _image_fault, "x-ratio": _ratio_fault, "x-link": _link_fault}


@dataclass(frozen=True)
class Model:
    """One path. ``size`` names how the result's size follows; prices are in credits (US cents)."""

    name: str
    schema: Schema
    size: str
    price: float = 0.0
    price_per_mp: float = 0.0
    prices: Mapping[str, float] = field(default_factory=dict)
    file_format: str = "jpeg"
    active_max: int = ACTIVE_MAX

    @property
    def image_fields(self) -> list[str]:
        """The fields that hold an image, or several; a mask is none."""
        return [name for name, part in self.schema.properties.items() if "x-image" in part and name != "mask"]


def _model(name: str, takes: list[Any], **facts: Any) -> Model:
    document = schema_of(takes, _DATA["fields"])
    return Model(name, Schema(document, checks=_CHECKS, first=("required",), by="request"), **facts)


MODELS = {name: _model(name, **entry) for name, entry in _DATA["models"].items()}


# ---------------------------------------------------------------- orders


@dataclass(frozen=True)
class Order:
    """A body that passed. ``images`` are those that came as bytes, in the order of their fields."""

    model: Model
    fields: Mapping[str, Any]
    images: tuple[bytes, ...] = field(repr=False, default=())
    mask: bytes | None = field(repr=False, default=None)

    @property
    def prompt(self) -> str:
        return str(self.fields.get("prompt", ""))

    def cost(self, *, output_mp: float, input_mp: float) -> float:
        """Credits: a price for the first megapixel, another for each more, going in or coming out."""
        if self.model.prices:
            return self.model.prices[self.fields.get("resolution", "1k")]
        further_mp = max(0.0, output_mp - 1) + input_mp
        return round(self.model.price + self.model.price_per_mp * further_mp, 2)


def read(name: str, document: Any) -> Order:
    """The order in a JSON body. Raises BadBody with every fault there is."""
    model = MODELS[name]
    faults: dict[str, dict[str, object]] = {}
    for problem in model.schema.problems(document):
        faults.setdefault(problem.top, _fault(problem))
    if faults:
        raise BadBody(*faults.values())
    images = [blob for taker in model.image_fields for blob in _blobs(document.get(taker, []))]
    order = Order(model, document, tuple(images), next(_blobs(document.get("mask", [])), None))
    _check_together(order)
    return order


def _fault(problem: Problem) -> dict[str, object]:
    kind, text = said_of(problem)
    return fault_at("body", problem.top, kind=kind, text=text)


def _blobs(given: str | list[str]) -> Iterator[bytes]:
    """The images of a field that came as bytes."""
    for text in given if isinstance(given, list) else [given]:
        if not text.startswith(_LINKS):
            yield image_in_base64(text)


def _check_together(order: Order) -> None:
    """What no field can be wrong about alone."""
    if order.mask is not None and dimensions(order.mask) != dimensions(order.images[0]):
        text = "Value error, image and mask must have the same size"
        raise BadBody(fault_at("body", "mask", kind="value_error", text=text))
    area_px = order.fields.get("width", 0) * order.fields.get("height", 0)
    if order.model.size == "flux-2" and area_px > FLUX_2_AREA_MAX_PX:
        raise BadBody(fault_at("body", "width", kind="value_error", text="Value error, at most 4 megapixels"))
