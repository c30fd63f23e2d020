"""Files that a careless receiver chokes on, made cheaply: they cost the sandbox next to nothing."""

import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

from sandbox.markers import Fault

BOMB_WIDTH_PX, BOMB_HEIGHT_PX = 12_000, 7_000
HTML_PAGE = (
    b"<!doctype html><html><head><title>Sign in</title></head>"
    b"<body><script>document.title = 'this is not an image'</script>"
    b"<h1>Sign in to continue</h1></body></html>"
)
SVG_IMAGE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="1024" height="1024">'
    b"<script>document.title = 'script in an image'</script>"
    b'<rect width="1024" height="1024" fill="tomato"/></svg>'
)


def spoil(fault: Fault | None, good: bytes) -> tuple[bytes, str | None]:
    """The file an image fault serves in place of ``good``, and its content type where that differs."""
    if fault is None or fault.name not in IMAGE_FAULTS:
        return good, None
    if fault.name == "frames":
        return gif_of_frames(int(fault.number(10_000))), None
    spoilt: dict[str, tuple[Callable[[], bytes], str | None]] = {
        "truncated": (lambda: good[: len(good) * 6 // 10], None),
        "bomb": (png_bomb, None),
        "svg": (lambda: SVG_IMAGE, "image/svg+xml"),
        "html": (lambda: HTML_PAGE, "text/html; charset=utf-8"),
        "polyglot": (lambda: good + HTML_PAGE, None),
    }
    make, content_type = spoilt[fault.name]
    return make(), content_type


IMAGE_FAULTS = ("truncated", "bomb", "svg", "html", "polyglot", "frames")


@lru_cache(maxsize=4)
def png_bomb(width_px: int = BOMB_WIDTH_PX, height_px: int = BOMB_HEIGHT_PX) -> bytes:
    """A valid RGB PNG of some 250 kB that decodes to 252 MB of black.

    One deflated megabyte of zeros is repeated: a full flush makes the blocks independent of each other, and
    the checksum of zeros is known without reading them.
    """
    raw_bytes = height_px * (1 + 3 * width_px)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail = last.compress(bytes(raw_bytes % 2**20)) + last.flush(zlib.Z_FINISH)
    checksum = (raw_bytes % 65521) << 16 | 1
    pixels = b"\x78\xda" + block * (raw_bytes // 2**20) + tail + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@lru_cache(maxsize=4)
def gif_of_frames(frames: int) -> bytes:
    """A GIF of 64 x 64 pixels and very many frames of one pixel each."""
    screen = struct.pack("<HHBBB", 64, 64, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    frame = (
        b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    )
    return b"GIF89a" + screen + frame * frames + b"\x3b"


@lru_cache(maxsize=4)
def gzip_of_zeros(megabytes: int) -> bytes:
    """A gzip body of about a thousandth of what it unpacks to."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()
