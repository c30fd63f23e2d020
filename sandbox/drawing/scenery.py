"""The scenery: small landscapes composed from a hash of the prompt, helped along by its words.

Shapes are polygons in a unit square, (0, 0) at the upper left; ``compose`` scales them to the size asked.
"""

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Polygon = list[tuple[float, float]]

# A large scene is drawn small and enlarged, which softens every edge and costs a quarter of the time.
CANVAS_EDGE_MIN_PX, CANVAS_EDGE_MAX_PX = 256, 512
LAYERS = 4


@dataclass(frozen=True)
class Palette:
    """Colours of one image: sky from ``top`` to ``low``, land from ``far`` to ``near``, one ``accent``."""

    top: Colour
    low: Colour
    far: Colour
    near: Colour
    light: Colour
    accent: Colour


PALETTES: dict[str, Palette] = {
    "dawn": Palette((58, 76, 140), (255, 190, 150), (150, 120, 160), (52, 50, 84), (255, 236, 190), (226, 74, 66)),
    "day": Palette((54, 132, 214), (206, 236, 250), (124, 178, 150), (34, 96, 72), (255, 246, 200), (232, 92, 52)),
    "dusk": Palette((46, 34, 92), (240, 120, 96), (120, 66, 120), (34, 22, 58), (255, 206, 120), (250, 150, 60)),
    "night": Palette((8, 12, 36), (40, 60, 112), (36, 48, 86), (10, 14, 30), (236, 240, 255), (250, 210, 110)),
    "frost": Palette((92, 130, 180), (232, 242, 250), (190, 210, 230), (96, 126, 160), (255, 255, 255), (214, 64, 84)),
}
# A word of the prompt may choose the palette, the scenery, the hero or the accent; all else is left to the hash.
_PALETTE_WORDS = {
    "night": "night moon stars space dark",
    "dawn": "dawn sunrise morning",
    "dusk": "dusk sunset evening autumn",
    "frost": "snow winter ice",
    "day": "day sunny noon summer",
}
_SCENERY_WORDS = {
    "sea": "sea ocean lake river boat ship harbour harbor beach lighthouse",
    "city": "city street town skyline tower",
    "forest": "forest tree trees wood woods",
    "peaks": "mountain mountains snow alps",
    "hills": "hill hills field desert",
}
_HERO_WORDS = {
    "kite": "kite bird birds balloon",
    "boat": "boat ship sea",
    "house": "house home cabin lighthouse",
    "star": "star stars moon",
}
_ACCENTS: dict[str, Colour] = {
    "red": (214, 48, 49), "orange": (240, 132, 40), "yellow": (250, 208, 60), "green": (46, 160, 90),
    "blue": (44, 108, 214), "purple": (132, 72, 190), "pink": (240, 120, 170), "white": (250, 250, 250),
    "black": (24, 24, 28), "gold": (222, 178, 70), "golden": (222, 178, 70), "teal": (30, 150, 150),
}  # fmt: skip


def generator(*parts: object) -> random.Random:
    """A random source that depends on nothing but ``parts``, on any machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def palette_for(prompt: str, dice: random.Random) -> Palette:
    """The palette a word names, else a rolled one; a colour word sets the accent."""
    words = _words_of(prompt)
    palette = PALETTES[_named(words, _PALETTE_WORDS) or dice.choice(sorted(PALETTES))]
    return replace(palette, accent=next((_ACCENTS[word] for word in words if word in _ACCENTS), palette.accent))


def compose(prompt: str, *, width_px: int, height_px: int, dice: random.Random, transparent: bool) -> Image.Image:
    """The scene in the size asked, without words: RGB, or RGBA with an empty sky when ``transparent``."""
    palette, words = palette_for(prompt, dice), _words_of(prompt)
    edge_px = max(width_px, height_px)
    scale = min(CANVAS_EDGE_MAX_PX, max(CANVAS_EDGE_MIN_PX, edge_px * 1.2)) / edge_px
    canvas_px = (max(8, round(width_px * scale)), max(8, round(height_px * scale)))
    canvas = Image.new("RGBA", canvas_px) if transparent else _sky(palette, canvas_px)
    pen = ImageDraw.Draw(canvas)

    def paint(polygon: Polygon, colour: Colour) -> None:
        pen.polygon([(x * canvas_px[0], y * canvas_px[1]) for x, y in polygon], fill=colour)

    scenery = SCENERY[_named(words, _SCENERY_WORDS) or dice.choice(sorted(SCENERY))]
    hero = _named(words, _HERO_WORDS) or dice.choice(_IN_THE_SKY)
    paint(_disc(dice, canvas_px), palette.light)
    for layer in range(LAYERS):
        depth = layer / (LAYERS - 1)
        for polygon in scenery(depth, dice):
            paint(polygon, _blend(palette.far, palette.near, depth))
    for polygon, light in _placed(hero, dice, canvas_px):
        paint(polygon, _blend(palette.accent, palette.light, light))
    return canvas.resize((width_px, height_px), Image.Resampling.BILINEAR)


def _words_of(prompt: str) -> list[str]:
    return [word.strip(".,;:!?\"'()").lower() for word in prompt.split()]


def _named(words: list[str], table: dict[str, str]) -> str | None:
    """The first entry of the table that a word names."""
    return next((name for word in words for name, names in table.items() if word in names.split()), None)


def _sky(palette: Palette, size_px: tuple[int, int]) -> Image.Image:
    """A vertical gradient."""
    ramp = Image.linear_gradient("L").resize(size_px, Image.Resampling.BILINEAR)
    ends = zip(palette.top, palette.low, strict=True)
    bands = [ramp.point([top + (low - top) * step // 255 for step in range(256)]) for top, low in ends]
    return Image.merge("RGB", bands)


def _blend(one: Colour, other: Colour, share: float) -> Colour:
    """``one`` at share 0, ``other`` at share 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _box(left: float, top: float, right: float, bottom: float = 1.0) -> Polygon:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _disc(dice: random.Random, size_px: tuple[int, int]) -> Polygon:
    """Sun or moon, round whatever the shape of the image."""
    x, y, radius = dice.uniform(0.15, 0.85), dice.uniform(0.14, 0.34), dice.uniform(0.06, 0.12) * min(size_px)
    turns = [step * math.tau / 48 for step in range(48)]
    return [(x + radius * math.cos(t) / size_px[0], y + radius * math.sin(t) / size_px[1]) for t in turns]


# ---------------------------------------------------------------- one layer of land each, depth 0 (far) to 1 (near)


def _hills(depth: float, dice: random.Random) -> list[Polygon]:
    phase, waves = dice.uniform(0, math.tau), dice.uniform(0.8, 2.2)
    ridge = [(x / 64, 0.48 + 0.36 * depth + 0.06 * math.sin(phase + waves * math.tau * x / 64)) for x in range(65)]
    return [[*ridge, (1, 1), (0, 1)]]


def _sea(depth: float, dice: random.Random) -> list[Polygon]:
    horizon = 0.54 + 0.4 * depth
    glints = [(dice.random(), horizon - dice.uniform(0.01, 0.1)) for _ in range(9 if depth else 0)]
    return [_box(0, horizon, 1), *(_box(x, y, x + 0.06, y + 0.004) for x, y in glints)]


def _city(depth: float, dice: random.Random) -> list[Polygon]:
    edges = [step / 11 for step in range(12)]
    return [_box(x, 0.3 + 0.4 * depth + dice.uniform(0, 0.2), x + 0.08) for x in edges]


def _triangles(count: int, half: float, tall: float) -> Callable[[float, random.Random], list[Polygon]]:
    """Peaks or pines: ``count`` triangles on a ground line, all about ``half`` as wide and ``tall`` high."""

    def layer(depth: float, dice: random.Random) -> list[Polygon]:
        ground, shapes = 0.55 + 0.35 * depth, [_box(0, 0.55 + 0.35 * depth, 1)]
        for _ in range(count):
            x, wide, high = dice.random(), half * dice.uniform(0.7, 1.3), tall * dice.uniform(0.7, 1.3)
            shapes.append([(x - wide, ground), (x, ground - high), (x + wide, ground)])
        return shapes

    return layer


SCENERY: dict[str, Callable[[float, random.Random], list[Polygon]]] = {
    "hills": _hills,
    "peaks": _triangles(4, 0.22, 0.24),
    "sea": _sea,
    "city": _city,
    "forest": _triangles(16, 0.035, 0.2),
}
# Each a few polygons about (0, 0), in units of its own size, with how light its colour is.
HEROES: dict[str, list[tuple[Polygon, float]]] = {
    "kite": [([(0, -1), (0.8, 0), (0, 1.5), (-0.8, 0)], 0.0), ([(0, -1), (0.8, 0), (0, 0)], 0.45)],
    "boat": [([(-1, 1), (1, 1), (0.6, 1.5), (-0.6, 1.5)], 0.0), ([(0, -1), (0, 0.9), (0.9, 0.9)], 0.6)],
    "house": [(_box(-1, 0, 1, 1.3), 0.7), ([(-1.25, 0), (0, -1), (1.25, 0)], 0.0), (_box(-0.2, 0.6, 0.2, 1.3), 0.0)],
    "star": [([(0, -1.2), (0.9, 0.6), (-0.9, 0.6)], 0.0), ([(0, 1.2), (0.9, -0.6), (-0.9, -0.6)], 0.0)],
}


_IN_THE_SKY = ("kite", "star")


def _placed(hero: str, dice: random.Random, size_px: tuple[int, int]) -> list[tuple[Polygon, float]]:
    """The hero in its own proportions, in the sky or on the land."""
    x, y = dice.uniform(0.25, 0.75), dice.uniform(0.26, 0.42) if hero in _IN_THE_SKY else 0.52
    across, down = (0.09 * min(size_px) / side for side in size_px)
    return [([(x + across * px, y + down * py) for px, py in shape], light) for shape, light in HEROES[hero]]
