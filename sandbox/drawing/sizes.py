"""How many pixels a size string asks for."""

import re

DEFAULT_PX = (1024, 1024)
EDGE_MIN_PX = 16
EDGE_MAX_PX = 4096
_WIDTH_BY_HEIGHT = re.compile(r"^\s*(\d{1,5})\s*[xX×]\s*(\d{1,5})\s*$")
_RATIO = re.compile(r"^\s*(\d{1,4})\s*:\s*(\d{1,4})\s*$")


def parse_wxh(size: str) -> tuple[int, int] | None:
    """``"1536x1024"`` as (1536, 1024); None when the text is not of that form."""
    found = _WIDTH_BY_HEIGHT.match(size)
    return (int(found[1]), int(found[2])) if found else None


def pixels(size: str | None) -> tuple[int, int]:
    """Width and height in pixels for ``WxH``, a ratio such as ``16:9``, ``auto``, or nothing.

    A ratio becomes an image of about one megapixel with edges divisible by 16. What cannot be read is
    1024 x 1024, as an upstream does for which the size is only a hint.
    """
    text = size or ""
    if exact := parse_wxh(text):
        return _clamp(exact[0]), _clamp(exact[1])
    ratio = _RATIO.match(text)
    if ratio and int(ratio[1]) and int(ratio[2]):
        return _from_ratio(int(ratio[1]) / int(ratio[2]))
    return DEFAULT_PX


def pixels_if_asked(size: str | None) -> tuple[int, int] | None:
    """Like ``pixels``, but None where the caller named no size: an edit then keeps its input's own."""
    return None if not size or size.strip().lower() == "auto" else pixels(size)


def _from_ratio(ratio: float) -> tuple[int, int]:
    ratio = min(4.0, max(0.25, ratio))
    return round(1024 * ratio**0.5 / 16) * 16, round(1024 / ratio**0.5 / 16) * 16


def _clamp(edge_px: int) -> int:
    return min(EDGE_MAX_PX, max(EDGE_MIN_PX, edge_px))
