"""The nearest width and height within a model's limits. Sides and areas are pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

from providers.catalog.size_rules import PixelsRule

# The limit where an upstream states none, or one larger than any image needs.
UNSTATED_MAX_SIDE_PX = 8192
# How many steps of the grid around the ideal side are tried.
REACH_STEPS = 1
# For the exact ratio, an area may be this share of the requested one.
EXACT_AREA_MIN_SHARE, EXACT_AREA_MAX_SHARE = 0.7, 1.5


@dataclass(frozen=True, slots=True)
class PixelLimits:
    """What a width and height must keep to: both on a grid of ``step_px``, and within sides, ratio and area."""

    step_px: int
    min_side_px: int
    max_width_px: int
    max_height_px: int
    max_ratio: float
    min_area_px: int
    max_area_px: int

    def allow(self, width: int, height: int) -> bool:
        """Whether a model makes this width and height, in pixels."""
        return (
            width % self.step_px == height % self.step_px == 0
            and self.min_side_px <= width <= self.max_width_px
            and self.min_side_px <= height <= self.max_height_px
            and max(width, height) <= self.max_ratio * min(width, height)
            and self.min_area_px <= width * height <= self.max_area_px
        )


def limits_of(rule: PixelsRule, *, max_width: int | None = None, max_height: int | None = None) -> PixelLimits:
    """The limits of the rule, and of its model where that states its own, rounded inwards to the grid."""
    step = rule.multiple_of
    edge = min(stated for stated in (rule.max, rule.max_edge, UNSTATED_MAX_SIDE_PX) if stated is not None)
    min_side_px = -(-rule.min // step) * step
    max_width_px, max_height_px = (min(edge, most or edge) // step * step for most in (max_width, max_height))
    return PixelLimits(
        step_px=step,
        min_side_px=min_side_px,
        max_width_px=max_width_px,
        max_height_px=max_height_px,
        max_ratio=rule.max_ratio or math.inf,
        min_area_px=rule.min_pixels or min_side_px * min_side_px,
        max_area_px=rule.max_pixels or max_width_px * max_height_px,
    )


@lru_cache(maxsize=4096)  # callers ask for the same few sizes again and again
def nearest_pixels(width: float, height: float, limits: PixelLimits) -> tuple[int, int]:
    """Width and height themselves if allowed, else the allowed pair that keeps the ratio best, then the size."""
    width, height = _within_ratio(width, height, limits.max_ratio)
    width, height = _within_sides(width, height, limits)
    pairs = product(_near(width, limits), _near(height, limits))
    allowed = [pair for pair in pairs if limits.allow(*pair)]
    return min(allowed, key=lambda pair: _distance(pair, width, height))


def exact_ratio(ratio: Fraction, area_px: float, limits: PixelLimits) -> tuple[int, int]:
    """Width and height of about that area and exactly that ratio if the grid has them, else the nearest."""
    across, down = ratio.numerator, ratio.denominator
    grid_px = limits.step_px
    step = math.lcm(grid_px // math.gcd(across, grid_px), grid_px // math.gcd(down, grid_px))
    times = max(1, round(math.sqrt(area_px / (across * down)) / step)) * step
    width, height = across * times, down * times
    if limits.allow(width, height) and EXACT_AREA_MIN_SHARE <= width * height / area_px <= EXACT_AREA_MAX_SHARE:
        return width, height
    return nearest_pixels(math.sqrt(area_px * ratio), math.sqrt(area_px / ratio), limits)


def _within_ratio(width: float, height: float, most: float) -> tuple[float, float]:
    """The same area with a ratio of at most ``most`` to one."""
    if max(width, height) <= most * min(width, height):
        return width, height
    long, short = math.sqrt(width * height * most), math.sqrt(width * height / most)
    return (long, short) if width > height else (short, long)


def _within_sides(width: float, height: float, limits: PixelLimits) -> tuple[float, float]:
    """Scaled as little as possible; the sides are clamped one by one only where scaling is not enough."""
    area = width * height
    at_least = max(limits.min_side_px / width, limits.min_side_px / height, math.sqrt(limits.min_area_px / area))
    at_most = min(limits.max_width_px / width, limits.max_height_px / height, math.sqrt(limits.max_area_px / area))
    scale = min(max(1.0, at_least), at_most)
    return (
        min(max(width * scale, limits.min_side_px), limits.max_width_px),
        min(max(height * scale, limits.min_side_px), limits.max_height_px),
    )


def _near(side: float, limits: PixelLimits) -> range:
    """Sides on the grid around the ideal one."""
    grid_px = limits.step_px
    middle = int(side // grid_px)
    return range((middle - REACH_STEPS) * grid_px, (middle + REACH_STEPS + 1) * grid_px + 1, grid_px)


def _distance(pair: tuple[int, int], width: float, height: float) -> float:
    wider, higher = math.log(pair[0] / width), math.log(pair[1] / height)
    return 2 * abs(wider - higher) + abs(wider) + abs(higher)  # a wrong shape is worse than a wrong size
