"""Reading the size fields of an order, by rules that hold for every model.

A size can be given in four ways: ``size`` ("WxH", a ratio, "auto"), ``width`` + ``height``,
``aspect_ratio`` and ``resolution`` (a class such as "2K"); also ``factor`` for upscaling and
``left right top bottom`` for outpainting. Sides are pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from providers.orders.problems import Problem

SIDES = ("left", "right", "top", "bottom")
SIZE_FIELDS = ("size", "width", "height", "aspect_ratio", "resolution", "factor", *SIDES)
AUTO = "auto"
MAX_ASKED_PX = 16_384
MAX_ASKED_RATIO = 32
MAX_ASKED_FACTOR = 16
# Pixels and a ratio given together may differ by this much (natural logarithm), else one is a mistake.
SAME_RATIO_LOG = 0.03

_PIXELS = re.compile(r"(-?[0-9]{1,6})\s*[xX*×]\s*(-?[0-9]{1,6})")
_RATIO = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?)\s*[:/]\s*([0-9]{1,5}(?:\.[0-9]{1,3})?)")
_CLASS = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,2})?) ?(k|p|mp|sq|)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SizeRequest:
    """The size that the caller asked for, as far as it could be read. ``pixels`` are (width, height)."""

    pixels: tuple[int, int] | None = None
    ratio: Fraction | None = None
    ratio_text: str = ""
    ratio_field: str = ""
    auto: bool = False
    resolution: str | None = None
    factor: int | None = None
    sides: Mapping[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> Fraction | None:
        """Width by height, from the pixels or the ratio; None without both."""
        return Fraction(*self.pixels) if self.pixels else self.ratio


def read_size_request(given: Mapping[str, Any]) -> tuple[SizeRequest, list[Problem]]:
    """The size request in the fields that were set, and the problems with them that hold for every model."""
    reader = _Reader(given)
    ask = reader.read()
    return ask, reader.problems


def parse_pixels(text: str) -> tuple[int, int] | None:
    """ "1024x768" (also with "*" or "×") as (width, height); None for any other form."""
    found = _PIXELS.fullmatch(text.strip())
    return (int(found[1]), int(found[2])) if found else None


def parse_ratio(text: str) -> Fraction | None:
    """ "16:9" or "9:19.5" as a fraction; None for any other form or a zero."""
    found = _RATIO.fullmatch(text.strip())
    if not found or not float(found[1]) or not float(found[2]):
        return None
    return Fraction(found[1]) / Fraction(found[2])


def class_area_px(label: str) -> float | None:
    """About how many pixels a class means: 2K, 1080p, 768sq, 512, 0.5 MP; None if it is not a class.

    ``k`` and bare numbers are the side of a square, ``p`` the height of a 16:9 image.
    """
    found = _CLASS.fullmatch(label.strip())
    if not found:
        return None
    number, unit = float(found[1]), found[2].lower()
    return {"k": (number * 1024) ** 2, "p": number * number * 16 / 9, "mp": number * 1_000_000}.get(
        unit, number * number
    )


class _Reader:
    """Reads the fields once and collects the problems."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.problems: list[Problem] = []

    def read(self) -> SizeRequest:
        size, aspect = self._text("size"), self._text("aspect_ratio")
        pixels = self._agreed(self._pixels_in(size), self._sides_given())
        ratio_text = aspect if aspect and aspect.lower() != AUTO else self._ratio_in(size)
        ratio = self._ratio(ratio_text) if ratio_text else None
        if pixels and ratio and abs(math.log(pixels[0] / pixels[1] / ratio)) > SAME_RATIO_LOG:
            self._fault("aspect_ratio", "conflict", "does not agree with the width and height given")
        return SizeRequest(
            pixels=pixels,
            ratio=ratio,
            ratio_text=ratio_text or "",
            ratio_field="size" if ratio_text and ratio_text is not aspect else "aspect_ratio",
            auto=AUTO in {(size or "").lower(), (aspect or "").lower()},
            resolution=self._text("resolution"),
            factor=self._factor(),
            sides=dict(self._padding()),
        )

    def _fault(self, name: str, code: str, message: str) -> None:
        self.problems.append(Problem(name, code, message))

    def _text(self, name: str) -> str | None:
        value = self.given.get(name)
        if value is None or (isinstance(value, str) and value.strip()):
            return value.strip() if value is not None else None
        self._fault(name, "wrong_type", "must be a text that is not empty")
        return None

    def _whole(self, name: str) -> int | None:
        value = self.given.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._fault(name, "wrong_type", "must be a whole number")
            return None
        return value

    def _pixels_in(self, size: str | None) -> tuple[int, int] | None:
        if size is None or size.lower() == AUTO or _RATIO.fullmatch(size):
            return None
        pixels = parse_pixels(size)
        if pixels is None:
            self._fault("size", "wrong_type", "write it as 1024x768, as a ratio such as 4:3, or auto")
            return None
        return pixels if self._sane("size", *pixels) else None

    def _ratio_in(self, size: str | None) -> str | None:
        return size if size and _RATIO.fullmatch(size) else None

    def _sides_given(self) -> tuple[int, int] | None:
        width, height = self._whole("width"), self._whole("height")
        for name, other in (("width", "height"), ("height", "width")):
            if self.given.get(name) is None and self.given.get(other) is not None:
                self._fault(name, "required", f"is needed where {other} is given")
        if width is None or height is None:
            return None
        return (width, height) if self._sane("width", width, height) else None

    def _agreed(self, one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int] | None:
        if one and other and one != other:
            self._fault("size", "conflict", "does not agree with width and height; give one of the two")
        return one or other

    def _sane(self, name: str, width: int, height: int) -> bool:
        """Whether any model could make this size; the nearest size of one model is chosen later."""
        if min(width, height) < 1 or max(width, height) > MAX_ASKED_PX:
            self._fault(name, "out_of_range", f"each side must be 1 to {MAX_ASKED_PX} pixels")
            return False
        return self._sane_ratio(name, Fraction(width, height))

    def _sane_ratio(self, name: str, ratio: Fraction) -> bool:
        if Fraction(1, MAX_ASKED_RATIO) <= ratio <= MAX_ASKED_RATIO:
            return True
        self._fault(name, "out_of_range", f"no side may be more than {MAX_ASKED_RATIO} times the other")
        return False

    def _ratio(self, text: str) -> Fraction | None:
        name = "size" if _RATIO.fullmatch(str(self.given.get("size")).strip()) else "aspect_ratio"
        ratio = parse_ratio(text)
        if ratio is None:
            known = _RATIO.fullmatch(text)
            code = "out_of_range" if known else "wrong_type"
            self._fault(name, code, "write it as width:height, for example 16:9")
            return None
        return ratio if self._sane_ratio(name, ratio) else None

    def _factor(self) -> int | None:
        factor = self._whole("factor")
        if factor is not None and not 1 <= factor <= MAX_ASKED_FACTOR:
            self._fault("factor", "out_of_range", f"must be 1 to {MAX_ASKED_FACTOR}")
            return None
        return factor

    def _padding(self) -> Iterator[tuple[str, int]]:
        for name in SIDES:
            side = self._whole(name)
            if side is None:
                continue
            if 0 <= side <= MAX_ASKED_PX:
                yield name, side
            else:
                self._fault(name, "out_of_range", f"must be 0 to {MAX_ASKED_PX} pixels")
