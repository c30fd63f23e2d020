"""What a canonical size says: its pixels, its ratio, its area, and the size as a text."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from providers.orders.size_requests import class_area_px, parse_pixels, parse_ratio

MEGAPIXEL_PX = 1024 * 1024

Used = dict[str, str | int]


def area_px(used: Mapping[str, str | int]) -> float:
    """About how many pixels an image of this canonical size has; one megapixel where it does not say."""
    if pixels := used_pixels(used):
        return pixels[0] * pixels[1]
    return class_area_px(str(used.get("resolution", ""))) or MEGAPIXEL_PX


def used_pixels(used: Mapping[str, str | int]) -> tuple[int, int] | None:
    """Width and height of a canonical size in pixels; None where it does not say them."""
    if "width" in used and "height" in used:
        return int(used["width"]), int(used["height"])
    return parse_pixels(str(used.get("size", "")))


def used_ratio(used: Mapping[str, str | int]) -> Fraction | None:
    """Width by height of a canonical size; None where it does not say it."""
    if pixels := used_pixels(used):
        return Fraction(*pixels)
    return parse_ratio(str(used.get("aspect_ratio", used.get("size", ""))))


def in_words(used: Used, *, with_class: bool) -> str:
    """The size as a caller reads it, for example "1024x768" or "16:9 at 2K"."""
    if pixels := used_pixels(used):
        return f"{pixels[0]}x{pixels[1]}"
    shape = str(used.get("size", used.get("aspect_ratio", "")))
    size_class = str(used.get("resolution", "")) if with_class else ""
    return " at ".join(part for part in (shape, size_class) if part)
