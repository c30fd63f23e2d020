"""What bytes claim to be: format and size, read from the header.

Runs in the caller's process, so it decodes nothing and reads a bounded number of places. What it
reports is a claim; the decoder process checks it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from storage.base import MediaError

PNG, JPEG, WEBP, GIF, AVIF = "image/png", "image/jpeg", "image/webp", "image/gif", "image/avif"
EXTENSIONS = {PNG: "png", JPEG: "jpg", WEBP: "webp", GIF: "gif", AVIF: "avif"}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AVIF_BRANDS = {b"avif", b"avis"}
# No honest image needs more segments or boxes before it states its size.
_MAX_STEPS = 1000
# Start-of-frame markers carry the size; C4, C8 and CC lie in the same range and mean something else.
_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_UNSUPPORTED_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%!PS", "PostScript"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What an image claims about itself."""

    mime: str
    width_px: int
    height_px: int


def read_header(data: bytes) -> Header:
    """Name the format and size that ``data`` claims.

    Raises: MediaError ``not_an_image``, ``unsupported_image_type``, ``truncated_image``,
        ``image_undecodable``.
    """
    mime = sniff_mime(data)
    try:
        width_px, height_px = _SIZES[mime](data)
    except (struct.error, IndexError):
        raise MediaError("truncated_image", f"{EXTENSIONS[mime]}: ends within its header") from None
    if width_px < 1 or height_px < 1:
        raise MediaError("image_undecodable", f"{EXTENSIONS[mime]}: no width or no height")
    return Header(mime, width_px, height_px)


def sniff_mime(data: bytes) -> str:
    """Name the format by its first bytes. Raises MediaError for all but PNG, JPEG, WebP, GIF and AVIF."""
    if data.startswith(_PNG_SIGNATURE):
        return PNG
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return GIF
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    if data[4:8] == b"ftyp" and _AVIF_BRANDS & _brands(data):
        return AVIF
    raise _refusal(data)


def _refusal(data: bytes) -> MediaError:
    for start, name in _UNSUPPORTED_STARTS:
        if data.startswith(start):
            return MediaError("unsupported_image_type", name)
    if data[4:8] == b"ftyp" and {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"} & _brands(data):
        return MediaError("unsupported_image_type", "HEIC")
    opening = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if opening.startswith(b"<") and b"<svg" in opening:
        return MediaError("unsupported_image_type", "SVG")
    return MediaError("not_an_image")


def _brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO media file; its first box is ``ftyp``."""
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _png_size(data: bytes) -> tuple[int, int]:
    kind, width_px, height_px = struct.unpack_from(">4sII", data, 12)
    if kind != b"IHDR":
        raise MediaError("image_undecodable", "png: does not begin with its header")
    return width_px, height_px


def _gif_size(data: bytes) -> tuple[int, int]:
    width_px, height_px = struct.unpack_from("<HH", data, 6)
    return width_px, height_px


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_MAX_STEPS):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0xD9, 0xDA):
            break
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker in _JPEG_SOF:
            height_px, width_px = struct.unpack_from(">HH", data, at + 5)
            return width_px, height_px
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    raise MediaError("image_undecodable", "jpeg: no size before the image data")


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        packed = int.from_bytes(_exactly(data, 24, 6), "little")
        return (packed & 0xFFFFFF) + 1, (packed >> 24) + 1
    if kind == b"VP8L":
        packed = int.from_bytes(_exactly(data, 21, 4), "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width_px, height_px = struct.unpack_from("<HH", data, 26)
        return width_px & 0x3FFF, height_px & 0x3FFF
    raise MediaError("image_undecodable", "webp: unknown first chunk")


def _avif_size(data: bytes) -> tuple[int, int]:
    """Size of the largest item: the image itself; tiles and thumbnails are smaller, alpha is as large."""
    sizes = [struct.unpack_from(">II", data, start + 4) for start, _ in _ispe_boxes(data)]
    if not sizes:
        raise MediaError("image_undecodable", "avif: states no size")
    width_px, height_px = max(sizes, key=lambda size: int(size[0]) * int(size[1]))
    return width_px, height_px


def _ispe_boxes(data: bytes) -> Iterator[tuple[int, int]]:
    for meta in _boxes(data, b"meta", 0, len(data)):
        for iprp in _boxes(data, b"iprp", meta[0] + 4, meta[1]):
            for ipco in _boxes(data, b"ipco", *iprp):
                yield from _boxes(data, b"ispe", *ipco)


def _boxes(data: bytes, wanted: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Bodies, as (start, end), of the boxes of one kind that follow each other in ``data[start:end]``."""
    for _ in range(_MAX_STEPS):
        if start + 8 > end:
            return
        kind, body, after = box_at(data, start, end)
        if kind == wanted:
            yield body, min(after, end)
        start = after


def box_at(data: bytes, start: int, end: int) -> tuple[bytes, int, int]:
    """One ISO media box: kind, where its body starts, where it says it ends (maybe beyond ``end``)."""
    size, kind = struct.unpack_from(">I4s", data, start)
    body = start + 8
    if size == 1:
        size, body = int(struct.unpack_from(">Q", data, body)[0]), body + 8
    elif size == 0:  # up to the end of its parent box
        size = end - start
    if size < body - start:
        raise MediaError("image_undecodable", "avif: a box smaller than its own header")
    return kind, body, start + size


def _exactly(data: bytes, start: int, count: int) -> bytes:
    if len(data) < start + count:
        raise IndexError
    return data[start : start + count]


_SIZES = {PNG: _png_size, JPEG: _jpeg_size, GIF: _gif_size, WEBP: _webp_size, AVIF: _avif_size}
