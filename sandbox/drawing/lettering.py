"""The prompt's words, wrapped and readable on the image, and its model and size in a corner."""

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont

ROWS = (2, 3, 4, 6)  # how many lines the panel has, by the amount of text; beyond that words are left out
WORDS_MAX, WORD_MAX = 80, 24
EDGE_MIN_PX = 48  # smaller than a letter: the colours must do
_FONT = Path(__file__).with_name("fonts") / "DejaVuSans-subset.ttf"
_DARK, _WHITE = (10, 14, 28), (255, 255, 255)


@lru_cache(maxsize=64)
def font(size_px: int) -> Font:
    """A typeface of our own, which looks the same on every machine; it has Latin, Greek and Cyrillic letters."""
    return ImageFont.truetype(_FONT, size_px, layout_engine=ImageFont.Layout.BASIC)


def inscribe(image: Image.Image, words: str, caption: str, *, veil: int = 150) -> None:
    """Draw ``words`` on a dark panel in the lower third and ``caption`` in the upper left corner.

    ``veil`` is how much the panels hide, 0 to 255.
    """
    width, height = image.size
    if min(width, height) < EDGE_MIN_PX:
        return
    # "RGBA" mode blends translucent fills into the pixels below instead of replacing them.
    pen = ImageDraw.Draw(image, "RGBA")
    words = unicodedata.normalize("NFC", words)
    _tag(pen, caption, min(width, height), veil)
    if not words.strip():
        return
    left, top, right, bottom = (round(width * 0.06), round(height * 0.66), round(width * 0.94), round(height * 0.95))
    pad = max(4, (bottom - top) // 10)
    typeface, lines, line_px = _fit(words, right - left - 2 * pad, bottom - top - 2 * pad)
    pen.rounded_rectangle((left, top, right, bottom), radius=pad, fill=(*_DARK, veil))
    first_px = (top + bottom - line_px * len(lines)) // 2
    for row, line in enumerate(lines):
        pen.text((left + pad, first_px + row * line_px), line, font=typeface, fill=_WHITE)


def _fit(words: str, wide_px: int, tall_px: int) -> tuple[Font, list[str], int]:
    """The largest lettering in which ``words`` fit the box, their lines, and the height of a line."""
    for rows in ROWS:
        line_px = max(9, tall_px // rows)
        typeface = font(max(8, round(line_px * 0.78)))
        lines = _wrapped(words, typeface, wide_px)
        if len(lines) * line_px <= tall_px and max(map(typeface.getlength, lines)) <= wide_px:
            break
    return typeface, lines[: max(1, tall_px // line_px)], line_px


def _wrapped(words: str, typeface: Font, wide_px: int) -> list[str]:
    """Lines no wider than ``wide_px``; a single overlong word is cut."""
    lines = [""]
    for word in words.split()[:WORDS_MAX]:
        shown = word if len(word) <= WORD_MAX else f"{word[:WORD_MAX]}…"
        longer = f"{lines[-1]} {shown}".strip()
        if lines[-1] and typeface.getlength(longer) > wide_px:
            lines.append(shown)
        else:
            lines[-1] = longer
    return lines


def _tag(pen: ImageDraw.ImageDraw, caption: str, edge_px: int, veil: int) -> None:
    size_px, margin = max(9, edge_px // 40), max(3, edge_px // 80)
    box = (margin, margin, margin * 3 + int(font(size_px).getlength(caption)), margin * 3 + size_px)
    pen.rounded_rectangle(box, radius=margin, fill=(*_DARK, veil))
    pen.text((margin * 2, margin * 2), caption, font=font(size_px), fill=_WHITE)
