"""How variants are named: other sizes and formats of a kept image, made once and cached next to it."""

from __future__ import annotations

from storage.base import MediaError, Store
from storage.sniff import AVIF, EXTENSIONS, JPEG, PNG, WEBP

VARIANTS = "variants/"
FORMATS = {"png": PNG, "jpeg": JPEG, "webp": WEBP, "avif": AVIF}
MAX_EDGE_PX = 16384  # the largest a result can be
# Of one image. Each is work for a decoder and a file, so they must not be without end.
MAX_VARIANTS = 64
# Edges that callers may ask for: what lies between is rounded down.
STEPS_PX = (
    *(16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640, 768, 896, 1024, 1152, 1280, 1536),
    *(1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384),
)
AVIF_MAX_PIXELS = 24_000_000  # encoding more takes over 1 GiB


def variant_key(key: str, size_px: tuple[int, int], mime: str) -> str:
    """Where the variant of the blob ``key`` lies that has this size; all of a blob's share ``variant_prefix``.

    Two boxes that lead to the same size lead to the same variant.
    """
    return f"{variant_prefix(key)}{size_px[0]}x{size_px[1]}.{EXTENSIONS[mime]}"


def fit(size_px: tuple[int, int], box_px: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape inside the box, never larger than the image itself."""
    scale = min(1.0, box_px[0] / size_px[0], box_px[1] / size_px[1])
    return max(1, round(size_px[0] * scale)), max(1, round(size_px[1] * scale))


def step_of(edge_px: int | None) -> int | None:
    """The largest step that is not above an edge, the smallest for what is below all; None for an edge left out."""
    if edge_px is None:
        return None
    return max((step for step in STEPS_PX if step <= edge_px), default=STEPS_PX[0])


def check_room(store: Store, key: str) -> None:
    """Raises MediaError ``too_many_variants`` where a blob has as many as it may have, StorageUnavailableError."""
    if sum(1 for _ in store.iter_keys(variant_prefix(key))) >= MAX_VARIANTS:
        raise MediaError("too_many_variants", f"at most {MAX_VARIANTS} sizes and formats of one image are made")


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
