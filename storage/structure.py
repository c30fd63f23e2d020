"""Where an image ends and how many frames it has, from its structure, before anything is decoded.

Runs in the decoder process: it walks the whole file, which takes a while for a hostile one.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from storage.base import MediaError
from storage.sniff import AVIF, GIF, JPEG, PNG, WEBP, box_at

# Inside JPEG image data FF 00 is a plain FF and D0 to D7 are restart markers; FF FF is padding.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_EOI, _JPEG_SOS = 0xD9, 0xDA
# Frame headers, which hold the size; C4, C8 and CC are none.
_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Encoders write ten scans, the most thorough ones a few dozen. Each scan goes over all pixels again, however few bytes
# it has, so that scans times pixels is what decoding costs: this much is one to three seconds.
_JPEG_MAX_SCANS = 100
_JPEG_MAX_SCANNED_PX = 1_000_000_000
# 01 and D8 have no length.
_JPEG_BARE = (0x01, 0xD8)
_ISO_TOP_LEVEL = frozenset(
    (b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"mfra", b"free", b"skip", b"uuid", b"sidx", b"idat")
)


@dataclass(frozen=True, slots=True)
class Structure:
    """``end`` is the offset after the last byte of the image; AVIF shows its frames only when opened."""

    end: int
    frames: int = 1
    width_px: int = 0  # the largest reach of any frame, where frames may reach beyond the header's size
    height_px: int = 0


def read_structure(data: bytes, mime: str, *, max_frames: int) -> Structure:
    """Walk the file to its end. Raises MediaError ``truncated_image``, ``image_too_many_frames``,
    ``image_undecodable``."""
    try:
        found = _WALKS[mime](data, max_frames)
    except (struct.error, IndexError):
        raise _truncated() from None
    if found.end > len(data):
        raise _truncated()
    _count(found.frames, max_frames)
    return found


def _truncated() -> MediaError:
    return MediaError("truncated_image", "ends before the image does")


def _count(frames: int, max_frames: int) -> None:
    if frames > max_frames:
        raise MediaError("image_too_many_frames", f"more than {max_frames}")


def _png(data: bytes, max_frames: int) -> Structure:
    view, at, frames = memoryview(data), 8, 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        after = at + 12 + length
        (checksum,) = struct.unpack_from(">I", data, after - 4)
        # Pillow does not check the sums of the chunks that hold the pixels.
        if zlib.crc32(view[at + 4 : after - 4]) != checksum:
            raise MediaError("image_undecodable", "png: a chunk is damaged")
        if kind == b"fcTL":
            frames += 1
            _count(frames, max_frames)
        if kind == b"IEND":
            return Structure(after, max(frames, 1))
        at = after


def _jpeg(data: bytes, _max_frames: int) -> Structure:
    at, scans, pixels = 2, 0, 0
    while True:
        if data[at] != 0xFF:
            raise MediaError("image_undecodable", "jpeg: a segment is damaged")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == _JPEG_EOI:
            return Structure(at + 2)
        elif marker in _JPEG_BARE:
            at += 2
        else:
            if marker in _JPEG_SOF:
                height_px, width_px = struct.unpack_from(">HH", data, at + 5)
                pixels = max(pixels, height_px * width_px)
            at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
            if marker == _JPEG_SOS:
                scans += 1
                if scans > _JPEG_MAX_SCANS or scans * pixels > _JPEG_MAX_SCANNED_PX:
                    raise MediaError("image_undecodable", "jpeg: more scans than any encoder writes")
                at = _after_scan(data, at)


def _after_scan(data: bytes, at: int) -> int:
    found = _JPEG_MARKER.search(data, at)
    if found is None:
        raise _truncated()
    return found.start()


def _gif(data: bytes, max_frames: int) -> Structure:
    width_px, height_px, flags = struct.unpack_from("<HHB", data, 6)
    at, frames = 13 + _colour_table_bytes(flags), 0
    while data[at] != 0x3B:
        if data[at] == 0x21:  # an extension: text, timing, loops
            at = _after_blocks(data, at + 2)
        elif data[at] == 0x2C:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
            # A frame may reach beyond the screen, and Pillow then makes the screen larger.
            width_px, height_px = max(width_px, left + width), max(height_px, top + height)
            frames += 1
            _count(frames, max_frames)
            at = _after_blocks(data, at + 11 + _colour_table_bytes(flags))
        else:
            raise MediaError("image_undecodable", "gif: an unknown block")
    return Structure(at + 1, frames, width_px, height_px)


def _colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while size := data[at]:
        at += size + 1
    return at + 1


def _webp(data: bytes, max_frames: int) -> Structure:
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if end > len(data):
        raise _truncated()
    at, frames = 12, 0
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"ANMF":
            frames += 1
            _count(frames, max_frames)
        at += 8 + size + (size & 1)
    if at != end:
        raise MediaError("image_undecodable", "webp: chunks and file disagree on the size")
    return Structure(end, max(frames, 1))


def _avif(data: bytes, _max_frames: int) -> Structure:
    at = 0
    while at < len(data):
        # Bytes after the last box read as the head of an unknown box.
        if len(data) - at < 8 or data[at + 4 : at + 8] not in _ISO_TOP_LEVEL:
            return Structure(at)
        _, _, at = box_at(data, at, len(data))
    return Structure(at)


_WALKS = {PNG: _png, JPEG: _jpeg, GIF: _gif, WEBP: _webp, AVIF: _avif}
