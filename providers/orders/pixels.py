"""The nearest width and height within a model's limits. Sides and areas are pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

from providers.catalog.entries import PixelsRule

# Work is bounded even where an upstream states no limit, or a wider one than any image needs.
UNSTATED_MAX_EDGE = 8192
# How far, in steps of the grid, rounding looks around the ideal side.
REACH_STEPS = 1
# An image of the exact ratio is worth an area this much off the one wanted.
EXACT_AREA_FROM, EXACT_AREA_TO = 0.7, 1.5


@dataclass(frozen=True, slots=True)
class Limits:
    """Both sides on a grid of ``step``, each at least ``low``; ``high_*``, ratio and area bound them."""

    step: int
    low: int
    high_width: int
    high_height: int
    max_ratio: float
    min_area: int
    max_area: int

    def allow(self, width: int, height: int) -> bool:
        return (
            width % self.step == height % self.step == 0
            and self.low <= width <= self.high_width
            and self.low <= height <= self.high_height
            and max(width, height) <= self.max_ratio * min(width, height)
            and self.min_area <= width * height <= self.max_area
        )


def limits_of(rule: PixelsRule, *, max_width: int | None = None, max_height: int | None = None) -> Limits:
    """The limits of the rule, and of its model where that states further ones, drawn in to the grid."""
    step = rule.multiple_of
    edge = min(stated for stated in (rule.max, rule.max_edge, UNSTATED_MAX_EDGE) if stated is not None)
    low = -(-rule.min // step) * step
    high_width, high_height = (min(edge, most or edge) // step * step for most in (max_width, max_height))
    return Limits(
        step=step,
        low=low,
        high_width=high_width,
        high_height=high_height,
        max_ratio=rule.max_ratio or math.inf,
        min_area=rule.min_pixels or low * low,
        max_area=rule.max_pixels or high_width * high_height,
    )


@lru_cache(maxsize=4096)  # callers ask for the same few sizes again and again
def nearest_pixels(width: float, height: float, limits: Limits) -> tuple[int, int]:
    """The pair itself if allowed, else the allowed one that keeps the ratio best and the size next best."""
    width, height = _within_ratio(width, height, limits.max_ratio)
    width, height = _within_sides(width, height, limits)
    pairs = product(_near(width, limits), _near(height, limits))
    allowed = [pair for pair in pairs if limits.allow(*pair)]
    return min(allowed, key=lambda pair: _distance(pair, width, height))


def exact_ratio(ratio: Fraction, area: float, limits: Limits) -> tuple[int, int]:
    """A pair of about that area and exactly that ratio where the grid has one, else the nearest."""
    across, down = ratio.numerator, ratio.denominator
    step = math.lcm(limits.step // math.gcd(across, limits.step), limits.step // math.gcd(down, limits.step))
    times = max(1, round(math.sqrt(area / (across * down)) / step)) * step
    width, height = across * times, down * times
    if limits.allow(width, height) and EXACT_AREA_FROM <= width * height / area <= EXACT_AREA_TO:
        return width, height
    return nearest_pixels(math.sqrt(area * ratio), math.sqrt(area / ratio), limits)


def _within_ratio(width: float, height: float, most: float) -> tuple[float, float]:
    """The same area, no longer than ``most`` to one."""
    if max(width, height) <= most * min(width, height):
        return width, height
    long, short = math.sqrt(width * height * most), math.sqrt(width * height / most)
    return (long, short) if width > height else (short, long)


def _within_sides(width: float, height: float, limits: Limits) -> tuple[float, float]:
    """Scaled as little as possible; the sides are cut one by one only where no scale would do."""
    area = width * height
    at_least = max(limits.low / width, limits.low / height, math.sqrt(limits.min_area / area))
    at_most = min(limits.high_width / width, limits.high_height / height, math.sqrt(limits.max_area / area))
    scale = min(max(1.0, at_least), at_most)
    return (
        min(max(width * scale, limits.low), limits.high_width),
        min(max(height * scale, limits.low), limits.high_height),
    )


def _near(side: float, limits: Limits) -> range:
    """Sides on the grid around the ideal one."""
    middle = int(side // limits.step)
    return range((middle - REACH_STEPS) * limits.step, (middle + REACH_STEPS + 1) * limits.step + 1, limits.step)


def _distance(pair: tuple[int, int], width: float, height: float) -> float:
    wider, higher = math.log(pair[0] / width), math.log(pair[1] / height)
    return 2 * abs(wider - higher) + abs(wider) + abs(higher)  # a wrong shape is seen before a wrong size
