"""The prompt's words, wrapped and readable on the image, and its model and size in a corner."""

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[int, int, int, int]

LINES_MAX = 6
WORDS_MAX = 80


@lru_cache(maxsize=64)
def font(size_px: int) -> Font:
    """Pillow's own typeface, which looks the same on every machine; it has Latin letters only."""
    return ImageFont.load_default(size_px)


def inscribe(image: Image.Image, words: str, caption: str, *, veil: int = 150) -> None:
    """Draw ``words`` on a dark panel in the lower third and ``caption`` in the upper left corner.

    ``veil`` is how much the panels hide, 0 to 255.
    """
    width, height = image.size
    if min(width, height) < 48:
        return  # Smaller than a letter: the colours must do.
    # "RGBA" mode blends translucent fills into the pixels below instead of replacing them.
    pen = ImageDraw.Draw(image, "RGBA")
    _panel(
        pen,
        words,
        (round(width * 0.06), round(height * 0.66), round(width * 0.94), round(height * 0.95)),
        veil,
    )
    _tag(pen, caption, min(width, height), veil)


def wrap(words: str, typeface: Font, width_px: float) -> list[str]:
    """Break ``words`` into lines no wider than ``width_px``; a single overlong word is cut."""
    lines: list[str] = []
    for word in words.split()[:WORDS_MAX]:
        fitting = _cut(word, typeface, width_px)
        if lines and typeface.getlength(f"{lines[-1]} {fitting}") <= width_px:
            lines[-1] = f"{lines[-1]} {fitting}"
        else:
            lines.append(fitting)
    return lines


def _cut(word: str, typeface: Font, width_px: float) -> str:
    if len(word) < 12 or typeface.getlength(word) <= width_px:
        return word
    keep = max(1, int(len(word) * width_px / typeface.getlength(word)) - 1)
    return f"{word[:keep]}…"


def _panel(pen: ImageDraw.ImageDraw, words: str, box: Box, veil: int) -> None:
    left, top, right, bottom = box
    wide, tall = right - left, bottom - top
    pad = max(4, tall // 10)
    typeface, lines, line_px = _fit(words, wide - 2 * pad, tall - 2 * pad)
    pen.rounded_rectangle(box, radius=pad, fill=(10, 14, 28, veil))
    y = top + (tall - line_px * len(lines)) // 2
    for line in lines:
        pen.text((left + pad, y), line, font=typeface, fill=(255, 255, 255, 255))
        y += line_px


def _fit(words: str, wide_px: int, tall_px: int) -> tuple[Font, list[str], int]:
    """The largest lettering of a few in which ``words`` fit the box; the last one drops what is too much."""
    for rows in (2, 3, 4, LINES_MAX):
        line_px = max(9, tall_px // rows)
        typeface = font(max(8, round(line_px * 0.78)))
        lines = wrap(words, typeface, wide_px)
        if len(lines) * line_px <= tall_px:
            break
    room = max(1, tall_px // line_px)
    return typeface, lines[:room], line_px


def _tag(pen: ImageDraw.ImageDraw, caption: str, edge_px: int, veil: int) -> None:
    typeface = font(max(9, edge_px // 40))
    margin = max(3, edge_px // 80)
    reach = margin * 3 + int(typeface.getlength(caption))
    pen.rounded_rectangle(
        (margin, margin, reach, margin * 3 + max(9, edge_px // 40)), radius=margin, fill=(10, 14, 28, veil)
    )
    pen.text((margin * 2, margin * 2), caption, font=typeface, fill=(255, 255, 255, 230))
