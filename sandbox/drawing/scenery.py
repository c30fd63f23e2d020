"""The scenery: small landscapes composed from a hash of the prompt and from its words (``scenery.yaml``).

Shapes are polygons in a unit square, (0, 0) at the upper left; ``compose`` scales them to the size asked.
"""

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
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


_DATA = yaml.safe_load(Path(__file__).with_name("scenery.yaml").read_text(encoding="utf-8"))
_ACCENTS: dict[str, Colour] = {word: tuple(colour) for word, colour in _DATA["accents"].items()}
_SCENERY_WORDS: dict[str, list[str]] = _DATA["scenery_words"]
PALETTES = {
    name: Palette(**{part: tuple(colour) for part, colour in colours.items()})
    for name, colours in _DATA["palettes"].items()
}


def generator(*parts: object) -> random.Random:
    """A random source that depends on nothing but ``parts``, on any machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def palette_for(prompt: str, dice: random.Random) -> Palette:
    """The palette a word names, else a rolled one; a colour word sets the accent."""
    words = _words_of(prompt)
    palette = PALETTES[_named(words, _DATA["palette_words"]) or dice.choice(sorted(PALETTES))]
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
    paint(_disc(dice, canvas_px), palette.accent)
    for layer in range(LAYERS):
        depth = layer / (LAYERS - 1)
        for polygon in scenery(depth, dice):
            paint(polygon, _blend(palette.far, palette.near, depth))
    return canvas.resize((width_px, height_px), Image.Resampling.BILINEAR)


def _words_of(prompt: str) -> list[str]:
    return [word.strip(".,;:!?\"'()").lower() for word in prompt.split()]


def _named(words: list[str], table: dict[str, list[str]]) -> str | None:
    """The first entry of the table that a word names."""
    return next((name for word in words for name, names in table.items() if word in names), None)


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
    """A sun in the accent colour, round whatever the shape of the image."""
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
