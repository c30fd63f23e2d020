"""How variants are named: other sizes and formats of a kept image, made once and cached next to it."""

from __future__ import annotations

from storage.base import MediaError
from storage.sniff import AVIF, EXTENSIONS, JPEG, PNG, WEBP

VARIANTS = "variants/"
FORMATS = {"png": PNG, "jpeg": JPEG, "webp": WEBP, "avif": AVIF}
MAX_EDGE_PX = 16384  # the largest a result can be
AVIF_MAX_PIXELS = 24_000_000  # encoding more takes over 1 GiB


def variant_key(key: str, box_px: tuple[int, int], mime: str) -> str:
    """Where the variant of the blob ``key`` lies; all variants of a blob share ``variant_prefix``."""
    return f"{variant_prefix(key)}{box_px[0]}x{box_px[1]}.{EXTENSIONS[mime]}"


def white_mask_key(key: str) -> str:
    """Where the mask ``key`` lies in the other polarity."""
    return f"{variant_prefix(key)}white.png"


def variant_prefix(key: str) -> str:
    """Begins the keys of all variants of one blob, and of no other's: the key stays whole, extension too."""
    return f"{VARIANTS}{key}/"


def source_of(key: str) -> str:
    """The blob that ``key`` is a variant of; a blob that is none is its own source."""
    return key.removeprefix(VARIANTS).rpartition("/")[0] if key.startswith(VARIANTS) else key


def target_mime(source_mime: str, form: str | None) -> str:
    """The mime type of a format asked for; without one the source's, or PNG where we do not write that format.

    Raises: ValueError for a format we do not offer.
    """
    if form is None:
        return source_mime if source_mime in FORMATS.values() else PNG
    if form not in FORMATS:
        raise ValueError(f"no such format: {form[:20]!r}")
    return FORMATS[form]


def check_encodable(size_px: tuple[int, int], mime: str) -> None:
    """Raises MediaError ``image_too_many_pixels`` for what does not fit into a decoder's memory."""
    if mime == AVIF and size_px[0] * size_px[1] > AVIF_MAX_PIXELS:
        raise MediaError("image_too_many_pixels", f"AVIF has at most {AVIF_MAX_PIXELS} pixels here")


def box_of(width: int | None, height: int | None) -> tuple[int, int]:
    """The box to fit into; an edge left out does not bind. Raises ValueError."""
    for edge in (width, height):
        if edge is not None and not 1 <= edge <= MAX_EDGE_PX:
            raise ValueError(f"an edge has 1 to {MAX_EDGE_PX} px")
    return width or MAX_EDGE_PX, height or MAX_EDGE_PX
