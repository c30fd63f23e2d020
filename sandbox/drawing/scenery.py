"""The scenery: small landscapes composed from a hash of the prompt, helped along by its words."""

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

# A large scene is drawn small and enlarged, which softens every edge and costs a quarter of the time.
CANVAS_EDGE_MIN_PX, CANVAS_EDGE_MAX_PX = 256, 512


@dataclass(frozen=True)
class Palette:
    """Colours of one picture: sky from ``top`` to ``low``, land from ``far`` to ``near``, one ``accent``."""

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
    "mint": Palette((44, 120, 124), (226, 244, 214), (120, 176, 150), (24, 78, 78), (255, 252, 226), (238, 108, 96)),
    "sand": Palette((112, 150, 190), (250, 224, 180), (222, 170, 110), (148, 88, 52), (255, 244, 210), (190, 60, 48)),
    "frost": Palette((92, 130, 180), (232, 242, 250), (190, 210, 230), (96, 126, 160), (255, 255, 255), (214, 64, 84)),
}
_HASHED_PALETTES = ("dawn", "day", "dusk", "mint", "sand")

# A word of the prompt may choose the palette, the scenery or the accent; all else is left to the hash.
_PALETTE_WORDS = {
    "night": "night", "moon": "night", "stars": "night", "space": "night", "dark": "night",
    "dawn": "dawn", "sunrise": "dawn", "morning": "dawn", "dusk": "dusk", "sunset": "dusk", "evening": "dusk",
    "snow": "frost", "winter": "frost", "ice": "frost", "desert": "sand", "beach": "sand", "day": "day",
    "sunny": "day", "noon": "day",
}  # fmt: skip
_SCENERY_WORDS = {
    "sea": "sea", "ocean": "sea", "lake": "sea", "river": "sea", "boat": "sea", "ship": "sea",
    "harbour": "sea", "harbor": "sea", "beach": "sea", "lighthouse": "sea",
    "city": "city", "street": "city", "town": "city", "skyline": "city", "tower": "city",
    "forest": "forest", "tree": "forest", "trees": "forest", "wood": "forest", "woods": "forest",
    "mountain": "peaks", "mountains": "peaks", "snow": "peaks", "alps": "peaks",
    "desert": "hills", "hill": "hills", "hills": "hills", "field": "hills",
}  # fmt: skip
_ACCENT_WORDS: dict[str, Colour] = {
    "red": (214, 48, 49), "orange": (240, 132, 40), "yellow": (250, 208, 60), "green": (46, 160, 90),
    "blue": (44, 108, 214), "purple": (132, 72, 190), "pink": (240, 120, 170), "white": (250, 250, 250),
    "black": (24, 24, 28), "gold": (222, 178, 70), "golden": (222, 178, 70), "teal": (30, 150, 150),
}  # fmt: skip
_HERO_WORDS = {
    "kite": "kite", "balloon": "balloon", "moon": "moon", "boat": "boat", "ship": "boat", "house": "house",
    "home": "house", "cabin": "house", "lighthouse": "lighthouse", "tree": "pine", "bird": "birds",
    "birds": "birds", "star": "star",
}  # fmt: skip


def generator(*parts: object) -> random.Random:
    """A random source that depends on nothing but ``parts``, on any machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def words_of(prompt: str) -> list[str]:
    """Lower-case words, punctuation stripped."""
    return [word.strip(".,;:!?\"'()").lower() for word in prompt.split()]


def palette_for(prompt: str, dice: random.Random) -> Palette:
    """The palette a word names, else one of the daylight ones; a colour word sets the accent."""
    words = words_of(prompt)
    rolled = dice.choice(_HASHED_PALETTES)
    palette = PALETTES[next((_PALETTE_WORDS[w] for w in words if w in _PALETTE_WORDS), rolled)]
    accent = next((_ACCENT_WORDS[w] for w in words if w in _ACCENT_WORDS), palette.accent)
    return Palette(palette.top, palette.low, palette.far, palette.near, palette.light, accent)


def compose(prompt: str, *, width_px: int, height_px: int, dice: random.Random, transparent: bool) -> Image.Image:
    """The scene in the size asked, without words: RGB, or RGBA with an empty sky when ``transparent``."""
    palette = palette_for(prompt, dice)
    edge_px = max(width_px, height_px)
    scale = min(CANVAS_EDGE_MAX_PX, max(CANVAS_EDGE_MIN_PX, edge_px * 1.2)) / edge_px
    canvas_px = (max(8, round(width_px * scale)), max(8, round(height_px * scale)))
    canvas = Image.new("RGBA", canvas_px, (0, 0, 0, 0)) if transparent else sky(palette, canvas_px)
    _furnish(ImageDraw.Draw(canvas), words_of(prompt), palette, canvas_px, dice)
    return canvas.resize((width_px, height_px), Image.Resampling.BILINEAR)


def sky(palette: Palette, size_px: tuple[int, int]) -> Image.Image:
    """A vertical gradient."""
    ramp = Image.linear_gradient("L").resize(size_px, Image.Resampling.BILINEAR)
    bands = [
        ramp.point([top + (low - top) * step // 255 for step in range(256)])
        for top, low in zip(palette.top, palette.low, strict=True)
    ]
    return Image.merge("RGB", bands)


def blend(one: Colour, other: Colour, share: float) -> Colour:
    """``one`` at share 0, ``other`` at share 1."""
    mixed = [round(a + (b - a) * share) for a, b in zip(one, other, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def _furnish(
    pen: ImageDraw.ImageDraw,
    words: list[str],
    palette: Palette,
    size_px: tuple[int, int],
    dice: random.Random,
) -> None:
    rolled_scenery, rolled_hero = dice.choice(sorted(SCENERY)), dice.choice(sorted(HEROES))
    if palette.top == PALETTES["night"].top:
        _stars(pen, palette, size_px, dice)
    _disc(pen, palette, size_px, dice)
    scenery = next((_SCENERY_WORDS[w] for w in words if w in _SCENERY_WORDS), rolled_scenery)
    SCENERY[scenery](pen, palette, size_px, dice)
    hero = next((_HERO_WORDS[w] for w in words if w in _HERO_WORDS), rolled_hero)
    HEROES[hero](pen, palette, size_px, dice)


def _stars(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    for _ in range(60):
        x, y, radius = dice.uniform(0, size_px[0]), dice.uniform(0, size_px[1] * 0.6), dice.uniform(0.5, 1.6)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=palette.light)


def _disc(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    width, height = size_px
    x, y = width * dice.uniform(0.15, 0.85), height * dice.uniform(0.14, 0.34)
    radius = min(size_px) * dice.uniform(0.06, 0.12)
    halo = blend(palette.light, blend(palette.top, palette.low, y / height), 0.65)
    for reach, colour in ((1.5, halo), (1.0, palette.light)):
        pen.ellipse((x - radius * reach, y - radius * reach, x + radius * reach, y + radius * reach), fill=colour)


def _ridge(width: int, base: float, swing: float, dice: random.Random) -> list[tuple[float, float]]:
    phases = [(dice.uniform(0, 6.3), dice.uniform(0.6, 1.6) * (k + 1)) for k in range(3)]
    return [
        (
            x,
            base + swing * sum(math.sin(p + f * 6.3 * x / width) / (k + 1) for k, (p, f) in enumerate(phases)),
        )
        for x in range(0, width + 4, 4)
    ]


def _hills(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    width, height = size_px
    for layer in range(4):
        line = _ridge(width, height * (0.48 + 0.12 * layer), height * 0.05, dice)
        pen.polygon([*line, (width, height), (0, height)], fill=blend(palette.far, palette.near, layer / 3))


def _peaks(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    width, height = size_px
    for layer in range(3):
        colour, base = blend(palette.far, palette.near, layer / 2), height * (0.6 + 0.13 * layer)
        for _ in range(4):
            x, half, top = (
                dice.uniform(0, width),
                width * dice.uniform(0.14, 0.3),
                height * dice.uniform(0.14, 0.3),
            )
            pen.polygon([(x - half, base), (x, base - top), (x + half, base)], fill=colour)
            cap = [(x - half * 0.2, base - top * 0.8), (x, base - top), (x + half * 0.2, base - top * 0.8)]
            pen.polygon(cap, fill=blend(colour, palette.light, 0.7))
        pen.rectangle((0, base, width, height), fill=colour)


def _sea(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    width, height = size_px
    horizon = height * dice.uniform(0.5, 0.58)
    bands = 16
    for band in range(bands):
        top = horizon + (height - horizon) * band / bands
        pen.rectangle((0, top, width, height), fill=blend(palette.far, palette.near, band / bands))
    for _ in range(46):
        y = horizon + (height - horizon) * dice.random() ** 1.6
        x, length = dice.uniform(0, width), width * dice.uniform(0.02, 0.1)
        pen.line((x, y, x + length, y), fill=blend(palette.low, palette.near, dice.uniform(0.1, 0.7)), width=2)


def _city(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    width, height = size_px
    for layer in range(3):
        colour, x = blend(palette.far, palette.near, layer / 2), -10.0
        while x < width:
            wide, top = width * dice.uniform(0.06, 0.13), height * (0.3 + 0.14 * layer + dice.uniform(0, 0.2))
            pen.rectangle((x, top, x + max(1.0, wide - 2), height), fill=colour)
            if layer:
                _windows(pen, blend(colour, palette.light, 0.75), (x, top, wide, height), dice)
            x += wide


def _windows(
    pen: ImageDraw.ImageDraw, colour: Colour, house: tuple[float, float, float, int], dice: random.Random
) -> None:
    x, top, wide, height = house
    for row in range(int((height - top) / 22)):
        for column in range(int(wide / 14)):
            if dice.random() < 0.45:
                left, upper = x + 6 + 14 * column, top + 10 + 22 * row
                pen.rectangle((left, upper, left + 5, upper + 9), fill=colour)


def _forest(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    width, height = size_px
    for layer in range(4):
        colour, base = blend(palette.far, palette.near, layer / 3), height * (0.56 + 0.11 * layer)
        for _ in range(13):
            _pine_at(pen, colour, dice.uniform(0, width), base + 6, height * dice.uniform(0.1, 0.2))
        pen.rectangle((0, base, width, height), fill=colour)


def _pine_at(pen: ImageDraw.ImageDraw, colour: Colour, x: float, foot: float, tall: float) -> None:
    for tier in range(3):
        half, top = tall * (0.18 + 0.08 * tier), foot - tall * (1 - 0.25 * tier)
        pen.polygon([(x - half, top + tall * 0.45), (x, top), (x + half, top + tall * 0.45)], fill=colour)


def _spot(size_px: tuple[int, int], dice: random.Random) -> tuple[float, float, float]:
    """Somewhere for the hero of the picture: x, y and a unit of length."""
    return size_px[0] * dice.uniform(0.25, 0.75), size_px[1] * dice.uniform(0.26, 0.42), min(size_px) * 0.09


def _kite(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, y, unit = _spot(size_px, dice)
    tail = [(x + unit * 0.4 * math.sin(k), y + unit * (1.5 + 0.5 * k)) for k in range(6)]
    pen.line([(x, y + unit * 1.4), *tail], fill=palette.accent, width=2)
    pen.polygon([(x, y - unit), (x + unit * 0.8, y), (x, y + unit * 1.5), (x - unit * 0.8, y)], fill=palette.accent)
    pen.polygon([(x, y - unit), (x + unit * 0.8, y), (x, y)], fill=blend(palette.accent, palette.light, 0.45))
    pen.polygon([(x, y), (x - unit * 0.8, y), (x, y + unit * 1.5)], fill=blend(palette.accent, palette.near, 0.3))


def _balloon(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, y, unit = _spot(size_px, dice)
    pen.line((x - unit * 0.5, y + unit * 0.7, x - unit * 0.25, y + unit * 1.7), fill=palette.near, width=2)
    pen.line((x + unit * 0.5, y + unit * 0.7, x + unit * 0.25, y + unit * 1.7), fill=palette.near, width=2)
    for share in (1.0, 0.62, 0.24):
        colour = palette.accent if share != 0.62 else blend(palette.accent, palette.light, 0.6)
        pen.ellipse((x - unit * share, y - unit, x + unit * share, y + unit * 1.05), fill=colour)
    pen.rectangle((x - unit * 0.25, y + unit * 1.6, x + unit * 0.25, y + unit * 1.95), fill=palette.near)


def _moon(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, y, unit = _spot(size_px, dice)
    pen.ellipse((x - unit, y - unit, x + unit, y + unit), fill=palette.light)
    for dx, dy, radius in ((-0.3, -0.2, 0.22), (0.35, 0.25, 0.16), (0.1, -0.5, 0.12)):
        crater = (
            x + unit * (dx - radius),
            y + unit * (dy - radius),
            x + unit * (dx + radius),
            y + unit * (dy + radius),
        )
        pen.ellipse(crater, fill=blend(palette.light, palette.top, 0.2))


def _boat(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, _, unit = _spot(size_px, dice)
    y = size_px[1] * 0.62
    pen.polygon(
        [(x - unit, y), (x + unit, y), (x + unit * 0.65, y + unit * 0.5), (x - unit * 0.65, y + unit * 0.5)],
        fill=palette.near,
    )
    pen.polygon([(x, y - unit * 1.8), (x, y - 4), (x + unit * 0.9, y - 4)], fill=palette.accent)
    pen.polygon([(x - 3, y - unit * 1.4), (x - 3, y - 4), (x - unit * 0.7, y - 4)], fill=palette.light)


def _house(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, _, unit = _spot(size_px, dice)
    y = size_px[1] * 0.58
    pen.rectangle((x - unit, y - unit * 0.5, x + unit, y + unit * 0.8), fill=blend(palette.light, palette.far, 0.3))
    roof = [(x - unit * 1.25, y - unit * 0.45), (x, y - unit * 1.4), (x + unit * 1.25, y - unit * 0.45)]
    pen.polygon(roof, fill=palette.accent)
    pen.rectangle((x - unit * 0.2, y + unit * 0.1, x + unit * 0.2, y + unit * 0.8), fill=palette.near)


def _lighthouse(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, y, unit = _spot(size_px, dice)
    foot, top = size_px[1] * 0.66, y
    for stripe in range(6):
        upper, lower = top + (foot - top) * stripe / 6, top + (foot - top) * (stripe + 1) / 6
        half = unit * (0.35 + 0.05 * stripe)
        colour = palette.accent if stripe % 2 else palette.light
        pen.polygon(
            [
                (x - half, upper),
                (x + half, upper),
                (x + half + unit * 0.05, lower),
                (x - half - unit * 0.05, lower),
            ],
            fill=colour,
        )
    pen.rectangle((x - unit * 0.25, top - unit * 0.5, x + unit * 0.25, top), fill=palette.light)
    pen.polygon(
        [(x - unit * 0.4, top - unit * 0.5), (x, top - unit * 0.95), (x + unit * 0.4, top - unit * 0.5)],
        fill=palette.near,
    )


def _pine(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, _, unit = _spot(size_px, dice)
    _pine_at(pen, blend(palette.accent, palette.near, 0.35), x, size_px[1] * 0.66, unit * 3.4)


def _birds(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, y, unit = _spot(size_px, dice)
    for _ in range(7):
        bx, by, span = (
            x + unit * dice.uniform(-2, 2),
            y + unit * dice.uniform(-1, 1),
            unit * dice.uniform(0.2, 0.4),
        )
        pen.line([(bx - span, by - span * 0.5), (bx, by), (bx + span, by - span * 0.5)], fill=palette.near, width=2)


def _star(pen: ImageDraw.ImageDraw, palette: Palette, size_px: tuple[int, int], dice: random.Random) -> None:
    x, y, unit = _spot(size_px, dice)
    reaches = [unit * (1 if corner % 2 else 0.42) for corner in range(10)]
    points = [
        (x + math.sin(corner * math.pi / 5) * reach, y + math.cos(corner * math.pi / 5) * reach)
        for corner, reach in enumerate(reaches)
    ]
    pen.polygon(points, fill=palette.accent)


Painter = Callable[[ImageDraw.ImageDraw, Palette, tuple[int, int], random.Random], None]
SCENERY: dict[str, Painter] = {
    "hills": _hills,
    "peaks": _peaks,
    "sea": _sea,
    "city": _city,
    "forest": _forest,
}
HEROES: dict[str, Painter] = {
    "kite": _kite,
    "balloon": _balloon,
    "moon": _moon,
    "boat": _boat,
    "house": _house,
    "lighthouse": _lighthouse,
    "pine": _pine,
    "birds": _birds,
    "star": _star,
}
